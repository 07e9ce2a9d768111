"""LT-ADMM-CC: local training, compressed communication with error feedback, variance-reduced gradients.

    c_i = β (ρ d_i x_i − Σ_j z_ij) ;  φ⁰ = x_i                                            (1)
    φᵗ⁺¹ = φᵗ − γ g_i(φᵗ) − c_i                   t = 0 … τ − 1 ;  x_i = φ^τ              (2)
    q^z_ij = C(z_ij − s_ij) -> j ;   q^x_i = C(x_i − u_i) -> N_i                          (3)
    ẑ = s + q^z ;  x̂ = u + q^x                    own, and from what was received         (4)
    s ← s + η_s q^z ;  u ← u + η_x q^x            own, and replicas of the neighbors'     (5)
    z_ij = (ẑ_ij − ẑ_ji)/2 + ρ x̂_j                                                       (6)

Forms, which differ in what is sent and how z is renewed. All are exact; they differ under strong compression.
    A   as above (the default)                                           ω < 1 + √5 at best
    B   as A, with x̂_i in place of x_i in (1): the mean is free of compression noise
    C   own z exact, relaxed: z_ij ← (1 − α) z_ij − α ẑ_ji + 2αρ x̂_j      any ω with α² < 1/(ω(1 + ω))
    D   one payload an arc, C(z_ij − 2ρ x_i − s_ij) : z_ij ← (1 − α) z_ij − α m̂_ji ; half the bytes
    E   q^x alone is sent; both ends run z_ij ← (1 − α) z_ij − α z_ji + 2αρ x̂_j for both directions ; half the bytes

Symbols    x (n, d) iterate;  z (m, d) z_ij;  u (n + g, d) references of x, own and neighbors';  s (m, d) reference of z_ij;
           r (m, d) replica of the neighbor's s_ji (form E: of z_ji);  xh (n, d) x̂_i, form B alone
Parameters local_steps ≥ 1: τ.  step_size > 0: γ.  dual_step > 0: β.  penalty > 0: ρ.  reference_step in (0, 1]: η_x = η_s,
           1/(1 + ω) on "auto".  form.  relaxation in (0, 1]: α of forms C, D, E.  compressor: C, unbiased.
Per round  τ gradient estimates; two compressed vectors on each arc (D, E: one).
Converges  linearly to the optimum for strongly convex f_i with full or variance-reduced gradients; to a neighborhood with SGD.
Reduces    identity compressor: LT-ADMM, any η, all forms at α = 1/2 (tests/reductions).
Differs    the algorithm box of the paper was not at hand: placement of η and the compression of z by itself are inferred
           (A), and B to E are named variants of ours. z_0 = 0, references 0.

References
    Ren, Bastianello, Johansson, Parisini. Jointly computation- and communication-efficient distributed learning.
    arXiv 2508.15509 (LT-ADMM-CC).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import ClassVar, Literal

import numpy as np

from decentral.algorithms.base import AUTO, PLAIN, Codec, Number, auto, check_local_steps, check_positive, warn_unbiased
from decentral.algorithms.facts import Facts
from decentral.algorithms.lt_admm import check_c, local_training, tune
from decentral.errors import ConfigError
from decentral.estimators import Memory, Oracle
from decentral.neighborhood import Neighborhood
from decentral.state import Agents, Arcs, Known, blend


@dataclass
class State:
    x: Agents
    z: Arcs
    u: Known | None
    s: Arcs | None
    r: Arcs | None
    xh: Agents | None
    memory: Memory | None


@dataclass(frozen=True)
class LTADMMCC:
    local_steps: int = 5
    step_size: Number = AUTO
    dual_step: Number = AUTO
    penalty: float = 1.0
    reference_step: Number = AUTO
    form: Literal["A", "B", "C", "D", "E"] = "A"
    relaxation: Number = AUTO
    compressor: Codec = PLAIN
    name: ClassVar[str] = "lt-admm-cc"
    label: ClassVar[str] = "LT-ADMM-CC"
    floor: ClassVar[str | None] = None
    cite: ClassVar[tuple[str, ...]] = ("lt-admm-cc",)

    def __post_init__(self) -> None:
        check_local_steps(self)
        check_positive(self, "step_size", "dual_step", "penalty", "relaxation")
        if self.reference_step != "auto" and not 0 <= self.reference_step <= 1:  # type: ignore[comparison-overlap]
            raise ConfigError(f"algorithm.reference_step = {self.reference_step}: give a number from 0 to 1, or \"auto\"")

    @property
    def vectors(self) -> int:
        return 1 if self.form in "DE" else 2

    def tuned(self, facts: Facts) -> LTADMMCC:
        omega = self.compressor.omega(facts.d) or 0.0
        alpha = 0.5 if omega == 0 else min(0.5, 0.7 / sqrt(omega * (1 + omega)))
        c = 0.9 / (1 + 8 * omega)
        return replace(
            self,
            **tune(self, facts, c),
            reference_step=auto(self.reference_step, 1 / (1 + omega) if omega > 0.1 else 1.0),
            relaxation=auto(self.relaxation, alpha),
        )

    def check(self, facts: Facts) -> list[str]:
        warnings = check_c(self, facts) + warn_unbiased(self, facts.d)
        omega = self.compressor.omega(facts.d) or 0.0
        if self.form in "AB" and omega > 2:
            warnings.append(
                f"{self.label} form {self.form} re-injects the compression noise of z and cannot converge for "
                f"ω ≥ 1 + √5; {self.compressor.name} has ω = {omega:.3g}: use form = \"E\" or \"C\", or more bits"
            )
        if self.form in "CD" and omega and self.relaxation**2 >= 1 / (omega * (1 + omega)):
            warnings.append(
                f"{self.label} form {self.form} needs relaxation² < 1/(ω(1 + ω)) = {1 / (omega * (1 + omega)):.3g}; "
                f"it is {self.relaxation**2:.3g}"
            )
        return warnings

    def init(self, x: Agents, hood: Neighborhood, oracle: Oracle) -> State:
        arcs, form = hood.zeros_arcs, self.form
        return State(
            x,
            z=arcs(x),
            u=None if form == "D" else hood.zeros_known(x),
            s=None if form == "E" else arcs(x),
            r=arcs(x),
            xh=np.zeros_like(x) if form == "B" else None,
            memory=oracle.init(x),
        )

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        at = s.x if s.xh is None else s.xh
        c = self.dual_step * (self.penalty * hood.degree * at - hood.total(s.z))  # (1)
        local_training(self, s, c, k, oracle)  # (2)
        {"A": self._abc, "B": self._abc, "C": self._abc, "D": self._d, "E": self._e}[self.form](s, k, hood)
        return s

    def _abc(self, s: State, k: int, hood: Neighborhood) -> None:
        C, eta, rho, alpha = self.compressor, self.reference_step, self.penalty, self.relaxation
        assert s.u is not None and s.s is not None and s.r is not None
        qz = hood.along_arcs(C, s.z, k, minus=s.s, step=eta)
        qx = hood.to_neighbors(C, s.x, k, minus=s.u)  # (3)
        xh, zh_in = hood.exchange(qx, qz, onto=(s.u, s.r), step=eta)  # x̂, ẑ_ji (4), (5)
        if self.form == "C":
            hood.blend(1 - alpha, s.z, -alpha, zh_in, 2 * alpha * rho, xh, out=s.z)
        else:
            hood.blend(0.5, qz.estimate, -0.5, zh_in, rho, xh, out=s.z)  # (6)
        if s.xh is not None:
            s.xh = hood.own(xh).copy()

    def _d(self, s: State, k: int, hood: Neighborhood) -> None:
        alpha, eta = self.relaxation, self.reference_step
        assert s.s is not None and s.r is not None
        message = hood.along_arcs(self.compressor, s.z - 2 * self.penalty * hood.spread(s.x), k, minus=s.s, step=eta)
        m_in = hood.exchange(message, onto=s.r, step=eta)
        blend(1 - alpha, s.z, -alpha, m_in, out=s.z)

    def _e(self, s: State, k: int, hood: Neighborhood) -> None:
        alpha, rho = self.relaxation, self.penalty
        assert s.u is not None and s.r is not None
        message = hood.to_neighbors(self.compressor, s.x, k, minus=s.u)
        xh = hood.exchange(message, onto=s.u, step=self.reference_step)
        z_ij, z_ji = s.z, s.r
        s.z = hood.blend(1 - alpha, z_ij, -alpha, z_ji, 2 * alpha * rho, xh, out=np.empty_like(z_ij))
        s.r = blend(1 - alpha, z_ji, -alpha, z_ij, 2 * alpha * rho, hood.own(xh), hood.tail, out=z_ji)
