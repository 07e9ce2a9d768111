"""One exchange between ranks: the rows of its messages become one message per neighboring rank, and come back as rows.

    header (16 bytes) | rows of the first message that this rank needs | rows of the second | …

The peers on this machine read them in memory (`Shared`); to the others MPI takes them, by persistent requests from one
buffer for all peers (`Staged`), or, where a copy costs more than a request, from where the rows lie (`Direct`). The receiver
checks the header: another version, kind, compressor, width or exchange than its own is an error, never a wrong number.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from decentral.errors import TransportError
from decentral.message import Message, Place, Scattered
from decentral.neighborhood.base import HEADER
from decentral.neighborhood.pieces import Layout, Messages, Peer, Route, marked, move, runs, table, unlike
from decentral.neighborhood.shared_memory import Shared
from decentral.state import Array

if TYPE_CHECKING:
    from decentral.device import Device
    from decentral.neighborhood.mpi import MPINeighborhood

MAGIC, VERSION = 0xDEC1, 2
_HEADER = struct.Struct("<HHIII")  # magic, version, digest of what the exchange holds, round, number of the exchange
assert _HEADER.size == HEADER
NUMBER = slice(HEADER - 4, HEADER)
"""Where a header has the number of its exchange."""
LARGE = 1 << 16
"""Bytes of the rows of an agent and arc from which they are not copied together, but handed out where they arrive."""


class Exchange:
    """One form of exchange, as given by the kinds, compressors and widths of its messages. Made on all ranks at once.

    start(messages, k, number) sends exchange `number` in round k; wait() returns None, or a peer whose header is not the
    expected one, and that header; received(messages) are then the messages that came. Messages on a device are
    complete when they are started; where `copied` says that a route needs them, `copies` are the same on the CPU.
    """

    def __init__(self, hood: MPINeighborhood, messages: Messages):
        row_bytes = [m.row_bytes for m in messages]
        self.device = hood.device
        self.large = self.device is not None or sum(row_bytes) >= LARGE  # the same on all ranks
        self.compressors = [m.compressor for m in messages]  # kept, so that their ids stay theirs
        self.shapes = [(hood.n + hood.g if m.kind == "agents" else hood.m, m.row_bytes) for m in messages]
        self.what = " and ".join(f"{m.kind} rows of {m.row_bytes} B, d = {m.d}, {m.dtype}, {m.compressor}" for m in messages)
        self.digest = zlib.crc32(self.what.encode())
        self.header = b""
        self.pending = False
        self.nbytes = sum(HEADER + sum(len(p.give[m.kind]) * m.row_bytes for m in messages) for p in hood.peers)
        self.routes: list[Route] = []
        self.shared: Shared | None = None
        hood.tag += 1  # on all ranks alike; the routes have different peers
        by_mpi = [(hood.far, hood.calls)]
        if hood.machine is not None:
            rows = [marked(np.concatenate([p.give[m.kind] for p in hood.peers]), len(m.payload)) for m in messages]
            try:
                shared = Shared(hood.machine, hood.rank, hood.near, messages, rows, self.large)
                if hood.near:
                    self.routes.append(shared)
                    self.shared = shared
            except MemoryError:  # the other machines may have room
                by_mpi.append((hood.near, "pairs"))
                hood.transport += f", no room in shared memory for rows of {sum(row_bytes):,} B"
        for peers, calls in by_mpi:
            if self.large and peers:
                self.routes.append(Direct(hood, peers, messages))
            elif not self.large and (peers or calls == "collective"):  # a collective is made by all ranks
                self.routes.append(Staged(hood, peers, messages, calls))
        # rows that stay here, for each message: what they are among its rows, and among those that come back
        own = np.arange(hood.n)
        self.here = [runs(own, own) if m.kind == "agents" else runs(hood.opposite, hood.local) for m in messages]
        if self.device is not None:
            self._keep, self._bring = self._plan(self.device, row_bytes)
        self.copied = self.device is not None and any(route.there is None for route in self.routes)
        pieces = []
        for i, (here, size) in enumerate(zip(self.here, row_bytes, strict=True)):
            pieces += [(len(self.routes) + i, a * size, i, b * size, count * size) for a, b, count in here]
        for source, route in enumerate(self.routes):
            pieces += [(source, at, i, b * row_bytes[i], count * row_bytes[i]) for at, i, b, count in route.pieces]
        self._unpack = table(pieces)

    def start(self, messages: Messages, k: int, number: int, copies: Messages = ()) -> None:
        if self.pending:
            raise TransportError(f"an exchange of {self.what} was started while one like it was not finished")
        self.pending = True
        self.header = _HEADER.pack(MAGIC, VERSION, self.digest, k, number)
        for route in self.routes:
            route.start(copies if copies and route.there is None else messages, self.header)

    def place(self, index: int) -> Place | None:
        """Memory for the next payload of a message, from which it is sent without a copy; None where there is none now."""
        return None if self.pending or self.shared is None else self.shared.place(index)

    def wait(self) -> tuple[Peer, bytes] | None:
        wrong = None
        for route in reversed(self.routes):  # MPI first: it works while we wait in it
            index = route.wait(self.header)
            if index < len(route.peers):
                wrong = route.peers[index], _header_of(route, index)
        self.pending = False
        return wrong

    def received(self, messages: Messages) -> list[Message]:
        """The messages that came back; of a large exchange their rows lie where they arrived, until the next `start`."""
        if self.device is not None:
            return self._on_device(self.device, messages)
        if not self.large:
            rows = [np.empty(shape, np.uint8) for shape in self.shapes]
            move(self._unpack, (*[r.buffer for r in self.routes], *[m.payload for m in messages]), tuple(rows))
            return [m.received(payload) for m, payload in zip(messages, rows, strict=True)]
        blocks = [[(b, m.payload[a : a + n]) for a, b, n in here] for m, here in zip(messages, self.here, strict=True)]
        for route in self.routes:
            for at, i, row, count in route.pieces:
                size = messages[i].row_bytes
                blocks[i].append((row, route.buffer[at : at + count * size].reshape(count, size)))
        return [Scattered(m, where) for m, where in zip(messages, blocks, strict=True)]

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
            for at, i, row, count in route.pieces:
                if not bring or bring[-1][0] is not route or bring[-1][2:4] != [at, i]:
                    bring.append([route, at, at, i, []])
                bring[-1][2] += count * row_bytes[i]  # what arrives side by side moves at once
                bring[-1][4].append((row, count))
        return keep, [(*where, rows(stretches)) for *where, stretches in bring]

    def _on_device(self, device: Device, messages: Messages) -> list[Message]:
        """The messages that came back, put together on the device, to which only the rows of others are brought."""
        payloads = [device.empty(shape, np.uint8) for shape in self.shapes]
        for i, own, to in self._keep:
            payloads[i][to] = messages[i].payload[own]
        for route, begin, end, i, to in self._bring:
            rows = device.give(route.buffer[begin:end]) if route.there is None else route.there[begin:end]
            payloads[i][to] = rows.reshape(-1, messages[i].row_bytes)
        return [m.received(payload) for m, payload in zip(messages, payloads, strict=True)]

    def missing(self) -> list[Peer]:
        """The peers whose message has not come yet, as far as the headers show."""
        number = self.header[NUMBER]
        return [p for r in self.routes for i, p in enumerate(r.peers) if _header_of(r, i)[NUMBER] != number]

    def mismatch(self, found: bytes) -> str:
        """What is wrong with the message that has this header."""
        magic, version, digest, k, number = _HEADER.unpack(found)
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
        for route in self.routes:
            route.free()


def _header_of(route: Route, index: int) -> bytes:
    """The header in the place of a peer: of this exchange if its message has come, else of an earlier one."""
    at = int(route.headers[index])
    return route.buffer[at : at + HEADER].tobytes()


class Arriving(Route):
    """Common to the routes by MPI: where the messages of the peers come to lie."""

    def __init__(self, hood: MPINeighborhood, peers: list[Peer], messages: Messages):
        super().__init__(peers)
        self.comm, self.tag, self.layout = hood.comm, hood.tag, Layout()
        for peer in peers:
            self.layout.begin()
            for i, message in enumerate(messages):
                get, size = peer.get[message.kind], message.row_bytes
                at = self.layout.add(len(get) * size)
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
            self._requests = [hood.adjacent.Neighbor_alltoallv_init(out, into)]
        else:
            parts = list(zip(peers, receive.of(self.buffer), send.of(self._send), strict=True))
            self._requests = [self.comm.Recv_init([b, MPI.BYTE], p.rank, self.tag) for p, b, _ in parts]
            self._requests += [self.comm.Send_init([b, MPI.BYTE], p.rank, self.tag) for p, _, b in parts]

    def start(self, messages: Messages, header: bytes) -> None:
        move(self._pack, (header, *[m.payload for m in messages]), (self._send,))
        if len(self._requests) == 1:
            self._requests[0].Start()
        else:
            MPI.Prequest.Startall(self._requests)

    def wait(self, header: bytes) -> int:
        if len(self._requests) == 1:
            self._requests[0].Wait()
        else:
            MPI.Request.Waitall(self._requests)
        return unlike(self.buffer, self.headers, header)

    def free(self) -> None:
        for request in self._requests:
            request.Free()


class Direct(Arriving):
    """MPI takes the rows from where they lie, also on a device; nothing is staged. Header and messages are sent one by one."""

    def __init__(self, hood: MPINeighborhood, peers: list[Peer], messages: Messages):
        super().__init__(hood, peers, messages)
        if hood.device is not None and hood.buffers_there:
            self.there = hood.device.empty((self.layout.end,), np.uint8)
        self._requests: list[MPI.Request] = []
        self._header = np.zeros(HEADER, np.uint8)
        self._sizes = [[HEADER, *[len(p.get[m.kind]) * m.row_bytes for m in messages]] for p in peers]
        # of each peer and message the (from, bytes) of each stretch of rows
        self._give = [
            [[(a * m.row_bytes, n * m.row_bytes) for a, _, n in runs(p.give[m.kind], np.arange(len(p.give[m.kind])))] for m in messages]
            for p in peers
        ]

    def start(self, messages: Messages, header: bytes) -> None:
        self._header[:] = np.frombuffer(header, np.uint8)
        self._requests = []
        for peer, at, sizes in zip(self.peers, self.layout.starts, self._sizes, strict=True):
            into = self.buffer
            for size in sizes:
                self._requests.append(self.comm.Irecv([into[at : at + size], MPI.BYTE], peer.rank, self.tag))
                at += size
                into = self.buffer if self.there is None else self.there  # what follows the header
        for peer, give in zip(self.peers, self._give, strict=True):
            self._requests.append(self.comm.Isend([self._header, MPI.BYTE], peer.rank, self.tag))
            for message, stretches in zip(messages, give, strict=True):
                self._send(message.payload, stretches, peer.rank)

    def _send(self, payload: Array, stretches: list[tuple[int, int]], rank: int) -> None:
        """Start to send stretches of a payload; what lies together as plain bytes."""
        if len(stretches) == 1:
            at, size = stretches[0]
            self._requests.append(self.comm.Isend([payload.reshape(-1)[at : at + size], MPI.BYTE], rank, self.tag))
            return
        spread = MPI.BYTE.Create_hindexed([size for _, size in stretches], [at for at, _ in stretches]).Commit()
        self._requests.append(self.comm.Isend([payload, 1, spread], rank, self.tag))
        spread.Free()

    def wait(self, header: bytes) -> int:
        MPI.Request.Waitall(self._requests)
        return unlike(self.buffer, self.headers, header)
