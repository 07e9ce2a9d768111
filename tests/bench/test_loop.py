"""The loop over agents that the bench compares with does the same work: without compression, the same iterates."""

import numpy as np
import pytest

from decentral.bench.rounds import METHODS, AgentByAgent, Running, bench_method, problem_of
from decentral.bench.workload import ring
from decentral.estimators import Full, Oracle
from decentral.graph import mixing
from decentral.neighborhood import InProcess


@pytest.mark.parametrize("name", METHODS)
def test_the_loop_computes_what_the_method_computes(name: str) -> None:
    graph = ring(6)
    hood = InProcess(graph, mixing(graph))
    problem = problem_of(hood.agents, 7, 12)
    method, _ = bench_method(name, bits=0)
    ours = Running(method, hood, Oracle(problem, Full(), hood.agents))
    plain = AgentByAgent(method, Full(), problem)
    for _ in range(30):
        ours()
        plain()
    assert np.abs(plain.x).max() > 0.01
    np.testing.assert_allclose(plain.x, ours.state.x, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", METHODS)
def test_both_still_approach_the_optimum_with_compression(name: str) -> None:
    """‖∇F‖² at the mean falls below a tenth; the draws differ, keys and seed are fixed."""
    graph = ring(6)
    hood = InProcess(graph, mixing(graph))
    problem = problem_of(hood.agents, 7, 12)
    method, estimator = bench_method(name)
    ours = Running(method, hood, Oracle(problem, estimator, hood.agents))
    plain = AgentByAgent(method, estimator, problem)
    for _ in range(400):
        ours()
        plain()
    start, *reached = ((problem.evaluate(x.mean(axis=0)[None])[1] ** 2).sum() for x in (0 * plain.x, plain.x, ours.state.x))
    assert max(reached) < start / 10
