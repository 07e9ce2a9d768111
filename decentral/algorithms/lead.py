"""LEAD: linearly convergent decentralized optimization with compression.

    g = g_i(x_i) ;  y = x_i − η g − η d_i                                                 (1)
    q_i = C(y − h_i)                                                    -> N_i : q_i      (2)
    ŷ_j = h_j + q_j ;  h_j ← h_j + α q_j          for j = i and all neighbors             (3)
    d_i ← d_i + γ/(2η) Σ_j w_ij (ŷ_i − ŷ_j)                                               (4)
    x_i ← x_i − η g − η d_i                       (the same g)                            (5)

Symbols    x (n, d) iterate;  dual (n, d) d_i, in gradient units, Σ_i d_i = 0;  h (n + g, d) reference of y, own and neighbors'
Parameters step_size in (0, 2/(μ + L)]: η.  mixing_step: γ < 2/((3ω + 1) λ_max(I − W)).  reference_step in (0, 1]: α.
           warm_start: first x ← x − η g(x), as the paper does.  compressor: C, unbiased.
Per round  one gradient, one compressed vector to all neighbors.
Converges  linearly to the optimum with full or variance-reduced gradients; to a neighborhood with SGD.
Reduces    identity, γ = 1, no warm start: NIDS; d_i in other units: CEDAS with constant step (tests/reductions).
Differs    one replica a neighbor and the difference form in (4), where the paper keeps the running sum Σ_j w_ij h_j:
           that sum drifts in floating point and with it Σ d_i = 0.

References
    Liu, Li, Wang, Tang, Yan. Linear convergent decentralized optimization with compression. ICLR 2021. arXiv 2007.00232.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from decentral.algorithms.base import AUTO, PLAIN, Codec, Number, auto, check_positive, warn_unbiased
from decentral.algorithms.facts import Facts
from decentral.estimators import Memory, Oracle
from decentral.neighborhood import Neighborhood
from decentral.state import Agents, Known


@dataclass
class State:
    x: Agents
    dual: Agents
    h: Known
    memory: Memory | None


def largest_mixing_step(omega: float, facts: Facts) -> float:
    """min(1, 0.9 · 2/((3ω + 1) λ_max(I − W))): the first of LEAD's two bounds on γ."""
    return min(1.0, 1.8 / ((3 * omega + 1) * facts.beta_w))


@dataclass(frozen=True)
class LEAD:
    step_size: Number = AUTO
    mixing_step: Number = AUTO
    reference_step: Number = AUTO
    warm_start: bool = False
    compressor: Codec = PLAIN
    name: ClassVar[str] = "lead"
    label: ClassVar[str] = "LEAD"
    vectors: ClassVar[int] = 1
    floor: ClassVar[str | None] = None
    cite: ClassVar[tuple[str, ...]] = ("lead",)

    def __post_init__(self) -> None:
        check_positive(self, "step_size", "mixing_step", "reference_step")

    def tuned(self, facts: Facts) -> LEAD:
        omega = self.compressor.omega(facts.d) or 0.0
        return replace(
            self,
            step_size=auto(self.step_size, facts.step),
            mixing_step=auto(self.mixing_step, largest_mixing_step(omega, facts)),
            reference_step=auto(self.reference_step, min(0.5, 1 / (1 + omega))),
        )

    def check(self, facts: Facts) -> list[str]:
        warnings = warn_unbiased(self, facts.d)
        omega = self.compressor.omega(facts.d) or 0.0
        limit = 2 / ((3 * omega + 1) * facts.beta_w)
        if self.mixing_step >= limit:
            warnings.append(
                f"{self.label}: mixing_step {self.mixing_step:.3g} is not below 2/((3ω + 1) λ_max(I − W)) = {limit:.3g} "
                f"for ω = {omega:.3g}; expect divergence"
            )
        return warnings

    def init(self, x: Agents, hood: Neighborhood, oracle: Oracle) -> State:
        s = State(x, np.zeros_like(x), hood.zeros_known(x), oracle.init(x))
        if self.warm_start:
            oracle.begin(s.memory, x, 0)
            x -= self.step_size * oracle(s.memory, x, 0)
        return s

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        eta = self.step_size
        oracle.begin(s.memory, s.x, k)
        s.x -= eta * oracle(s.memory, s.x, k)
        y = s.x - eta * s.dual  # (1)
        q = hood.to_neighbors(self.compressor, y, k, minus=s.h)  # (2)
        t = hood.exchange(q, onto=s.h, step=self.reference_step, then=hood.disagreement)  # (3)
        s.dual += self.mixing_step / (2 * eta) * t  # (4)
        s.x -= eta * s.dual  # (5)
        return s
