"""DPDC: compressed distributed primal-dual methods, algorithms 1 to 3.

Algorithm 1   Lx̂ = Σ_j ((a_i + q_i) − (a_j + q_j)),  q_i = C(x_i − a_i)                  -> N_i : q_i      (1)
              x_i⁺ = x_i − η (α Lx̂ + β v_i + g_i(x_i)) ;  v_i ← v_i + η β Lx̂                               (2)
              a_j ← a_j + ψ q_j                           for j = i and all neighbors                      (3)
Algorithm 2   a second payload q̂_i = C(σ e_i + x_i − a_i) takes the place of q_i in Lx̂ (not in (3)), and
              e_i ← σ e_i + x_i − a_i − q̂_i : error feedback for biased compressors
Algorithm 3   x̂_j ← x̂_j + s_k Q((x_j − x̂_j)/s_k), s_k = s₀ wᵏ, Lx̂ = Lap x̂ : absolute quantizers.
              Where s_k shrinks faster than x − x̂, Q clips and the method stalls; a run counts that and says so

Symbols    x (n, d) iterate;  v (n, d) dual, Σ_i v_i = 0;  a (n + g, d) references;  e (n, d) compression error
Parameters step_size: η.  penalty: α.  dual_step: β.  reference_step: ψ.  error_decay: σ (algorithm 2).
           scale: s₀, scale_decay: w (algorithm 3).  compressor: C.
Per round  one gradient; one compressed vector to all neighbors (algorithm 2: two).
Converges  linearly under the P-Ł condition, O(1/T) to a stationary point for smooth nonconvex F.
Reduces    algorithm 2 with σ = 0 is algorithm 1 (tests/reductions).
Differs    q is formed at the start of a round from the x of the last one, not at its end: the same iterates, no message
           before round 0.  References a_j a neighbor and differences, in place of the running b = a − Lap a, which drifts.
           s_k stays a normal number.

References
    Yi, Zhang, Yang, Chai, Johansson. Communication compression for distributed nonconvex optimization. IEEE TAC 2023.
    arXiv 2201.03930. Algorithms 1, 2, 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import numpy as np

from decentral.algorithms.base import (
    AUTO,
    PLAIN,
    Codec,
    Number,
    auto,
    check_positive,
    check_scale,
    scale_at,
    warn_absolute,
    warn_relative,
)
from decentral.algorithms.facts import Facts
from decentral.errors import ConfigError
from decentral.estimators import Memory, Oracle
from decentral.neighborhood import Neighborhood
from decentral.state import Agents, Known, blend

Self = TypeVar("Self", bound="DPDC")


@dataclass
class State:
    x: Agents
    v: Agents
    a: Known
    e: Agents | None
    memory: Memory | None


def largest_dual_step(eta: float, penalty: float, facts: Facts) -> float:
    """β = min(1.5 α, 0.8/(η √l_u)): fast duals, with room below the stability limit of the Jacobi form."""
    return min(1.5 * penalty, 0.8 / (eta * facts.l_u**0.5))


def check_product(method: DPDC, facts: Facts) -> list[str]:
    """The sentence for steps beyond stability, η (α l_u + L) > 2."""
    product = method.step_size * (method.penalty * facts.l_u + facts.L)
    if product > 2:
        return [f"{method.label}: step_size (penalty l_u + L) = {product:.3g} exceeds 2; expect divergence"]
    return []


@dataclass(frozen=True)
class DPDC:
    """Algorithm 1."""

    step_size: Number = AUTO
    penalty: Number = AUTO
    dual_step: Number = AUTO
    reference_step: Number = AUTO
    compressor: Codec = PLAIN
    name: ClassVar[str] = "dpdc"
    label: ClassVar[str] = "DPDC"
    vectors: ClassVar[int] = 1
    floor: ClassVar[str | None] = None
    cite: ClassVar[tuple[str, ...]] = ("dpdc",)

    def __post_init__(self) -> None:
        check_positive(self, "step_size", "penalty", "dual_step", "reference_step")

    def tuned(self: Self, facts: Facts) -> Self:
        omega = self.compressor.omega(facts.d)
        noise = 1 + omega if omega is not None else 1 / (self.compressor.delta(facts.d) or 1 / facts.d)
        eta = auto(self.step_size, facts.step)
        penalty = auto(self.penalty, 0.9 / (eta * facts.l_u) / noise)
        return replace(
            self,
            step_size=eta,
            penalty=penalty,
            dual_step=auto(self.dual_step, largest_dual_step(eta, penalty, facts)),
            reference_step=auto(self.reference_step, 0.5 / noise),
        )

    def check(self, facts: Facts) -> list[str]:
        return check_product(self, facts) + warn_absolute(self)

    def init(self, x: Agents, hood: Neighborhood, oracle: Oracle) -> State:
        return State(x, np.zeros_like(x), hood.zeros_known(x), None, oracle.init(x))

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        q = hood.to_neighbors(self.compressor, s.x, k, minus=s.a)
        Lxh = hood.exchange(q, onto=s.a, step=self.reference_step, then=hood.laplacian)  # (1) of a + q, and (3)
        return self._step(s, k, Lxh, oracle)

    def _step(self, s: State, k: int, Lxh: Agents, oracle: Oracle) -> State:
        oracle.begin(s.memory, s.x, k)
        g = oracle(s.memory, s.x, k)
        s.x -= self.step_size * blend(self.penalty, Lxh, self.dual_step, s.v, 1.0, g)
        s.v += self.step_size * self.dual_step * Lxh  # (2)
        return s


@dataclass(frozen=True)
class DPDC2(DPDC):
    """Algorithm 2: error feedback."""

    error_decay: float = 0.1
    name: ClassVar[str] = "dpdc2"
    label: ClassVar[str] = "DPDC-2"
    vectors: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.error_decay < 1:
            raise ConfigError(f"algorithm.error_decay = {self.error_decay}: give a number from 0 to below 1")

    def init(self, x: Agents, hood: Neighborhood, oracle: Oracle) -> State:
        return State(x, np.zeros_like(x), hood.zeros_known(x), np.zeros_like(x), oracle.init(x))

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        assert s.e is not None
        v = s.x - hood.own(s.a)
        w = self.error_decay * s.e + v
        q, qh = hood.exchange(
            hood.to_neighbors(self.compressor, v, k),
            hood.to_neighbors(self.compressor, w, k),  # the same draws: with σ = 0 both payloads are one
        )
        s.e = w - hood.own(qh)
        Lxh = hood.laplacian(s.a + qh)
        s.a += self.reference_step * q
        return self._step(s, k, Lxh, oracle)


@dataclass(frozen=True)
class DPDC3(DPDC):
    """Algorithm 3: absolute quantizer with geometric scaling; `a` holds x̂, reference_step is not used."""

    scale: float = 1.0
    scale_decay: float = 0.98
    name: ClassVar[str] = "dpdc3"
    label: ClassVar[str] = "DPDC-3"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self)

    def tuned(self, facts: Facts) -> DPDC3:
        eta = auto(self.step_size, facts.step)
        penalty = auto(self.penalty, 0.9 / (eta * facts.l_u))
        return replace(
            self, step_size=eta, penalty=penalty, dual_step=auto(self.dual_step, largest_dual_step(eta, penalty, facts)), reference_step=1.0
        )

    def check(self, facts: Facts) -> list[str]:
        return check_product(self, facts) + warn_relative(self, facts.d)

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        scale = scale_at(self, k, s.x.dtype)
        q = hood.exchange(hood.to_neighbors(self.compressor, (s.x - hood.own(s.a)) / scale, k))
        s.a += scale * q
        return self._step(s, k, hood.laplacian(s.a), oracle)
