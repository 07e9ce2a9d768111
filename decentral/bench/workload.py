"""The work on which tools for decentralized training were compared: ring, logistic regression, d = 100, 1000 samples each."""

from __future__ import annotations

import numpy as np

from decentral.graph import Graph
from decentral.problems import Logistic
from decentral.state import Array

TOLERANCE = 1e-6


def workload(own: Array, d: int = 100, samples: int = 1000, seed: int = 1) -> Logistic:
    """Logistic regression, l2 = 0.01, agents with their own means and their own true model; ‖∇F(0)‖² = 0.12."""
    w = np.random.default_rng(seed).normal(size=d) / np.sqrt(d)
    X, y = [], []
    for agent in own:
        rng = np.random.default_rng((seed, int(agent)))
        mine = w + 0.4 * rng.normal(size=d) / np.sqrt(d)
        rows = rng.normal(size=(samples, d)) + 1.5 * rng.normal(size=d) / np.sqrt(d)
        X.append(rows)
        y.append(np.where(rows @ mine + 0.5 * rng.normal(size=samples) > 0, 1.0, -1.0))
    return Logistic(np.concatenate(X), np.concatenate(y), np.arange(len(own) + 1) * samples, l2=0.01)


def ring(agents: int) -> Graph:
    """A ring; two agents are a pair."""
    edges = sorted({tuple(sorted((i, (i + 1) % agents))) for i in range(agents)})
    arcs = np.array(sorted([*edges, *((j, i) for i, j in edges)]))
    return Graph(agents, arcs[:, 0], arcs[:, 1], f"ring:{agents}")
