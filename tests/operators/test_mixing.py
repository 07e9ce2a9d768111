"""Mixing matrices and Laplacians: definitions, closed forms, large graphs, refusals."""

from __future__ import annotations

import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import topologies
from decentral import graph as graph_module
from decentral.errors import GraphError
from decentral.graph import MIXINGS, RULES, Graph, MixingMatrix, mixing

SIZES = {"hypercube": 16, "margulis": 16, "chordal-cycle": 17}


def dense(graph: Graph) -> np.ndarray:
    adjacency = np.zeros((graph.n_agents, graph.n_agents))
    adjacency[graph.tail, graph.head] = 1.0
    return np.diag(adjacency.sum(1)) - adjacency


def cosines(n: int, first: int = 1) -> np.ndarray:
    return 2 - 2 * np.cos(2 * np.pi * np.arange(first, n) / n)


# Laplacian eigenvalues on vectors of zero mean
CLOSED = {
    "ring:3": cosines(3),
    "ring:10": cosines(10),
    "ring:17": cosines(17),
    "path:2": np.array([2.0]),
    "path:11": 4 * np.sin(np.pi * np.arange(1, 11) / 22) ** 2,
    "torus:3x5": np.add.outer(cosines(3, 0), cosines(5, 0)).ravel()[1:],
    "torus:4x4": np.add.outer(cosines(4, 0), cosines(4, 0)).ravel()[1:],
    "hypercube:32": np.repeat(2.0 * np.arange(1, 6), [5, 10, 10, 5, 1]),
    "complete:9": np.full(8, 9.0),
    "star:12": np.array([1.0] * 10 + [12.0]),
}


@pytest.mark.parametrize("spec", CLOSED)
def test_laplacian_eigenvalues_have_their_closed_form(spec: str) -> None:
    graph = topologies.build(spec)
    assert np.allclose(np.linalg.eigvalsh(dense(graph))[1:], np.sort(CLOSED[spec]), atol=1e-12)
    assert graph.laplacian_extremes == pytest.approx((CLOSED[spec].min(), CLOSED[spec].max()), rel=1e-11)


@pytest.mark.parametrize("spec", ["ring:10", "ring:17", "torus:3x5", "hypercube:32", "complete:9"])
def test_metropolis_eigenvalues_of_regular_graphs_have_their_closed_form(spec: str) -> None:
    graph = topologies.build(spec)
    values = 1 - CLOSED[spec] / (1 + graph.degree[0])
    w = mixing(graph)
    assert (w.lambda_2, w.lambda_min) == pytest.approx((values.max(), values.min()), abs=1e-11)
    assert w.spectral_gap == pytest.approx(1 - np.abs(values).max(), abs=1e-11)


def test_metropolis_eigenvalues_of_the_star_have_their_closed_form() -> None:
    """All weights are 1/N, so that I − W = Lap / N: eigenvalues 1 − 1/N and 0."""
    w = mixing(topologies.build("star:12"))
    assert (w.lambda_2, w.lambda_min, w.spectral_gap) == pytest.approx((11 / 12, 0.0, 1 / 12), abs=1e-12)


def test_metropolis_weights_of_the_path() -> None:
    w = mixing(topologies.build("path:3")).dense()
    assert np.allclose(w, np.array([[2, 1, 0], [1, 1, 1], [0, 1, 2]]) / 3)


@pytest.mark.parametrize("rule", MIXINGS)
@pytest.mark.parametrize("family", topologies.FAMILIES)
def test_every_rule_on_every_family_is_symmetric_and_doubly_stochastic(family: str, rule: str) -> None:
    graph = topologies.build(family, SIZES.get(family, 12), seed=3)
    w = mixing(graph, rule)
    matrix = w.dense()
    assert np.array_equal(w.weights, w.weights[graph.reverse])
    assert np.allclose(matrix.sum(0), 1, atol=1e-14) and np.allclose(matrix.sum(1), 1, atol=1e-14)
    assert not matrix[dense(graph) == 0].any() and (w.weights > 0).all()
    assert rule == "best-constant" or (w.self_weights > -1e-15).all()
    values = np.linalg.eigvalsh(matrix)
    assert values[-1] == pytest.approx(1)
    assert w.lambda_2 == pytest.approx(values[-2], abs=1e-10)
    assert w.lambda_min == pytest.approx(values[0], abs=1e-10)
    assert w.spectral_gap == pytest.approx(1 - max(abs(values[0]), abs(values[-2])), abs=1e-10)
    assert 0 < w.spectral_gap <= 1
    x = np.random.default_rng(5).normal(size=(graph.n_agents, 3))
    assert np.allclose(w.apply(x), matrix @ x, atol=1e-13)


def test_the_rules_are_what_they_say() -> None:
    graph = topologies.build("lollipop", 9)
    lap = dense(graph)
    metropolis = mixing(graph).dense()
    assert np.allclose(mixing(graph, "max-degree").dense(), np.eye(9) - lap / (1 + graph.degree.max()))
    assert np.allclose(mixing(graph, "lazy").dense(), (np.eye(9) + metropolis) / 2)
    lazy = mixing(graph, "lazy", base="max-degree")
    assert lazy.name == "lazy max-degree"
    assert np.allclose(lazy.dense(), (np.eye(9) + mixing(graph, "max-degree").dense()) / 2)
    best = mixing(graph, "best-constant")
    assert best.lambda_2 == pytest.approx(-best.lambda_min)
    for factor in (0.9, 1.1):  # no constant is better
        assert MixingMatrix(graph, factor * best.weights).spectral_gap < best.spectral_gap


def test_which_eigenvalue_is_slowest() -> None:
    ring = topologies.build("ring:8")
    assert mixing(ring).slowest == "lambda_2"
    half = MixingMatrix(ring, np.full(16, 0.5))  # bipartite without self weights: lambda_min = −1
    assert half.slowest == "lambda_min" and half.spectral_gap == pytest.approx(0, abs=1e-12)
    assert half.in_words() == "never vanishes"


def test_words_count_rounds_of_the_squared_error() -> None:
    graph = topologies.build("ring:16")
    w = mixing(graph)
    mode = np.cos(2 * np.pi * np.arange(16) / 16)[:, None]  # the eigenvector of lambda_2
    errors = [np.square(mode).mean()]
    for _ in range(7):
        mode = w.apply(mode)
        errors.append(np.square(mode).mean())
    assert errors[6] > errors[0] / 2 > errors[7]
    assert w.in_words() == "halves in 6.65 rounds (lambda_2)"


def test_apply_keeps_the_type_and_constants_exactly() -> None:
    w = mixing(topologies.build("barabasi-albert:30,seed=2"))
    x = np.full((30, 2), 0.1, np.float32)
    assert w.apply(x).dtype == np.float32
    assert np.array_equal(w.apply(x), x)
    assert mixing(topologies.build("ring:1")).apply(np.ones((1, 2))).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("family", topologies.FAMILIES)
def test_the_sparse_solver_agrees_with_the_dense_one(family: str) -> None:
    graph = topologies.build(
        family, {"hypercube": 64, "margulis": 64, "chordal-cycle": 61}.get(family, 60), seed=1
    )
    for weights in (np.ones(graph.n_arcs), mixing(graph).weights):
        assert graph_module._sparse(graph, weights) == pytest.approx(
            graph_module._dense(graph, weights), rel=1e-8
        )


N = 10_000
BIG: dict[str, tuple[float, float] | None] = {
    f"ring:{N}": (2 - 2 * np.cos(2 * np.pi / N), 4.0),
    f"path:{N}": (4 * np.sin(np.pi / 2 / N) ** 2, 4 * np.cos(np.pi / 2 / N) ** 2),
    f"torus:{N}": (2 - 2 * np.cos(2 * np.pi / 100), 8.0),
    f"star:{N}": (1.0, float(N)),
    "hypercube:8192": (2.0, 26.0),
    f"tree:{N}": None,
    f"regular:{N}": None,
    f"geometric:{N}": None,
    f"barabasi-albert:{N}": None,
    f"lollipop:{N},clique=50": None,  # eigenvalues crowd at the lower end and, of W, at the upper one
}


@pytest.mark.parametrize("spec", BIG)
def test_ten_thousand_agents_are_cheap(spec: str) -> None:
    """Seconds (20 allow for a busy machine), no N x N array (800 MB), the closed form where one is known."""
    import scipy.sparse.linalg  # noqa: F401  (its import is not what is timed)

    graph = topologies.build(spec)
    tracemalloc.start()
    start = time.perf_counter()
    graph = Graph(graph.n_agents, graph.tail, graph.head, graph.name)
    low, high = graph.laplacian_extremes
    w = mixing(graph)
    gap = w.spectral_gap
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 20 and peak < 100e6
    assert 0 < low < high <= 2 * graph.degree.max() + 1e-9 and 0 < gap < 1
    if closed := BIG[spec]:
        assert (low, high) == pytest.approx(closed, rel=1e-8)
        if graph.degree.min() == graph.degree.max():
            assert gap == pytest.approx(low / (1 + graph.degree[0]), rel=1e-8)


def test_numbers_are_the_same_again() -> None:
    specs = ("regular:600,seed=3", "geometric:600,seed=3", "ring:600", "complete:600")
    for spec in specs:
        first, second = (mixing(topologies.build(spec))._disagreement for _ in range(2))
        assert first == second


def test_a_given_matrix_is_used_as_it_is(tmp_path: Path) -> None:
    graph = topologies.build("ring:6")
    matrix = mixing(graph, "lazy").dense()
    np.save(tmp_path / "w.npy", matrix)
    for given in (matrix, matrix.tolist(), str(tmp_path / "w.npy")):
        w = mixing(graph, "given", matrix=given)
        assert w.name == "given" and np.allclose(w.dense(), matrix, atol=1e-15)


def changed(**entries: float) -> np.ndarray:
    """The Metropolis matrix of a ring of four, with other entries: changed(w01=0.5)."""
    matrix = mixing(topologies.build("ring:4")).dense()
    for name, value in entries.items():
        matrix[int(name[1]), int(name[2])] = value
    return matrix


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown rule": ("metropolys", {}, 'unknown mixing matrix "metropolys"; known: best-constant,'),
    "nearest rule": ("metropolys", {}, '(did you mean "metropolis"?). See: decentral list weights'),
    "unknown parameter": ("lazy", {"bas": "given"}, 'it takes base (did you mean "base"?)'),
    "no parameters": ("metropolis", {"step": 1}, '"step" of mixing matrix "metropolis"; it takes none'),
    "no matrix": ("given", {}, 'needs its "matrix"'),
    "no file": ("given", {"matrix": "nowhere.npy"}, 'cannot read "nowhere.npy"'),
    "shape": ("given", {"matrix": np.eye(3)}, "has shape (3, 3); ring:4 needs (4, 4)"),
    "asymmetric": ("given", {"matrix": changed(w01=0.2)}, "w[0, 1] = 0.2, w[1, 0] = 0.333333333"),
    "not finite": ("given", {"matrix": changed(w01=np.nan)}, "must be finite and symmetric; w[0, 1] = nan"),
    "rows": ("given", {"matrix": changed(w22=0.5)}, "row 2 sums to 1.16666667; it must sum to 1"),
    "off the graph": ("given", {"matrix": changed(w02=0.1, w20=0.1)}, "w[0, 2] = 0.1, but ring:4 has no"),
    "identity": ("given", {"matrix": np.eye(4)}, "does not average: lambda_2 = 1, lambda_min = 1;"),
    "swap": ("given", {"matrix": (np.eye(4, k=1) + np.eye(4, k=-1) + np.eye(4, k=3) + np.eye(4, k=-3)) / 2},
             "does not average: lambda_2 = 0, lambda_min = -1;"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_mixing_matrix_is_refused(case: str) -> None:
    rule, params, sentence = REFUSED[case]
    with pytest.raises(GraphError) as caught:
        mixing(topologies.build("ring:4"), rule, **params)
    assert sentence in str(caught.value)


def test_weights_of_another_number_are_refused() -> None:
    with pytest.raises(GraphError, match=r"has \(3,\) weights; ring:4 has 8 arcs"):
        MixingMatrix(topologies.build("ring:4"), [0.1, 0.1, 0.1])


def test_every_rule_is_tested() -> None:
    assert set(RULES) == {*MIXINGS, "fastest", "given"}


@pytest.mark.parametrize(
    "spec", ["ring:8", "star:6", "path:5", "barbell:10", "geometric:15,seed=2", "ring:1"]
)
def test_fastest_weights_are_the_fastest(spec: str) -> None:
    pytest.importorskip("cvxpy")
    graph = topologies.build(spec)
    fastest = mixing(graph, "fastest")
    signed = mixing(graph, "fastest", nonnegative=False)
    assert (fastest.weights >= 0).all() and (fastest.self_weights >= -1e-15).all()
    others = [mixing(graph, rule).spectral_gap for rule in ("metropolis", "max-degree", "lazy")]
    assert fastest.spectral_gap >= max(others) - 1e-6
    assert (
        signed.spectral_gap >= max(fastest.spectral_gap, mixing(graph, "best-constant").spectral_gap) - 1e-6
    )


def test_fastest_weights_of_symmetric_graphs_have_their_closed_form() -> None:
    """On an edge-transitive graph the best constant is optimal (Boyd, Diaconis, Parrilo, Xiao 2009)."""
    pytest.importorskip("cvxpy")
    for spec in ("ring:9", "hypercube:8", "complete:5"):
        graph = topologies.build(spec)
        expected = mixing(graph, "best-constant").spectral_gap
        assert mixing(graph, "fastest", nonnegative=False).spectral_gap == pytest.approx(expected, abs=1e-6)


def test_fastest_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvxpy", None)  # as if it were not installed
    with pytest.raises(
        GraphError, match=r'needs cvxpy: pip install decentral\[fastest\]; or take "best-constant"'
    ):
        mixing(topologies.build("ring:4"), "fastest")
    with pytest.raises(GraphError, match="is computed up to 100 agents, not 101"):
        mixing(topologies.build("ring:101"), "fastest")
