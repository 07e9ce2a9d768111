"""One exchange between ranks: the rows of its messages become one message per neighboring rank, and come back as rows.

    header (16 bytes) | rows of the first message that this rank needs | rows of the second | …

The peers on this machine read them in memory (`Shared`); to the others MPI takes them, by persistent requests from one
buffer for all peers (`Staged`), or, where a copy costs more than a request, in pieces from where the rows lie (`Direct`). The
receiver checks the header: another version, kind, compressor, width or exchange than its own is an error, never a wrong number.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat
from operator import attrgetter
from sys import getrefcount
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from decentral.errors import TransportError
from decentral.message import Message, Place, Scattered
from decentral.neighborhood import base
from decentral.neighborhood.base import HEADER
from decentral.neighborhood.pieces import (
    Block,
    Layout,
    Messages,
    Peer,
    Route,
    marked,
    move,
    payload_of,
    runs,
    table,
    unlike,
)
from decentral.neighborhood.shared_memory import NAP, Shared
from decentral.state import Array

if TYPE_CHECKING:
    from decentral.compressors.base import Part
    from decentral.device import Device
    from decentral.neighborhood.mpi import MPINeighborhood

MAGIC, VERSION = 0xDEC1, 2
_HEADER = struct.Struct("<HHIII")  # magic, version, digest of what the exchange holds, round, number of the exchange
assert _HEADER.size == HEADER
LARGE = 1 << 16
"""Bytes of the rows of an agent and arc from which they are not copied together, but handed out where they arrive."""
_buffer_of, _uint8 = attrgetter("buffer"), repeat(np.uint8)
MOST = 1 << 30
"""Bytes that one MPI call takes in a stretch: it counts them in 32 bits."""


class Exchange:
    """One form of exchange, as given by the kinds, compressors and widths of its messages. Made on all ranks at once.

    start(messages, k, number) sends exchange `number` in round k; wait() returns None, or a peer whose header is not the
    expected one, and that header; received(messages) are then the messages that came, or are coming; end() when they have
    been read. Messages on a device are complete when they are started; where `copied` says that a route needs them,
    `copies` are the same on the CPU, and where `there`, a route reads them on the device.
    """

    def __init__(self, hood: MPINeighborhood, messages: Messages):
        row_bytes = [m.row_bytes for m in messages]
        self.device = hood.device
        size = sum(row_bytes)  # what follows is the same on all ranks: a message of small rows must fit one request
        self.large = self.device is not None or size >= LARGE or hood.graph.n_arcs * size > MOST
        self.shapes = [(hood.n + hood.g if m.kind == "agents" else hood.m, m.row_bytes) for m in messages]
        rows = [f"{m.kind} rows of {m.row_bytes} B, d = {m.d}, {m.dtype}, {m.compressor}, stream {m.stream}" for m in messages]
        self.what = " and ".join(rows)
        self.digest = zlib.crc32(self.what.encode())
        self.header = b""
        self.pending = False
        self.nbytes = sum(HEADER + sum(len(p.give[m.kind]) * m.row_bytes for m in messages) for p in hood.peers)
        self.routes: list[Route] = []
        self.shared: Shared | None = None
        hood.tag += 1  # on all ranks alike; the routes have different peers
        by_mpi = [(hood.far, hood.calls)]
        if hood.machine is not None:
            own = [marked(np.concatenate([p.give[m.kind] for p in hood.peers]), len(m.payload)) for m in messages]
            try:
                shared = Shared(hood.machine, hood.rank, hood.near, messages, own, self.large)
                if hood.near:
                    self.routes.append(shared)
                    self.shared = shared
            except MemoryError:  # the other machines may have room
                by_mpi.append((hood.near, "pairs"))
                hood.remarks.append(
                    f"/dev/shm had no room for messages of {sum(row_bytes):,} B a row, which went by MPI: give it more, or say "
                    'transport.calls = "pairs"'
                )
        for peers, calls in by_mpi:
            if self.large and peers:
                self.routes.append(Direct(hood, peers, messages))
            elif not self.large and (peers or calls == "collective"):  # a collective is made by all ranks
                self.routes.append(Staged(hood, peers, messages, calls))
        self._order = self.routes[::-1]  # MPI first: it works while what else is to be sent is encoded, and while we wait in it
        self.alone = self.routes == [self.shared]  # then nobody waits in MPI
        # rows that stay here, for each message: what they are among its rows, and among those that come back
        agents = np.arange(hood.n)
        self.here = [runs(agents, agents) if m.kind == "agents" else runs(hood.opposite, hood.local) for m in messages]
        if self.device is not None:
            self._keep, self._bring = self._plan(self.device, row_bytes)
        self.there = any(route.there is not None for route in self.routes)
        self.copied = self.device is not None and any(route.there is None for route in self.routes)
        pieces = []
        for i, (here, size) in enumerate(zip(self.here, row_bytes, strict=True)):
            pieces += [(len(self.routes) + i, a * size, i, b * size, count * size) for a, b, count in here]
        for source, route in enumerate(self.routes):
            pieces += [(source, at, i, b * row_bytes[i], count * row_bytes[i]) for at, i, b, count in route.pieces]
        self._unpack = table(pieces)
        if self.shared is not None:
            self.shared.join(self._unpack)

    def start(self, messages: Messages, k: int, number: int, copies: Messages = ()) -> None:
        self.pending = True
        self.header = _HEADER.pack(MAGIC, VERSION, self.digest_of(messages, k), k, number)
        for route in self._order:
            route.start(copies if copies and route.there is None else messages, self.header)

    def digest_of(self, messages: Messages, k: int) -> int:
        """What the receiver expects of an exchange of this form in round k, and of older messages in it."""
        if all(m.round == k for m in messages):
            return self.digest
        return zlib.crc32(repr([m.round - k for m in messages]).encode(), self.digest)

    def place(self, index: int) -> Place | None:
        """Memory for the next payload of a message, from which it is sent without a copy; None where there is none now."""
        return None if self.pending or self.shared is None else self.shared.place(index)

    def wait(self) -> tuple[Peer, bytes] | None:
        wrong = None
        for route in self._order:
            index = route.wait(self.header)
            if index < len(route.peers):
                at = int(route.headers[index])
                wrong = route.peers[index], route.buffer[at : at + HEADER].tobytes()
        return wrong

    def end(self) -> None:
        """What came has been read: complete what is left to do."""
        for route in self.routes:
            route.end()
        self.pending = False

    def received(self, messages: Messages) -> list[Message]:
        """The messages that came back; of a large exchange their rows lie where they arrive, until the next `start`."""
        if self.device is not None:
            return self._on_device(self.device, messages)
        if not self.large:
            rows = tuple(map(np.empty, self.shapes, _uint8))
            move(self._unpack, (*map(_buffer_of, self.routes), *map(payload_of, messages)), rows)
            return list(map(Message.received, messages, rows))
        return [Scattered(m, self.shapes[i][0], self._blocks(i, m, m.fed), self.alone) for i, m in enumerate(messages)]

    def _blocks(self, index: int, message: Message, fed: bool) -> Iterator[Block]:
        """What comes back of a message, in the order in which it is here."""
        for a, b, count in () if fed else self.here[index]:
            yield b, message.payload[a : a + count], None
        for route in self.routes:
            yield from route.arrivals(index, message.row_bytes)

    def _plan(self, device: Device, row_bytes: list[int]) -> tuple[list[Any], list[Any]]:
        """What `_on_device` does: (message, own rows, where they belong), and (route, from, to, message, where that belongs)."""

        def rows(stretches: list[tuple[int, int]]) -> Any:
            """A slice, or their numbers on the device."""
            if len(stretches) == 1:
                return slice(stretches[0][0], sum(stretches[0]))
            return device.give(np.concatenate([np.arange(a, a + n) for a, n in stretches]))

        keep = [(i, rows([(a, n) for a, _, n in h]), rows([(b, n) for _, b, n in h])) for i, h in enumerate(self.here) if h]
        bring: list[list[Any]] = []
        for route in self.routes:
            for at, i, row, count in route.pieces if not route.cut else ():
                if not bring or bring[-1][0] is not route or bring[-1][2:4] != [at, i]:
                    bring.append([route, at, at, i, []])
                bring[-1][2] += count * row_bytes[i]  # what arrives side by side moves at once
                bring[-1][4].append((row, count))
        return keep, [(*where, rows(stretches)) for *where, stretches in bring]

    def _on_device(self, device: Device, messages: Messages) -> list[Message]:
        """The messages that came back, put together on the device, to which only the rows of others are brought."""
        payloads = [device.empty(shape, np.uint8) for shape in self.shapes]
        for i, own, to in self._keep:
            if not messages[i].fed:
                payloads[i][to] = messages[i].payload[own]
        for route in self.routes:
            for i, payload in enumerate(payloads) if route.cut else ():  # long rows, as they come
                for row, rows, part in route.arrivals(i, messages[i].row_bytes):
                    for a, b in part.where if part else [(0, messages[i].row_bytes)]:
                        payload[row : row + len(rows), a:b] = device.give(rows[:, a:b])
            route.end()
        for route, begin, end, i, to in self._bring:
            rows = device.give(route.buffer[begin:end]) if route.there is None else route.there[begin:end]
            payloads[i][to] = rows.reshape(-1, messages[i].row_bytes)
        return [m.received(payload) for m, payload in zip(messages, payloads, strict=True)]

    def missing(self) -> list[Peer]:
        """The peers of whose message something has not come yet."""
        return [p for route in self.routes for p in route.missing(self.header)]

    @property
    def heard(self) -> float:
        """When something came last, as far as the routes say."""
        return max((route.heard for route in self.routes), default=0.0)

    def mismatch(self, found: bytes) -> str:
        """What is wrong with the message that has this header."""
        magic, version, digest, k, number = _HEADER.unpack(found)
        if magic != MAGIC:
            return "bytes that are no message of decentral"
        if version != VERSION:
            return f"a message of format {version}, and reads format {VERSION}: give all ranks the same version"
        _, _, expected, here, mine = _HEADER.unpack(self.header)
        if digest != expected:
            return f"another message than it expects, which is {self.what}"
        return f"exchange {number} of round {k} in place of exchange {mine} of round {here}: a rank is out of step"

    def free(self) -> None:
        """Release what MPI holds."""
        for route in self.routes:
            route.free()


class Small(Exchange):
    """The same for small rows between ranks of one machine alone, where `swap` does it all in few calls.

    A rank that shares its core with others finds its caches cold, and then every call costs some microseconds.
    """

    shared: Shared
    _received: list[Message] = []
    _kept: list[Any] = []
    """Messages and rows of the last exchange, and the references to these that are ours."""
    _alone = -1

    def swap(self, messages: Messages, number: int) -> list[Message] | None:
        """Send exchange `number`; the messages that came, or None where one is late or another than expected: then `wait`."""
        k, post = messages[0].round, self.shared.post
        digest = self.digest if len(messages) == 1 else self.digest_of(messages, k)
        self.header = header = _HEADER.pack(MAGIC, VERSION, digest, k, number)
        payloads = tuple(map(payload_of, messages))
        post.send(payloads, header)
        received = self._received
        any(map(Message.reuse, received, messages))  # a loop would keep a reference to the last one
        if sum(map(getrefcount, self._kept)) != self._alone:  # what they held last is still in use
            received = self._renew(messages)
        return received if post.get(NAP, payloads, self._rows) else None

    def _renew(self, messages: Messages) -> list[Message]:
        """New memory for what comes, which the next exchanges use again unless somebody keeps it."""
        self._rows = tuple(map(np.empty, self.shapes, _uint8))
        self._received = list(map(Message.received, messages, self._rows))
        self._kept = [*self._received, *self._rows]
        self._alone = sum(map(getrefcount, self._kept))
        return self._received


def exchange_of(hood: MPINeighborhood, messages: Messages) -> Exchange:
    """The exchange of messages of this form. COLLECTIVE."""
    made = Exchange(hood, messages)
    if made.alone and not made.large:
        made.__class__ = Small
    return made


class Arriving(Route):
    """Common to the routes by MPI: where the messages of the peers come to lie."""

    def __init__(self, hood: MPINeighborhood, peers: list[Peer], messages: Messages):
        super().__init__(peers)
        self.comm, self.tag, self.layout = hood.comm, hood.tag, Layout()
        self.starts: list[list[int]] = [[] for _ in peers]  # of each peer: where the rows of each message begin
        for peer, starts in zip(peers, self.starts, strict=True):
            self.layout.begin()
            for i, message in enumerate(messages):
                get, size = peer.get[message.kind], message.row_bytes
                at = self.layout.add(len(get) * size)
                starts.append(at)
                self.pieces += [(at + a * size, i, b, count) for a, b, count in runs(np.arange(len(get)), get)]
        self.buffer = np.zeros(self.layout.end, np.uint8)
        self.headers = np.array(self.layout.starts, np.int64)


class Staged(Arriving):
    """Rows are copied into one buffer for all peers; the requests are persistent.

    calls : "collective", one persistent neighborhood collective, or "pairs", a persistent send and receive per peer
    Raises NotImplementedError where the MPI library has no such calls.
    """

    def __init__(self, hood: MPINeighborhood, peers: list[Peer], messages: Messages, calls: str):
        super().__init__(hood, peers, messages)
        pack, send = [], Layout()
        for peer in peers:
            pack.append((0, 0, 0, send.begin(), HEADER))
            for i, message in enumerate(messages):
                give, size = peer.give[message.kind], message.row_bytes
                at = send.add(len(give) * size)
                pack += [(1 + i, a * size, 0, at + b * size, count * size) for a, b, count in runs(give, np.arange(len(give)))]
        self._pack, self._send, receive = table(pack), np.zeros(send.end, np.uint8), self.layout
        if calls == "collective":
            out, into = [self._send, send.sizes, send.starts, MPI.BYTE], [self.buffer, receive.sizes, receive.starts, MPI.BYTE]
            self._requests, self._statuses = [hood.adjacent.Neighbor_alltoallv_init(out, into)], []  # one that has no status
        else:
            parts = list(zip(peers, receive.of(self.buffer), send.of(self._send), strict=True))
            self._requests = [self.comm.Recv_init([b, MPI.BYTE], p.rank, self.tag) for p, b, _ in parts]
            self._requests += [self.comm.Send_init([b, MPI.BYTE], p.rank, self.tag) for p, _, b in parts]
            self._statuses = [MPI.Status() for _ in self._requests]

    def start(self, messages: Messages, header: bytes) -> None:
        move(self._pack, (header, *[m.payload for m in messages]), (self._send,))
        if self._statuses:
            MPI.Prequest.Startall(self._requests)
        else:
            self._requests[0].Start()

    def wait(self, header: bytes) -> int:
        if self._statuses:
            MPI.Request.Waitall(self._requests, self._statuses)
            for peer, size, status in zip(self.peers, self.layout.sizes, self._statuses, strict=False):
                if status.Get_count(MPI.BYTE) != size:
                    raise short(peer.rank, status.Get_count(MPI.BYTE), size)
        else:
            self._requests[0].Wait()
        return unlike(self.buffer, self.headers, header)

    def free(self) -> None:
        for request in self._requests:
            request.Free()


@dataclass(frozen=True)
class Piece:
    """What one request of `Direct` sends or receives: whole rows of a message, or a part of one row.

    rank, message : the peer, and the number of the message
    last, part : its last row on the side of the sender, and the number of the part in that row
    where : (from, to) of its stretches of bytes;  kind : the datatype that gathers them, None where there is one
    blocks : on the side of the receiver, what arrives with it
    """

    rank: int
    message: int
    last: int
    part: int
    where: list[tuple[int, int]]
    blocks: list[Block]
    kind: MPI.Datatype | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if len(self.where) > 1:
            kind = MPI.BYTE.Create_hindexed([b - a for a, b in self.where], [a for a, _ in self.where])
            object.__setattr__(self, "kind", kind.Commit())

    @property
    def nbytes(self) -> int:
        """Bytes of it."""
        return sum(b - a for a, b in self.where)

    def of(self, buffer: Array) -> list[Any]:
        """What mpi4py takes."""
        return [buffer, 1, self.kind] if self.kind else [buffer.reshape(-1)[slice(*self.where[0])], MPI.BYTE]


class Direct(Arriving):
    """MPI takes rows from where they lie, also on a device, in pieces: each leaves when it is encoded, and is read when it is here.

    A piece is a part of a row, as its compressor cuts long ones, or some whole rows. Header and pieces are sent one by one.
    """

    def __init__(self, hood: MPINeighborhood, peers: list[Peer], messages: Messages):
        super().__init__(hood, peers, messages)
        if hood.device is not None and hood.buffers_there:
            self.there = hood.device.empty((self.layout.end,), np.uint8)
        self._gives: list[Piece] = []
        self._gets: list[Piece] = []
        for i, message in enumerate(messages):
            size = message.row_bytes
            parts = message.compressor.cut(message.d, message.dtype, base.PIECE) if self.there is None else []
            self.cut = self.cut or bool(parts)
            for peer, starts in zip(peers, self.starts, strict=True):
                give, get = peer.give[message.kind], peer.get[message.kind]
                for rows, number, part in _pieces(len(give), size, parts):
                    stretches = [(a, n) for a, _, n in runs(give[rows], np.arange(len(give[rows])))]
                    self._gives.append(Piece(peer.rank, i, int(give[rows][-1]), number, _bytes(0, size, stretches, part), []))
                for rows, number, part in _pieces(len(get), size, parts):
                    at, count = starts[i] + rows.start * size, len(get[rows])
                    arriving = self.buffer[at : at + count * size].reshape(count, size)
                    blocks = [(b, arriving[a : a + n], part) for a, b, n in runs(np.arange(count), get[rows])]
                    self._gets.append(Piece(peer.rank, i, rows.stop - 1, number, _bytes(at, size, [(0, count)], part), blocks))
        self._gives.sort(key=lambda piece: (piece.message, piece.last, piece.part))  # in the order in which they are encoded
        # of each message: pieces that come, that have not come yet, and that wait to be read
        self._expected: list[int] = np.bincount([p.message for p in self._gets], minlength=len(messages)).tolist()
        self._left: list[int] = []
        self._here: list[list[Piece]] = []
        self._held: dict[int, list[Piece]] = {}  # parts that wait for the first of their row, by its number
        self._header = np.zeros(HEADER, np.uint8)
        self._headers: list[MPI.Request] = []
        self._receives: list[MPI.Request] = []
        self._sends: list[MPI.Request] = []

    def start(self, messages: Messages, header: bytes) -> None:
        self._header[:] = np.frombuffer(header, np.uint8)
        self._left = list(self._expected)
        self._here, self._held = [[] for _ in messages], {}
        comm, tag, into = self.comm, self.tag, self.buffer if self.there is None else self.there
        heads = zip(self.peers, self.headers.tolist(), strict=True)
        self._headers = [comm.Irecv([self.buffer[at : at + HEADER], MPI.BYTE], peer.rank, tag) for peer, at in heads]
        self._receives = [comm.Irecv(piece.of(into), piece.rank, tag) for piece in self._gets]
        self._sends = [comm.Isend([self._header, MPI.BYTE], peer.rank, tag) for peer in self.peers]
        for piece in self._gives:
            payload = messages[piece.message].make(piece.last, piece.part)
            self._sends.append(comm.Isend(piece.of(payload), piece.rank, tag))
            comm.Iprobe()  # lets MPI move what is on its way
        for message in messages:
            message.make()  # also the rows that nobody elsewhere needs: what is read first may move the reference of the next

    def wait(self, header: bytes) -> int:
        MPI.Request.Waitall(self._headers)
        return unlike(self.buffer, self.headers, header)

    def arrivals(self, index: int, size: int) -> Iterator[Block]:
        here = self._here[index]
        while here or self._left[index]:
            if not here:
                statuses: list[MPI.Status] = []
                for number, status in zip(MPI.Request.Waitsome(self._receives, statuses) or (), statuses, strict=False):
                    if status.Get_elements(MPI.BYTE) != self._gets[number].nbytes:
                        raise short(self._gets[number].rank, status.Get_elements(MPI.BYTE), self._gets[number].nbytes)
                    piece, first = self._gets[number], number - self._gets[number].part
                    ready = self._here[piece.message]
                    if first != number and self._receives[first]:  # it may need the scale, which comes with the first part
                        ready = self._held.setdefault(first, [])
                    ready += [piece, *self._held.pop(number, [])]
                    self._left[piece.message] -= 1
            while here:
                self.heard = time.monotonic()  # also while what came is read
                yield from here.pop(0).blocks

    def missing(self, header: bytes) -> list[Peer]:
        late = {piece.rank for piece, request in zip(self._gets, self._receives, strict=False) if request}
        return [p for p in self.peers if p.rank in late] or super().missing(header)

    def end(self) -> None:
        MPI.Request.Waitall(self._receives)
        while MPI.Request.Waitsome(self._sends):
            self.heard = time.monotonic()

    def free(self) -> None:
        for piece in (*self._gives, *self._gets):
            if piece.kind:
                piece.kind.Free()


def short(rank: int, found: int, expected: int) -> TransportError:
    """The error for a message that was cut."""
    return TransportError(f"rank {rank} sent {found} bytes in place of {expected}: do all ranks run the same version?")


def _pieces(count: int, size: int, parts: list[Part]) -> Iterator[tuple[slice, int, Part | None]]:
    """Of `count` rows of `size` bytes that one rank sends another: (which rows, number of the part in its row, the part)."""
    height = 1 if parts else max(1, base.PIECE // max(1, size))
    for a in range(0, count if size else 0, height):
        for number, part in enumerate(parts or [None]):
            yield slice(a, min(a + height, count)), number, part


def _bytes(at: int, size: int, rows: list[tuple[int, int]], part: Part | None) -> list[tuple[int, int]]:
    """(from, to) of the bytes of stretches of rows (first, count) that begin at `at`, or of a part of one row."""
    stretches = [(a * size, (a + n) * size) for a, n in rows]
    if part is not None:
        stretches = [(stretches[0][0] + a, stretches[0][0] + b) for a, b in part.where]
    return [(at + c, at + min(c + MOST, b)) for a, b in stretches for c in range(a, b, MOST)]
