"""`check_algorithm` finds each way of breaking the contract, and passes every registered method."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import numpy as np
import pytest

from decentral import algorithms
from decentral.algorithms.base import PLAIN
from decentral.algorithms.d_psgd import ATC, DPSGD, State
from decentral.errors import ConfigError
from decentral.neighborhood.base import HEADER
from decentral.state import Agents, Arcs
from decentral.testing import Case, ContractError, check_algorithm


@pytest.mark.parametrize("name", algorithms.NAMES)
def test_registered(name: str) -> None:
    check_algorithm(name)
    if "compressor" in {f.name for f in fields(algorithms.load(name))}:
        check_algorithm(name, compressor={"name": "quantize", "bits": 8})


@pytest.mark.parametrize(("name", "more"), [*((name, {}) for name in algorithms.NAMES), ("lt-admm-cc", {"form": "D"})])
def test_vectors_are_counted_as_a_method_states_them(name: str, more: dict[str, str]) -> None:
    case, rounds = Case(), 50
    method = algorithms.build({"name": name, **more}).tuned(case.facts())
    hood = case.alone()
    case.run(method, hood, rounds)
    if name == "proxskip":  # where the coin said so
        assert 0 < hood.vectors < rounds and hood.wire_bytes == hood.vectors * hood.m * (HEADER + 4 * 8)
    else:
        assert hood.vectors == rounds * method.vectors
    before, vectors = hood.meters(), hood.vectors
    case.run(algorithms.build({"name": "diging"}).tuned(case.facts()), hood, 3)
    assert hood.vectors == vectors + 6
    hood.put_back(before)
    assert hood.vectors == vectors


class Random(DPSGD):
    def round(self, s: State, k: int, hood: Any, oracle: Any) -> State:
        s.x += 1e-9 * np.random.default_rng().random(s.x.shape)
        return super().round(s, k, hood, oracle)


class Hidden(DPSGD):
    def round(self, s: State, k: int, hood: Any, oracle: Any) -> State:
        hood.before = getattr(hood, "before", 0) + 1
        s.x *= 1 - 0.001 * hood.before
        return super().round(s, k, hood, oracle)


class Peeks(DPSGD):
    """Uses the mean of the rows that happen to be in this process."""

    def round(self, s: State, k: int, hood: Any, oracle: Any) -> State:
        s.x -= 0.01 * (s.x - s.x.mean(axis=0))
        return super().round(s, k, hood, oracle)


class Hasty(DPSGD):
    """Changes what it is about to send."""

    def round(self, s: State, k: int, hood: Any, oracle: Any) -> State:
        message = hood.to_neighbors(PLAIN, s.x, k)
        s.x -= self.step_size * oracle(s.memory, s.x, k)
        s.x -= hood.disagreement(hood.exchange(message))
        return s


class Sly(DPSGD):
    """The same, by way of a view, which nobody can forbid."""

    def round(self, s: State, k: int, hood: Any, oracle: Any) -> State:
        view = s.x[:]
        message = hood.to_neighbors(PLAIN, s.x, k)
        view -= self.step_size * oracle(s.memory, s.x, k)
        s.x -= hood.disagreement(hood.exchange(message))
        return s


class Numbered(DPSGD):
    def round(self, s: State, k: int, hood: Any, oracle: Any) -> State:
        s.x *= 1 - 0.01 * hood.agents[:, None] / 10
        return super().round(s, k, hood, oracle)


class Wide(DPSGD):
    def round(self, s: State, k: int, hood: Any, oracle: Any) -> State:
        s = super().round(s, k, hood, oracle)
        return replace(s, x=s.x.astype(np.float64))


class Silent(DPSGD):
    def round(self, s: State, k: int, hood: Any, oracle: Any) -> State:
        s.x -= self.step_size * oracle(s.memory, s.x, k)
        return s


class Still(DPSGD):
    def round(self, s: State, k: int, hood: Any, oracle: Any) -> State:
        oracle(s.memory, s.x, k)
        hood.exchange(hood.to_neighbors(PLAIN, s.x, k))
        return s


class Elsewhere(DPSGD):
    def init(self, x: Agents, hood: Any, oracle: Any) -> State:
        return super().init(np.zeros_like(x), hood, oracle)


class Diverges(ATC):
    def tuned(self, facts: Any) -> Any:
        return replace(self, step_size=50.0)


@dataclass
class Mislabeled:
    x: Agents
    memory: None
    z: Arcs


class WrongRows(DPSGD):
    def init(self, x: Agents, hood: Any, oracle: Any) -> Any:
        return Mislabeled(x, None, x.copy())


@dataclass
class Unknown:
    x: Agents
    memory: None
    z: Annotated[Any, "rows"]


class WrongKind(DPSGD):
    def init(self, x: Agents, hood: Any, oracle: Any) -> Any:
        return Unknown(x, None, x.copy())


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Random, "a second run gives other bits"),
        (Hidden, "kept outside the state"),
        (Peeks, "other bits on 2 blocks"),
        (Hasty, "read-only: does it change what it is sending?"),
        (Sly, "or change what it is sending?"),
        (Numbered, "how the agents are numbered"),
        (Wide, "float64 in a float32 run"),
        (Silent, "no byte was sent"),
        (Still, "went from"),
        (Elsewhere, "the start point makes no difference"),
        (Diverges, "went from"),
        (WrongRows, "is declared arcs, 16 rows here, and has 6"),
        (WrongKind, 'rows of kind "rows"'),
        (dict, "it has no method tuned"),
    ],
)
def test_broken(kind: Any, sentence: str) -> None:
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(ContractError) as found:
        check_algorithm(kind)
    assert sentence in str(found.value)


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="d-psgd"):
        check_algorithm("d-psdg")
