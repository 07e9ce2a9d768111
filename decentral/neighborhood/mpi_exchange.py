"""One exchange over MPI: the rows of its messages become one message per neighboring rank, and come back as rows.

    header (16 bytes) | rows of the first message that this rank needs | rows of the second | …

Small exchanges are `Staged`: one buffer for all peers and persistent requests, made once per form of exchange. In large
ones, where a copy costs more than a request, MPI reads and writes the rows where they lie: `Direct`. The receiver
checks the header: another version, kind, compressor, width or exchange than its own is an error, never a wrong number.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from decentral import kernels
from decentral.message import Message
from decentral.neighborhood.base import HEADER, Neighborhood
from decentral.state import Array

if TYPE_CHECKING:
    from decentral.neighborhood.mpi import MPINeighborhood

MAGIC, VERSION = 0xDEC1, 2
_HEADER = struct.Struct("<HHIII")  # magic, version, digest of what the exchange holds, round, number of the exchange
assert _HEADER.size == HEADER
NUMBER = slice(HEADER - 4, HEADER)
"""Where a header has the number of its exchange."""
ALIGN = 64
"""The part of a peer begins at a multiple of this in a staging buffer, in bytes."""
DIRECT = 1 << 16
"""Bytes of the rows of an agent and arc from which an exchange is direct."""


class Peer:
    """A neighboring rank: which of our rows it needs and which rows come from it, in one order on both sides."""

    def __init__(self, hood: Neighborhood, rank: int, owner: Array):
        self.rank = rank
        arcs = np.flatnonzero(owner[hood.known[hood.head]] == rank)  # our arcs i→j with j there, by (i, j)
        halo = hood.n + np.flatnonzero(owner[hood.known[hood.n :]] == rank)
        needed = np.zeros(hood.n, bool)
        needed[hood.tail[arcs]] = True
        graph = hood.graph
        into = graph.reverse[hood.arcs[arcs]]  # their arcs j→i; they send them sorted by (j, i)
        self.give = {"agents": np.flatnonzero(needed), "arcs": arcs}
        self.get = {"agents": halo, "arcs": arcs[np.argsort(into)]}
        self.edges = [(int(graph.tail[a]), int(graph.head[a])) for a in into]


def runs(rows: Array, others: Array) -> list[tuple[int, int, int]]:
    """(row, other row, count) of the stretches in which both go up by one."""
    breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(others) != 1)) + 1
    starts = [0, *breaks.tolist()] if len(rows) else []
    ends = [*breaks.tolist(), len(rows)]
    return [(int(rows[a]), int(others[a]), b - a) for a, b in zip(starts, ends, strict=False)]


class Exchange:
    """One form of exchange, as given by the kinds, compressors and widths of its messages.

    start(messages, k, number) sends exchange `number` in round k; wait() returns the indices of the peers whose header is
    not the expected one; rows(messages) are then the payload rows that came, known or arc rows.
    """

    def __init__(self, hood: MPINeighborhood, messages: tuple[Message, ...]):
        self.peers = hood.peers
        self.compressors = [m.compressor for m in messages]  # kept, so that their ids stay theirs
        self.shapes = [(hood.n + hood.g if m.kind == "agents" else hood.m, m.row_bytes) for m in messages]
        self.what = " and ".join(f"{m.kind} rows of {m.row_bytes} B, d = {m.d}, {m.dtype}, {m.compressor}" for m in messages)
        self.digest = zlib.crc32(self.what.encode())
        self.header = b""
        self.nbytes = sum(HEADER + sum(len(p.give[m.kind]) * m.row_bytes for m in messages) for p in self.peers)
        own = np.arange(hood.n)
        # rows that stay here, for each message: what they are among its rows, and among those that come back
        self.here = [runs(own, own) if m.kind == "agents" else runs(hood.opposite, hood.local) for m in messages]

    def expect(self, k: int, number: int) -> bytes:
        """The header of an exchange."""
        self.header = _HEADER.pack(MAGIC, VERSION, self.digest, k, number)
        return self.header

    def start(self, messages: tuple[Message, ...], k: int, number: int) -> None:
        raise NotImplementedError

    def wait(self) -> list[int]:
        raise NotImplementedError

    def rows(self, messages: tuple[Message, ...]) -> list[Array]:
        raise NotImplementedError

    def header_of(self, index: int) -> bytes:
        """The header in the place of a peer: of this exchange if its message has come, else of an earlier one."""
        raise NotImplementedError

    def missing(self) -> list[int]:
        """Indices of the peers whose message has not come yet, as far as the headers show."""
        return [i for i in range(len(self.peers)) if self.header_of(i)[NUMBER] != self.header[NUMBER]]

    def mismatch(self, index: int) -> str:
        """What is wrong with the message of a peer."""
        magic, version, digest, k, number = _HEADER.unpack(self.header_of(index))
        if magic != MAGIC:
            return "bytes that are no message of decentral"
        if version != VERSION:
            return f"a message of format {version}, and reads format {VERSION}: give all ranks the same version"
        if digest != self.digest:
            return f"another message than it expects, which is {self.what}"
        *_, here, mine = _HEADER.unpack(self.header)
        return f"exchange {number} of round {k} in place of exchange {mine} of round {here}: a rank is out of step"

    def free(self) -> None:
        """Release what MPI holds."""


class Staged(Exchange):
    """Rows are copied into one buffer for all peers, and out of another; the requests are persistent.

    calls : "collective", one persistent neighborhood collective, or "pairs", a persistent send and receive per peer
    Raises NotImplementedError where the MPI library has no such calls.
    """

    def __init__(self, hood: MPINeighborhood, messages: tuple[Message, ...], calls: str):
        super().__init__(hood, messages)
        pack, unpack = [], []  # of pieces: (source, from, target, to, bytes)
        for i, (message, here) in enumerate(zip(messages, self.here, strict=True)):
            size = message.row_bytes
            unpack += [(1 + i, a * size, i, b * size, count * size) for a, b, count in here]
        send, receive = _Layout(), _Layout()
        for peer in self.peers:
            pack.append((0, 0, 0, send.begin(), HEADER))
            receive.begin()
            for i, message in enumerate(messages):
                size = message.row_bytes
                give, get = peer.give[message.kind], peer.get[message.kind]
                at = send.add(len(give) * size)
                pack += [(1 + i, a * size, 0, at + b * size, count * size) for a, b, count in runs(give, np.arange(len(give)))]
                at = receive.add(len(get) * size)
                unpack += [(0, at + a * size, i, b * size, count * size) for a, b, count in runs(np.arange(len(get)), get)]
        self._pack, self._unpack = (np.array(t, np.int64).reshape(-1, 5) for t in (pack, unpack))
        self._send, self._receive = np.zeros(send.end, np.uint8), np.zeros(receive.end, np.uint8)
        self._headers = np.array(receive.starts, np.int64)
        if calls == "collective":
            out, into = [self._send, send.sizes, send.starts, MPI.BYTE], [self._receive, receive.sizes, receive.starts, MPI.BYTE]
            self._requests = [hood.adjacent.Neighbor_alltoallv_init(out, into)]
        else:
            tag, ranks = len(hood.exchanges), [peer.rank for peer in self.peers]
            self._requests = [hood.comm.Recv_init([b, MPI.BYTE], r, tag) for b, r in zip(receive.of(self._receive), ranks, strict=True)]
            self._requests += [hood.comm.Send_init([b, MPI.BYTE], r, tag) for b, r in zip(send.of(self._send), ranks, strict=True)]

    def start(self, messages: tuple[Message, ...], k: int, number: int) -> None:
        move(self._pack, (self.expect(k, number), *[m.payload for m in messages]), (self._send,))
        if len(self._requests) == 1:
            self._requests[0].Start()
        else:
            MPI.Prequest.Startall(self._requests)

    def wait(self) -> list[int]:
        if len(self._requests) == 1:
            self._requests[0].Wait()
        else:
            MPI.Request.Waitall(self._requests)
        return unlike(self._receive, self._headers, self.header)

    def rows(self, messages: tuple[Message, ...]) -> list[Array]:
        received = [np.empty(shape, np.uint8) for shape in self.shapes]
        move(self._unpack, (self._receive, *[m.payload for m in messages]), tuple(received))
        return received

    def header_of(self, index: int) -> bytes:
        at = int(self._headers[index])
        return self._receive[at : at + HEADER].tobytes()

    def free(self) -> None:
        for request in self._requests:
            request.Free()


class Direct(Exchange):
    """MPI takes rows from the payloads and puts them into the arrays that are handed out; nothing is staged."""

    def __init__(self, hood: MPINeighborhood, messages: tuple[Message, ...]):
        super().__init__(hood, messages)
        self._comm, self._tag = hood.comm, len(hood.exchanges)
        self._headers = np.zeros((len(self.peers), HEADER), np.uint8)
        self._requests: list[MPI.Request] = []
        self._received: list[Array] = []
        self._sent = np.zeros(HEADER, np.uint8)

        def stretches(rows: dict[str, Array]) -> list[list[tuple[int, int]]]:
            """(from, bytes) of each stretch of rows, for each message."""
            found = []
            for m in messages:
                of, size = rows[m.kind], m.row_bytes
                found.append([(a * size, count * size) for a, _, count in runs(of, np.arange(len(of)))])
            return found

        self._give, self._get = [stretches(p.give) for p in self.peers], [stretches(p.get) for p in self.peers]

    def start(self, messages: tuple[Message, ...], k: int, number: int) -> None:
        self._sent[:] = np.frombuffer(self.expect(k, number), np.uint8)
        self._received = [np.empty(shape, np.uint8) for shape in self.shapes]
        self._requests = []
        for peer, header, get in zip(self.peers, self._headers, self._get, strict=True):
            self._post(self._comm.Irecv, peer.rank, header, self._received, get)
        payloads = [m.payload for m in messages]
        for peer, give in zip(self.peers, self._give, strict=True):
            self._post(self._comm.Isend, peer.rank, self._sent, payloads, give)
        for message, received, here in zip(messages, self._received, self.here, strict=True):
            for a, b, count in here:  # while the rest travels
                received[b : b + count] = message.payload[a : a + count]

    def _post(self, call: Any, rank: int, header: Array, arrays: list[Array], stretches: list[list[tuple[int, int]]]) -> None:
        """Start to send or to receive a header, then the rows of each message; rows that are neighbors in memory as such."""
        self._requests.append(call([header, MPI.BYTE], rank, self._tag))
        for array, parts in zip(arrays, stretches, strict=True):
            if len(parts) == 1:
                at, size = parts[0]
                self._requests.append(call([array.reshape(-1)[at : at + size], MPI.BYTE], rank, self._tag))
                continue
            spread = MPI.BYTE.Create_hindexed([size for _, size in parts], [at for at, _ in parts]).Commit()
            self._requests.append(call([array, 1, spread], rank, self._tag))
            spread.Free()

    def wait(self) -> list[int]:
        MPI.Request.Waitall(self._requests)
        return [i for i in range(len(self.peers)) if self.header_of(i) != self.header]

    def rows(self, messages: tuple[Message, ...]) -> list[Array]:
        received, self._received = self._received, []
        return received

    def header_of(self, index: int) -> bytes:
        return self._headers[index].tobytes()


class _Layout:
    """Where the parts of the peers lie in a staging buffer."""

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


def move(table: Array, sources: tuple[Any, ...], targets: tuple[Array, ...]) -> None:
    """Copy pieces: rows of the table (pieces, 5) int64 are source, from, target, to, bytes."""
    if kernels.wire is not None:
        kernels.wire.move(table, sources, targets)
        return
    flat = [memoryview(s).cast("B") for s in sources]
    into = [t.reshape(-1).view(np.uint8) for t in targets]
    for source, at, target, to, size in table.tolist():
        into[target][to : to + size] = flat[source][at : at + size]


def unlike(buffer: Array, offsets: Array, header: bytes) -> list[int]:
    """Indices of the offsets (peers,) int64 at which the buffer does not hold the header."""
    if kernels.wire is not None:
        found: list[int] = kernels.wire.unlike(buffer, offsets, header)
        return found
    return [i for i, at in enumerate(offsets.tolist()) if buffer[at : at + HEADER].tobytes() != header]
