"""BEER: gradient tracking with compressed differences of both variables.

    x_i ← x_i + γ Σ_j w_ij (h_j − h_i) − η v_i ;   q^h_i = C(x_i − h_i) ;  h ← h + q^h      -> N_i : q^h     (1)
    v_i ← v_i + γ Σ_j w_ij (G_j − G_i) + g_i(x_i) − g_i(x_i^old) ;  q^G_i = C(v_i − G_i) ;  G ← G + q^G  -> N_i : q^G   (2)

Symbols    x (n, d) iterate;  v (n, d) tracker, mean v = mean gradient;  h, G (n + g, d) what neighbors know of x and v;
           g (n, d) the last gradient
Parameters step_size > 0: η.  mixing_step in (0, 1]: γ.  compressor: C, contractive.
Per round  one gradient, two compressed vectors to all neighbors.
Converges  exactly with full gradients: O(1/T) nonconvex, linearly under the P-Ł condition.
Reduces    identity, γ = 1: DIGing after its first step.
Differs    both payloads travel in one message: x needs nothing of q^G of the same round.

References
    Zhao, Li, Li, Richtárik, Chi. BEER: fast O(1/T) rate for decentralized nonconvex optimization with communication
    compression. NeurIPS 2022. arXiv 2201.13320. Algorithm 1.
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
    v: Agents
    g: Agents
    h: Known
    G: Known
    memory: Memory | None


@dataclass(frozen=True)
class BEER:
    step_size: Number = AUTO
    mixing_step: Number = AUTO
    compressor: Codec = PLAIN
    name: ClassVar[str] = "beer"
    label: ClassVar[str] = "BEER"
    vectors: ClassVar[int] = 2
    floor: ClassVar[str | None] = None
    cite: ClassVar[tuple[str, ...]] = ("beer",)

    def __post_init__(self) -> None:
        check_positive(self, "step_size", "mixing_step")

    def tuned(self, facts: Facts) -> BEER:
        delta = contraction(self.compressor, facts.d)
        gamma = auto(self.mixing_step, 1.0 if delta > 0.99 else 0.5 * delta)
        eta = min(0.3, 2 * facts.gap * gamma) * facts.step
        return replace(self, step_size=auto(self.step_size, eta), mixing_step=gamma)

    def check(self, facts: Facts) -> list[str]:
        return warn_contractive(self, facts.d)

    def init(self, x: Agents, hood: Neighborhood, oracle: Oracle) -> State:
        memory = oracle.init(x)
        oracle.begin(memory, x, 0)
        g = oracle(memory, x, 0)
        return State(x, g.copy(), g, hood.zeros_known(x), hood.zeros_known(x), memory)

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        s.x -= self.mixing_step * hood.disagreement(s.h) + self.step_size * s.v
        oracle.begin(s.memory, s.x, k + 1)  # round 0's draws were used at x_0
        g = oracle(s.memory, s.x, k + 1)
        s.v -= self.mixing_step * hood.disagreement(s.G)
        s.v += g - s.g
        s.g = g
        qh = hood.to_neighbors(self.compressor, s.x, k, minus=s.h)
        qg = hood.to_neighbors(self.compressor, s.v, k, stream=1, minus=s.G)
        hood.exchange(qh, qg, onto=(s.h, s.G))  # (1), (2)
        return s
