"""Special cases of methods that must coincide (specification, section 7)."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from cases import facts_of, hood_of, p100, run

from decentral import algorithms
from decentral.compressors import build as compressor
from decentral.estimators import SAGA, Full, Oracle
from decentral.graph import Graph, mixing
from decentral.neighborhood import InProcess
from decentral.problems import gradient

Q8 = compressor({"name": "quantize", "bits": 8})
GRAPHS = {"ring": nx.cycle_graph(10), "star": nx.star_graph(9), "random": nx.erdos_renyi_graph(10, 0.4, seed=1)}


def method(name: str, **parameters: object) -> object:
    return algorithms.load(name)(**parameters)


def iterates(name: str, rounds: int = 40, graph: str = "ring", problem: object = None, estimator: object = None, **parameters: object):
    trace = run(method(name, **parameters), rounds, problem, hood_of(GRAPHS[graph]), estimator, keep=True)
    return np.array(trace.x)


def close(a: object, b: object, tolerance: float = 1e-13) -> None:
    assert np.abs(np.asarray(a) - np.asarray(b)).max() < tolerance
    assert np.abs(np.asarray(a)).max() > 1e-3  # not both zero


LT = {"local_steps": 5, "step_size": 0.05, "dual_step": 0.02}


@pytest.mark.parametrize("form", "ABCDE")
@pytest.mark.parametrize("eta", [1.0, 0.3])
@pytest.mark.parametrize("graph", GRAPHS)
def test_identity_makes_lt_admm_cc_lt_admm(form: str, eta: float, graph: str) -> None:
    """Section 7, item 1: every form, any reference step."""
    cc = iterates("lt-admm-cc", graph=graph, form=form, reference_step=eta, relaxation=0.5, **LT)
    close(cc, iterates("lt-admm", graph=graph, **LT))


@pytest.mark.parametrize("graph", GRAPHS)
def test_one_local_step_makes_lt_admm_extra_and_dlm(graph: str) -> None:
    """Section 7, item 2: W = I − β ρ Lap for EXTRA; mu = γ and rho = βρ/(2γ) for DLM."""
    gamma, beta, rho = 0.1, 0.05, 1.0
    lt = iterates("lt-admm", graph=graph, local_steps=1, step_size=gamma, dual_step=beta, penalty=rho)
    g = Graph.from_networkx(GRAPHS[graph])
    laplacian = np.asarray(nx.laplacian_matrix(GRAPHS[graph], nodelist=range(10)).toarray(), float)
    hood = InProcess(g, mixing(g, "given", matrix=np.eye(10) - beta * rho * laplacian))
    extra = run(method("extra", step_size=gamma), 40, None, hood, keep=True)
    close(lt, extra.x)

    problem, x, z, dlm = p100(), np.zeros((10, 5)), np.zeros((10, 5)), [np.zeros((10, 5))]
    penalty = beta * rho / (2 * gamma)
    for _ in range(40):
        x = x - gamma * (gradient(problem, x) + penalty * laplacian @ x + z)
        z = z + penalty * laplacian @ x
        dlm.append(x)
    close(lt, dlm, 1e-12)


@pytest.mark.parametrize("graph", GRAPHS)
def test_edge_form_of_lt_admm_is_its_node_form(graph: str) -> None:
    """Section 2, invariant (b): ν ← ν − (ρ/2) Lap x, c = β((ρ/2) Lap x − ν)."""
    lap = np.asarray(nx.laplacian_matrix(GRAPHS[graph], nodelist=range(10)).toarray(), float)
    problem, x, nu, rho = p100(), np.zeros((10, 5)), np.zeros((10, 5)), 1.0
    node = [x]
    for _ in range(40):
        c = LT["dual_step"] * (rho / 2 * lap @ x - nu)
        for _ in range(5):
            x = x - LT["step_size"] * gradient(problem, x) - c
        nu = nu - rho / 2 * lap @ x
        node.append(x)
    close(iterates("lt-admm", graph=graph, **LT), node)


@pytest.mark.parametrize("scale", [4.0, 0.25])
@pytest.mark.parametrize("form", "ABCDE")
def test_only_the_product_of_beta_and_rho_matters(scale: float, form: str) -> None:
    """Section 7, item 4: bitwise for powers of two, quantizer and draws included."""
    p = {"local_steps": 5, "step_size": 0.05, "form": form, "compressor": Q8, "reference_step": 1.0, "relaxation": 0.5}
    one = iterates("lt-admm-cc", dual_step=0.02, penalty=1.0, **p)
    other = iterates("lt-admm-cc", dual_step=0.02 / scale, penalty=scale, **p)
    np.testing.assert_array_equal(one, other)


COMMON = {"step_size": 0.3, "mixing_step": 0.7, "compressor": Q8}


@pytest.mark.parametrize("graph", ["ring", "random"])
def test_cedas_with_constant_step_is_lead(graph: str) -> None:
    """Section 7, item 5; the compressor's draws are the same function of the round."""
    lead = iterates("lead", graph=graph, reference_step=0.5, **COMMON)
    close(lead, iterates("cedas", graph=graph, reference_step=0.5, **COMMON), 1e-11)


def test_cold_is_cedas_without_damping() -> None:
    """Section 7, item 6: bitwise."""
    np.testing.assert_array_equal(iterates("cold", **COMMON), iterates("cedas", reference_step=1.0, **COMMON))


@pytest.mark.parametrize("graph", ["ring", "random"])
def test_identity_makes_lead_cold_and_proxskip_exact_diffusion(graph: str) -> None:
    """Section 7, item 7; and the published recursion in ψ."""
    exact = iterates("exact-diffusion", graph=graph, step_size=0.3)
    close(exact, iterates("lead", graph=graph, step_size=0.3, mixing_step=1.0, reference_step=0.4))
    close(exact, iterates("cold", graph=graph, step_size=0.3, mixing_step=1.0))
    close(exact, iterates("proxskip", graph=graph, step_size=0.3, probability=1.0))
    close(exact, iterates("nids", graph=graph, step_size=0.3))

    problem, W = p100(), mixing(Graph.from_networkx(GRAPHS[graph])).dense()
    Wbar, x = (np.eye(10) + W) / 2, np.zeros((10, 5))
    psi_old, published = x, [x]
    for _ in range(40):
        psi = x - 0.3 * gradient(problem, x)
        x = Wbar @ (psi + x - psi_old)
        psi_old = psi
        published.append(x)
    close(exact, published)


@pytest.mark.parametrize("graph", GRAPHS)
def test_identity_makes_choco_and_deepsqueeze_atc(graph: str) -> None:
    """Section 7, item 8."""
    atc = iterates("atc", graph=graph, step_size=0.1)
    close(atc, iterates("choco-sgd", graph=graph, step_size=0.1, mixing_step=1.0))
    close(atc, iterates("deepsqueeze", graph=graph, step_size=0.1, mixing_step=1.0))


def test_identity_makes_beer_diging() -> None:
    """Section 4.6: after BEER's first step, whose references are still zero, both run the same recursion."""
    problem, hood = p100(), hood_of(GRAPHS["ring"])
    beer, diging = method("beer", step_size=0.05, mixing_step=1.0), method("diging", step_size=0.05)
    oracle = Oracle(problem, Full(), hood.agents)
    s = beer.round(beer.init(np.zeros((10, 5)), hood, oracle), 0, hood, oracle)
    other = diging.init(s.x.copy(), hood, oracle)
    other.y, other.g = s.v.copy(), s.g.copy()
    for k in range(1, 40):
        s, other = beer.round(s, k, hood, oracle), diging.round(other, k, hood, oracle)
        close(s.x, other.x)


def test_dpdc_2_without_error_feedback_is_dpdc_1() -> None:
    """Section 7, item 9: bitwise."""
    p = {"step_size": 0.3, "penalty": 0.8, "dual_step": 0.5, "reference_step": 0.5, "compressor": Q8}
    np.testing.assert_array_equal(iterates("dpdc", **p), iterates("dpdc2", error_decay=0.0, **p))


def test_saga_is_the_full_gradient_where_it_must_be() -> None:
    """Section 7, item 10: one local step from a reset table; a batch of all samples."""
    full = iterates("lt-admm", local_steps=1, step_size=0.1, dual_step=0.05)
    close(full, iterates("lt-admm", local_steps=1, step_size=0.1, dual_step=0.05, estimator=SAGA(batch=1, reset=True)))
    close(iterates("lt-admm", **LT), iterates("lt-admm", estimator=SAGA(batch=100), **LT), 1e-12)


def test_exact_averaging_makes_atc_centralized_gradient_descent() -> None:
    """Section 7, item 11: complete graph, W = 11ᵀ/N."""
    hood = hood_of(nx.complete_graph(10))
    atc = run(method("atc", step_size=0.2), 40, None, hood, keep=True).x
    problem, x, central = p100(), np.zeros(5), [np.zeros(5)]
    for _ in range(40):
        x = x - 0.2 * problem.evaluate(x[None])[1][0] / 10
        central.append(x)
    close(atc, np.array(central)[:, None, :].repeat(10, axis=1))


@pytest.mark.parametrize("name", algorithms.NAMES)
def test_relabeling_agents_relabels_iterates(name: str) -> None:
    """Section 7, item 12: with a deterministic compressor."""
    cls = algorithms.load(name)
    p = {"compressor": compressor({"name": "quantize", "bits": 8, "rounding": "nearest"})} if hasattr(cls, "compressor") else {}
    perm = np.random.default_rng(5).permutation(10)
    graph = nx.erdos_renyi_graph(10, 0.4, seed=1)
    first, second = p100(), p100(own=perm)
    hood, other = hood_of(graph), hood_of(nx.relabel_nodes(graph, {int(p_): i for i, p_ in enumerate(perm)}))
    m = cls(**p).tuned(facts_of(hood, first))
    a = run(m, 20, first, hood).state.x
    b = run(replace(m), 20, second, other).state.x
    close(a[perm], b, 1e-10)


@pytest.mark.parametrize("name", ["lt-admm-cc", "lead", "d-psgd", "extra"])
def test_one_agent_is_gradient_descent(name: str) -> None:
    """A graph of one agent has no arcs: every method is plain gradient descent."""
    problem = p100(own=np.array([0]))
    hood = hood_of(nx.empty_graph(1))
    steps = {"lt-admm-cc": {"local_steps": 3, "dual_step": 0.1, "reference_step": 1.0, "relaxation": 0.5}}.get(name, {})
    if name == "lead":
        steps = {"mixing_step": 1.0, "reference_step": 0.5}
    m = algorithms.load(name)(step_size=0.1, **steps)
    oracle = Oracle(problem, Full(), hood.agents)
    s = m.init(np.zeros((1, 5)), hood, oracle)
    x = np.zeros((1, 5))
    for k in range(10):
        s = m.round(s, k, hood, oracle)
        for _ in range(3 if name == "lt-admm-cc" else 1):
            x = x - 0.1 * gradient(problem, x)
        close(s.x, x)
