"""Which rows go to a neighboring rank, which come from it, by which route, and the bytes that are copied for that."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import numpy as np

from decentral import kernels
from decentral.compressors.base import Part
from decentral.graph import Graph
from decentral.message import Message
from decentral.neighborhood.base import HEADER, Neighborhood
from decentral.state import Array

Messages = tuple[Message, ...]
Block = tuple[int, Array, Part | None]
"""A row of ours, the payload of the rows from there on, and which part of them it is; None: all of them."""
NUMBER = slice(HEADER - 4, HEADER)
"""Where a header has the number of its exchange."""
payload_of = attrgetter("payload")
ALIGN = 64
"""The part of a rank begins at a multiple of this in a buffer, in bytes."""


class Peer:
    """A neighboring rank: which of our rows it needs and which rows come from it, in one order on both sides.

    give, get  own rows that it needs, and rows of ours that it fills: known rows of agents, arc rows
    there      where the rows of `get` are among all rows that leave that rank;  leaves: how many these are
    edges      the arcs into us
    """

    def __init__(self, hood: Neighborhood, rank: int, owner: Array):
        self.rank = rank
        arcs = np.flatnonzero(owner[hood.known[hood.head]] == rank)  # our arcs i→j with j there, by (i, j)
        halo = hood.n + np.flatnonzero(owner[hood.known[hood.n :]] == rank)
        graph = hood.graph
        into = graph.reverse[hood.arcs[arcs]]  # their arcs j→i; they send them sorted by (j, i)
        self.give = {"agents": marked(hood.tail[arcs], hood.n), "arcs": arcs}
        self.get = {"agents": halo, "arcs": arcs[np.argsort(into)]}
        out = leaving(graph, rank, owner)
        self.there = {"agents": np.searchsorted(out["agents"], hood.known[halo]), "arcs": np.searchsorted(out["arcs"], np.sort(into))}
        self.leaves = {kind: len(ids) for kind, ids in out.items()}
        self.edges = [(int(graph.tail[a]), int(graph.head[a])) for a in into]


def leaving(graph: Graph, rank: int, owner: Array) -> dict[str, Array]:
    """Ids of the agents of a rank that have neighbors on other ranks, and of the arcs that lead there; sorted."""
    own = np.flatnonzero(owner == rank)
    counts = graph.ptr[own + 1] - graph.ptr[own]
    arcs = np.arange(counts.sum()) + np.repeat(graph.ptr[own] - np.cumsum(counts) + counts, counts)
    arcs = arcs[owner[graph.head[arcs]] != rank]
    return {"agents": marked(graph.tail[arcs], graph.n_agents), "arcs": arcs}


def marked(ids: Array, count: int) -> Array:
    """The different ones of ids below `count`, sorted."""
    found = np.zeros(count, bool)
    found[ids] = True
    return np.flatnonzero(found)


def runs(rows: Array, others: Array) -> list[tuple[int, int, int]]:
    """(row, other row, count) of the stretches in which both go up by one."""
    breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(others) != 1)) + 1
    starts = [0, *breaks.tolist()] if len(rows) else []
    ends = [*breaks.tolist(), len(rows)]
    return [(int(rows[a]), int(others[a]), b - a) for a, b in zip(starts, ends, strict=False)]


class Route:
    """How the rows of one form of exchange reach some of the peers.

    buffer   uint8, where their messages lie when `wait` returns, until the next `start`
    there    the same on a device: where their rows lie in place of `buffer`, which then has the headers alone; else None
    headers  (peers,) int64, where in it their headers are
    pieces   (from, message, row, count): the rows of message number `message` there, and where they belong
    cut      does something come in parts of rows
    heard    when something came last, in seconds of `time.monotonic`; 0 where nobody says
    """

    cut = False
    heard = 0.0
    buffer: Array

    def __init__(self, peers: list[Peer]):
        self.peers = peers
        self.there: Array | None = None
        self.headers = np.empty(0, np.int64)
        self.pieces: list[tuple[int, int, int, int]] = []

    def start(self, messages: Messages, header: bytes) -> None:
        """Send our rows and this header to each peer."""
        raise NotImplementedError

    def wait(self, header: bytes) -> int:
        """When the headers of all peers are here: the first peer whose header is another, or the number of peers."""
        raise NotImplementedError

    def arrivals(self, index: int, size: int) -> Iterator[Block]:
        """What came of message number `index`, in rows of `size` bytes, when it is here; all of it after the last."""
        for at, i, row, count in self.pieces:
            if i == index:
                yield row, self.buffer[at : at + count * size].reshape(count, size), None

    def missing(self, header: bytes) -> list[Peer]:
        """The peers of whose message in the exchange with this header something has not come yet, as far as can be seen."""
        found = zip(self.peers, self.headers.tolist(), strict=True)
        return [p for p, at in found if self.buffer[at : at + HEADER].tobytes()[NUMBER] != header[NUMBER]]

    def end(self) -> None:
        """Wait until all has come and ours has left."""

    def free(self) -> None:
        """Release what MPI holds."""


class Layout:
    """Where the parts of the peers lie in a buffer, one after the other: header, then rows."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.sizes: list[int] = []
        self.end = 0

    def begin(self) -> int:
        """The place of the header of the next peer."""
        self.starts.append(-(-self.end // ALIGN) * ALIGN)
        self.sizes.append(0)
        return self.add(HEADER)

    def add(self, nbytes: int) -> int:
        """The place of the next bytes of this peer."""
        at = self.starts[-1] + self.sizes[-1]
        self.sizes[-1] += nbytes
        self.end = at + nbytes
        return at

    def of(self, buffer: Array) -> list[Array]:
        """The part of each peer."""
        return [buffer[a : a + size] for a, size in zip(self.starts, self.sizes, strict=True)]


def table(pieces: list[tuple[int, int, int, int, int]]) -> Array:
    """What `move` reads of pieces (source, from, target, to, bytes): (pieces, 5) int64."""
    return np.array(pieces, np.int64).reshape(-1, 5)


def move(pieces: Array, sources: tuple[Any, ...], targets: tuple[Array, ...]) -> None:
    """Copy the pieces of a `table`; offsets in bytes."""
    if kernels.wire is not None:
        kernels.wire.move(pieces, sources, targets)
        return
    flat = [memoryview(s).cast("B") for s in sources]
    into = [t.reshape(-1).view(np.uint8) for t in targets]
    for source, at, target, to, size in pieces.tolist():
        into[target][to : to + size] = flat[source][at : at + size]


def unlike(buffer: Array, offsets: Array, header: bytes) -> int:
    """The first index of the offsets (peers,) int64 at which the buffer does not hold the header; their number where none is."""
    if kernels.wire is not None:
        found: int = kernels.wire.unlike(buffer, offsets, header)
        return found
    odd = (i for i, at in enumerate(offsets.tolist()) if buffer[at : at + HEADER].tobytes() != header)
    return next(odd, len(offsets))
