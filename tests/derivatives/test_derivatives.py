"""Gradients by central differences, batched rows against single rows, estimators unbiased, reference optimum."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import networkx as nx
import numpy as np
import pytest
from cases import hood_of, p100

from decentral import kernels
from decentral.errors import ConfigError, ProblemError
from decentral.estimators import ESTIMATORS, SAGA, SGD, SVRG, LooplessSVRG, Oracle, build
from decentral.problems import LeastSquares, Logistic, NonconvexLogistic, Quadratic, Softmax, TorchModule, gradient
from decentral.problems.reference import optimum
from decentral.random import Key, Purpose

PTR = np.array([0, 7, 19, 40])  # unequal sample counts


def module(X: Any, y: Any, ptr: Any, l2: float) -> TorchModule:
    """Two layers in PyTorch; starts at the same point whatever was drawn before."""
    import torch

    from decentral.problems.torch_module import cross_entropy

    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3))
    return TorchModule(X, y, ptr, net, cross_entropy, l2, classes=3)


def problems() -> dict[str, Any]:
    rng = np.random.default_rng(4)
    X, signs = rng.normal(size=(40, 4)), np.sign(rng.normal(size=40))
    B = rng.normal(size=(3, 4, 4))
    return {
        "logistic": Logistic(X, signs, PTR, l2=0.1),
        "nonconvex-logistic": NonconvexLogistic(X, signs, PTR, l2=0.1),
        "least-squares": LeastSquares(X, rng.normal(size=40), PTR, l2=0.1),
        "softmax": Softmax(X, rng.integers(0, 3, 40), PTR, classes=3, l2=0.1),
        "quadratic": Quadratic(B + B.transpose(0, 2, 1), rng.normal(size=(3, 4))),
        **({"torch": module(X, rng.integers(0, 3, 40), PTR, 0.1)} if find_spec("torch") else {}),
    }


@pytest.fixture(params=problems())
def problem(request: pytest.FixtureRequest) -> Any:
    return problems()[request.param]


def single(problem: Any, row: int) -> Any:
    """The same losses for one agent alone."""
    if isinstance(problem, Quadratic):
        return Quadratic(problem.Q[row : row + 1], problem.c[row : row + 1])
    part = slice(PTR[row], PTR[row + 1])
    if isinstance(problem, TorchModule):
        return module(problem.X[part], problem.y[part], np.array([0, PTR[row + 1] - PTR[row]]), problem.l2)
    more = {"classes": problem.classes} if isinstance(problem, Softmax) else {}
    return type(problem)(problem.X[part], problem.y[part], np.array([0, PTR[row + 1] - PTR[row]]), l2=problem.l2, **more)


def test_gradient_is_the_slope_of_the_loss(problem: Any) -> None:
    rng, step = np.random.default_rng(5), 1e-5
    x = rng.normal(size=(1, problem.d))
    slope = problem.evaluate(x)[1][0]
    for axis in range(problem.d):
        e = np.zeros((1, problem.d))
        e[0, axis] = step
        difference = (problem.evaluate(x + e)[0] - problem.evaluate(x - e)[0])[0] / (2 * step)
        assert abs(difference - slope[axis]) < 1e-7 * max(1.0, abs(slope[axis]))


def test_hessian_is_the_slope_of_the_gradient(problem: Any) -> None:
    rng, step = np.random.default_rng(6), 1e-5
    x = rng.normal(size=problem.d)
    H = problem.hessian(x)
    for axis in range(problem.d):
        e = np.zeros(problem.d)
        e[axis] = step
        both = problem.evaluate(np.stack((x + e, x - e)))[1]
        np.testing.assert_allclose((both[0] - both[1]) / (2 * step), H[axis], atol=1e-7)


@pytest.mark.parametrize("compiled", [True, False])
def test_local_gradients_add_up_and_rows_do_not_see_each_other(problem: Any, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(kernels, "c", None)
    x = np.random.default_rng(7).normal(size=(3, problem.d))
    g = gradient(problem, x)
    for row in range(3):
        alone = single(problem, row)
        same = {"rtol": 0, "atol": 0} if problem.name != "torch" else {"rtol": 1e-12, "atol": 1e-14}
        np.testing.assert_allclose(gradient(alone, x[row : row + 1])[0], g[row], **same)
        np.testing.assert_allclose(alone.evaluate(x[row : row + 1])[1][0], g[row], rtol=1e-11, atol=1e-13)


def test_compiled_gradients_are_those_of_numpy(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(8).normal(size=(3, problem.d))
    index = np.array([[0, 3], [5, 1], [2, 9]]) if problem.sizes[0] > 1 else np.zeros((3, 2), np.int64)
    fast = gradient(problem, x), problem.combine(problem.coefficients(x, index), index)
    monkeypatch.setattr(kernels, "c", None)
    np.testing.assert_allclose(fast[0], gradient(problem, x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(fast[1], problem.combine(problem.coefficients(x, index), index), rtol=1e-12, atol=1e-14)


def test_constants_bound_the_curvature(problem: Any) -> None:
    L, mu, L_max = problem.constants()
    if problem.name == "torch":
        assert np.isnan((L, mu, L_max)).all()
        return
    rng = np.random.default_rng(9)
    for row in range(3):
        for _ in range(5):
            eigenvalues = np.linalg.eigvalsh(single(problem, row).hessian(rng.normal(size=problem.d)))
            assert eigenvalues[-1] <= L[row] * (1 + 1e-9)
            assert eigenvalues[0] >= mu[row] * (1 - 1e-9) or not problem.convex or isinstance(problem, Quadratic)
    assert (L_max >= L * (1 - 1e-9)).all()


ROUNDS = 4000


@pytest.mark.parametrize(
    "estimator", [SGD(2), SAGA(2), SAGA(2, reset=True), SVRG(2), LooplessSVRG(2)], ids=["sgd", "saga", "saga-reset", "svrg", "l-svrg"]
)
def test_estimators_are_unbiased(estimator: Any) -> None:
    """Mean of 4000 draws within 5 standard errors of the full gradient (failure probability below 1e-4 for all entries)."""
    problem = problems()["logistic"]
    rng = np.random.default_rng(10)
    x0, x = rng.normal(size=(2, 3, 4))
    draws = []
    for k in range(ROUNDS):
        memory, _ = estimator.init(problem, x0)
        key = Key(1, Purpose.BATCH, k, np.arange(3), 1)
        if estimator.name != "sgd":
            estimator.begin(problem, memory, x0, Key(1, Purpose.BATCH, 0, np.arange(3)))
        draws.append(estimator.estimate(problem, memory, x, 1, key)[0])
    draws = np.array(draws)
    z = (draws.mean(axis=0) - gradient(problem, x)) / (draws.std(axis=0) / np.sqrt(ROUNDS))
    assert draws.std() > 1e-3
    assert np.abs(z).max() < 5


def test_saga_keeps_one_number_a_sample_and_its_mean_is_that_of_the_table() -> None:
    problem = problems()["logistic"]
    oracle = Oracle(problem, SAGA(3), np.arange(3))
    x = np.zeros((3, 4))
    memory = oracle.init(x)
    for k in range(50):
        oracle.begin(memory, x, k)
        x = x - 0.1 * oracle(memory, x, k)
    assert memory is not None and memory.table.shape == (40,)
    np.testing.assert_allclose(memory.mean, problem.combine(memory.table) / problem.sizes[:, None], atol=1e-14)
    assert oracle.evaluations.tolist() == [7 + 150, 12 + 150, 21 + 150]


def test_a_reset_table_costs_what_the_model_says() -> None:
    problem = problems()["logistic"]
    oracle = Oracle(problem, SAGA(2, reset=True), np.arange(3))
    x = np.zeros((3, 4))
    memory = oracle.init(x)
    for k in range(3):
        oracle.begin(memory, x, k)
        for t in range(5):
            oracle(memory, x, k, t)
    assert oracle.evaluations.tolist() == [3 * (m + 4 * 2) for m in (7, 12, 21)]
    assert SAGA(2, reset=True).cost(21, 5) == 29


@pytest.mark.parametrize("name", ["logistic", "least-squares", "softmax"])
def test_reference_optimum_is_stationary(name: str) -> None:
    problem = problems()[name]
    hood = hood_of(nx.path_graph(3))
    x, f = optimum(problem, hood)
    loss, slope = problem.evaluate(x[None])
    assert np.linalg.norm(slope) / 3 < 1e-12
    assert abs(loss[0] / 3 - f) < 1e-14


def test_reference_optimum_of_p100() -> None:
    problem = p100()
    x, _ = optimum(problem, hood_of(nx.cycle_graph(10)))
    assert np.linalg.norm(problem.evaluate(x[None])[1]) / 10 < 1e-13


def test_bad_estimators_say_so() -> None:
    with pytest.raises(ConfigError, match='did you mean "saga"'):
        build({"name": "sagaa"})
    with pytest.raises(ConfigError, match="batch"):
        build({"name": "saga", "bach": 2})
    with pytest.raises(ConfigError, match="agent 0 has 7 samples"):
        Oracle(problems()["logistic"], SGD(8), np.arange(3))
    with pytest.raises(ConfigError, match="batch = 0"):
        build({"name": "sgd", "batch": 0})
    with pytest.raises(ProblemError, match="labels"):
        Logistic(np.ones((4, 2)), np.arange(4.0), np.array([0, 4]))
    with pytest.raises(ProblemError, match="no samples"):
        Logistic(np.ones((4, 2)), np.ones(4), np.array([0, 4, 4]))
    assert set(ESTIMATORS) == {"full", "sgd", "saga", "svrg", "l-svrg"}
