"""Graph families: what they promise, the same again by seed, files, functions, and every refusal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

import topologies
from decentral.errors import GraphError
from decentral.graph import Graph
from topologies import FAMILIES, build, parse

SIZES = {"hypercube": (2, 16, 64), "margulis": (4, 9, 64), "chordal-cycle": (5, 17, 61)}
RANDOM = ("regular", "erdos-renyi", "watts-strogatz", "barabasi-albert", "geometric")
SAME = {
    "ring:9": nx.cycle_graph(9),
    "path:9": nx.path_graph(9),
    "complete:7": nx.complete_graph(7),
    "star:7": nx.star_graph(6),
    "grid:3x4": nx.grid_2d_graph(3, 4),
    "torus:3x4": nx.grid_2d_graph(3, 4, periodic=True),
    "torus:2x5": nx.grid_2d_graph(2, 5, periodic=True),
    "hypercube:16": nx.hypercube_graph(4),
    "exponential:12": nx.circulant_graph(12, [1, 2, 4, 8]),
    "tree:12,arity=3": nx.full_rary_tree(3, 12),
    "barbell:11": nx.barbell_graph(5, 1),
    "barbell:11,clique=3": nx.barbell_graph(3, 5),
    "lollipop:11,clique=4": nx.lollipop_graph(4, 7),
    "margulis:36": nx.Graph(nx.margulis_gabber_galil_graph(6)),
    "chordal-cycle:13": nx.Graph(nx.chordal_cycle_graph(13)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_makes_connected_graphs_of_the_size_asked(family: str) -> None:
    for agents in SIZES.get(family, (6, 16, 60)):
        graph = build(family, agents, seed=5)
        assert isinstance(graph, Graph)
        assert graph.n_agents == agents
        made = FAMILIES[family](agents)
        assert type(made) is nx.Graph and list(made) == list(range(agents)), (
            "a family makes plain networkx graphs"
        )
        assert (FAMILIES[family].__doc__ or "").strip(), "decentral list shows the first line"


@pytest.mark.parametrize("spec", SAME)
def test_formulas_agree_with_those_of_networkx(spec: str) -> None:
    expected = SAME[spec].copy()
    expected.remove_edges_from(list(nx.selfloop_edges(expected)))
    assert nx.is_isomorphic(build(spec).to_networkx(), expected)


def test_the_smallest_graphs() -> None:
    for family in ("ring", "path", "complete", "star", "exponential", "tree", "erdos-renyi", "geometric"):
        assert build(family, 1).n_arcs == 0
        assert build(family, 2).edges.tolist() == [[0, 1]]
    assert build("torus:2x2").n_arcs == 8
    assert build("torus:1x5").edges.tolist() == build("ring:5").edges.tolist()


def test_rectangles_are_the_most_square() -> None:
    assert build("torus", 12).edges.tolist() == build("torus:3x4").edges.tolist()
    assert build("grid", 12, rows=6).edges.tolist() == build("grid:6x2").edges.tolist()
    assert build("grid", rows=6, cols=2).n_agents == 12
    assert build("grid", 7, rows=1).edges.tolist() == build("path", 7).edges.tolist()


def test_a_grid_lies_in_the_plane() -> None:
    graph = build("grid:3x4")
    assert graph.positions is not None
    steps = graph.positions[graph.tail] - graph.positions[graph.head]
    assert (np.abs(steps).sum(axis=1) == 1).all()


def test_a_geometric_graph_joins_those_within_the_radius() -> None:
    graph = build("geometric:40,radius=0.35,seed=3")
    assert graph.positions is not None
    apart = np.linalg.norm(graph.positions[:, None] - graph.positions[None], axis=2)
    near = (apart <= 0.35) & ~np.eye(40, dtype=bool)
    assert np.array_equal(np.argwhere(near), np.stack([graph.tail, graph.head], axis=1))


def test_regular_graphs_are_regular() -> None:
    assert (build("regular:50,degree=3,seed=1").degree == 3).all()
    assert (build("torus", 25).degree == 4).all()
    assert build("margulis", 400).degree.max() <= 8
    assert build("chordal-cycle", 101).degree.max() <= 3


@pytest.mark.parametrize(
    "family, size, bound", [("margulis", (100, 2500), 0.5), ("chordal-cycle", (101, 2503), 0.05)]
)
def test_expanders_keep_their_gap(family: str, size: tuple[int, int], bound: float) -> None:
    """The algebraic connectivity does not vanish with the size, as it does on a ring (0.004 and 6e-6)."""
    for agents in size:
        assert build(family, agents).laplacian_extremes[0] > bound


@pytest.mark.parametrize("family", RANDOM)
def test_random_families_depend_on_the_seed_alone(family: str) -> None:
    edges = [build(family, 30, seed=seed).edges.tolist() for seed in (1, 1, 2)]
    assert edges[0] == edges[1] != edges[2]
    assert build(f"{family}:30,seed=1", seed=9).edges.tolist() == edges[0], "a seed in the parameters wins"


def test_random_graphs_are_the_same_in_another_process() -> None:
    """Neither the hash seed nor what ran before matters."""
    code = "import topologies, sys; [print(topologies.build(f, 30, 1).edges.tolist()) for f in sys.argv[1:]]"
    run = subprocess.run(
        [sys.executable, "-c", code, *RANDOM], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout.splitlines() == [str(build(family, 30, 1).edges.tolist()) for family in RANDOM]


def test_random_graphs_are_drawn_again_until_connected() -> None:
    """At p = ln N / N one graph in three is connected: that ten first draws all are has chance 5e-5."""
    spec = "erdos-renyi:40,p=0.092"
    first = [nx.is_connected(nx.fast_gnp_random_graph(40, 0.092, seed)) for seed in range(10)]
    assert not all(first)
    assert all(build(spec, seed=seed).n_agents == 40 for seed in range(10))


@pytest.mark.parametrize(
    "spec, expected",
    [
        ("ring", ("ring", None, {})),
        ("ring:16", ("ring", 16, {})),
        ("torus:4x5", ("torus", 20, {"rows": 4, "cols": 5})),
        ("erdos-renyi:20,p=0.3,seed=1", ("erdos-renyi", 20, {"p": 0.3, "seed": 1})),
        ("tree:arity=3", ("tree", None, {"arity": 3})),
        ("file:a folder/net:1,2.edges", ("file:a folder/net:1,2.edges", None, {})),
        ("networkx.petersen_graph", ("networkx.petersen_graph", None, {})),
        ("networkx.generators.classic.wheel_graph:5", ("networkx.generators.classic.wheel_graph", 5, {})),
        (
            "pkg.mod:make:12,k=3,wide=true,how=near",
            ("pkg.mod:make", 12, {"k": 3, "wide": True, "how": "near"}),
        ),
        ("mine.py:make", ("mine.py:make", None, {})),
    ],
)
def test_specifications_are_read(spec: str, expected: tuple[str, int | None, dict[str, object]]) -> None:
    assert parse(spec) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_the_name_of_a_graph_makes_it_again(family: str) -> None:
    graph = build(family, SIZES.get(family, (6, 16))[1], seed=4)
    again = build(graph.name)
    assert again.name == graph.name and again.edges.tolist() == graph.edges.tolist()


# --- files and functions ---


def test_the_files_of_the_package() -> None:
    karate = build("file:karate.edges")
    assert karate.edges.tolist() == sorted(map(list, map(sorted, nx.karate_club_graph().edges)))
    florentine = build("file:florentine.edges", 15)
    assert nx.is_isomorphic(florentine.to_networkx(), nx.florentine_families_graph())


def test_every_format_gives_the_same_graph(tmp_path: Path) -> None:
    source = nx.lollipop_graph(6, 6)  # labels up to 11: as text, 10 would come before 2
    nx.write_graphml(source, tmp_path / "a.graphml")
    (tmp_path / "a.json").write_text(json.dumps(nx.adjacency_data(source)))
    (tmp_path / "b.json").write_text(json.dumps({str(i): list(source[i]) for i in source}))
    (tmp_path / "c.json").write_text(json.dumps([list(source[i]) for i in source]))
    lines = [f"{i} {j}" for i, j in source.edges]
    (tmp_path / "a.txt").write_text("# agents\n\n" + "\n".join(f"{line} 0.5  # weight" for line in lines))
    (tmp_path / "a.csv").write_text("\n".join(line.replace(" ", ",") for line in lines))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 6
    for file in files:
        assert build(f"file:{file}").edges.tolist() == Graph.from_networkx(source).edges.tolist(), file.name


def test_functions_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_graphs.py").write_text(
        "import networkx as nx\n"
        "def wheel(agents, hub=True):\n    return nx.wheel_graph(agents) if hub else nx.cycle_graph(agents)\n"
        "def drawn(agents, seed):\n    return nx.random_regular_graph(3, agents, seed)\n"
        "def broken(agents):\n    return {}[agents]\n"
        "def listed(agents):\n    return [(0, 1)]\n"
    )
    wheel = Graph.from_networkx(nx.wheel_graph(7)).edges.tolist()
    assert build(f"{tmp_path}/my_graphs.py:wheel", 7).edges.tolist() == wheel
    monkeypatch.syspath_prepend(str(tmp_path))
    assert build("my_graphs:wheel:7").edges.tolist() == wheel
    assert build("my_graphs.wheel:7,hub=false").n_arcs == 14
    assert (
        build("my_graphs:drawn", 10, seed=1).edges.tolist()
        != build("my_graphs:drawn", 10, seed=2).edges.tolist()
    )
    for name, sentence in (
        ("broken", "failed: KeyError: 5"),
        ("listed", "this is a list"),
        ("whel", '"wheel"?'),
    ):
        with pytest.raises(GraphError, match=sentence.replace("?", r"\?")):
            build(f"my_graphs:{name}", 5)


def test_generators_of_networkx_by_name() -> None:
    assert build("networkx.petersen_graph").n_agents == 10
    assert build("networkx.generators.lattice.grid_2d_graph", 12, m=3, n=4).n_agents == 12
    ring = build("networkx.circulant_graph", 9, offsets=[1])
    assert ring.edges.tolist() == build("ring", 9).edges.tolist()
    assert build("networkx.gnp_random_graph", 12, seed=3, p=0.6).n_agents == 12


# --- refusals ---

REFUSED = {
    "rng:16": 'did you mean "ring"?). See: decentral list topologies; also "file:PATH"',
    "ring": 'topology "ring" needs a number of agents, e.g. ring:16',
    "ring:0": "agents = 0; allowed: a whole number of at least 1 (nearest: 1)",
    "ring:-3": 'cannot read "-3" in topology "ring:-3"; allowed after the name',
    "ring:4:5": 'cannot read "4:5"',
    "ring:16,seed=-1": "seed = -1; allowed: a whole number of at least 0",
    "ring:16,colour=3": 'unknown parameter "colour" of topology "ring"; it takes none',
    "ring:4x4": 'unknown parameter "rows" of topology "ring"',
    "tree:10,airty=3": 'it takes arity (did you mean "arity"?)',
    "tree:10,arity=0": "arity = 0; allowed: a whole number of at least 1 (nearest: 1)",
    "tree:10,arity=two": "arity = 'two'; allowed: a whole number",
    "tree:10,arity=true": "arity = True; allowed: a whole number",
    "tree:10,arity=2.0": "arity = 2.0; allowed: a whole number",
    "hypercube:12": 'topology "hypercube" has no graph of 12 agents; allowed: 2^k; 8 and 16 are nearest',
    "margulis:12": "allowed: k^2; 9 and 16 are nearest",
    "chordal-cycle:12": "allowed: a prime; 11 and 13 are nearest",
    "chordal-cycle:1": "allowed: a prime; 2 is nearest",
    "torus:13": "13 is prime; take 12 or 14 agents, or say rows = 1",
    "grid:12,rows=5": "5 x 2 is not 12 agents; allowed: 1 x 12, 2 x 6, 3 x 4",
    "torus:12,rows=40": "rows = 40; allowed: a whole number from 1 to 12 (nearest: 12)",
    "barbell:3": "agents = 3; allowed: a whole number of at least 4",
    "barbell:10,clique=6": "clique = 6; allowed: a whole number from 2 to 5 (nearest: 5)",
    "lollipop:10,clique=10": "clique = 10; allowed: a whole number from 2 to 9 (nearest: 9)",
    "regular:7,degree=3": "7 agents of degree 3 are impossible: one must be even; take 6 or 8",
    "regular:4": "degree = 4; allowed: a whole number from 2 to 3 (nearest: 3)",
    "regular:2,degree=1": "degree = 1 is not possible with so few agents",
    "watts-strogatz:10,neighbors=3": "neighbors = 3; allowed: an even number; take 2 or 4",
    "watts-strogatz:10,p=2": "p = 2; allowed: a number from 0 to 1 (nearest: 1)",
    "barabasi-albert:5,attach=5": "attach = 5; allowed: a whole number from 1 to 4 (nearest: 4)",
    "erdos-renyi:50,p=0.001": "of 100 graphs of 50 agents none is connected; raise p",
    "erdos-renyi:50,p=often": "p = 'often'; allowed: a number from 0 to 1",
    "geometric:50,radius=0.01": "none is connected; raise radius",
    "geometric:50,radius=-1": "radius = -1; allowed: a number from 0 to 1.414 (nearest: 0)",
    "file:karat.edges": 'no graph file "karat.edges"; with the package come: florentine.edges, karate.',
    "networkx.cycle_grph:4": 'networkx has no function "cycle_grph" (did you mean "cycle_graph"?)',
    "networkx.cycle_graph:4,foo=1": 'unknown parameter "foo" of topology "networkx.cycle_graph"; it takes n',
    "networkx.gnp_random_graph:12": 'needs its parameter "p"',
    "networkx.petersen_graph:12": 'has 10 agents, not 12; set agents = 10, or leave it out',
    "networkx.random_regular_graph:5,d=3": "failed: NetworkXError: n * d must be even",
    "networkx.empty_graph:5": "is not connected: 1 of 5 agents can be reached",
    "networkx.gn_graph:5": "is directed",
    "networkx.margulis_gabber_galil_graph:9,n=3": "is a multigraph",
    "no_such_module:make:4": 'cannot import no_such_module',
    "nowhere.py:make:4": "there is no file nowhere.py",
}  # fmt: skip


@pytest.mark.parametrize("spec", REFUSED)
def test_what_cannot_be_built_is_refused_with_a_sentence(spec: str) -> None:
    with pytest.raises(GraphError) as caught:
        build(spec)
    assert REFUSED[spec] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_contradiction_in_the_number_of_agents_is_refused() -> None:
    with pytest.raises(GraphError, match="ring:16 says 16 agents, but agents = 8"):
        build("ring:16", 8)
    with pytest.raises(GraphError, match=r"agents = 8\.0; allowed: a whole number"):
        build("ring", 8.0)  # type: ignore[arg-type]
    with pytest.raises(GraphError, match='"file:karate.edges" has 34 agents, not 20; set agents = 34'):
        build("file:karate.edges", 20)


FILES = {
    "one.edges": ("0 1\n2\n", 'line 2: "2" is not an edge; give two agents'),
    "loop.edges": ("0 1\n1 1\n", "has a self loop at 1"),
    "apart.csv": ("0,1\n2,3\n", "is not connected: 2 of 4 agents"),
    "empty.txt": ("# nothing\n", "has 0 agents"),
    "bad.json": ("{", "as adjacency_json: JSONDecodeError"),
    "directed.json": (json.dumps(nx.adjacency_data(nx.DiGraph([(0, 1)]))), "is directed"),
    "multi.json": (json.dumps(nx.adjacency_data(nx.MultiGraph([(0, 1)]))), "is a multigraph"),
    "bad.graphml": ("<graphml", "as graphml: ParseError"),
    "directed.graphml": ("\n".join(nx.generate_graphml(nx.DiGraph([(0, 1)]))), "is directed"),
    "mine.png": ("", 'has the extension ".png"; known: .edges, .edgelist, .txt'),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_hold_no_graph_are_refused(name: str, tmp_path: Path) -> None:
    text, sentence = FILES[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(GraphError) as caught:
        build(f"file:{tmp_path / name}")
    assert sentence in str(caught.value)


def test_a_file_takes_no_parameters() -> None:
    with pytest.raises(GraphError, match='takes no parameters, but "p" is given'):
        build("file:karate.edges", p=0.1)


def test_neither_names_nor_formulas_need_networkx() -> None:
    sizes = {family: SIZES.get(family, (12,))[-1] for family in FAMILIES if family not in RANDOM}
    code = f"""import sys, topologies
for family, agents in {sizes}.items():
    topologies.build(family, agents)
sys.exit('networkx' in sys.modules or 'scipy' in sys.modules)"""
    assert len(sizes) == 13 and subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
    assert topologies.__doc__


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in RANDOM])
def test_a_formula_is_the_same_graph_with_and_without_networkx(family: str) -> None:
    agents = SIZES.get(family, (12,))[-1]
    with_it, without = Graph.from_networkx(FAMILIES[family](agents)), build(family, agents)
    assert np.array_equal(with_it.edges, without.edges)
    assert (with_it.positions is None) == (without.positions is None) == (family != "grid")
    assert family != "grid" or np.array_equal(with_it.positions, without.positions)
    assert without.name == f"{family}:{agents}"


def test_a_function_may_make_a_graph_without_networkx(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from decentral.graph import Graph\ndef pair():\n    return Graph(2, [0, 1], [1, 0])\n")
    assert build(f"{file}:pair").edges.tolist() == [[0, 1]] and build(f"{file}:pair").name == f"{file}:pair"
