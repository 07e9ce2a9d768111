"""Speed as ratios in one run: in process against a loop over agents, and MPI rounds against bare messages.

    decentral bench rounds                                  rounds per second, in process, and the shares of a round
    launch/mpirun.sh -n 8 python -m decentral bench exchange   a ring of ranks against bare Isend/Irecv of the same bytes
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from decentral import kernels
from decentral.algorithms import load
from decentral.compressors import Quantize
from decentral.errors import ConfigError
from decentral.estimators import SAGA, Estimator, Full, Oracle
from decentral.graph import Graph, mixing
from decentral.neighborhood import InProcess, Neighborhood, launched
from decentral.problems import Logistic, gradient
from decentral.state import Array

SIZES = ((10, 5), (10, 100), (100, 100), (1000, 100), (100, 10_000))
METHODS = ("lt-admm-cc", "lead", "choco-sgd", "d-psgd")
STEPS = {"lt-admm-cc": {"local_steps": 5, "dual_step": 0.02, "reference_step": 1.0, "relaxation": 0.5}}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="decentral bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="?", default="rounds", choices=("rounds", "exchange"))
    parser.add_argument("--seconds", type=float, default=0.5, help="how long each figure is measured")
    parser.add_argument("--json", action="store_true", help="data in place of a table")
    options = parser.parse_args(arguments)
    rows = rounds(options.seconds) if options.what == "rounds" else exchange(options.seconds)
    if rows:
        show(rows, options.json)
    return 0


def machine() -> str:
    """The machine and the code in a line."""
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    code = "compiled kernels" if kernels.c is not None else f"NumPy only ({kernels.why})"
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}, {code}"


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=machine(), title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(v if isinstance(v, str) else f"{v:,.3g}" if v < 100 else f"{v:,.0f}" for v in row.values()))
    Console().print(table)


def ring(agents: int) -> tuple[Graph, Any]:
    tail = np.repeat(np.arange(agents), 2)
    head = np.sort(np.stack((np.arange(agents) - 1, np.arange(agents) + 1), axis=1) % agents, axis=1).ravel()
    graph = Graph(agents, tail, head, f"ring:{agents}")
    return graph, mixing(graph)


def problem_of(own: Array, d: int, samples: int, seed: int = 1) -> Logistic:
    """Heterogeneous logistic regression, `samples` of d features for each of the agents `own`."""
    X, y = [], []
    w = np.random.default_rng(seed).normal(size=d)
    for agent in own:
        rng = np.random.default_rng((seed, int(agent)))
        rows = (rng.normal(size=(samples, d)) + 0.5 * rng.normal(size=d)) / np.sqrt(d)
        X.append(rows)
        y.append(np.where(rows @ w + 0.1 * rng.normal(size=samples) > 0, 1.0, -1.0))
    return Logistic(np.concatenate(X), np.concatenate(y), np.arange(len(own) + 1) * samples, l2=0.01)


class Clock:
    """Seconds spent inside wrapped calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, owner: Any, method: str, name: str) -> None:
        call: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            out = call(*args, **kwargs)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            return out

        setattr(owner, method, timed)


def loop(method: Any, hood: Neighborhood, oracle: Any, x: Array, seconds: float, most: int = 100_000) -> tuple[float, Any]:
    """Rounds per second, and the state reached; the fastest of three windows."""
    s, k, best = method.init(x, hood, oracle), 0, 0.0
    for _ in range(3):  # warm-up
        s = method.round(s, k, hood, oracle)
        k += 1
    for _ in range(3):
        start, first = time.perf_counter(), k
        while (spent := time.perf_counter() - start) < seconds / 3 and k - first < most:
            s = method.round(s, k, hood, oracle)
            k += 1
        best = max(best, (k - first) / spent)
    return best, s


def rounds(seconds: float) -> list[dict[str, Any]]:
    """In process: rounds per second of the methods, a loop over agents beside them, and where a round goes."""
    from threadpoolctl import threadpool_limits

    rows = []
    with threadpool_limits(1):
        for agents, d in SIZES:
            samples = 100 if d <= 100 else 20
            hood = InProcess(*ring(agents))
            problem = problem_of(hood.agents, d, samples)
            for name in METHODS:
                estimator: Estimator = SAGA(batch=8) if name == "lt-admm-cc" else Full()
                compressed = hasattr(load(name), "compressor")
                p = {"step_size": 0.1, **STEPS.get(name, {}), **({"compressor": Quantize(bits=8)} if compressed else {})}
                if name in ("lead", "choco-sgd"):
                    p["mixing_step"] = 0.9
                if name == "lead":
                    p["reference_step"] = 0.5
                method = load(name)(**p)
                rate, _ = loop(method, hood, Oracle(problem, estimator, hood.agents), np.zeros((agents, d)), seconds)
                row: dict[str, Any] = {"method": method.label, "agents": agents, "d": d, "rounds/s": rate}
                row["x loop over agents"] = rate / agent_loop(method, estimator, problem, hood, d, seconds)
                row.update(shares(method, estimator, problem, d, seconds))
                rows.append(row)
    return rows


def agent_loop(method: Any, estimator: Any, problem: Logistic, hood: Neighborhood, d: int, seconds: float) -> float:
    """Rounds per second of the same work done agent by agent in Python with NumPy: gradients, compression, mixing."""
    n, m, tau = hood.n, int(problem.sizes[0]), getattr(method, "local_steps", 1)
    X, y = problem.X.reshape(n, m, d), problem.y.reshape(n, m)
    arcs = method.name == "lt-admm-cc"
    rng, x, h = np.random.default_rng(0), np.zeros((n, d)), np.zeros((n, d))
    z, table, mean = np.zeros((n, 2, d)), np.zeros((n, m)), np.zeros((n, d))

    def compress(v: Array) -> Array:
        s = np.abs(v).max()
        return np.floor(v * (127 / s) + rng.random(d)) * (s / 127) if s else v

    best, done, start = 0.0, 0, time.perf_counter()
    while time.perf_counter() - start < seconds or not done:
        began = time.perf_counter()
        q, qz = [], []
        for i in range(n):
            c = 0.02 * (2 * x[i] - z[i].sum(axis=0)) if arcs else 0.0
            for _ in range(tau):
                if isinstance(estimator, SAGA):
                    b = rng.choice(m, estimator.batch, replace=False)
                    new = -y[i, b] / (1 + np.exp(y[i, b] * (X[i, b] @ x[i])))
                    change = (new - table[i, b]) @ X[i, b]
                    g = change / estimator.batch + mean[i] + 0.01 * x[i]
                    mean[i] += change / m
                    table[i, b] = new
                else:
                    g = (-y[i] / (1 + np.exp(y[i] * (X[i] @ x[i])))) @ X[i] / m + 0.01 * x[i]
                x[i] = x[i] - 0.1 * g - c
            q.append(compress(x[i] - h[i]) if hasattr(method, "compressor") else x[i])
            if arcs:
                qz.append([compress(v) for v in z[i]])
        for i in range(n):
            h[i] = h[i] + q[i]
        for i in range(n):
            left, right = h[(i - 1) % n], h[(i + 1) % n]
            if arcs:
                z[i, 0] = (qz[i][0] - qz[(i - 1) % n][1]) / 2 + left
                z[i, 1] = (qz[i][1] - qz[(i + 1) % n][0]) / 2 + right
            else:
                x[i] = x[i] - ((h[i] - left) + (h[i] - right)) / 3
        np.clip(x, -1e3, 1e3, out=x)
        best, done = max(best, 1 / (time.perf_counter() - began)), done + 1
    return best


def shares(method: Any, estimator: Any, problem: Logistic, d: int, seconds: float) -> dict[str, str]:
    """Where the time of a round goes, in percent: gradients, compression, exchange, the rest."""
    hood = InProcess(*ring(problem.n))
    oracle = Oracle(problem, estimator, hood.agents)
    clock = Clock()
    clock.wrap(hood, "_encode", "compression")
    clock.wrap(hood, "_finish", "exchange")

    class Timed:
        init, begin = oracle.init, oracle.begin

        def __call__(self, *args: Any) -> Any:
            start = time.perf_counter()
            g = oracle(*args)
            clock.seconds["gradients"] = clock.seconds.get("gradients", 0.0) + time.perf_counter() - start
            return g

    timed, s = Timed(), None
    s = method.init(np.zeros((problem.n, d)), hood, timed)
    start, k = time.perf_counter(), 0
    clock.seconds.clear()
    while time.perf_counter() - start < seconds / 2:
        s = method.round(s, k, hood, timed)
        k += 1
    total = time.perf_counter() - start
    known = {name: clock.seconds.get(name, 0.0) / total for name in ("gradients", "compression", "exchange")}
    return {**{f"{n} %": f"{100 * v:.0f}" for n, v in known.items()}, "rest %": f"{100 * (1 - sum(known.values())):.0f}"}


def exchange(seconds: float) -> list[dict[str, Any]]:
    """Ranks on a ring, d = 100, 1000 samples each: rounds per second and time to 1e-6, against bare messages."""
    if launched() < 3:
        raise ConfigError("bench exchange needs 3 ranks or more: launch/mpirun.sh -n 8 python -m decentral bench exchange")
    from mpi4py import MPI

    from decentral.neighborhood.mpi import MPINeighborhood

    comm, d = MPI.COMM_WORLD, 100
    graph, weights = ring(comm.size)
    hood = MPINeighborhood(graph, weights, np.arange(comm.size), comm)
    problem = problem_of(hood.agents, d, 1000)
    rows: list[dict[str, Any]] = []

    def timed(body: Callable[[int], None], count: int) -> float:
        best = 1e9
        for _ in range(5):
            comm.Barrier()
            start = time.perf_counter()
            for k in range(count):
                body(k)
            comm.Barrier()
            best = min(best, time.perf_counter() - start)
        return count / best

    x = np.zeros((1, d))
    from decentral.algorithms.base import PLAIN

    def ours(k: int) -> None:
        hood.exchange(hood.to_neighbors(PLAIN, x, k))

    peers = [peer.rank for peer in hood.peers]
    sends, receives = np.zeros((2, 8 * d + 16), np.uint8), np.zeros((2, 8 * d + 16), np.uint8)

    def bare(k: int) -> None:
        requests = [comm.Irecv([receives[i], MPI.BYTE], p) for i, p in enumerate(peers)]
        requests += [comm.Isend([sends[i], MPI.BYTE], p) for i, p in enumerate(peers)]
        MPI.Request.Waitall(requests)

    ours_rate, bare_rate = timed(ours, 2000), timed(bare, 2000)
    rows.append({"what": "exchange of d = 100, float64", "rounds/s": ours_rate, "bare Isend/Irecv": bare_rate})
    rows[0]["ratio"] = bare_rate / ours_rate
    oracle = Oracle(problem, Full(), hood.agents)

    def bare_gd(k: int) -> None:
        bare(k)
        gradient(problem, x)

    bare_rate = timed(bare_gd, 500)
    for name, step in (("d-psgd", 0.5), ("exact-diffusion", 1.5)):
        method = load(name)(step_size=step)
        best_rate, best_time, reached = 0.0, 1e9, -1
        for _ in range(5):
            s = method.init(np.zeros((1, d)), hood, oracle)
            comm.Barrier()
            start, k, xs = time.perf_counter(), 0, []
            while k < 500:
                s = method.round(s, k, hood, oracle)
                xs.append((time.perf_counter() - start, s.x.copy()))
                k += 1
            comm.Barrier()
            best_rate = max(best_rate, 500 / (time.perf_counter() - start))
            mean = hood.sum(np.stack([v[0] for _, v in xs])) / comm.size
            norms = ((hood.sum(problem.evaluate(mean)[1]) / comm.size) ** 2).sum(axis=1)
            ok = np.flatnonzero(norms <= 1e-6)
            if len(ok):
                reached = int(ok[0]) + 1
                best_time = min(best_time, float(hood.max(np.array([xs[ok[0]][0]]))[0]))
        row = {"what": f"{method.label}, full gradients of 1000 samples", "rounds/s": best_rate, "bare Isend/Irecv": bare_rate}
        row["ratio"] = bare_rate / best_rate
        rows.append(row)
        if comm.rank == 0:
            found = f"after {reached} rounds, {best_time:.4f} s" if reached > 0 else "not reached in 500 rounds"
            print(f"{method.label}: ‖∇F‖² ≤ 1e-6 {found}")
    hood.close()
    return rows if comm.rank == 0 else []
