"""Gradient tracking: DIGing and its adapt-then-combine form.

    DIGing         x⁺ = W x − η y ;            y⁺ = W y + g(x⁺) − g(x)                     -> N_i : x, y
    ATC tracking   x⁺ = W (x − η y) ;          y⁺ = W (y + g(x⁺) − g(x))                   -> N_i : both brackets

Symbols    x (n, d) iterate;  y (n, d) tracker, mean y = mean gradient at all times;  g (n, d) last gradient
Parameters step_size > 0: η, O((1 − λ₂)²/L) in the worst case; "auto" is min(0.3, 2(1 − λ₂))/L (ATC: min(0.9, 4(1 − λ₂))/L).
Per round  one gradient, two vectors to all neighbors.
Converges  linearly to the optimum with full gradients.
Reduces    DIGing: BEER with identity.
Differs    DIGing sends x and y of one round in one message; ATC tracking needs two messages, as y waits for the new x.

References
    Nedić, Olshevsky, Shi. Achieving geometric convergence for distributed optimization over time-varying graphs. SIOPT 2017.
    Xu, Zhu, Soh, Xie. Augmented distributed gradient methods. CDC 2015.  Di Lorenzo, Scutari. NEXT. IEEE TSIPN 2016.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from decentral.algorithms.base import AUTO, PLAIN, Number, auto, check_positive
from decentral.algorithms.facts import Facts
from decentral.estimators import Memory, Oracle
from decentral.neighborhood import Neighborhood
from decentral.state import Agents


@dataclass
class State:
    x: Agents
    y: Agents
    g: Agents
    memory: Memory | None


@dataclass(frozen=True)
class DIGing:
    step_size: Number = AUTO
    name: ClassVar[str] = "diging"
    label: ClassVar[str] = "DIGing"
    vectors: ClassVar[int] = 2
    floor: ClassVar[str | None] = None
    cite: ClassVar[tuple[str, ...]] = ("diging",)

    def __post_init__(self) -> None:
        check_positive(self, "step_size")

    def tuned(self, facts: Facts) -> DIGing:
        return replace(self, step_size=auto(self.step_size, min(0.3, 2 * facts.gap) * facts.step))

    def check(self, facts: Facts) -> list[str]:
        return []

    def init(self, x: Agents, hood: Neighborhood, oracle: Oracle) -> State:
        memory = oracle.init(x)
        oracle.begin(memory, x, 0)
        g = oracle(memory, x, 0)
        return State(x, g.copy(), g, memory)

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        qx, qy = hood.to_neighbors(PLAIN, s.x, k), hood.to_neighbors(PLAIN, s.y, k, stream=1)
        tx, ty = hood.exchange(qx, qy, then=hood.disagreement)
        s.x -= tx + self.step_size * s.y
        oracle.begin(s.memory, s.x, k + 1)  # round 0's draws were used at x_0
        g = oracle(s.memory, s.x, k + 1)
        s.y -= ty
        s.y += g - s.g
        s.g = g
        return s


@dataclass(frozen=True)
class ATCTracking(DIGing):
    name: ClassVar[str] = "atc-tracking"
    label: ClassVar[str] = "ATC tracking"
    cite: ClassVar[tuple[str, ...]] = ("atc-tracking",)

    def tuned(self, facts: Facts) -> ATCTracking:
        return replace(self, step_size=auto(self.step_size, min(0.9, 4 * facts.gap) * facts.step))

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        s.x -= self.step_size * s.y
        s.x -= hood.exchange(hood.to_neighbors(PLAIN, s.x, k), then=hood.disagreement)
        oracle.begin(s.memory, s.x, k + 1)
        g = oracle(s.memory, s.x, k + 1)
        s.y += g - s.g
        s.g = g
        s.y -= hood.exchange(hood.to_neighbors(PLAIN, s.y, k, stream=1), then=hood.disagreement)
        return s
