"""Graph families, by name.

    build("torus", agents=16)                              # the most square one: 4 x 4
    build("erdos-renyi", agents=20, seed=1, p=0.3)
    build("erdos-renyi:20,p=0.3,seed=1")                   # the same graph, as one word
    build("file:karate.edges")                             # edge list, GraphML or adjacency JSON
    build("networkx.circulant_graph", agents=12, offsets=[1, 5])
    build("my_graphs:wheel", agents=12)                    # a function of one's own

A family is a function from the number of agents, keyword parameters and, where it draws, a seed to a networkx.Graph
with nodes 0 … N−1. To add one, write the function and enter it in `FAMILIES`.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

from decentral.errors import GraphError, nearest, unknown
from decentral.graph import Graph
from topologies import fixed, from_file, randomized

FAMILIES: dict[str, Callable[..., Any]] = {
    "ring": fixed.ring,
    "path": fixed.path,
    "complete": fixed.complete,
    "star": fixed.star,
    "grid": fixed.grid,
    "torus": fixed.torus,
    "hypercube": fixed.hypercube,
    "exponential": fixed.exponential,
    "tree": fixed.tree,
    "barbell": fixed.barbell,
    "lollipop": fixed.lollipop,
    "margulis": fixed.margulis,
    "chordal-cycle": fixed.chordal_cycle,
    "regular": randomized.regular,
    "erdos-renyi": randomized.erdos_renyi,
    "watts-strogatz": randomized.watts_strogatz,
    "barabasi-albert": randomized.barabasi_albert,
    "geometric": randomized.geometric,
}
SEE = 'decentral list topologies; or give "file:PATH" or "package.module:function"'


def build(name: str, agents: int | None = None, seed: int = 0, **params: Any) -> Graph:
    """The graph of a family, a file or a function; `name` may be a whole specification (see `parse`).

    seed : for families and functions that take one
    Raises
        GraphError : unknown name or parameter, an impossible size or value, another number of agents than asked for,
            or a graph that is directed, not simple or not connected
    """
    given = {"agents": agents, "params": params}
    name, size, short = parse(name)
    if agents is not None and size not in (None, agents):
        raise GraphError(f'"{name}:{size}" says {size} agents, but agents = {agents}; leave one of them out')
    agents, params = agents if size is None else size, short | params
    seed = params.pop("seed", seed)
    if agents is None and {"rows", "cols"} <= params.keys():
        agents = params["rows"] * params["cols"]
    for key, value, least in (("agents", agents, 1), ("seed", seed, 0)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= least):
            raise GraphError(f"{key} = {value!r} of topology {name}; allowed: a whole number of at least {least}")
    if name.startswith("file:"):
        graph, label = from_file.read(name.removeprefix("file:"), **_known(from_file.read, name, params)), name
    elif name in FAMILIES:
        if agents is None:
            raise GraphError(f'topology "{name}" needs a number of agents, e.g. {name}:16 or agents = 16')
        graph, label = _call(FAMILIES[name], name, agents, seed, params)
    elif "." in name or ":" in name:
        graph, label = _call(_function(name), name, agents, seed, params)
    else:
        raise GraphError(unknown("topology", name, FAMILIES, SEE))
    built = Graph.from_networkx(graph, label)
    if agents is not None and built.n_agents != agents:
        raise GraphError(
            f'topology "{name}" has {built.n_agents} agents, not {agents}; set agents = {built.n_agents} or leave it out'
        )
    return built
