"""Is `compressor = "auto"` right? Its choice against what is then measured, on networks of several speeds.

    decentral bench auto

Eight agents on a ring run LEAD in process; the network is emulated: an exchange ends when its bytes would have arrived. The
prediction is made without that network, from its latency and bandwidth. "right" means: compress, or do not compress, as
the faster of the measured times to a hundredth of the first ‖∇F(x̄)‖² does; "either", where these two differ by less than
two halves of the measurement do.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from decentral.algorithms import load
from decentral.algorithms.facts import Facts
from decentral.bench.workload import ring, workload
from decentral.compressors import build
from decentral.compressors.auto import Auto, Prediction, choose, rounds_of, seconds_of
from decentral.estimators import Full, Oracle
from decentral.graph import mixing
from decentral.neighborhood import Emulated, InProcess
from decentral.state import Array

NETWORKS: dict[str, tuple[float | None, float | None]] = {
    "none": (None, None),
    "100 Gb/s, 2 us": (2e-6, 12.5e9),
    "10 Gb/s, 10 us": (1e-5, 1.25e9),
    "1 Gb/s, 50 us": (5e-5, 125e6),
    "100 Mb/s, 1 ms": (1e-3, 12.5e6),
}
WIDTHS = (100, 3000, 20_000)
MOST, AGENTS = 400, 8


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
        needed: list[float] = []
        for name, (latency, bandwidth) in NETWORKS.items():
            auto = Auto(latency=latency, bandwidth=bandwidth)
            tables = auto.candidates()
            methods = [dataclasses.replace(load("lead")(), compressor=build(table)) for table in tables]
            tuned = [m.tuned(facts) for m in methods]
            hood = InProcess(graph, weights)
            oracle = Oracle(problem, Full(), hood.agents)
            needed = needed or [_rounds(m, hood, oracle, problem) for m in tuned]
            each = seconds_of(tuned, hood, oracle, d, auto)
            predicted = [Prediction(t, s, rounds_of(m, facts, graph, weights)) for t, s, m in zip(tables, each, methods, strict=True)]
            slow = Emulated(graph, weights, latency=latency or 0.0, bandwidth=bandwidth)
            halves = np.multiply(_seconds(tuned, slow, oracle, seconds), needed)
            measured = halves.min(axis=0).tolist()
            chosen, best = choose(predicted).table, int(np.argmin(measured))
            plain, compressed = measured[0], min(measured[1:])
            compress = chosen["name"] != "identity"
            ratios = halves[:, 0] / halves[:, 1:].min(axis=1)
            right = "yes" if compress == (compressed < plain) else "either" if (ratios < 1).any() and (ratios > 1).any() else "no"
            table.append({
                "d": d, "network": name, "auto": _name(chosen), "fastest": _name(predicted[best].table),
                "plain, s": plain, "compressed, s": compressed, "plain / compressed": plain / compressed,
                "lost, %": 100 * (measured[tables.index(chosen)] / measured[best] - 1),
                "right": right,
            })  # fmt: skip
    return table


def _name(table: dict[str, Any]) -> str:
    return " ".join(str(v) for v in table.values())


def _rounds(method: Any, hood: InProcess, oracle: Oracle, problem: Any) -> float:
    """Rounds until ‖∇F(x̄)‖² is a hundredth of what it was, counted on the real problem; inf after MOST."""
    s, first = method.init(np.zeros((hood.n, problem.d)), hood, oracle), 0.0
    for k in range(MOST):
        g = problem.evaluate(s.x.mean(axis=0)[None])[1][0]
        first = first or float(g @ g)
        if g @ g <= 1e-2 * first:
            return float(k)
        s = method.round(s, k, hood, oracle)
    return np.inf


def _seconds(methods: list[Any], hood: Emulated, oracle: Oracle, seconds: float) -> Array:
    """(2, methods) seconds a round of each, in turns; the fastest in either half of the time."""
    states = [m.init(np.zeros((hood.n, oracle.problem.d)), hood, oracle) for m in methods]
    best, k = np.full((2, len(methods)), np.inf), 0
    for half in best:
        least, end = k + 5, time.perf_counter() + seconds * len(methods) / 2
        while k < least or time.perf_counter() < end:
            for i, method in enumerate(methods):
                start = time.perf_counter()
                states[i] = method.round(states[i], k, hood, oracle)
                half[i] = min(half[i], time.perf_counter() - start)
            k += 1
    return best
