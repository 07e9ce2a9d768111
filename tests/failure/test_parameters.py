"""Tables become dataclasses: what is converted, what is refused, and by which sentence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from decentral.errors import ConfigError
from decentral.parameters import construct


@dataclass(frozen=True)
class Inner:
    bits: int = 8


@dataclass(frozen=True)
class Outer:
    step: float | Literal["auto"]
    name: ClassVar[str] = "outer"
    count: int | None = None
    either: int | float = 1
    flag: bool = False
    levels: list[float] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    anything: Any = None

    def __post_init__(self) -> None:
        if self.count == 13:
            raise ValueError("13 is not liked")


def test_whole_numbers_become_floats_where_those_are_meant() -> None:
    made = construct(Outer, {"step": 1, "levels": (1, 2.5), "weights": {"a": 2}, "either": 3, "count": None}, "here")
    assert made == Outer(1.0, levels=[1.0, 2.5], weights={"a": 2.0}, either=3)
    assert all(type(v) is float for v in (made.step, *made.levels, *made.weights.values())) and type(made.either) is int


def test_tables_within_become_their_dataclasses() -> None:
    assert construct(Outer, {"step": "auto", "inner": {"bits": 2}}, "here").inner == Inner(2)
    assert construct(Outer, {"step": "auto", "inner": Inner(3), "anything": [{}]}, "here").inner == Inner(3)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "[here] needs step"),
        ({"step": 1.0, "name": "x"}, 'unknown key in [here] "name"'),
        ({"step": True}, 'here.step = true: give a number or "auto"'),
        ({"step": 10**400}, "give a number"),
        ({"step": 1.0, "count": 2.0}, "here.count = 2.0: give a whole number"),
        ({"step": 1.0, "count": False}, "here.count = false: give a whole number"),
        ({"step": 1.0, "flag": 1}, "here.flag = 1: give true or false"),
        ({"step": 1.0, "levels": [1, "2"]}, "here.levels = [1, \"2\"]: give a list of numbers"),
        ({"step": 1.0, "weights": {"a": 1, "b": None}}, "here.weights.b = null: give a number"),
        ({"step": 1.0, "inner": {"bits": "8"}}, 'here.inner = {"bits": "8"}: give a table'),
        ({"step": 1.0, "inner": 8}, "here.inner = 8: give a table"),
        ({"step": 1.0, "count": 13}, "here: 13 is not liked"),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        construct(Outer, values, "here")
    assert sentence in str(caught.value)
