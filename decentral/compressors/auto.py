"""`compressor = "auto"`: whether to compress at all, and how much, decided by measurement at the start of a run.

For each candidate two numbers are found, and the one with the least product is taken:

    seconds a round    rounds of the method itself, on its own problem, ranks and network; where the configuration gives
                       latency or bandwidth, what such a network would add
    rounds a digit     rounds by which ‖∇F(x̄)‖² falls tenfold on a stand-in: diagonal quadratics with the run's L, μ, graph
                       and weights, in process, with the step sizes that the method would use

Nothing of this is counted or kept; every candidate starts from the same point as the run.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from decentral.errors import ConfigError, DecentralError
from decentral.random import Key, Purpose
from decentral.state import Agents

if TYPE_CHECKING:
    from decentral.algorithms.base import Algorithm
    from decentral.algorithms.facts import Facts
    from decentral.estimators import Oracle
    from decentral.graph import Graph, MixingMatrix
    from decentral.neighborhood import Neighborhood

BUDGET = 0.2
"""Seconds for which the rounds of one candidate are measured, about; at least three rounds a turn."""
TURNS = 3
"""Turns in which all candidates are measured."""
WIDTH, ROUNDS, MOST_AGENTS, WORST_CONDITION = 512, 120, 64, 50.0
"""The stand-in: entries of x, rounds, agents beyond which it is skipped, and its largest L/μ."""


@dataclass(frozen=True)
class Auto:
    """The best of no compression and quantizers of 8, 4 and 2 bits, measured when the run starts.

    latency : seconds of a message; bandwidth : bytes a second from an agent; of a network in place of the present one
    Raises ConfigError for other than positive numbers.
    """

    latency: float | None = None
    bandwidth: float | None = None
    name: ClassVar[str] = "auto"

    def __post_init__(self) -> None:
        for field in ("latency", "bandwidth"):
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise ConfigError(f"algorithm.compressor.{field} = {value}: give a positive number, or leave it out to have it measured")

    def candidates(self) -> list[dict[str, Any]]:
        """The tables of the compressors that are compared."""
        return [{"name": "identity"}, *({"name": "quantize", "bits": bits} for bits in (8, 4, 2))]

    # The runner replaces this before anything is sent; until then it stands for a compressor without error.
    relative: ClassVar[bool] = True

    def omega(self, d: int) -> float:
        return 0.0

    def delta(self, d: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Prediction:
    """What a candidate costs: its table, seconds a round, rounds a digit (inf: it does not converge)."""

    table: dict[str, Any]
    seconds: float
    rounds: float

    @property
    def cost(self) -> float:
        """Seconds a digit of ‖∇F(x̄)‖²."""
        return self.seconds * self.rounds

    def __str__(self) -> str:
        name = " ".join(str(v) if k == "name" else f"{k} = {v}" for k, v in self.table.items())
        each = f"{name:20} {self.seconds * 1e3:10.4g} ms a round x {self.rounds:6.3g} rounds a digit = "
        return each + (f"{self.cost * 1e3:.4g} ms a digit" if np.isfinite(self.cost) else "does not converge")


def seconds_of(methods: list[Any], hood: Neighborhood, oracle: Oracle, d: int, auto: Auto) -> list[float]:
    """Seconds a round of each method with its compressor, of the slowest rank. COLLECTIVE. The meters are put back.

    Gradients are the same work for all and may be most of it: they are measured once, so that what is left, measured
    in turns without them, tells the candidates apart on a machine whose speed drifts.
    """
    before, evaluations = hood.meters(), oracle.evaluations.copy()
    x = hood.give(np.zeros((hood.n, d), hood.dtype))
    same: Any = _Same(oracle(oracle.init(x), x, 0))
    whole, rest, network = np.inf, np.full(len(methods), np.inf), np.zeros(len(methods))
    for _ in range(TURNS):
        whole = min(whole, _window(methods[0], hood, oracle, x)[0])
        for i, method in enumerate(methods):
            spent, sent = _window(method, hood, same, x)
            rest[i] = min(rest[i], spent)
            network[i] = _network(method, hood, sent, auto)
    oracle.evaluations[...] = evaluations
    hood.put_back(before)
    for method in methods:
        hood.forget(method.compressor)  # type: ignore[attr-defined]
    return (max(0.0, whole - rest[0]) + rest + network).tolist()


def _window(method: Algorithm, hood: Neighborhood, oracle: Oracle, x: Agents) -> tuple[float, float]:
    """Seconds a round from the start point x, the faster of two windows after a warm-up; bytes that an own agent sends in one."""
    state = method.init(x.copy(), hood, oracle)
    sent, k, count, best = hood.wire_bytes, 0, 1, np.inf
    for window in range(3):  # the first makes buffers and says how long a round takes
        hood.max(np.zeros(1))  # a barrier
        start = time.perf_counter()
        for _ in range(count):
            state = method.round(state, k, hood, oracle)
            k += 1
        hood.take(state.x)  # the work of a device is done when it is here
        spent = float(hood.max(np.array([(time.perf_counter() - start) / count]))[0])
        if window == 0:
            count = int(np.clip(BUDGET / (2 * TURNS) / max(spent, 1e-9), 1, 200))
        else:
            best = min(best, spent)
    return best, (hood.wire_bytes - sent) / k / max(hood.n, 1)


def _network(method: Algorithm, hood: Neighborhood, sent: float, auto: Auto) -> float:
    """Seconds that a round spends on the network of the configuration, where it gives one. COLLECTIVE."""
    bytes_a_round, degree = hood.max(np.array([sent, float(hood.graph.degree[hood.agents].max())]))
    waiting = auto.latency * degree * method.vectors if auto.latency is not None else 0.0
    return float(waiting + (bytes_a_round / auto.bandwidth if auto.bandwidth is not None else 0.0))


def rounds_of(method: Algorithm, facts: Facts, graph: Graph, weights: MixingMatrix) -> float:
    """Rounds a digit of ‖∇F(x̄)‖² on the stand-in; inf where it does not shrink. 1 for graphs too large to try."""
    from decentral.neighborhood import InProcess

    if graph.n_agents > MOST_AGENTS:
        return 1.0
    d, mu = min(facts.d, WIDTH), max(facts.mu, facts.L / WORST_CONDITION)
    hood = InProcess(graph, weights)
    oracle: Any = _StandIn(graph.n_agents, d, facts.L, mu)
    tuned = method.tuned(dataclasses.replace(facts, mu=mu, d=d, L_max=facts.L, estimator="full", batch=1, samples=1.0))
    norms = []
    try:
        with np.errstate(all="ignore"):
            state = tuned.init(np.zeros((hood.n, d)), hood, oracle)
            for k in range(ROUNDS):
                gradient = oracle(None, state.x.mean(axis=0), k).mean(axis=0)
                norms.append(float(gradient @ gradient))
                if not norms[-1] > 1e-20 * norms[0]:
                    break
                state = tuned.round(state, k, hood, oracle)
    except DecentralError:
        return np.inf
    digits = np.log10(norms[0] / max(norms[-1], 1e-300)) if np.isfinite(norms[-1]) else 0.0
    return (len(norms) - 1) / digits if digits > 0.5 else np.inf


class _Same:
    """The oracle of gradients that cost nothing: the same wherever x is."""

    def __init__(self, gradient: Agents):
        self.gradient = gradient

    def init(self, x: Agents) -> None:
        return None

    def begin(self, memory: None, x: Agents, k: int) -> None:
        pass

    def __call__(self, memory: None, x: Agents, k: int, t: int = 0) -> Agents:
        return self.gradient.copy()


class _StandIn:
    """The oracle of quadratics with Q_i = diag(λ_i), λ uniform in [mu, L] with both ends taken, and uniform c_i."""

    def __init__(self, agents: int, d: int, L: float, mu: float):
        draws = Key(0, Purpose.SYNTHETIC, 0, np.arange(agents)).uniform(2 * d)
        self.curvature, self.c = mu + (L - mu) * draws[:, :d], 2 * draws[:, d:] - 1
        self.curvature[:, 0], self.curvature[:, -1] = mu, L

    def init(self, x: Agents) -> None:
        return None

    def begin(self, memory: None, x: Agents, k: int) -> None:
        pass

    def __call__(self, memory: None, x: Agents, k: int, t: int = 0) -> Agents:
        return self.curvature * x - self.c


def choose(predictions: list[Prediction]) -> Prediction:
    """The least cost; of equals the first."""
    return min(predictions, key=lambda p: p.cost)
