"""Is `compressor = "auto"` right? Its choice against what is then measured, on networks of several speeds.

    decentral bench auto

Eight agents on a ring run LEAD and LT-ADMM-CC in process; the network is emulated: an exchange ends when its bytes would have
arrived. The prediction is made without that network, from its latency and bandwidth, for a run of 2000 rounds. "right" means:
compress, or do not compress, as the faster of the measured times to 1e-4 of the first error does, ‖∇F(x̄)‖² + (L²/N) Σ_i ‖x_i − x̄‖²;
"either", where these two differ by so little that the parts of the measurement do not all agree.

The measured times are seconds a round on that network times rounds with other draws than those of the prediction. Gradients,
the same work in all rounds, are most of them and drift with the machine: the least of all stands for each.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from decentral.algorithms import load
from decentral.algorithms.facts import Facts
from decentral.bench.workload import ring, workload
from decentral.compressors.auto import Auto, choose, error, predict
from decentral.estimators import Full, Oracle
from decentral.graph import mixing
from decentral.neighborhood import Emulated, InProcess
from decentral.state import Agents, Array

NETWORKS: dict[str, tuple[float | None, float | None]] = {
    "none": (None, None),
    "100 Gb/s, 2 us": (2e-6, 12.5e9),
    "10 Gb/s, 10 us": (1e-5, 1.25e9),
    "1 Gb/s, 50 us": (5e-5, 125e6),
    "100 Mb/s, 1 ms": (1e-3, 12.5e6),
}
WIDTHS = (100, 3000, 20_000)
METHODS = ("lead", "lt-admm-cc")
MOST, AGENTS, PARTS, RUN = 1000, 8, 5, 2000


def rows(seconds: float) -> list[dict[str, Any]]:
    graph = ring(AGENTS)
    weights = mixing(graph)
    l_l, l_u = graph.laplacian_extremes
    table = []
    for d in WIDTHS:
        problem = workload(np.arange(AGENTS), d, 200)
        smooth, convex, single = problem.constants()
        facts = Facts(
            float(smooth.max()), float(convex.min()), float(single.max()), d, 200.0, AGENTS, graph.n_arcs // 2, 2, l_l, l_u,
            weights.lambda_2, weights.lambda_min,
        )  # fmt: skip
        for label in METHODS:
            tables, tuned, _ = Auto().candidates(load(label)(), facts)
            needed = [_rounds(m, InProcess(graph, weights, seed=1), problem, facts.L) for m in tuned]
            for name, (latency, bandwidth) in NETWORKS.items():
                hood = InProcess(graph, weights)
                start = time.perf_counter()
                auto = Auto(latency=latency, bandwidth=bandwidth)
                predicted, _ = predict(tables, tuned, hood, Oracle(problem, Full(), hood.agents), auto, facts, RUN)
                chosen, spent = choose(predicted).table, time.perf_counter() - start
                slow = Emulated(graph, weights, latency=latency or 0.0, bandwidth=bandwidth)
                parts = np.multiply(_seconds(tuned, slow, problem, seconds), needed)
                measured = parts.min(axis=0).tolist()
                best = int(np.argmin(measured))
                plain, compressed = measured[0], min(measured[1:])
                compress = chosen["name"] != "identity"
                ratios = parts[:, 0] / parts[:, 1:].min(axis=1)
                right = "yes" if compress == (compressed < plain) else "either" if (ratios < 1).any() and (ratios > 1).any() else "no"
                table.append({
                    "method": label, "d": d, "network": name, "auto": _name(chosen), "fastest": _name(tables[best]),
                    "plain, s": plain, "plain / compressed": plain / compressed,
                    "lost, %": 100 * (measured[tables.index(chosen)] / measured[best] - 1),
                    "start, s": spent, "right": right,
                })  # fmt: skip
    return table


def _name(table: dict[str, Any]) -> str:
    return " ".join(str(v) for v in table.values())


def _rounds(method: Any, hood: InProcess, problem: Any, L: float) -> float:
    """Rounds until the error is 1e-4 of what it was, counted on the real problem; inf after MOST."""
    oracle = Oracle(problem, Full(), hood.agents)
    s, first = method.init(np.zeros((hood.n, problem.d)), hood, oracle), 0.0
    for k in range(MOST):
        mean = s.x.mean(axis=0)
        gradient, apart = problem.evaluate(mean[None])[1][0] / hood.n, s.x - mean
        value = error(gradient, float(np.vdot(apart, apart)) / hood.n, L)
        first = first or value
        if value <= 1e-4 * first:
            return float(k)
        s = method.round(s, k, hood, oracle)
    return np.inf


class _Timed(Oracle):
    """Seconds that its gradients took."""

    spent = 0.0

    def __call__(self, memory: Any, x: Agents, k: int, t: int = 0) -> Agents:
        start = time.perf_counter()
        g = super().__call__(memory, x, k, t)
        self.spent += time.perf_counter() - start
        return g


def _seconds(methods: list[Any], hood: Emulated, problem: Any, seconds: float) -> Array:
    """(PARTS, methods) seconds a round of each, in turns; the fastest in each part of the time."""
    oracle = _Timed(problem, Full(), hood.agents)
    states = [m.init(np.zeros((hood.n, problem.d)), hood, oracle) for m in methods]
    rest, gradients, k = np.full((PARTS, len(methods)), np.inf), np.inf, 0
    for part in rest:
        least, end = k + 5, time.perf_counter() + seconds * len(methods) / PARTS
        while k < least or time.perf_counter() < end:
            for i, method in enumerate(methods):
                oracle.spent, start = 0.0, time.perf_counter()
                states[i] = method.round(states[i], k, hood, oracle)
                part[i] = min(part[i], time.perf_counter() - start - oracle.spent)
                gradients = min(gradients, oracle.spent)
            k += 1
    return rest + gradients
