"""Families without chance: each is a formula for its edges.

`graph_of` drops the self loops and repeated edges that the formulas give on the smallest sizes: a ring of
two agents is one edge, and a ring of one agent is that agent.

`ring(8)` is a networkx.Graph, as of every family; `ring.graph(8)` is the same as a `Graph`. Runs take the
latter: all ranks would wait for the one that imports networkx.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec

from decentral.errors import GraphError
from decentral.graph import Graph

if TYPE_CHECKING:
    import networkx as nx

P = ParamSpec("P")


class Formula(Generic[P]):
    """A family that is a formula: a function to networkx.Graph, and in `graph` the same to `Graph`."""

    def __init__(self, graph: Callable[P, Graph]) -> None:
        self.graph = graph
        update_wrapper(self, graph)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> nx.Graph:
        return self.graph(*args, **kwargs).to_networkx()


@Formula
def ring(agents: int) -> Graph:
    """A cycle: every agent has two neighbors."""
    return graph_of(agents, ((i, (i + 1) % agents) for i in range(agents)))


@Formula
def path(agents: int) -> Graph:
    """A line, the connected graph of largest diameter."""
    return graph_of(agents, ((i, i + 1) for i in range(agents - 1)))


@Formula
def complete(agents: int) -> Graph:
    """All pairs of agents."""
    return graph_of(agents, itertools.combinations(range(agents), 2))


@Formula
def star(agents: int) -> Graph:
    """Agent 0 in the middle, all others next to it alone."""
    return graph_of(agents, ((0, i) for i in range(1, agents)))


@Formula
def grid(agents: int, rows: int | None = None, cols: int | None = None) -> Graph:
    """A rectangle of rows x cols agents, the most square one if they are not given."""
    rows, cols = _rectangle("grid", agents, rows, cols)
    across = ((i, i + 1) for i in range(agents) if (i + 1) % cols)
    down = ((i, i + cols) for i in range(agents - cols))
    return graph_of(agents, itertools.chain(across, down), [(i % cols, -(i // cols)) for i in range(agents)])


@Formula
def torus(agents: int, rows: int | None = None, cols: int | None = None) -> Graph:
    """A grid whose opposite sides are joined: every agent has four neighbors."""
    rows, cols = _rectangle("torus", agents, rows, cols)
    across = ((i, i - i % cols + (i + 1) % cols) for i in range(agents))
    return graph_of(agents, itertools.chain(across, ((i, (i + cols) % agents) for i in range(agents))))


@Formula
def hypercube(agents: int) -> Graph:
    """2^k agents, joined where their numbers differ in one bit: log2 N neighbors, diameter log2 N."""
    sizes("hypercube", agents, "2^k", lambda n: n & (n - 1) == 0)
    bits = range(agents.bit_length() - 1)
    return graph_of(agents, ((i, i ^ (1 << bit)) for i in range(agents) for bit in bits))


@Formula
def exponential(agents: int) -> Graph:
    """Joined at distances 1, 2, 4, 8, … around a ring, in both directions (static exponential graph)."""
    hops = [1 << k for k in range(agents.bit_length()) if 1 << k < agents]
    return graph_of(agents, ((i, (i + hop) % agents) for i in range(agents) for hop in hops))


@Formula
def tree(agents: int, arity: int = 2) -> Graph:
    """A tree rooted at agent 0, filled level by level, each agent with up to `arity` children."""
    whole("tree", "arity", arity, 1)
    return graph_of(agents, (((i - 1) // arity, i) for i in range(1, agents)))


@Formula
def barbell(agents: int, clique: int | None = None) -> Graph:
    """Two complete graphs of `clique` agents (half of all if not given), joined by a path of the others."""
    whole("barbell", "agents", agents, 4)
    clique = agents // 2 if clique is None else whole("barbell", "clique", clique, 2, agents // 2)
    ends = itertools.chain(range(clique), range(agents - clique, agents))
    cliques = ((i, j) for i, j in itertools.combinations(ends, 2) if (i < clique) == (j < clique))
    return graph_of(
        agents, itertools.chain(cliques, ((i, i + 1) for i in range(clique - 1, agents - clique)))
    )


@Formula
def lollipop(agents: int, clique: int | None = None) -> Graph:
    """A complete graph of `clique` agents (half of all if not given), a path of the others hanging on it."""
    whole("lollipop", "agents", agents, 3)
    clique = (agents + 1) // 2 if clique is None else whole("lollipop", "clique", clique, 2, agents - 1)
    tail = ((i, i + 1) for i in range(clique - 1, agents - 1))
    return graph_of(agents, itertools.chain(itertools.combinations(range(clique), 2), tail))


@Formula
def margulis(agents: int) -> Graph:
    """The expander of Margulis, Gabber and Galil on k² agents, each with at most eight neighbors.

    (x, y) is joined with (x + 2y, y), (x + 2y + 1, y), (x, y + 2x) and (x, y + 2x + 1) mod k.
    """
    sizes("margulis", agents, "k^2", lambda n: math.isqrt(n) ** 2 == n)
    k = math.isqrt(agents)
    return graph_of(
        agents,
        (
            (x * k + y, u % k * k + v % k)
            for x, y in itertools.product(range(k), repeat=2)
            for u, v in ((x + 2 * y, y), (x + 2 * y + 1, y), (x, y + 2 * x), (x, y + 2 * x + 1))
        ),
    )


@Formula
def chordal_cycle(agents: int) -> Graph:
    """An expander on a prime number p of agents: a ring, and every i > 0 joined with its inverse modulo p
    (Lubotzky 1994)."""
    sizes("chordal-cycle", agents, "a prime", is_prime)
    inverses = ((i, pow(i, -1, agents)) for i in range(1, agents))
    return graph_of(agents, itertools.chain(((i, (i + 1) % agents) for i in range(agents)), inverses))


# --- what the families share ---


def graph_of(
    agents: int, edges: Iterable[tuple[int, int]], positions: list[tuple[int, int]] | None = None
) -> Graph:
    """The simple graph of agents 0 … agents−1 with these edges, less self loops and repetitions."""
    arcs = {arc for i, j in edges if i != j for arc in ((i, j), (j, i))}
    tail, head = zip(*arcs, strict=True) if arcs else ((), ())
    return Graph(agents, tail, head, positions=positions)


def whole(family: str, name: str, value: Any, least: int, most: int | None = None) -> int:
    """The value, if it is a whole number in a range; else GraphError with the range and the nearest one."""
    right = isinstance(value, int) and not isinstance(value, bool)
    if right and least <= value and (most is None or value <= most):
        return int(value)
    if most is not None and most < least:
        raise GraphError(
            f'topology "{family}": {name} = {value} is not possible with so few agents; take more'
        )
    range_ = f"from {least} to {most}" if most is not None else f"of at least {least}"
    guess = f" (nearest: {least if value < least else most})" if right else ""
    raise GraphError(f'topology "{family}": {name} = {value!r}; allowed: a whole number {range_}{guess}')


def sizes(family: str, agents: int, form: str, possible: Callable[[int], bool]) -> None:
    """GraphError with the nearest possible sizes, if a family has no graph of this size."""
    if not possible(agents):
        below = next((n for n in range(agents - 1, 0, -1) if possible(n)), None)
        above = next(n for n in itertools.count(agents + 1) if possible(n))
        near = f"{below} and {above} are" if below else f"{above} is"
        raise GraphError(
            f'topology "{family}" has no graph of {agents} agents; allowed: {form}; {near} nearest'
        )


def is_prime(n: int) -> bool:
    return n > 1 and all(n % k for k in range(2, math.isqrt(n) + 1))


def _rectangle(family: str, agents: int, rows: int | None, cols: int | None) -> tuple[int, int]:
    for name, side in (("rows", rows), ("cols", cols)):
        if side is not None:
            whole(family, name, side, 1, agents)
    if rows is None and cols is None:
        rows = next(k for k in range(math.isqrt(agents), 0, -1) if agents % k == 0)
        if rows == 1 and agents > 1:
            line = "ring" if family == "torus" else "path"
            near = [n for n in (agents - 1, agents + 1) if n > 3]
            raise GraphError(
                f'topology "{family}" of {agents} agents would be one row, as {agents} is prime; take '
                f'{" or ".join(map(str, near)) or 4} agents, or say rows = 1, or topology "{line}"'
            )
    rows = rows if rows is not None else agents // (cols or 1)
    cols = cols if cols is not None else agents // rows
    if rows * cols != agents:
        sides = ", ".join(f"{k} x {agents // k}" for k in range(1, math.isqrt(agents) + 1) if agents % k == 0)
        raise GraphError(f'topology "{family}": {rows} x {cols} is not {agents} agents; allowed: {sides}')
    return rows, cols
