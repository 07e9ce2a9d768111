"""From the tables of a configuration to a graph, a mixing matrix, data and local losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from decentral import data
from decentral.experiment import Experiment, QuadraticLoss, TorchLoss
from decentral.graph import Graph, MixingMatrix, mixing
from decentral.problems import PROBLEMS, Problem, Quadratic
from decentral.random import Key, Purpose
from decentral.state import Array


def build_graph(experiment: Experiment) -> Graph:
    """The graph of [graph]. GraphError, or ConfigError where the number of agents is missing or does not fit."""
    import topologies

    table = experiment.graph
    seed = experiment.seed if table.seed is None else table.seed
    return topologies.build(table.topology, table.agents or None, seed, **table.params)


def build_mixing(experiment: Experiment, graph: Graph) -> MixingMatrix:
    """The mixing matrix of graph.weights, a name or a table with parameters."""
    weights = experiment.graph.weights
    table = {"name": weights} if isinstance(weights, str) else dict(weights)
    return mixing(graph, str(table.pop("name", "metropolis")), **table)


@dataclass
class Data:
    """A data set and the agent of each of its rows."""

    dataset: data.Dataset
    owner: Array
    split: str

    @classmethod
    def load(cls, experiment: Experiment, agents: int, say: Callable[[str], None]) -> Data:
        table = dict(experiment.data)
        split = table.pop("split", "iid")
        split = {"name": split} if isinstance(split, str) else dict(split)
        name = str(table.pop("name"))
        dataset = data.load(name, seed=experiment.seed, agents=agents, say=say, **table)
        how = str(split.pop("name", "iid"))
        owner = data.split(dataset, agents=agents, seed=experiment.seed, name=how, **split)
        if dataset.owner is not None:
            return cls(dataset, owner, "as the data says")
        return cls(dataset, owner, how + (f"({', '.join(f'{k}={v}' for k, v in split.items())})" if split else ""))

    def problem(self, experiment: Experiment, own: Array) -> Problem:
        """The local losses of the agents `own`."""
        kind = experiment.problem.name
        if kind in ("logistic", "nonconvex-logistic"):
            self.dataset.signs()
        elif kind == "softmax":
            self.dataset.indices()
        X, y, ptr = data.partition(self.dataset, self.owner, own)
        X = X.astype(experiment.dtype, copy=False)
        if isinstance(experiment.problem, TorchLoss):
            from decentral.problems import torch_module

            return torch_module.build(experiment.problem, X, y, ptr, len(self.dataset.classes), experiment.seed)
        l2: float = experiment.problem.l2  # type: ignore[union-attr]
        if kind == "softmax":
            labels = (y > 0).astype(np.int64) if len(self.dataset.classes) == 2 else y
            made = PROBLEMS[kind](X=X, y=labels, ptr=ptr, classes=len(self.dataset.classes), l2=l2)
        else:
            made = PROBLEMS[kind](X=X, y=y, ptr=ptr, l2=l2)
        built: Problem = made
        return built

    def facts(self) -> dict[str, Any]:
        return {
            "name": self.dataset.name, "rows": len(self.dataset.y), "source": self.dataset.source, "split": self.split,
            "agents": data.summary(self.dataset, self.owner),
        }  # fmt: skip


def random_quadratic(table: QuadraticLoss, seed: int, own: Array, dtype: str) -> Problem:
    """Q_i = H diag(λ) H with λ uniform in [mu, L], both ends included where d > 1, and H a random reflection; c_i uniform."""
    d, n = table.d, len(own)
    draws = Key(seed, Purpose.SYNTHETIC, 0, np.asarray(own, np.int64)).uniform(3 * d).reshape(n, 3, d)
    Q = np.empty((n, d, d))
    for row in range(n):
        eigenvalues = table.mu + (table.L - table.mu) * draws[row, 0]
        if d > 1:
            eigenvalues[eigenvalues.argmin()], eigenvalues[eigenvalues.argmax()] = table.mu, table.L
        v = 2 * draws[row, 1] - 1
        H = np.eye(d) - 2 * np.outer(v, v) / (v @ v)
        Q[row] = (H * eigenvalues) @ H
        Q[row] = (Q[row] + Q[row].T) / 2
    problem: Problem = Quadratic(Q.astype(dtype), (2 * draws[:, 2] - 1).astype(dtype))
    return problem


def describe(experiment: Experiment) -> str:
    """The problem in a line."""
    problem = experiment.problem
    if isinstance(problem, QuadraticLoss):
        return f"random quadratics, d = {problem.d}, eigenvalues from {problem.mu:g} to {problem.L:g}"
    if isinstance(problem, TorchLoss):
        return f"torch module {problem.model}, loss {problem.loss}, l2 = {problem.l2:g}"
    words = {
        "logistic": "l2-regularized logistic regression", "nonconvex-logistic": "logistic regression, nonconvex regularizer",
        "least-squares": "linear regression", "softmax": "softmax regression",
    }  # fmt: skip
    return f"{words[problem.name]}, l2 = {problem.l2:g}"
