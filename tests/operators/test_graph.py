"""Graphs as arcs: what every graph has, and one sentence for each graph that is none."""

from __future__ import annotations

import subprocess
import sys

import networkx as nx
import numpy as np
import pytest

import topologies
from decentral.errors import GraphError
from decentral.graph import Graph

GRAPHS = {
    "one": nx.empty_graph(1),
    "pair": nx.path_graph(2),
    "karate": nx.karate_club_graph(),
    "petersen": nx.petersen_graph(),
    "lollipop": nx.lollipop_graph(6, 9),
    "random": nx.gnp_random_graph(60, 0.1, seed=4),
    "caterpillar": nx.full_rary_tree(3, 80),
}


def arcs(*edges: tuple[int, int]) -> tuple[list[int], list[int]]:
    return [i for i, j in edges] + [j for i, j in edges], [j for i, j in edges] + [i for i, j in edges]


@pytest.mark.parametrize("name", GRAPHS)
def test_arcs_are_sorted_and_know_their_opposites(name: str) -> None:
    source = GRAPHS[name]
    graph = Graph.from_networkx(source, name)
    assert (graph.n_agents, graph.n_arcs) == (len(source), 2 * source.number_of_edges())
    pairs = list(zip(graph.tail.tolist(), graph.head.tolist(), strict=True))
    assert pairs == sorted((*source.edges, *((j, i) for i, j in source.edges)))
    assert np.array_equal(graph.tail[graph.reverse], graph.head)
    assert np.array_equal(graph.head[graph.reverse], graph.tail)
    for i in range(graph.n_agents):
        assert (graph.tail[graph.ptr[i] : graph.ptr[i + 1]] == i).all()
        assert graph.neighbors(i).tolist() == sorted(source[i])
        assert graph.degree[i] == source.degree[i]
    for array in (graph.tail, graph.head, graph.reverse, graph.ptr, graph.degree, graph.edges):
        assert array.dtype == np.int64
    assert list(graph.to_networkx()) == list(range(len(source)))
    assert set(graph.to_networkx().edges) == {tuple(sorted(edge)) for edge in source.edges}


@pytest.mark.parametrize("name", GRAPHS)
def test_arcs_in_any_order_give_the_same_graph(name: str) -> None:
    graph = Graph.from_networkx(GRAPHS[name])
    order = np.random.default_rng(1).permutation(graph.n_arcs)
    again = Graph(graph.n_agents, graph.tail[order], graph.head[order], graph.name)
    for field in ("tail", "head", "reverse", "ptr", "degree"):
        assert np.array_equal(getattr(graph, field), getattr(again, field))


@pytest.mark.parametrize("name", GRAPHS)
def test_distances_and_diameter_are_those_of_networkx(name: str) -> None:
    source = GRAPHS[name]
    graph = Graph.from_networkx(source)
    lengths = dict(nx.all_pairs_shortest_path_length(source))
    for i in range(graph.n_agents):
        assert graph.distances(i).tolist() == [lengths[i][j] for j in range(graph.n_agents)]
    assert graph.diameter_bounds == (nx.diameter(source),) * 2


@pytest.mark.parametrize(
    "source",
    [
        nx.cycle_graph(301),
        nx.convert_node_labels_to_integers(nx.grid_2d_graph(15, 20, periodic=True)),
        nx.random_regular_graph(3, 200, seed=2),
        nx.barbell_graph(40, 21),
        nx.connected_caveman_graph(20, 10),
        nx.complete_graph(70),
    ],
    ids=["ring", "torus", "regular", "barbell", "caveman", "complete"],
)
def test_the_diameter_of_symmetric_graphs_is_exact(source: nx.Graph) -> None:
    """On these the bounds from a few searches do not meet, and the search from all agents decides."""
    graph = Graph.from_networkx(source)
    assert graph.diameter == graph._levels() == nx.diameter(source)
    assert graph.diameter_bounds[0] == graph.diameter_bounds[1]


def test_large_graphs_have_bounds_of_the_diameter() -> None:
    ring = topologies.build("ring", 6000)
    low, high = ring.diameter_bounds
    assert low == 3000 < high <= 3500
    assert ring.facts()["diameter_bounds"] == [low, high]
    assert topologies.build("path", 6000).diameter_bounds == (5999, 5999)


def test_nodes_are_relabeled_in_sorted_order() -> None:
    graph = Graph.from_networkx(nx.Graph([("c", "a"), ("c", "b")]))
    assert graph.edges.tolist() == [[0, 2], [1, 2]]
    unsortable = Graph.from_networkx(nx.Graph([("c", 1), (1, (2, 3))]))
    assert unsortable.edges.tolist() == [[0, 1], [1, 2]]


def test_positions_are_kept_in_the_order_of_the_agents() -> None:
    source = nx.Graph([("b", "a")])
    source.nodes["a"]["pos"], source.nodes["b"]["pos"] = (0.0, 1.0), (2.0, 3.0)
    graph = Graph.from_networkx(source)
    assert graph.positions is not None and graph.positions.tolist() == [[0, 1], [2, 3]]
    assert graph.to_networkx().nodes[1]["pos"] == (2.0, 3.0)
    del source.nodes["a"]["pos"]
    assert Graph.from_networkx(source).positions is None


def test_facts_say_what_a_run_records() -> None:
    facts = topologies.build("star", 5).facts()
    assert facts == {
        "name": "star:5",
        "agents": 5,
        "edges": 4,
        "arcs": [[0, 1], [0, 2], [0, 3], [0, 4]],
        "degree_min": 1,
        "degree_max": 4,
        "diameter": 2,
        "l_l": 1.0,
        "l_u": 5.0,
        "weights": "metropolis",
        "gap": pytest.approx(0.2, abs=1e-12),
    }
    assert "arcs" not in topologies.build("path", 2001).facts()


def test_the_card_shows_the_numbers() -> None:
    card = topologies.build("ring", 16).card()
    for piece in (
        "ring:16",
        "2 everywhere",
        "l_u = 4",
        "metropolis",
        "best-constant",
        "halves in 6.65 rounds (lambda_2)",
    ):
        assert piece in card
    assert "vanishes in one round" in topologies.build("complete", 4).card(["metropolis"])
    assert "lazy" not in topologies.build("complete", 4).card(["metropolis"])
    assert "0 everywhere" in topologies.build("ring", 1).card()


WRONG = {
    "directed": (nx.DiGraph([(0, 1)]), "is directed; edges must go both ways"),
    "multigraph": (nx.MultiGraph([(0, 1), (0, 1)]), "is a multigraph; edges must be simple"),
    "self loop": (nx.Graph([("a", "b"), ("b", "b")]), "has a self loop at 'b'"),
    "disconnected": (nx.Graph([(0, 1), (2, 3)]), "2 of 4 agents can be reached from agent 0, agent 2 cannot"),
    "empty": (nx.Graph(), "has 0 agents; it needs at least 1"),
    "no graph": ([(0, 1)], "must be a networkx.Graph; this is a list"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_graph_is_refused(case: str) -> None:
    source, sentence = WRONG[case]
    with pytest.raises(GraphError) as caught:
        Graph.from_networkx(source, "mine")  # type: ignore[arg-type]
    assert sentence in str(caught.value)
    assert case == "no graph" or '"mine"' in str(caught.value)


WRONG_ARRAYS = {
    "outside": ((3, [0, 3], [3, 0]), "has an arc 0→3; its agents are 0 to 2"),
    "negative": ((3, [0, -1], [-1, 0]), "its agents are 0 to 2"),
    "twice": ((2, [0, 1, 0], [1, 0, 1]), "has the arc 0→1 twice"),
    "one way": ((3, [0, 1, 1], [1, 0, 2]), "has the arc 1→2 but not 2→1"),
    "loop": ((2, [0, 1, 1], [1, 0, 1]), "has a self loop at agent 1"),
    "lengths": ((2, [0, 1], [1]), "has 2 tails and 1 heads"),
    "apart": ((3, *arcs((0, 1))), "2 of 3 agents can be reached from agent 0, agent 2 cannot"),
    "nobody": ((0, [], []), "has 0 agents"),
    "positions": (
        (2, *arcs((0, 1)), "mine", [[0, 1, 2], [3, 4, 5]]),
        "positions of shape (2, 3); give (2, 2)",
    ),
}


@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_arrays_that_are_no_graph_are_refused(case: str) -> None:
    args, sentence = WRONG_ARRAYS[case]
    with pytest.raises(GraphError) as caught:
        Graph(*args)  # type: ignore[arg-type]
    assert sentence in str(caught.value)


def test_arrays_need_neither_networkx_nor_scipy() -> None:
    """A rank that receives the graph starts without them."""
    code = (
        "import sys; from decentral.graph import Graph, mixing; g = Graph(2, [0, 1], [1, 0]); "
        "mixing(g).spectral_gap; g.facts(); sys.exit('networkx' in sys.modules or 'scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
