"""CHOCO-SGD: gossip of compressed differences.

    x_i ← x_i − η_k g_i(x_i)                                                          (1)
    q_i = C(x_i − x̂_i)                                              -> N_i : q_i      (2)
    x̂_j ← x̂_j + q_j                          for j = i and all neighbors             (3)
    x_i ← x_i + γ Σ_j w_ij (x̂_j − x̂_i)                                               (4)

Symbols    x (n, d) iterate;  xh (n + g, d) what all agents know of each other
Parameters step_size > 0: η.  mixing_step in (0, 1]: γ.  decay ≥ 0: η_k = η/(1 + decay·k).
           compressor: C, contractive with δ > 0 (or unbiased with ω < 1).
Per round  one gradient, one compressed vector to all neighbors.
Converges  to an O(η²) neighborhood with constant steps; exactly, O(1/T), with decaying ones.
Reduces    identity and γ = 1: ATC diffusion (tests/reductions).
Differs    nothing; public code also has (4) before (2), with the old x̂.

References
    Koloskova, Stich, Jaggi. Decentralized stochastic optimization and gossip algorithms with compressed communication.
    ICML 2019. arXiv 1902.00340. Algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from decentral.algorithms.base import AUTO, PLAIN, Codec, Number, auto, check_positive, contraction, warn_contractive
from decentral.algorithms.facts import Facts
from decentral.estimators import Memory, Oracle
from decentral.neighborhood import Neighborhood
from decentral.state import Agents, Known


@dataclass
class State:
    x: Agents
    xh: Known
    memory: Memory | None


@dataclass(frozen=True)
class ChocoSGD:
    step_size: Number = AUTO
    mixing_step: Number = AUTO
    decay: float = 0.0
    compressor: Codec = PLAIN
    name: ClassVar[str] = "choco-sgd"
    label: ClassVar[str] = "CHOCO-SGD"
    vectors: ClassVar[int] = 1
    floor: ClassVar[str | None] = "constant steps leave a bias on heterogeneous data, O(η²/gap)"
    cite: ClassVar[tuple[str, ...]] = ("choco-sgd",)

    def __post_init__(self) -> None:
        check_positive(self, "step_size", "mixing_step")

    def tuned(self, facts: Facts) -> ChocoSGD:
        return replace(
            self,
            step_size=auto(self.step_size, 0.3 * facts.step),
            mixing_step=auto(self.mixing_step, min(1.0, contraction(self.compressor, facts.d))),
        )

    def check(self, facts: Facts) -> list[str]:
        return warn_contractive(self, facts.d)

    def init(self, x: Agents, hood: Neighborhood, oracle: Oracle) -> State:
        return State(x, hood.zeros_known(x), oracle.init(x))

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        oracle.begin(s.memory, s.x, k)
        s.x -= self.step_size / (1 + self.decay * k) * oracle(s.memory, s.x, k)  # (1)
        q = hood.to_neighbors(self.compressor, s.x, k, minus=s.xh)  # (2)
        s.x -= self.mixing_step * hood.exchange(q, onto=s.xh, then=hood.disagreement)  # (3), (4)
        return s
