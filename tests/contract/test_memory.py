"""What a round holds beside the arrays that its equations name; NumPy reports its allocations to tracemalloc."""

from __future__ import annotations

import tracemalloc
from typing import Any

import networkx as nx
import numpy as np
import pytest
from cases import facts_of, hood_of

from decentral import algorithms, kernels
from decentral.compressors import build as compressor
from decentral.estimators import SAGA, Full, Oracle
from decentral.problems import Logistic
from decentral.state import nbytes

N, D = 10, 40_000
Q8 = {"compressor": compressor({"name": "quantize", "bits": 8})}
CASES = {  # how many (n, d) arrays the equations name beside the state and the payloads
    "d-psgd": ({}, 2, 8.0),  # the gradient and the disagreement
    "choco-sgd": (Q8, 1, 1.0),  # the gradient, or the disagreement
    "lead": (Q8, 3, 1.0),  # y, ŷ, and the gradient or the disagreement
    "cold": (Q8, 2, 1.0),  # y and the disagreement
    "dpdc": (Q8, 3, 1.0),  # the gradient, Lx̂, and the direction of x
    "lt-admm-cc": ({**Q8, "local_steps": 3}, 2, 3.0),  # c and the gradient; a payload for agents, one for each of two arcs
}


@pytest.mark.skipif(kernels.c is None, reason="NumPy alone needs more temporaries")
@pytest.mark.parametrize("estimator", [Full(), SAGA(batch=2)], ids=lambda e: e.name)
@pytest.mark.parametrize("name", CASES)
def test_rounds_hold_little_more_than_their_equations_name(name: str, estimator: Any) -> None:
    """At most 1.3 times the state, the payloads (bytes an entry and agent) and the vectors of the equations."""
    p, vectors, payload = CASES[name]
    rng = np.random.default_rng(0)
    problem = Logistic(rng.normal(size=(4 * N, D)), np.sign(rng.normal(size=4 * N)), np.arange(N + 1) * 4)
    hood = hood_of(nx.cycle_graph(N))
    method = algorithms.load(name)(**p).tuned(facts_of(hood, problem, estimator.name, 2))
    oracle = Oracle(problem, estimator, hood.agents, 7)
    tracemalloc.start()
    try:
        state = method.init(np.zeros((N, D)), hood, oracle)
        for k in range(4):
            if k == 2:  # the first rounds make what is kept
                tracemalloc.reset_peak()
            state = method.round(state, k, hood, oracle)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 1.3 * (nbytes(state) + N * D * (8 * vectors + payload))
