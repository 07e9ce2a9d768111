"""`compressor = "auto"`: whether to compress at all, and how much, decided by measurement at the start of a run.

For each candidate two numbers are found, and the one with the least product is taken:

    seconds a round    rounds of the method itself, on its own problem, ranks and network; where the configuration gives
                       latency or bandwidth, what such a network would add
    rounds a digit     rounds by which the error ‖∇F(x̄)‖² + (L²/N) Σ_i ‖x_i − x̄‖² falls tenfold, with the step sizes that
                       the method would use: of the run itself, six digits from its start, or four at least, where there
                       is time for that in the second that all of it may take; else of a stand-in: diagonal quadratics
                       with the run's L, μ, graph and weights, in process. Where L is not known (PyTorch modules), by
                       which F falls tenfold, once or twice, at x̄ and at the iterate of agent 0, for the gradient of a
                       network is small on plateaus, too

Twice that error bounds the mean of ‖∇F(x_i)‖² over the agents' own iterates. ‖∇F(x̄)‖² alone says too little: a compressor acts on
what agents disagree in, and x̄ falls a digit in two rounds while its agents are far apart. So do the first digits alone:
references have to learn, and what diverges does so later.

No compression and 8 bits alone are compared, and their rounds taken to be equal, where F takes too long, where the graph
is too large for the stand-in, and where the error does not shrink without compression, either (CHOCO-SGD ends at an error of its
own). A compressor of which the method itself would warn, and would not without compression, is left out.

A candidate stops where it has cost more than another that is done. Nothing of this is counted or kept; every candidate starts
from the same point as the run.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from decentral.errors import ConfigError, DecentralError
from decentral.random import Key, Purpose
from decentral.state import Agents, Array

if TYPE_CHECKING:
    from decentral.algorithms.base import Algorithm
    from decentral.algorithms.facts import Facts
    from decentral.estimators import Oracle
    from decentral.graph import Graph, MixingMatrix
    from decentral.neighborhood import Neighborhood

BUDGET, TURNS, WINDOW, START = 0.08, 3, 0.0005, 64
"""Seconds for which the rounds of one candidate are measured, about, the turns of all candidates, and seconds of a window; at
least three rounds, and always the first `START` of a run."""
SECONDS, SHARE, LEAST, DIGITS, LOSS_DIGITS = 1.0, 1 / 3, 4, (4, 6), (1, 2)
"""Seconds for all of it, about. The own problem: what the first candidate may take of those that are left, for the others need
about as many rounds or are stopped before; the rounds for which there must be time; the fewest and the most digits, of the
error and of F."""
TIE = 0.01
"""A part of the cost by which predictions of the same may differ."""
DIVERGED, FAR = 100.0, 1e20
"""An error that many times N times the first, in which gradients of agents may have cancelled, or Σ_i ‖x_i‖² so large: the
candidate diverges."""
WIDTH, ROUNDS, MOST_AGENTS, WORST_CONDITION = 512, 120, 64, 50.0
"""The stand-in: entries of x, rounds, the most agents, and its largest L/μ."""


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
            if value is not None and not 0 < value < np.inf:
                raise ConfigError(f"algorithm.compressor.{field} = {value}: give a positive number, or leave it out to have it measured")

    def candidates(self, method: Any, facts: Facts) -> tuple[list[dict[str, Any]], list[Any], list[str]]:
        """The compressors that are compared, as tables; the method with each, tuned; a sentence for each that is left out."""
        from decentral import compressors

        tables: list[dict[str, Any]] = []
        methods: list[Any] = []
        left_out = []
        every: list[dict[str, Any]] = [{"name": "identity"}, *({"name": "quantize", "bits": bits} for bits in (8, 4, 2))]
        for table in every:
            tuned = dataclasses.replace(method, compressor=compressors.build(table)).tuned(facts)
            if methods and len(warnings := tuned.check(facts)) > len(methods[0].check(facts)):
                left_out.append(f"{in_words(table)} is left out: {warnings[-1]}")
            else:
                tables.append(table)
                methods.append(tuned)
        return tables, methods, left_out

    # The runner replaces this before anything is sent; until then it stands for a compressor without error.
    relative: ClassVar[bool] = True

    def omega(self, d: int) -> float:
        return 0.0

    def delta(self, d: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Prediction:
    """What a candidate costs: its table, seconds a round, rounds a digit (inf: it does not converge; None: as many as the others).

    stopped : it had cost more than another before it was there; `rounds` is then less than what it needs
    """

    table: dict[str, Any]
    seconds: float
    rounds: float | None = None
    stopped: bool = False

    @property
    def cost(self) -> float:
        """Seconds a digit of the error; a round, where the rounds are not known."""
        return self.seconds * (1.0 if self.rounds is None else self.rounds)

    def __str__(self) -> str:
        each = f"{in_words(self.table):20} {self.seconds * 1e3:10.4g} ms a round"
        if self.rounds is None:
            return each
        each += f" x {self.rounds:6.3g} rounds a digit = "
        more = "more than " * self.stopped
        return each + (f"{more}{self.cost * 1e3:.4g} ms a digit" if np.isfinite(self.cost) else "does not converge")


def in_words(table: dict[str, Any]) -> str:
    """A candidate: `quantize bits = 4`."""
    return " ".join(str(v) if k == "name" else f"{k} = {v}" for k, v in table.items())


Rounds = list[tuple[float, bool]]
"""`rounds` and `stopped` of the predictions."""
Loss = Callable[[Array], tuple[Array, Array]]


def predict(
    tables: list[dict[str, Any]], methods: list[Any], hood: Neighborhood, oracle: Oracle, auto: Auto, facts: Facts,
    most: int = 1 << 30, start: Agents | None = None, loss: Loss | None = None,
) -> tuple[list[Prediction], str]:
    """What the candidates cost that can be compared, and why these are not all of them, or "". COLLECTIVE; see `measure`.

    loss : `Problem.evaluate`, for problems whose smoothness is not known
    """
    known = not np.isnan(facts.L)
    seconds, rounds = measure(methods, hood, oracle, auto, facts.L, most, start, None if known else loss)
    if not rounds and known and hood.graph.n_agents <= MOST_AGENTS:
        mine = [rounds_of(m, facts, hood.graph, hood.mixing) if 0 in hood.agents else 0.0 for m in methods]  # one rank does it
        rounds = [(r, False) for r in hood.sum(np.array(mine)).tolist()]
    if rounds and np.isfinite(rounds[0][0]):
        return [Prediction(t, s, *r) for t, s, r in zip(tables, seconds, rounds, strict=True)], ""
    reason = "without compression the error does not shrink" if rounds else "progress takes too long to be measured"
    return [Prediction(t, s) for t, s in zip(tables[:2], seconds[:2], strict=True)], reason


def measure(
    methods: list[Any], hood: Neighborhood, oracle: Oracle, auto: Auto, L: float, most: int = 1 << 30, start: Agents | None = None,
    loss: Loss | None = None,
) -> tuple[list[float], Rounds]:
    """Seconds a round of each method with its compressor, and its rounds a digit on the run's own problem. COLLECTIVE.

    L : smoothness of the f_i, which weighs the disagreement;  most : rounds of the run; no more are tried
    start : x of the own agents, where the verbs want it; zeros if left out
    loss : `Problem.evaluate`; progress is then that of F, and L is not used
    No rounds ([]) where the first method does not make the digits in the time there is. The same on all ranks. What was sent
    and evaluated is not counted.
    """
    before, evaluations = hood.meters(), oracle.evaluations.copy()
    x = hood.give(np.zeros((hood.n, oracle.problem.d), hood.dtype)) if start is None else start
    begin = time.perf_counter()
    here, network = _seconds(methods, hood, oracle, auto, x)
    seconds = (here + network).tolist()
    patience = SHARE * (SECONDS - float(hood.max(np.array([time.perf_counter() - begin]))[0]))
    rounds = _rounds(methods, seconds, hood, oracle, x, L, most, patience, loss) if LEAST * here[0] < patience else []
    oracle.evaluations[...] = evaluations
    hood.put_back(before)
    for method in methods:
        hood.forget(method.compressor)
    return seconds, rounds


def _seconds(methods: list[Any], hood: Neighborhood, oracle: Oracle, auto: Auto, x: Agents) -> tuple[Array, Array]:
    """Seconds a round of each method from x, of the slowest rank, and what the configuration's network adds. COLLECTIVE.

    Gradients are the same work for all and may be most of it: they are timed apart and pooled, so that what is left,
    measured in turns, tells the candidates apart on a machine whose speed drifts.
    """
    timed = _Timed(oracle, x, hood)
    gradients, rest, network, used, turn = np.inf, np.full(len(methods), np.inf), np.zeros(len(methods)), 0.0, 0
    while turn < 2 or (turn < TURNS and used < BUDGET * len(methods)):
        for i, method in enumerate(methods):
            windows, sent, times = _windows(method, hood, timed, x, turn > 0)
            gradients = min(gradients, *(g for _, g in windows))
            rest[i] = min(rest[i], *(max(0.0, whole - g) for whole, g in windows))
            network[i] = _network(hood, sent, times, auto)
            used += sum(whole for whole, _ in windows)
        turn += 1
    return gradients + rest, network


def _windows(
    method: Algorithm, hood: Neighborhood, timed: Any, x: Agents, warm: bool
) -> tuple[list[tuple[float, float]], float, float]:
    """Seconds of a round from the start point x and of its gradients, in windows; bytes that an own agent sends in one; exchanges.

    The first round says how long one takes; it makes buffers unless they are there (`warm`).
    """
    sent, begun, k, done, count, left = hood.wire_bytes, hood.begun, START, 0, 1, BUDGET / TURNS
    found: list[tuple[float, float]] = []
    while not found or left > 0:
        if k + count > START:  # some methods shrink a scale by the round, and would fail where no run of theirs comes
            state, k = method.init(x.copy(), hood, timed), 0
        hood.max(np.zeros(1))  # a barrier
        timed.spent, start = 0.0, time.perf_counter()
        for _ in range(count):
            state = method.round(state, k, hood, timed)
            k += 1
        done += count
        hood.take(state.x)  # the work of a device is done when it is here
        whole, gradients = hood.max(np.array([time.perf_counter() - start, timed.spent]) / count).tolist()
        if done > 1 or (warm and whole > WINDOW):
            found.append((whole, gradients))
            left -= whole * count
        count = int(np.clip(WINDOW / max(whole, 1e-9), 1, START))
    return found, (hood.wire_bytes - sent) / done / max(hood.n, 1), (hood.begun - begun) / done


def _network(hood: Neighborhood, sent: float, times: float, auto: Auto) -> float:
    """Seconds that a round of so many bytes and exchanges spends on the network of the configuration, where it gives one. COLLECTIVE."""
    bytes_a_round, degree = hood.max(np.array([sent, float(hood.graph.degree[hood.agents].max())]))
    waiting = auto.latency * degree * times if auto.latency is not None else 0.0
    return float(waiting + (bytes_a_round / auto.bandwidth if auto.bandwidth is not None else 0.0))


def _rounds(
    methods: list[Any], seconds: list[float], hood: Neighborhood, oracle: Oracle, x: Agents, L: float, most: int, patience: float,
    loss: Loss | None = None,
) -> Rounds:
    """Rounds a digit of each method on the own problem; see `measure`. COLLECTIVE."""
    fewest, digits = DIGITS if loss is None else LOSS_DIGITS
    best, start = np.inf, 0.0
    found: Rounds = []
    for method, each in zip(methods, seconds, strict=True):
        trace: list[tuple[int, float]] = []
        stopped = False
        for k, value in _progress(method, hood, oracle, x, L, most, loss):
            trace.append((k, value))
            if value <= 10.0**-digits or not value < DIVERGED * hood.graph.n_agents or k >= most:
                break
            if stopped := each * k > best:
                break
            if not k:
                start = time.perf_counter()
            elif not found:
                spent = float(hood.max(np.array([time.perf_counter() - start]))[0])
                if spent > patience:
                    break
        if not found:
            digits = min(digits, int(-np.log10(np.clip(min(v for _, v in trace), 1e-300, 1.0))))
            if digits < fewest:
                return []
        needed = float(trace[-1][0]) if stopped else _crossing(trace, 10.0**-digits)
        best = min(best, each * needed)
        found.append((needed / digits, stopped))
    return found


def _progress(
    method: Algorithm, hood: Neighborhood, oracle: Oracle, x: Agents, L: float, most: int, loss: Loss | None
) -> Iterator[tuple[int, float]]:
    """k and the error, or F, after k rounds from x, as a part of the first; inf where the iterates are far out. COLLECTIVE.

    The next look is a quarter of the rounds so far away: what grows by the round is seen long before it overflows
    and a rank fails alone.
    """
    problem = oracle.problem
    state = method.init(x.copy(), hood, oracle)
    agents, first, k, due = hood.graph.n_agents, 0.0, 0, 0
    while True:
        if k == due:
            rows = hood.take(state.x)
            total = hood.sum(np.append(rows.sum(axis=0, dtype=np.float64), np.vdot(rows, rows)))
            mean = total[None, :-1] / agents
            if loss is not None:
                one = hood.sum(rows[hood.agents == 0].sum(axis=0, dtype=np.float64))
                value = float(hood.sum(loss(np.vstack([mean, one]))[0]).max()) / agents
            else:
                everywhere = hood.give(np.repeat(mean.astype(hood.dtype), hood.n, axis=0))
                apart = rows - mean
                found = np.append(hood.take(problem.estimate(everywhere)).sum(axis=0, dtype=np.float64), np.vdot(apart, apart))
                *gradient, disagreement = hood.sum(found) / agents
                value = error(gradient, disagreement, L)
            first = first or value
            yield k, value / first if first > 0 and total[-1] < FAR else np.inf
            due = min(k + 1 + k // 4, max(most, k + 1))
        state = method.round(state, k, hood, oracle)
        k += 1


def error(gradient: Any, disagreement: float, L: float) -> float:
    """‖∇F(x̄)‖² + (L²/N) Σ_i ‖x_i − x̄‖² of ∇F(x̄) (d,) and the mean of the ‖x_i − x̄‖²."""
    return float(np.dot(gradient, gradient) + L**2 * disagreement)


def _crossing(trace: list[tuple[int, float]], level: float) -> float:
    """Rounds, with a part of a round, after which a trace first is at the level; inf where it is not. log-linear between."""
    for (k, above), (after, below) in pairwise(trace):
        if below <= level:
            return float(k + (after - k) * (np.log(above / level) / np.log(above / max(below, 1e-300))))
    return np.inf


def rounds_of(method: Algorithm, facts: Facts, graph: Graph, weights: MixingMatrix) -> float:
    """Rounds a digit of the error on the stand-in; inf where it does not shrink. For up to `MOST_AGENTS`."""
    from decentral.neighborhood import InProcess

    d, mu = min(facts.d, WIDTH), max(facts.mu, facts.L / WORST_CONDITION)
    hood = InProcess(graph, weights)
    oracle: Any = _StandIn(graph.n_agents, d, facts.L, mu)
    tuned = method.tuned(dataclasses.replace(facts, mu=mu, d=d, L_max=facts.L, estimator="full", batch=1, samples=1.0))
    try:
        with np.errstate(all="ignore"):
            for k, value in _progress(tuned, hood, oracle, np.zeros((hood.n, d)), facts.L, ROUNDS, None):
                if not 1e-20 < value < np.inf or k >= ROUNDS:
                    break
    except DecentralError:
        return np.inf
    digits = -np.log10(max(value, 1e-300))
    return k / digits if digits > 0.5 else np.inf


class _Timed:
    """The oracle of gradients that take the time of real ones, in `spent`, and are the same wherever x is."""

    def __init__(self, oracle: Oracle, x: Agents, hood: Neighborhood):
        self.oracle, self.hood, self.spent = oracle, hood, 0.0
        self.gradient = oracle(oracle.init(x), x, 0)

    def init(self, x: Agents) -> Any:
        return self.oracle.init(x)

    def begin(self, memory: Any, x: Agents, k: int) -> None:
        self._run(x, lambda: self.oracle.begin(memory, x, k))

    def __call__(self, memory: Any, x: Agents, k: int, t: int = 0) -> Agents:
        self._run(x, lambda: self.oracle(memory, x, k, t))
        return self.gradient.copy()

    def _run(self, x: Agents, work: Callable[[], Any]) -> None:
        self.hood.take(x[:1, :1])  # waits for a device
        start = time.perf_counter()
        work()
        self.hood.take(x[:1, :1])
        self.spent += time.perf_counter() - start


class _StandIn:
    """Quadratics, and their oracle, with Q_i = diag(λ_i), λ uniform in [mu, L] with both ends taken, and uniform c_i."""

    def __init__(self, agents: int, d: int, L: float, mu: float):
        draws = Key(0, Purpose.SYNTHETIC, 0, np.arange(agents)).uniform(2 * d)
        self.curvature, self.c = mu + (L - mu) * draws[:, :d], 2 * draws[:, d:] - 1
        self.curvature[:, 0], self.curvature[:, -1] = mu, L
        self.problem = self

    def estimate(self, x: Agents) -> Agents:
        return self.curvature * x - self.c

    def init(self, x: Agents) -> None:
        return None

    def begin(self, memory: None, x: Agents, k: int) -> None:
        pass

    def __call__(self, memory: None, x: Agents, k: int, t: int = 0) -> Agents:
        return self.estimate(x)


def choose(predictions: list[Prediction]) -> Prediction:
    """The least cost; of what is within `TIE` of it, which no measurement tells apart, the last, that of the fewest bytes."""
    least = min(predictions, key=lambda p: p.cost)
    close = [p for p in predictions if not p.stopped and p.cost <= least.cost * (1 + TIE) < np.inf]
    return close[-1] if close else least
