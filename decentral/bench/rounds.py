"""In process: rounds per second of four methods, a loop over agents beside them, and where the time of a round goes.

    decentral bench rounds

The loop is the same rounds as a plain program: Python over agents, NumPy on the row of each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from decentral.algorithms import load
from decentral.allocation import keep_freed_memory
from decentral.bench.workload import ring
from decentral.compressors import Quantize
from decentral.estimators import SAGA, Estimator, Full, Oracle
from decentral.graph import mixing
from decentral.neighborhood import InProcess, Neighborhood
from decentral.problems import Logistic
from decentral.state import Array

SIZES = ((10, 5), (10, 100), (100, 100), (1000, 100), (100, 10_000))
METHODS = ("lt-admm-cc", "lead", "choco-sgd", "d-psgd")
STEPS = {
    "lt-admm-cc": {"local_steps": 5, "dual_step": 0.02, "reference_step": 1.0, "relaxation": 0.5},
    "lead": {"mixing_step": 0.9, "reference_step": 0.5},
    "choco-sgd": {"mixing_step": 0.9},
}


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


def race(bodies: list[Callable[[], None]], seconds: float, windows: int = 5) -> list[float]:
    """Calls per second of each body, measured in turns on a shared machine: the best of its windows."""
    best = [0.0] * len(bodies)
    for body in bodies:
        body()  # warm
    for _ in range(windows):
        for i, body in enumerate(bodies):
            start, count = time.perf_counter(), 0
            while (spent := time.perf_counter() - start) < seconds / windows or not count:
                body()
                count += 1
            best[i] = max(best[i], count / spent)
    return best


class Running:
    """A method under way in process; calling it does a round."""

    def __init__(self, method: Any, hood: Neighborhood, oracle: Any):
        self.method, self.hood, self.oracle, self.k = method, hood, oracle, 0
        self.state = method.init(np.zeros((hood.n, oracle.problem.d)), hood, oracle)

    def __call__(self) -> None:
        self.state = self.method.round(self.state, self.k, self.hood, self.oracle)
        self.k += 1


class AgentByAgent:
    """The same rounds as a plain program on a ring: a Python loop over agents, NumPy on the row of each.

    A message is a byte an entry and a scale, packed once and unpacked where the method reads it; gradients and batches
    cost what they cost the method. LT-ADMM-CC in form A with reference_step = 1. tests/bench compares the iterates.
    """

    def __init__(self, method: Any, estimator: Any, problem: Logistic):
        n, d = problem.n, problem.d
        self.method, self.batch, self.l2 = method, getattr(estimator, "batch", 0), problem.l2
        self.bits = getattr(getattr(method, "compressor", None), "bits", 0)
        self.X, self.y = problem.X.reshape(n, -1, d), problem.y.reshape(n, -1)
        self.around = [((i - 1) % n, (i + 1) % n) for i in range(n)]
        self.x, self.h, self.dual, self.mean = (np.zeros((n, d)) for _ in range(4))
        self.z, self.s, self.r = (np.zeros((n, 2, d)) for _ in range(3))  # arcs to the left and to the right
        self.table = -self.y / 2
        for i in range(n):
            self.mean[i] = self.table[i] @ self.X[i] / len(self.y[i])
        self.rng = np.random.default_rng(0)
        rounds = {"lt-admm-cc": self.lt_admm_cc, "lead": self.lead, "choco-sgd": self.choco_sgd, "d-psgd": self.d_psgd}
        self.round = rounds[method.name]

    def __call__(self) -> None:
        self.round(self.method, range(len(self.x)))

    def gradient(self, i: int) -> Array:
        X, y, x = self.X[i], self.y[i], self.x[i]
        if not self.batch:
            return (-y / (1 + np.exp(y * (X @ x)))) @ X / len(y) + self.l2 * x
        b = self.rng.permutation(len(y))[: self.batch]  # faster than `choice` without replacement
        X, y = X[b], y[b]
        new = -y / (1 + np.exp(y * (X @ x)))
        change = (new - self.table[i, b]) @ X
        g = change / self.batch + self.mean[i] + self.l2 * x
        self.table[i, b] = new
        self.mean[i] += change / self.y.shape[1]
        return g

    def pack(self, v: Array) -> tuple[float, Array]:
        if not self.bits:
            return 1.0, v.copy()
        s, levels = max(v.max(), -v.min()), (1 << self.bits - 1) - 1
        u = self.rng.random(len(v), dtype=np.float32)
        return s / levels, np.floor(v * (levels / s if s else 0.0) + u).astype(np.int8)

    def unpack(self, q: tuple[float, Array]) -> Array:
        return q[1] * q[0]

    def difference(self, v: Array | list[Array], i: int) -> Array:
        """Σ_j w_ij (v_i − v_j)."""
        left, right = self.around[i]
        return ((v[i] - v[left]) + (v[i] - v[right])) / 3

    def lt_admm_cc(self, m: Any, agents: range) -> None:
        qx, qz = [], []
        for i in agents:
            c = m.dual_step * (m.penalty * 2 * self.x[i] - (self.z[i, 0] + self.z[i, 1]))
            for _ in range(m.local_steps):
                self.x[i] -= m.step_size * self.gradient(i) + c
            qx.append(self.pack(self.x[i] - self.h[i]))
            qz.append([self.pack(self.z[i, side] - self.s[i, side]) for side in (0, 1)])
        for i in agents:
            self.h[i] += self.unpack(qx[i])
        for i in agents:
            for side, j in enumerate(self.around[i]):
                self.s[i, side] += self.unpack(qz[i][side])
                self.r[i, side] += self.unpack(qz[j][1 - side])
                self.z[i, side] = (self.s[i, side] - self.r[i, side]) / 2 + m.penalty * self.h[j]

    def lead(self, m: Any, agents: range) -> None:
        eta, q, yh = m.step_size, [], []
        for i in agents:
            self.x[i] -= eta * self.gradient(i)
            q.append(self.pack(self.x[i] - eta * self.dual[i] - self.h[i]))
        for i in agents:
            received = self.unpack(q[i])
            yh.append(self.h[i] + received)
            self.h[i] += m.reference_step * received
        for i in agents:
            self.dual[i] += m.mixing_step / (2 * eta) * self.difference(yh, i)
            self.x[i] -= eta * self.dual[i]

    def choco_sgd(self, m: Any, agents: range) -> None:
        q = []
        for i in agents:
            self.x[i] -= m.step_size * self.gradient(i)
            q.append(self.pack(self.x[i] - self.h[i]))
        for i in agents:
            self.h[i] += self.unpack(q[i])
        for i in agents:
            self.x[i] -= m.mixing_step * self.difference(self.h, i)

    def d_psgd(self, m: Any, agents: range) -> None:
        g = [self.gradient(i) for i in agents]
        known = [self.unpack(self.pack(self.x[i])) for i in agents]
        for i in agents:
            self.x[i] -= self.difference(known, i)
            self.x[i] -= m.step_size * g[i]


def rows(seconds: float) -> list[dict[str, Any]]:
    """The rows of the table."""
    from threadpoolctl import threadpool_limits

    table = []
    keep_freed_memory()  # as a run does
    with threadpool_limits(1):
        for agents, d in SIZES:
            graph = ring(agents)
            hood = InProcess(graph, mixing(graph))
            problem = problem_of(hood.agents, d, 100 if d <= 100 else 20)
            for name in METHODS:
                method, estimator = bench_method(name)
                running = Running(method, hood, Oracle(problem, estimator, hood.agents))
                rate, plain = race([running, AgentByAgent(method, estimator, problem)], seconds)
                row: dict[str, Any] = {"method": method.label, "agents": agents, "d": d, "rounds/s": rate}
                row["x loop over agents"] = rate / plain
                row.update(shares(method, estimator, problem, d, seconds))
                table.append(row)
    return table


def bench_method(name: str, bits: int = 8) -> tuple[Any, Estimator]:
    """A method of the bench and its estimator: SAGA of batch 8 for LT-ADMM-CC, else full gradients; 0 bits: no compression."""
    p: dict[str, Any] = {"step_size": 0.1, **STEPS.get(name, {})}
    if bits and hasattr(load(name), "compressor"):
        p["compressor"] = Quantize(bits=bits)
    return load(name)(**p), SAGA(batch=8) if name == "lt-admm-cc" else Full()


def shares(method: Any, estimator: Any, problem: Logistic, d: int, seconds: float) -> dict[str, str]:
    """Where the time of a round goes, in percent: gradients, messages (encoded, exchanged, decoded, summed by `then`), the rest."""
    graph = ring(problem.n)
    hood = InProcess(graph, mixing(graph))
    oracle = Oracle(problem, estimator, hood.agents)
    clock = Clock()
    for verb in ("_encode", "start", "finish"):  # long rows are encoded in the last
        clock.wrap(hood, verb, "messages")

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
    known = {name: clock.seconds.get(name, 0.0) / total for name in ("gradients", "messages")}
    return {**{f"{n} %": f"{100 * v:.0f}" for n, v in known.items()}, "rest %": f"{100 * (1 - sum(known.values())):.0f}"}
