"""Graphs from files: edge list, GraphML, adjacency JSON, told apart by the extension."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decentral.errors import GraphError, nearest

if TYPE_CHECKING:
    import networkx as nx

FILES = Path(__file__).with_name("files")
"""Small graphs that come with the package; a name that is no file elsewhere is looked up here."""


def read(path: str) -> nx.Graph:
    """The graph of a file; numeric labels become numbers, so that agents sort as one expects.

    Raises
        GraphError : no such file, an unknown extension, or content that cannot be read as such
    """
    file = find(path)
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise GraphError(
            f'graph file "{path}" has the extension "{file.suffix}"; known: {", ".join(READERS)}'
        )
    try:
        graph = reader(file)
    except GraphError:
        raise
    except Exception as error:  # the readers raise all sorts
        raise GraphError(
            f'cannot read "{path}" as {reader.__name__}: {type(error).__name__}: {error}'
        ) from None
    return _numbered(graph)


def find(path: str) -> Path:
    """The file meant: at its path, or among those of the package. GraphError where it is in neither place."""
    for file in (Path(path).expanduser(), FILES / path):
        if file.is_file():
            return file
    known = sorted(file.name for file in FILES.iterdir() if file.suffix in READERS)
    come = f"with the package come: {', '.join(known)}{nearest(Path(path).name, known)}"
    raise GraphError(f'there is no graph file "{path}"; {come}')


def edge_list(file: Path) -> nx.Graph:
    """Two labels a line, separated by blanks or a comma; what follows them, or a #, is ignored."""
    import networkx as nx

    graph = nx.Graph()
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if len(words) == 1:
            raise GraphError(
                f'graph file "{file}", line {number}: "{line.strip()}" is not an edge; give two agents'
            )
        if words:
            graph.add_edge(words[0], words[1])
    return graph


def graphml(file: Path) -> nx.Graph:
    """GraphML as networkx, yEd, Gephi and igraph write it."""
    import networkx as nx

    return nx.read_graphml(file)


def adjacency_json(file: Path) -> nx.Graph:
    """{"0": [1, 2], …}, or [[1, 2], …] with the neighbors of agent 0 first, or networkx.adjacency_data."""
    import networkx as nx

    data = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(data, dict) and "adjacency" in data:
        return nx.adjacency_graph(data)
    neighbors: dict[Any, list[Any]] = dict(enumerate(data)) if isinstance(data, list) else data
    return nx.Graph({str(i): [str(j) for j in heard] for i, heard in neighbors.items()})


READERS: dict[str, Callable[[Path], Any]] = {
    ".edges": edge_list,
    ".edgelist": edge_list,
    ".txt": edge_list,
    ".csv": edge_list,
    ".tsv": edge_list,
    ".graphml": graphml,
    ".json": adjacency_json,
}


def _numbered(graph: nx.Graph) -> nx.Graph:
    import networkx as nx

    if all(isinstance(node, str) and node.removeprefix("-").isdecimal() for node in graph):
        return nx.relabel_nodes(graph, {node: int(node) for node in graph})
    return graph
