"""The contract of a method, and the words its parameters share.

A method is a frozen dataclass of hyperparameters with `tuned` (fill in what is "auto"), `init` and `round`; its state
is a dataclass of arrays (`decentral.state`). It knows a `Neighborhood` for messages, an `Oracle` for gradients, and
nothing else. `round` consumes the state it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from decentral.compressors import Identity
from decentral.errors import ConfigError
from decentral.neighborhood import Neighborhood
from decentral.state import Agents

if TYPE_CHECKING:
    from decentral.algorithms.facts import Facts
    from decentral.compressors import Compressor
    from decentral.estimators import Oracle

    Number = float
    Codec = Compressor
    AUTO: float
else:
    Number = float | Literal["auto"]  # what a configuration may hold; `tuned` leaves numbers only
    Codec = Any
    AUTO = "auto"

PLAIN = Identity()
"""Uncompressed messages."""


class State(Protocol):
    """Arrays of a method; `x` (n, d) is the iterate."""

    x: Agents


class Algorithm(Protocol):
    """What the runner asks of a method."""

    name: ClassVar[str]
    label: ClassVar[str]
    vectors: ClassVar[int]
    """Exchanges of one vector with all neighbors in a round, on average: what a preview multiplies t_c by. Runs count."""
    floor: ClassVar[str | None]
    """Why constant steps do not reach the optimum even with exact gradients; None where they do."""
    cite: ClassVar[tuple[str, ...]]

    def tuned(self, facts: Facts) -> Algorithm: ...
    def check(self, facts: Facts) -> list[str]: ...
    def init(self, x: Agents, hood: Neighborhood, oracle: Oracle) -> Any: ...
    def round(self, s: Any, k: int, hood: Neighborhood, oracle: Oracle) -> Any: ...


def auto(value: float, default: float) -> float:
    """The value, or the default where it is "auto"."""
    return default if value == "auto" else value  # type: ignore[comparison-overlap]


def check_positive(method: Any, *names: str) -> None:
    """Raise ConfigError unless the named numbers are positive and finite (or still "auto")."""
    for name in names:
        value = getattr(method, name)
        if value != value:
            raise ConfigError(
                f'algorithm.{name} = nan of {method.name}: give a positive finite number, e.g. {name} = 0.1 ("auto" needs the '
                "smoothness of the loss, which is not known for a torch module)"
            )
        if value != "auto" and not 0 < value < float("inf"):
            raise ConfigError(f'algorithm.{name} = {value} of {method.name}: give a positive finite number or "auto"')


def check_local_steps(method: Any) -> None:
    """Raise ConfigError unless local_steps is at least one."""
    if method.local_steps < 1:
        raise ConfigError(f"algorithm.local_steps = {method.local_steps}: give a whole number, 1 or more")


def check_scale(method: Any) -> None:
    """Raise ConfigError unless scale is positive and scale_decay between 0 and 1."""
    check_positive(method, "scale")
    if not 0 < method.scale_decay < 1:
        raise ConfigError(f"algorithm.scale_decay = {method.scale_decay}: give a number between 0 and 1")


def scale_at(method: Any, k: int, dtype: Any) -> float:
    """s₀ wᵏ, the scale of absolute quantizers in round k; it stays a normal number, so that no quotient is NaN."""
    return max(float(method.scale * method.scale_decay**k), float(np.finfo(dtype).tiny))


def contraction(compressor: Codec, d: int) -> float:
    """δ of a compressor; for an unbiased one 1 − ω where ω < 1, else that of its contracted form, 1/(1 + ω)."""
    delta, omega = compressor.delta(d), compressor.omega(d)
    if delta is not None:
        return float(delta)
    if omega is None:
        return 1.0 / d
    return 1.0 - omega if omega < 0.5 else 1.0 / (1.0 + omega)


def warn_unbiased(method: Any, d: int) -> list[str]:
    """The sentence for a method whose theory asks for an unbiased compressor and was given another."""
    c = method.compressor
    if not c.relative:
        return warn_absolute(method)
    if c.omega(d) is None:
        return [f"{method.label} is proved for unbiased compressors; {c.name} is biased: it may stall or diverge"]
    return []


def warn_contractive(method: Any, d: int) -> list[str]:
    """The sentence for a method that wants ‖C(v) − v‖ < ‖v‖ and was given a compressor with ω ≥ 1."""
    c = method.compressor
    if not c.relative:
        return warn_absolute(method)
    omega, delta = c.omega(d), c.delta(d)
    if delta is None and (omega is None or omega >= 1):
        what = f"omega = {omega:.3g} >= 1" if omega is not None else "no contraction constant"
        return [
            f"{method.label} needs a contractive compressor, E‖C(v) − v‖² ≤ (1 − δ)‖v‖²; {c.name} has {what} "
            "and its reference may diverge: use its contracted form or more bits"
        ]
    return []


def warn_absolute(method: Any) -> list[str]:
    """The sentence for a method that does not scale its messages and was given an absolute quantizer."""
    c = method.compressor
    if c.relative:
        return []
    return [
        f"{method.label} does not scale its messages: the error of {c.name} stays that of its step, however small they "
        "get, and the method stops there: use quantize, or dyna-cold or dpdc3"
    ]


def warn_relative(method: Any, d: int) -> list[str]:
    """The sentence for a method that scales its messages for an absolute quantizer and was given another compressor."""
    c = method.compressor
    if not c.relative or c.omega(d) == 0:
        return []
    return [
        f"{method.label} scales its messages for an absolute quantizer; the scales of {c.name} follow its messages, so "
        "that scale and scale_decay change nothing: use absolute"
    ]
