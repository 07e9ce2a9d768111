"""Exact diffusion, also known as NIDS and D², in the form whose dual sum is exact in floating point.

    y = x_i − η g_i(x_i) − d_i                                          -> N_i : y        (1)
    t = ½ Σ_j w_ij (y_i − y_j) ;  d_i ← d_i + t ;  x_i ← y − t                            (2)

Symbols    x (n, d) iterate;  dual (n, d) d_i, Σ_i d_i = 0, d_i → −η ∇f_i(x*)
Parameters step_size in (0, 2/L): η, whatever the graph.
Per round  one gradient, one vector to all neighbors.
Converges  linearly to the optimum with full or variance-reduced gradients.
Reduces    LEAD and COLD with identity and γ = 1; ProxSkip with p = β = χ = 1 (tests/reductions).
Differs    eliminating d gives the published x_{k+1} = W̄(ψ_k + x_k − ψ_{k−1}), W̄ = (I + W)/2, ψ = x − η g; that form
           loses Σ d_i = 0 in floating point.

References
    Yuan, Ying, Zhao, Sayed. Exact diffusion for distributed optimization and learning I. IEEE TSP 2019.
    Li, Shi, Yan. A decentralized proximal-gradient method with network independent step-sizes (NIDS). IEEE TSP 2019.
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
    dual: Agents
    memory: Memory | None


@dataclass(frozen=True)
class ExactDiffusion:
    step_size: Number = AUTO
    name: ClassVar[str] = "exact-diffusion"
    label: ClassVar[str] = "Exact diffusion"
    vectors: ClassVar[int] = 1
    floor: ClassVar[str | None] = None
    cite: ClassVar[tuple[str, ...]] = ("exact-diffusion", "nids")

    def __post_init__(self) -> None:
        check_positive(self, "step_size")

    def tuned(self, facts: Facts) -> ExactDiffusion:
        return replace(self, step_size=auto(self.step_size, facts.step))

    def check(self, facts: Facts) -> list[str]:
        if self.step_size >= 2 / facts.L:
            return [f"{self.label}: step_size {self.step_size:.3g} is not below 2/L = {2 / facts.L:.3g}; expect divergence"]
        return []

    def init(self, x: Agents, hood: Neighborhood, oracle: Oracle) -> State:
        return State(x, np.zeros_like(x), oracle.init(x))

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        oracle.begin(s.memory, s.x, k)
        y = s.x - self.step_size * oracle(s.memory, s.x, k) - s.dual  # (1)
        t = 0.5 * hood.exchange(hood.to_neighbors(PLAIN, y, k), then=hood.disagreement)
        s.dual += t
        s.x = np.subtract(y, t, out=s.x)  # (2)
        return s


@dataclass(frozen=True)
class NIDS(ExactDiffusion):
    """The same iteration under its other name (equal steps, no regularizer of its own)."""

    name: ClassVar[str] = "nids"
    label: ClassVar[str] = "NIDS"
    cite: ClassVar[tuple[str, ...]] = ("nids",)
