"""EXTRA: exact first-order decentralized descent.

    x₁ = W x₀ − η g₀ ;   x_{k+1} = (I + W) x_k − ½(I + W) x_{k−1} − η (g_k − g_{k−1})       -> N_i : x

written with its dual, so that no sum drifts:

    x_i⁺ = x_i − η g_i(x_i) − Σ_j w_ij (x_i − x_j) − p_i ;   p_i ← p_i + ½ Σ_j w_ij (x_i − x_j)              (1)

with the x of the round's start in both sums and p_0 = 0: subtracting two rounds gives the recursion above.

Symbols    x (n, d) iterate;  p (n, d) dual, Σ_i p_i = 0
Parameters step_size > 0: η < (5 + 3 λ_min(W))/(4L), tight.
Per round  one gradient, one vector to all neighbors.
Converges  linearly to the optimum with full or variance-reduced gradients.
Reduces    LT-ADMM with τ = 1 is EXTRA with W = I − β ρ Lap (tests/reductions).
Differs    nothing.

References
    Shi, Ling, Wu, Yin. EXTRA: an exact first-order algorithm for decentralized consensus optimization. SIOPT 2015.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from decentral.algorithms.base import AUTO, PLAIN, Number, auto, check_positive
from decentral.algorithms.facts import Facts
from decentral.estimators import Memory, Oracle
from decentral.neighborhood import Neighborhood
from decentral.state import Agents


@dataclass
class State:
    x: Agents
    p: Agents
    memory: Memory | None


@dataclass(frozen=True)
class EXTRA:
    step_size: Number = AUTO
    name: ClassVar[str] = "extra"
    label: ClassVar[str] = "EXTRA"
    vectors: ClassVar[int] = 1
    floor: ClassVar[str | None] = None
    cite: ClassVar[tuple[str, ...]] = ("extra",)

    def __post_init__(self) -> None:
        check_positive(self, "step_size")

    def tuned(self, facts: Facts) -> EXTRA:
        limit = (5 + 3 * facts.lambda_min) / (4 * facts.L)
        return replace(self, step_size=auto(self.step_size, min(0.9 * limit, facts.step)))

    def check(self, facts: Facts) -> list[str]:
        limit = (5 + 3 * facts.lambda_min) / (4 * facts.L)
        if self.step_size >= limit:
            return [f"{self.label}: step_size {self.step_size:.3g} is not below (5 + 3 λ_min(W))/(4L) = {limit:.3g}; expect divergence"]
        return []

    def init(self, x: Agents, hood: Neighborhood, oracle: Oracle) -> State:
        return State(x, np.zeros_like(x), oracle.init(x))

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        oracle.begin(s.memory, s.x, k)
        g = oracle(s.memory, s.x, k)
        t = hood.exchange(hood.to_neighbors(PLAIN, s.x, k), then=hood.disagreement)
        s.x -= self.step_size * g + t + s.p
        s.p += 0.5 * t  # (1)
        return s
