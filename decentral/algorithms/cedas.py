"""CEDAS: compressed exact diffusion with adaptive step sizes.

    y = x_i − η_k g_i(x_i) − d_i ;  q_i = C(y − h_i)                    -> N_i : q_i      (1)
    ŷ_j = h_j + q_j ;  h_j ← h_j + α q_j          for j = i and all neighbors             (2)
    t = (γ/2) Σ_j w_ij (ŷ_i − ŷ_j) ;  d_i ← d_i + t ;  x_i ← y − t                        (3)

Symbols    x (n, d) iterate;  dual (n, d) d_i, in units of step times gradient, Σ_i d_i = 0;  h (n + g, d) reference of y
Parameters step_size > 0: η.  decay ≥ 0: η_k = η/(1 + decay·k), the paper's θ/(μ(k + k₀)) with decay = 1/k₀.
           mixing_step: γ, O(1/(1 + ω)).  reference_step: α.  warm_start: first x ← x − η g(x).  compressor: C, unbiased.
Per round  one gradient, one compressed vector to all neighbors.
Converges  constant step: linearly and exactly with full or variance-reduced gradients; decaying: the centralized SGD rate.
Reduces    constant step: LEAD, d_CEDAS = η d_LEAD;  α = 1: COLD (tests/reductions).
Differs    nothing in the recursion; one replica a neighbor, difference form.

References
    Huang, Pu. CEDAS: a compressed decentralized stochastic gradient method with improved convergence. IEEE TAC. arXiv 2301.05872.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from decentral.algorithms.base import AUTO, PLAIN, Codec, Number, auto, check_positive, warn_unbiased
from decentral.algorithms.facts import Facts
from decentral.algorithms.lead import largest_mixing_step
from decentral.estimators import Memory, Oracle
from decentral.neighborhood import Neighborhood
from decentral.state import Agents, Known


@dataclass
class State:
    x: Agents
    dual: Agents
    h: Known
    memory: Memory | None


@dataclass(frozen=True)
class CEDAS:
    step_size: Number = AUTO
    mixing_step: Number = AUTO
    reference_step: Number = AUTO
    decay: float = 0.0
    warm_start: bool = False
    compressor: Codec = PLAIN
    name: ClassVar[str] = "cedas"
    label: ClassVar[str] = "CEDAS"
    vectors: ClassVar[int] = 1
    floor: ClassVar[str | None] = None
    cite: ClassVar[tuple[str, ...]] = ("cedas",)

    def __post_init__(self) -> None:
        check_positive(self, "step_size", "mixing_step", "reference_step")

    def tuned(self, facts: Facts) -> CEDAS:
        omega = self.compressor.omega(facts.d) or 0.0
        return replace(
            self,
            step_size=auto(self.step_size, facts.step),
            mixing_step=auto(self.mixing_step, largest_mixing_step(omega, facts)),
            reference_step=auto(self.reference_step, min(0.5, 1 / (1 + omega))),
        )

    def check(self, facts: Facts) -> list[str]:
        return warn_unbiased(self, facts.d)

    def init(self, x: Agents, hood: Neighborhood, oracle: Oracle) -> State:
        s = State(x, np.zeros_like(x), hood.zeros_known(x), oracle.init(x))
        if self.warm_start:
            oracle.begin(s.memory, x, 0)
            x -= self.step_size * oracle(s.memory, x, 0)
        return s

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        oracle.begin(s.memory, s.x, k)
        y = s.x - self.step_size / (1 + self.decay * k) * oracle(s.memory, s.x, k) - s.dual
        q = hood.to_neighbors(self.compressor, y, k, minus=s.h)  # (1)
        t = self.mixing_step / 2 * hood.exchange(q, onto=s.h, step=self.reference_step, then=hood.disagreement)  # (2)
        s.dual += t
        s.x = np.subtract(y, t, out=s.x)  # (3)
        return s
