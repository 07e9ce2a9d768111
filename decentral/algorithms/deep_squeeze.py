"""DeepSqueeze: error-compensated compressed gossip.

    x_i ← x_i − η g_i(x_i) ;  v = x_i + δ_i ;  q_i = C(v)               -> N_i : q_i      (1)
    δ_i ← v − q_i                                                                         (2)
    x_i ← x_i + γ Σ_j w_ij (q_j − q_i)                                                    (3)

Symbols    x (n, d) iterate;  e (n, d) the compression error δ that is carried over
Parameters step_size > 0: η.  mixing_step in (0, 1]: γ.  compressor: C, contractive.
Per round  one gradient, one compressed vector to all neighbors.
Converges  to a neighborhood; its floor is larger than that of CHOCO-SGD with strong compression.
Reduces    identity: CHOCO-SGD with identity (tests/reductions).
Differs    nothing.

References
    Tang et al. DeepSqueeze: decentralization meets error-compensated compression. arXiv 1907.07346.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from decentral.algorithms.base import AUTO, PLAIN, Codec, Number, auto, check_positive, contraction, warn_contractive
from decentral.algorithms.facts import Facts
from decentral.estimators import Memory, Oracle
from decentral.neighborhood import Neighborhood
from decentral.state import Agents


@dataclass
class State:
    x: Agents
    e: Agents
    memory: Memory | None


@dataclass(frozen=True)
class DeepSqueeze:
    step_size: Number = AUTO
    mixing_step: Number = AUTO
    compressor: Codec = PLAIN
    name: ClassVar[str] = "deepsqueeze"
    label: ClassVar[str] = "DeepSqueeze"
    vectors: ClassVar[int] = 1
    floor: ClassVar[str | None] = "constant steps leave a bias, and the compression error is mixed in"
    cite: ClassVar[tuple[str, ...]] = ("deepsqueeze",)

    def __post_init__(self) -> None:
        check_positive(self, "step_size", "mixing_step")

    def tuned(self, facts: Facts) -> DeepSqueeze:
        delta = contraction(self.compressor, facts.d)
        return replace(
            self,
            step_size=auto(self.step_size, 0.3 * facts.step),
            mixing_step=auto(self.mixing_step, 1.0 if delta > 0.999 else 0.5 * delta),
        )

    def check(self, facts: Facts) -> list[str]:
        return warn_contractive(self, facts.d)

    def init(self, x: Agents, hood: Neighborhood, oracle: Oracle) -> State:
        return State(x, np.zeros_like(x), oracle.init(x))

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        oracle.begin(s.memory, s.x, k)
        s.x -= self.step_size * oracle(s.memory, s.x, k)
        v = s.x + s.e
        q = hood.exchange(hood.to_neighbors(self.compressor, v, k))  # (1)
        s.e = v - hood.own(q)  # (2)
        s.x -= self.mixing_step * hood.disagreement(q)  # (3)
        return s
