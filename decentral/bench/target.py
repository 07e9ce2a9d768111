"""In process, to ‖∇F(x̄)‖² ≤ 1e-6: eight agents on a ring, logistic regression, d = 100, 1000 samples each.

    decentral bench target

Also what stands around the rounds: the start of a run, and the metrics of 1000 recorded rounds of ten agents.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import numpy as np

from decentral.algorithms import load
from decentral.bench.workload import TOLERANCE, ring, workload
from decentral.compressors import Quantize
from decentral.estimators import SAGA, Estimator, Full, Oracle
from decentral.graph import mixing
from decentral.metrics import Metrics
from decentral.neighborhood import InProcess
from decentral.problems import Logistic

MOST = 2000
"""Rounds after which a method is given up."""


def rows(seconds: float) -> list[dict[str, Any]]:
    graph = ring(8)
    weights = mixing(graph)
    problem = workload(np.arange(8))
    L = float(problem.constants()[0].max())
    # c = τ β ρ l_u / 2 = 0.9 with ρ = 1 and l_u = 4, as in the default of LT-ADMM
    local = {"local_steps": 5, "step_size": 0.5 / L, "dual_step": 0.09, "penalty": 1.0}
    cc = {**local, "reference_step": 1.0, "compressor": Quantize(bits=8)}
    two = {"step_size": 1 / L, "mixing_step": 0.5, "reference_step": 0.2, "compressor": Quantize(bits=2)}
    cases: list[tuple[str, str, dict[str, Any], Estimator]] = [
        ("exact diffusion", "exact-diffusion", {"step_size": 1 / L}, Full()),
        ("NIDS", "nids", {"step_size": 1 / L}, Full()),
        ("ATC tracking", "atc-tracking", {"step_size": 0.5 / L}, Full()),
        ("LEAD, 2 bits", "lead", two, Full()),
        ("LT-ADMM, 5 local steps", "lt-admm", local, Full()),
        ("LT-ADMM-CC, 8 bits, 5 local steps", "lt-admm-cc", cc, Full()),
        ("LT-ADMM-CC, 8 bits, SAGA, batch 8", "lt-admm-cc", {**cc, "step_size": 0.2 / L}, SAGA(batch=8)),
        ("LT-ADMM, SAGA reset, batch 8", "lt-admm", local, SAGA(batch=8, reset=True)),
    ]
    table = []
    for label, name, parameters, estimator in cases:
        hood = InProcess(graph, weights)
        method, oracle = load(name)(**parameters), Oracle(problem, estimator, hood.agents)
        best, reached, sent = np.inf, 0, 0.0
        end = time.perf_counter() + seconds
        while reached == 0 or (reached > 0 and time.perf_counter() < end):
            spent, reached, sent = _to_tolerance(method, hood, oracle, problem)
            best = min(best, spent)
        table.append({
            "what": label, "rounds": float(reached) if reached > 0 else np.nan, "seconds": best,
            "rounds/s": reached / best if reached > 0 else np.nan, "bytes an agent sends": sent,
        })  # fmt: skip
    return [*table, *around()]


def _to_tolerance(method: Any, hood: InProcess, oracle: Oracle, problem: Logistic) -> tuple[float, int, float]:
    """Seconds in rounds, rounds (-1: not reached), bytes an agent sent. Iterates are looked at outside of the clock."""
    before, spent = hood.wire_bytes, 0.0
    s = method.init(np.zeros((hood.n, problem.d)), hood, oracle)
    for k in range(MOST):
        start = time.perf_counter()
        s = method.round(s, k, hood, oracle)
        spent += time.perf_counter() - start
        g = problem.evaluate(s.x.mean(axis=0)[None])[1][0] / hood.n
        if g @ g <= TOLERANCE:
            return spent, k + 1, (hood.wire_bytes - before) / hood.n
    return spent, -1, np.nan


def around() -> list[dict[str, Any]]:
    """Seconds of the metrics of 1000 rounds of ten agents, and from the start of Python to the first round."""
    graph = ring(10)
    hood, problem = InProcess(graph, mixing(graph)), workload(np.arange(10))
    x = np.random.default_rng(0).normal(size=(10, 100))
    start = time.perf_counter()
    metrics = Metrics(problem, hood, ["grad_norm_sq", "consensus", "gap"], 0.0)
    for k in range(1000):
        if metrics.full:
            metrics.flush()
        metrics.take(k, x, np.zeros(10), 0.0)
    metrics.flush()
    measured = time.perf_counter() - start
    code = "import decentral.runner, decentral.algorithms.lt_admm_cc, decentral.compressors, decentral.data"
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        best = min(best, time.perf_counter() - start)
    none = {"bytes an agent sends": np.nan}
    return [
        {"what": "metrics of 1000 rounds of 10 agents", "rounds": 1000.0, "seconds": measured, "rounds/s": 1000 / measured, **none},
        {"what": "Python and imports up to a run, one process", "rounds": np.nan, "seconds": best, "rounds/s": np.nan, **none},
    ]
