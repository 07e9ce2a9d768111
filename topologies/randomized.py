"""Families that draw: from the seed alone, and again until the graph is connected."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from decentral.errors import GraphError
from topologies.fixed import whole

if TYPE_CHECKING:
    import random

    import networkx as nx

TRIES = 100


def regular(agents: int, degree: int = 4, seed: int = 0) -> nx.Graph:
    """A random graph in which all agents have `degree` neighbors: an expander with high probability."""
    import networkx as nx

    whole("regular", "degree", degree, 2, agents - 1)
    if agents * degree % 2:
        degrees = [d for d in (degree - 1, degree + 1) if 2 <= d < agents]
        raise GraphError(
            f'topology "regular": {agents} agents of degree {degree} are impossible: one must be even; '
            f"take {agents - 1} or {agents + 1} agents, or degree {' or '.join(map(str, degrees))}"
        )
    return _connected("regular", lambda rng: nx.random_regular_graph(degree, agents, rng), seed, "degree")


def erdos_renyi(agents: int, p: float | None = None, seed: int = 0) -> nx.Graph:
    """Each pair of agents is joined with probability p (default 2 ln N / N, twice what connects them)."""
    import networkx as nx

    p = min(1.0, 2 * math.log(agents) / agents) if p is None else _real("erdos-renyi", "p", p, 1.0)
    return _connected("erdos-renyi", lambda rng: nx.fast_gnp_random_graph(agents, p, rng), seed, "p")


def watts_strogatz(agents: int, neighbors: int = 4, p: float = 0.1, seed: int = 0) -> nx.Graph:
    """A ring whose agents are joined with their nearest `neighbors` (an even number), each edge rewired with
    probability p: a small world."""
    import networkx as nx

    whole("watts-strogatz", "neighbors", neighbors, 2, agents - 1)
    if neighbors % 2:
        raise GraphError(
            f'topology "watts-strogatz": neighbors = {neighbors}; allowed: an even number; '
            f"take {neighbors - 1}" + (f" or {neighbors + 1}" if neighbors + 1 < agents else "")
        )
    p = _real("watts-strogatz", "p", p, 1.0)
    return _connected(
        "watts-strogatz", lambda rng: nx.watts_strogatz_graph(agents, neighbors, p, rng), seed, "neighbors"
    )


def barabasi_albert(agents: int, attach: int = 2, seed: int = 0) -> nx.Graph:
    """Agents arrive one by one and join `attach` others, the more popular the likelier: a few hubs."""
    import networkx as nx

    whole("barabasi-albert", "attach", attach, 1, agents - 1)
    return _connected(
        "barabasi-albert", lambda rng: nx.barabasi_albert_graph(agents, attach, rng), seed, "attach"
    )


def geometric(agents: int, radius: float | None = None, seed: int = 0) -> nx.Graph:
    """Agents at random places in the unit square, joined within a radius: a sensor network.

    The default radius √(2 ln N / π N) is √2 times what connects them. The places are kept as positions."""
    import networkx as nx

    if radius is None:
        radius = math.sqrt(2 * math.log(agents) / (math.pi * agents))
    radius = _real("geometric", "radius", radius, math.sqrt(2))
    return _connected(
        "geometric", lambda rng: nx.random_geometric_graph(agents, radius, seed=rng), seed, "radius"
    )


def _connected(family: str, draw: Callable[[random.Random], nx.Graph], seed: int, raises: str) -> nx.Graph:
    import random  # 5 ms, which eight ranks that start on a ring need not spend

    import networkx as nx

    rng = random.Random(seed)
    for _ in range(TRIES):
        graph = draw(rng)
        if nx.is_connected(graph):
            return graph
    raise GraphError(
        f'topology "{family}": of {TRIES} graphs of {len(graph)} agents none is connected; raise {raises}'
    )


def _real(family: str, name: str, value: Any, most: float) -> float:
    """The value, if it is a number in [0, most]; else GraphError with the nearest one."""
    right = isinstance(value, int | float) and not isinstance(value, bool)
    if right and 0 <= value <= most:
        return float(value)
    guess = f" (nearest: {0 if value < 0 else most:.4g})" if right and value == value else ""
    raise GraphError(
        f'topology "{family}": {name} = {value!r}; allowed: a number from 0 to {most:.4g}{guess}'
    )
