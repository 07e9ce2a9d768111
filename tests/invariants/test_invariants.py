"""What holds in every round, whatever the data (specification, sections 2, 3.3, 4)."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from cases import facts_of, hood_of, p100, run

from decentral import algorithms
from decentral.compressors import build as compressor
from decentral.estimators import Full, Oracle
from decentral.problems import gradient
from decentral.problems.reference import optimum

Q4 = compressor({"name": "quantize", "bits": 4})
GRAPHS = {"ring": nx.cycle_graph(10), "random": nx.erdos_renyi_graph(10, 0.4, seed=1)}
DUALS = {
    "lead": "dual",
    "cedas": "dual",
    "cold": "dual",
    "exact-diffusion": "dual",
    "dpdc": "v",
    "dpdc2": "v",
    "extra": "p",
    "proxskip": "y",
}
COMPRESSED = [n for n in algorithms.NAMES if hasattr(algorithms.load(n), "compressor")]


def make(name: str, **p: object) -> object:
    cls = algorithms.load(name)
    return cls(**({"compressor": Q4} if hasattr(cls, "compressor") else {}), **p)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", DUALS)
def test_duals_sum_to_zero(name: str, graph: str) -> None:
    def each(s: object, k: int) -> None:
        dual = getattr(s, DUALS[name])
        assert np.abs(dual.sum(axis=0)).max() < 1e-13
        assert k < 3 or np.abs(dual).max() > 1e-6

    run(make(name), 60, hood=hood_of(GRAPHS[graph]), each=each)


@pytest.mark.parametrize("name", ["choco-sgd", "atc", "d-psgd"])
def test_compression_leaves_the_mean_alone(name: str) -> None:
    """x̄⁺ = x̄ − η ḡ (CHOCO: whatever the compressor)."""
    problem, hood = p100(), hood_of(GRAPHS["ring"])
    m = make(name, step_size=0.1)
    m = m.tuned(facts_of(hood, problem))
    oracle = Oracle(problem, Full(), hood.agents)
    s = m.init(np.zeros((10, 5)), hood, oracle)
    for k in range(50):
        expected = (s.x - 0.1 * gradient(problem, s.x)).mean(axis=0)
        s = m.round(s, k, hood, oracle)
        np.testing.assert_allclose(s.x.mean(axis=0), expected, atol=1e-15)


@pytest.mark.parametrize("name", ["beer", "diging", "atc-tracking"])
def test_trackers_average_to_the_mean_gradient(name: str) -> None:
    def each(s: object, k: int) -> None:
        tracker = s.v if name == "beer" else s.y
        np.testing.assert_allclose(tracker.mean(axis=0), s.g.mean(axis=0), atol=1e-14)

    run(make(name), 60, each=each)


@pytest.mark.parametrize("form", "AB")
def test_edge_variables_sum_to_what_was_sent(form: str) -> None:
    """3.3 (a): z_ij + z_ji = ρ (x̂_i + x̂_j); with η = 1, u holds x̂ after the round."""
    hood = hood_of(GRAPHS["random"])

    def each(s: object, k: int) -> None:
        xh = s.u
        expected = hood.spread(hood.own(xh)) + hood.heads(xh)
        np.testing.assert_allclose(s.z + s.z[hood.graph.reverse], expected, atol=3e-15)

    run(make("lt-admm-cc", form=form, reference_step=1.0), 60, hood=hood, each=each)


@pytest.mark.parametrize("form", "ABE")
def test_mean_recursion_of_lt_admm_cc(form: str) -> None:
    """3.3 (b): Σ x⁺ = Σ x − γ Σ_t Σ g + τβρ Σ d_i (x̂_i − x_i), form B without the last term (one local step here)."""
    problem, hood = p100(), hood_of(GRAPHS["random"])
    gamma, beta = 0.1, 0.01
    m = make("lt-admm-cc", form=form, reference_step=1.0, step_size=gamma, dual_step=beta, local_steps=1, relaxation=0.5)
    oracle = Oracle(problem, Full(), hood.agents)
    s = m.init(np.zeros((10, 5)), hood, oracle)
    noise = 0.0
    for k in range(40):
        before = s.x.copy()
        error = np.zeros((10, 5)) if k == 0 or form == "B" else beta * hood.degree * (hood.own(s.u) - before)
        expected = (before - gamma * gradient(problem, before) + error).sum(axis=0)
        noise = max(noise, float(np.abs(error.sum(axis=0)).max()))
        s = m.round(s, k, hood, oracle)
        np.testing.assert_allclose(s.x.sum(axis=0), expected, atol=1e-13)
    assert form == "B" or noise > 1e-6


@pytest.mark.parametrize("form", "ABCD")
def test_sender_and_receiver_hold_the_same_edge_reference(form: str) -> None:
    """3.3 (i): r on i→j is, bit for bit, the s of j→i."""
    hood = hood_of(GRAPHS["random"])

    def each(s: object, k: int) -> None:
        np.testing.assert_array_equal(s.r, s.s[hood.graph.reverse])

    run(make("lt-admm-cc", form=form), 40, hood=hood, each=each)


@pytest.mark.parametrize("form", "ABCDE")
def test_fixed_point_of_lt_admm_cc(form: str) -> None:
    """3.3 (e), 2 (a): x_i = u_i = x*, Σ_j z_ij = ρ d_i x* + (γ/β) ∇f_i(x*), z + z_opposite = 2ρ x*, s = z."""
    problem, hood = p100(), hood_of(GRAPHS["ring"])
    star, _ = optimum(problem, hood)
    gamma, beta = 0.1, 0.09
    m = make("lt-admm-cc", form=form, step_size=gamma, dual_step=beta, reference_step=1.0, relaxation=0.5)
    s = run(m, 1500, problem, hood).state
    X = np.repeat(star[None], 10, axis=0)
    np.testing.assert_allclose(s.x, X, atol=1e-13)
    np.testing.assert_allclose(s.z + s.z[hood.graph.reverse], 2 * hood.spread(X), atol=1e-12)
    np.testing.assert_allclose(hood.total(s.z), hood.degree * X + gamma / beta * gradient(problem, X), atol=1e-12)
    if s.u is not None:
        np.testing.assert_allclose(hood.own(s.u), X, atol=1e-12)
    if s.s is not None:
        target = s.z if form != "D" else s.z - 2 * hood.spread(X)
        np.testing.assert_allclose(s.s, target, atol=1e-12)


@pytest.mark.parametrize("name", ["lead", "cedas", "cold", "dpdc", "exact-diffusion", "extra"])
def test_duals_end_at_the_local_gradients(name: str) -> None:
    problem, hood = p100(), hood_of(GRAPHS["ring"])
    star, _ = optimum(problem, hood)
    X = np.repeat(star[None], 10, axis=0)
    m = make(name).tuned(facts_of(hood, problem))
    s = run(m, 3000, problem, hood, stop=1e-30).state
    factor = {"lead": 1.0, "dpdc": 1 / m.dual_step if name == "dpdc" else 0}.get(name, m.step_size)
    np.testing.assert_allclose(getattr(s, DUALS[name]), -factor * gradient(problem, X), atol=1e-10)
    np.testing.assert_allclose(s.x, X, atol=1e-11)
