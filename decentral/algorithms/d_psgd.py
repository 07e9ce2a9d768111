"""Decentralized (stochastic) gradient descent, in its two orders.

    combine then adapt (D-PSGD, DGD)    x_i ← Σ_j w_ij x_j − η g_i(x_i)             -> N_i : x_i
    adapt then combine (ATC diffusion)  x_i ← Σ_j w_ij (x_j − η g_j(x_j))           -> N_i : x_i − η g_i

Symbols    x (n, d) iterate;  W mixing matrix, applied as x_i − Σ_j w_ij (x_i − x_j)
Parameters step_size > 0: η; CTA needs η ≤ (1 + λ_min(W))/L.  decay ≥ 0: η_k = η/(1 + decay·k).
Per round  one gradient, one exchange of d numbers.
Converges  to an O(η) neighborhood of the optimum with constant steps (bias from heterogeneous data), exactly with decay.
Reduces    complete graph with W = 11ᵀ/N, ATC: centralized gradient descent (tests/reductions).
Differs    nothing.

References
    Lian et al. Can decentralized algorithms outperform centralized algorithms? NeurIPS 2017. Algorithm 1.
    Nedić, Ozdaglar. Distributed subgradient methods for multi-agent optimization. IEEE TAC 2009.
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
    memory: Memory | None


@dataclass(frozen=True)
class DPSGD:
    """Combine then adapt."""

    step_size: Number = AUTO
    decay: float = 0.0
    name: ClassVar[str] = "d-psgd"
    label: ClassVar[str] = "D-PSGD"
    vectors: ClassVar[int] = 1
    floor: ClassVar[str | None] = "constant steps leave an O(η) bias on heterogeneous data"
    cite: ClassVar[tuple[str, ...]] = ("d-psgd",)

    def __post_init__(self) -> None:
        check_positive(self, "step_size")

    def tuned(self, facts: Facts) -> DPSGD:
        stable = 0.9 * (1 + facts.lambda_min) / facts.L
        return replace(self, step_size=auto(self.step_size, min(0.3 * facts.step, stable)))

    def check(self, facts: Facts) -> list[str]:
        limit = (1 + facts.lambda_min) / facts.L
        if self.step_size > limit:
            return [f"{self.label}: step_size {self.step_size:.3g} exceeds (1 + λ_min(W))/L = {limit:.3g}; expect divergence"]
        return []

    def init(self, x: Agents, hood: Neighborhood, oracle: Oracle) -> State:
        return State(x, oracle.init(x))

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        oracle.begin(s.memory, s.x, k)
        g = self.step_size / (1 + self.decay * k) * oracle(s.memory, s.x, k)
        s.x -= hood.exchange(hood.to_neighbors(PLAIN, s.x, k), then=hood.disagreement)
        s.x -= g
        return s


@dataclass(frozen=True)
class ATC(DPSGD):
    """Adapt then combine."""

    name: ClassVar[str] = "atc"
    label: ClassVar[str] = "ATC diffusion"

    def tuned(self, facts: Facts) -> ATC:
        return replace(self, step_size=auto(self.step_size, 0.3 * facts.step))

    def check(self, facts: Facts) -> list[str]:
        return []

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        oracle.begin(s.memory, s.x, k)
        s.x -= self.step_size / (1 + self.decay * k) * oracle(s.memory, s.x, k)
        s.x -= hood.exchange(hood.to_neighbors(PLAIN, s.x, k), then=hood.disagreement)
        return s
