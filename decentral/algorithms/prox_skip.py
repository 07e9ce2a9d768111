"""ProxSkip (Scaffnew) on a graph: communicate only when a shared coin says so.

    z = x_i − η g_i(x_i) − y_i ;   coin θ_k ~ Bernoulli(p), the same on all agents                           (1)
    θ = 1 :  x_i = z_i − (1/2χ) Σ_j w_ij (z_i − z_j) ;  y_i ← y_i + p (z_i − x_i)          -> N_i : z        (2)
    θ = 0 :  x_i = z_i                                                                     no communication

Symbols    x (n, d) iterate;  y (n, d) dual, Σ_i y_i = 0, y_i → −η ∇f_i(x*)
Parameters step_size in (0, 2/L): η.  probability in (0, 1]: p; "auto": 1/√κ, at least 0.2.  chi ≥ 1: χ.
Per round  one gradient; one vector to all neighbors with probability p.
Converges  linearly to the optimum; O(√κ log 1/ε) communications at p ~ 1/√κ, plus a factor of the graph.
Reduces    p = 1, χ = 1: exact diffusion (tests/reductions).
Differs    the sign of y, as in the decentralized papers; the coin is a keyed draw that costs no byte.

References
    Mishchenko, Malinovsky, Stich, Richtárik. ProxSkip. ICML 2022. arXiv 2202.09357.
    Guo, Alghunaim, Yuan, Condat, Cao. Revisiting decentralized ProxSkip. arXiv 2310.07983.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import ClassVar

import numpy as np

from decentral.algorithms.base import AUTO, PLAIN, Number, auto, check_positive
from decentral.algorithms.facts import Facts
from decentral.errors import ConfigError
from decentral.estimators import Memory, Oracle
from decentral.neighborhood import Neighborhood
from decentral.random import Key, Purpose
from decentral.state import Agents

EVERYBODY = np.zeros(1, np.int64)


@dataclass
class State:
    x: Agents
    y: Agents
    memory: Memory | None


@dataclass(frozen=True)
class ProxSkip:
    step_size: Number = AUTO
    probability: Number = AUTO
    chi: float = 1.0
    name: ClassVar[str] = "proxskip"
    label: ClassVar[str] = "ProxSkip"
    floor: ClassVar[str | None] = None
    cite: ClassVar[tuple[str, ...]] = ("proxskip", "decentralized-scaffnew")

    def __post_init__(self) -> None:
        check_positive(self, "step_size", "probability")
        if self.probability != "auto" and self.probability > 1:  # type: ignore[comparison-overlap]
            raise ConfigError(f"algorithm.probability = {self.probability}: give a number above 0, at most 1")
        if not 1 <= self.chi < float("inf"):
            raise ConfigError(f"algorithm.chi = {self.chi}: give a finite number of at least 1")

    @property
    def vectors(self) -> float:
        return self.probability

    def tuned(self, facts: Facts) -> ProxSkip:
        p = max(0.2, sqrt(facts.mu / facts.L)) if facts.mu > 0 else 0.2
        return replace(self, step_size=auto(self.step_size, facts.step), probability=auto(self.probability, p))

    def check(self, facts: Facts) -> list[str]:
        return []

    def init(self, x: Agents, hood: Neighborhood, oracle: Oracle) -> State:
        return State(x, np.zeros_like(x), oracle.init(x))

    def round(self, s: State, k: int, hood: Neighborhood, oracle: Oracle) -> State:
        oracle.begin(s.memory, s.x, k)
        z = s.x - self.step_size * oracle(s.memory, s.x, k) - s.y  # (1)
        if Key(hood.seed, Purpose.COIN + 16, k, EVERYBODY).uniform(1)[0, 0] < self.probability:
            t = hood.exchange(hood.to_neighbors(PLAIN, z, k), then=hood.disagreement) / (2 * self.chi)
            s.y += self.probability * t
            z -= t  # (2)
        s.x = z
        return s
