"""COLD: compress the innovation; and Dyna-COLD, which scales it so that absolute quantizers work.

    y = x_i − η g_i(x_i) − d_i ;  q_i = C(y − ŷ_i)                      -> N_i : q_i      (1)
    ŷ_j ← ŷ_j + q_j                               for j = i and all neighbors             (2)
    t = (γ/2) Σ_j w_ij (ŷ_i − ŷ_j) ;  d_i ← d_i + t ;  x_i ← y − t                        (3)

Dyna-COLD replaces C(v) by s_k Q(v/s_k), s_k = s₀ ω₀ᵏ, with an absolute quantizer Q and ω₀ just above the linear rate.
Where s_k shrinks faster than the innovation, Q clips and the method stalls; a run counts the clipped entries and says so.

Symbols    x (n, d) iterate;  dual (n, d) d_i, Σ_i d_i = 0;  yh (n + g, d) estimates ŷ, own and neighbors'
Parameters step_size > 0: η.  mixing_step in (0, 1]: γ.  compressor: C, contractive (unbiased with ω > 1 diverges).
           Dyna-COLD: scale s₀ > 0, scale_decay ω₀ in (0, 1); the fewer levels Q has, the smaller γ must be.
Per round  one gradient, one compressed vector to all neighbors.
Converges  linearly to the optimum with full or variance-reduced gradients.
Reduces    CEDAS with constant step and α = 1, bitwise;  identity, γ = 1: NIDS (tests/reductions).
Differs    reconstructed from the abstract and the reductions; difference form; s_k stays a normal number.

References
    Zhang, You, Xie. Innovation compression for communication-efficient distributed optimization with linear convergence.
    IEEE TAC 2023. arXiv 2105.06697.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from decentral.algorithms.base import (
    AUTO,
    PLAIN,
    Codec,
    Number,
    auto,
    check_positive,
    check_scale,
    contraction,
    scale_at,
    warn_contractive,
    warn_relative,
)
from decentral.algorithms.facts import Facts
from decentral.compressors import Absolute
from decentral.estimators import Memory, Oracle
from decentral.neighborhood import Neighborhood
from decentral.state import Agents, Known


@dataclass
class State:
    x: Agents
    dual: Agents
    yh: Known
    memory: Memory | None


@dataclass(frozen=True)
class COLD:
    step_size: Number = AUTO
    mixing_step: Number = AUTO
    compressor: Codec = PLAIN
    name: ClassVar[str] = "cold"
    label: ClassVar[str] = "COLD"
    vectors: ClassVar[int] = 1
    floor: ClassVar[str | None] = None
    cite: ClassVar[tuple[str, ...]] = ("cold",)

    def __post_init__(self) -> None:
        check_positive(self, "step_size", "mixing_step")

    def tuned(self, facts: Facts) -> COLD:
        delta = contraction(self.compressor, facts.d)
        mixing = min(1.0, 1.8 / facts.beta_w) * (1.0 if delta > 0.9 else delta**2)
        return replace(self, step_size=auto(self.step_size, facts.step), mixing_step=auto(self.mixing_step, mixing))

    def check(self, facts: Facts) -> list[str]:
        return warn_contractive(self, facts.d)

    def track(self, yh: Known, y: Agents, k: int, hood: Neighborhood) -> None:
        """Send the innovations and bring the estimates yh up to date, in place."""
        hood.exchange(hood.to_neighbors(self.compressor, y, k, minus=yh), onto=yh)  # (1), (2)

    def init(self, x: Agents, hood: Neighborhood, oracle: Oracle) -> State:
        return State(x, np.zeros_like(x), hood.zeros_known(x), oracle.init(x))

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        oracle.begin(s.memory, s.x, k)
        y = s.x - self.step_size * oracle(s.memory, s.x, k) - s.dual
        self.track(s.yh, y, k, hood)
        t = self.mixing_step / 2 * hood.disagreement(s.yh)
        s.dual += t
        s.x = np.subtract(y, t, out=s.x)  # (3)
        return s


@dataclass(frozen=True)
class DynaCOLD(COLD):
    scale: float = 1.0
    scale_decay: float = 0.98
    name: ClassVar[str] = "dyna-cold"
    label: ClassVar[str] = "Dyna-COLD"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self)

    def tuned(self, facts: Facts) -> DynaCOLD:
        mixing = min(1.0, 1.8 / facts.beta_w)
        if isinstance(self.compressor, Absolute):
            # an error of half a step comes back, times γ β_w, into the next innovation, whose grid has shrunk by ω₀
            room = 2 * self.compressor.reach / self.compressor.step * self.scale_decay - 1
            mixing = min(mixing, max(0.01, room / 2) / facts.beta_w)
        return replace(self, step_size=auto(self.step_size, facts.step), mixing_step=auto(self.mixing_step, mixing))

    def check(self, facts: Facts) -> list[str]:
        return warn_relative(self, facts.d)

    def track(self, yh: Known, y: Agents, k: int, hood: Neighborhood) -> None:
        scale = scale_at(self, k, y.dtype)
        yh += scale * hood.exchange(hood.to_neighbors(self.compressor, (y - hood.own(yh)) / scale, k))
