"""LT-ADMM: ADMM with local training.

    c_i = β (ρ d_i x_i − Σ_j z_ij) ;  φ⁰ = x_i                                            (1)
    φᵗ⁺¹ = φᵗ − γ g_i(φᵗ) − c_i                   t = 0 … τ − 1                           (2)
    x_i = φ^τ                                                                             (3)
    m_ij = z_ij − 2ρ x_i                                                -> j : m_ij       (4)
    z_ij ← (1 − α) z_ij − α m_ji                                                          (5)

Symbols    x (n, d) iterate;  z (m, d) edge variables z_ij on the arcs i→j
Parameters local_steps ≥ 1: τ.  step_size > 0: γ.  penalty > 0: ρ.  dual_step > 0: β; c = τ β ρ l_u / 2 < 1 in the paper's
           lemma (stable to 4/3); "auto": c = 0.9.  relaxation in (0, 1]: α, 1/2 in the paper.  Only β ρ matters.
Per round  τ gradients, one exchange of d numbers on each arc.
Converges  linearly to the optimum for strongly convex f_i with full or variance-reduced gradients, no client drift for any τ.
Reduces    τ = 1: EXTRA with W = I − β ρ Lap, and DLM (tests/reductions).
Differs    z_0 = 0 whatever x_0 (any z_0 is admissible).

References
    Ren, Bastianello, Johansson, Parisini. Communication-efficient stochastic distributed learning. arXiv 2501.13516.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from decentral.algorithms.base import AUTO, PLAIN, Number, auto, check_local_steps, check_positive
from decentral.algorithms.facts import Facts
from decentral.errors import ConfigError
from decentral.estimators import Memory, Oracle
from decentral.neighborhood import Neighborhood
from decentral.state import Agents, Arcs, blend


@dataclass
class State:
    x: Agents
    z: Arcs
    memory: Memory | None


def local_training(method: Any, s: Any, c: Agents, k: int, oracle: Oracle) -> None:
    """(2), (3): τ steps φ ← φ − γ g(φ) − c from x, in place on s.x."""
    oracle.begin(s.memory, s.x, k)
    for t in range(method.local_steps):
        g = oracle(s.memory, s.x, k, t)
        blend(-method.step_size, g, -1.0, c, 1.0, s.x, out=s.x)  # φ − (γ g + c), in one pass


def tune(method: Any, facts: Facts, c: float) -> dict[str, Any]:
    """γ, β of the c rule: β = 2c/(τ ρ l_u), γ τ L ≤ 1 (τ = 1: half of the exact bound (4 − 3c)/(2L))."""
    tau, rho = method.local_steps, method.penalty
    gamma = 0.9 * (4 - 3 * c) / (2 * facts.L) if tau == 1 else 1 / (tau * facts.L)
    if facts.stochastic:
        gamma = min(gamma, 1 / (3 * max(facts.L, facts.L_max / facts.batch)))
    return {
        "step_size": auto(method.step_size, gamma),
        "dual_step": auto(method.dual_step, 2 * c / (tau * rho * facts.l_u)),
    }


def check_c(method: Any, facts: Facts) -> list[str]:
    """Warn of c = τβρl_u/2 at or above 4/3, where the edge iteration itself is unstable, and from 1 on."""
    c = method.local_steps * method.dual_step * method.penalty * facts.l_u / 2
    if c >= 4 / 3:
        return [f"{method.label}: local_steps·dual_step·penalty·l_u/2 = {c:.3g} is at least 4/3: unstable, expect divergence"]
    if c >= 1:
        return [f"{method.label}: local_steps·dual_step·penalty·l_u/2 = {c:.3g} exceeds the 1 of the paper's lemma (stable to 4/3)"]
    return []


@dataclass(frozen=True)
class LTADMM:
    local_steps: int = 5
    step_size: Number = AUTO
    dual_step: Number = AUTO
    penalty: float = 1.0
    relaxation: float = 0.5
    name: ClassVar[str] = "lt-admm"
    label: ClassVar[str] = "LT-ADMM"
    vectors: ClassVar[int] = 1
    floor: ClassVar[str | None] = None
    cite: ClassVar[tuple[str, ...]] = ("lt-admm",)

    def __post_init__(self) -> None:
        check_local_steps(self)
        check_positive(self, "step_size", "dual_step", "penalty")
        if not 0 < self.relaxation <= 1:
            raise ConfigError(f"algorithm.relaxation = {self.relaxation}: give a number above 0, at most 1")

    def tuned(self, facts: Facts) -> LTADMM:
        return replace(self, **tune(self, facts, 0.9))

    def check(self, facts: Facts) -> list[str]:
        return check_c(self, facts)

    def init(self, x: Agents, hood: Neighborhood, oracle: Oracle) -> State:
        return State(x, hood.zeros_arcs(x), oracle.init(x))

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        rho, alpha = self.penalty, self.relaxation
        c = self.dual_step * (rho * hood.degree * s.x - hood.total(s.z))  # (1)
        local_training(self, s, c, k, oracle)  # (2), (3)
        m = hood.exchange(hood.along_arcs(PLAIN, s.z, k, minus=2 * rho * hood.spread(s.x)))  # (4)
        blend(1 - alpha, s.z, -alpha, m, out=s.z)  # (5)
        return s
