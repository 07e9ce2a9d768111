"""Blocks of agents on MPI ranks. The only module that imports mpi4py.

One message per neighboring rank and exchange: a 16-byte header, then for each message of the exchange the packed rows
that this rank needs: an agent's row once however many neighbors live there, an arc's row for the agent at its head.
Buffers and persistent requests are made once per shape of exchange and reused.
"""

from __future__ import annotations

import struct
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from decentral.errors import TransportError
from decentral.message import Message
from decentral.neighborhood.base import HEADER, Neighborhood
from decentral.neighborhood.placement import launched
from decentral.state import Array

if TYPE_CHECKING:
    from decentral.graph import Graph, MixingMatrix

MAGIC = 0xDEC1
_HEADER = struct.Struct("<HHIQ")  # magic, messages in the exchange, round, payload bytes
assert _HEADER.size == HEADER


Rows = Array | slice


def as_slice(rows: Array) -> Rows:
    """Row numbers as a slice where they are consecutive: a view, and no index array, in every round."""
    if len(rows) and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


class Plan:
    """Buffers, requests and row lists for one shape of exchange (the kinds and row sizes of its messages)."""

    def __init__(self, hood: MPINeighborhood, shape: tuple[tuple[str, int], ...]):
        self.sends: list[tuple[Array, list[tuple[Array, Rows]]]] = []  # buffer, (its part, rows that go there)
        self.receives: list[tuple[Array, list[tuple[Array, Rows]]]] = []  # buffer, (its part, rows that come from there)
        self.send_requests: list[MPI.Prequest] = []
        self.receive_requests: list[MPI.Prequest] = []
        for peer in hood.peers:
            for give, buffers, requests in (
                (peer.give, self.sends, self.send_requests),
                (peer.get, self.receives, self.receive_requests),
            ):
                size = HEADER + sum(len(give[kind]) * row_bytes for kind, row_bytes in shape)
                buffer = np.zeros(size, np.uint8)
                parts, offset = [], HEADER
                for kind, row_bytes in shape:
                    rows = give[kind]
                    end = offset + len(rows) * row_bytes
                    parts.append((buffer[offset:end].reshape(len(rows), row_bytes), as_slice(rows)))
                    offset = end
                buffers.append((buffer, parts))
                make = hood.comm.Send_init if buffers is self.sends else hood.comm.Recv_init
                requests.append(make([buffer, MPI.BYTE], peer.rank, tag=len(hood.plans)))
        self.bytes = sum(len(buffer) for buffer, _ in self.sends)

    def free(self) -> None:
        for request in (*self.send_requests, *self.receive_requests):
            request.Free()


class Peer:
    """A neighboring rank: which of our rows it needs and which rows come from it, in one order on both sides."""

    def __init__(self, hood: Neighborhood, rank: int, owner: Array):
        self.rank = rank
        arcs = np.flatnonzero(owner[hood.known[hood.head]] == rank)  # our arcs i→j with j there, by (i, j)
        halo = hood.n + np.flatnonzero(owner[hood.known[hood.n :]] == rank)
        graph = hood.graph
        into = graph.reverse[hood.arcs[arcs]]  # their arcs j→i; they send them sorted by (j, i)
        self.give = {"agents": np.unique(hood.tail[arcs]), "arcs": arcs}
        self.get = {"agents": halo, "arcs": arcs[np.argsort(into)]}
        self.edges = [(int(graph.tail[a]), int(graph.head[a])) for a in into]


class MPINeighborhood(Neighborhood):
    """The agents of this rank, and messages to the ranks that own their neighbors.

    placement : (N,) rank that owns each agent
    timeout : seconds without an arrival after which the waiting rank names whom it waits for and ends the run

    Raises TransportError when the ranks do not agree on graph, placement or seed, or a rank would own no agent.
    COLLECTIVE over comm.
    """

    def __init__(
        self,
        graph: Graph,
        mixing: MixingMatrix,
        placement: Array,
        comm: MPI.Comm | None = None,
        seed: int = 0,
        dtype: Any = np.float64,
        timeout: float = 60.0,
    ):
        comm = MPI.COMM_WORLD if comm is None else comm
        placement = np.asarray(placement, dtype=np.int64)
        idle = sorted(set(range(comm.size)) - set(placement.tolist()))
        if idle:
            raise TransportError(
                f"{graph.n_agents} agents on {comm.size} ranks leave rank {idle[0]} without an agent: "
                f"start at most {graph.n_agents} ranks, or set graph.agents = {comm.size}"
            )
        super().__init__(graph, mixing, np.flatnonzero(placement == comm.rank), seed, dtype)
        self.comm = comm.Dup()  # no tag of ours can meet a tag of the user's
        self.rank, self.ranks, self.timeout, self.placement = comm.rank, comm.size, timeout, placement
        ranks = np.unique(placement[self.known])
        self.peers = [Peer(self, int(r), placement) for r in ranks if r != self.rank]
        here = placement[self.known[self.head]] == self.rank
        self._local = np.flatnonzero(here)  # arcs between two own agents, and their opposites
        self._opposite = np.searchsorted(self.arcs, graph.reverse[self.arcs[self._local]])
        self.plans: dict[tuple[tuple[str, int], ...], Plan] = {}
        self._sent = 0
        self._types: dict[int, Any] = {}
        self._watch = Watchdog(self, timeout)

    def agree(self, digest: str) -> None:
        """Refuse to start unless all ranks hold the same digest of configuration, graph and version. COLLECTIVE."""
        digests = self.comm.allgather(digest)
        odd = [r for r, other in enumerate(digests) if other != digests[0]]
        if odd:
            raise TransportError(
                f"rank {odd[0]} runs another configuration, graph or version than rank 0 "
                f"({digests[odd[0]]} against {digests[0]}): give all ranks the same files and installation"
            )

    def _start(self, messages: tuple[Message, ...]) -> Any:
        shape = tuple((m.kind, m.row_bytes) for m in messages)
        plan = self.plans.get(shape)
        if plan is None:
            plan = self.plans[shape] = Plan(self, shape)
        k = messages[0].round
        MPI.Prequest.Startall(plan.receive_requests)
        for buffer, parts in plan.sends:
            _HEADER.pack_into(buffer.data, 0, MAGIC, len(messages), k, len(buffer) - HEADER)
            for message, (view, rows) in zip(messages, parts, strict=True):
                view[...] = message.payload[rows]
        MPI.Prequest.Startall(plan.send_requests)
        self._sent += plan.bytes
        return plan, messages, k

    def _finish(self, pending: Any) -> list[Array]:
        plan, messages, k = pending
        self._watch.waiting = (time.monotonic(), k)
        for self._watch.peer, request in enumerate(plan.receive_requests):  # the watchdog reads it
            request.Wait()
        self._watch.waiting = None
        for peer, (buffer, _) in zip(self.peers, plan.receives, strict=True):
            magic, count, their_round, size = _HEADER.unpack_from(buffer)
            if (magic, count, their_round, size) != (MAGIC, len(messages), k, len(buffer) - HEADER):
                raise TransportError(
                    f"rank {self.rank} in round {k} received a message of round {their_round} with {count} payloads of "
                    f"{size} bytes from rank {peer.rank}; expected {len(messages)} payloads of {len(buffer) - HEADER} bytes"
                )
        received = []
        for index, message in enumerate(messages):
            rows = self.n + self.g if message.kind == "agents" else self.m
            payload = np.empty((rows, message.row_bytes), np.uint8)
            if message.kind == "agents":
                payload[: self.n] = message.payload
            else:
                payload[self._local] = message.payload[self._opposite]
            for _, parts in plan.receives:
                view, where = parts[index]
                payload[where] = view
            received.append(message.compressor.decode(payload, message.d, message.dtype))
        MPI.Request.Waitall(plan.send_requests)
        return received

    def sum(self, values: Array) -> Array:
        out = np.empty_like(values)
        self.comm.Allreduce(np.ascontiguousarray(values), out, op=MPI.SUM)
        return out

    def max(self, values: Array) -> Array:
        out = np.empty_like(values)
        self.comm.Allreduce(np.ascontiguousarray(values), out, op=MPI.MAX)
        return out

    def collect(self, kind: str, rows: Array, sizes: Array | None = None) -> Array | None:
        rows = np.ascontiguousarray(self.own(rows) if kind == "known" else rows)
        if kind == "arcs":
            ids = self.arcs
        elif kind == "samples":
            if sizes is None:
                raise TransportError("sample rows are collected with the sizes of their agents")
            ids = np.repeat(self.agents, sizes)
        else:
            ids = self.agents
        gathered: list[int] = self.comm.gather(len(ids), root=0) or []
        width = int(np.prod(rows.shape[1:], dtype=np.int64)) * rows.itemsize
        if self.rank:
            self.comm.Gatherv([ids, MPI.INT64_T], None, root=0)
            self.comm.Gatherv([rows, self._row_type(width, len(rows))], None, root=0)
            return None
        all_ids = np.empty(sum(gathered), np.int64)
        self.comm.Gatherv([ids, MPI.INT64_T], [all_ids, gathered], root=0)
        out = np.empty((len(all_ids), *rows.shape[1:]), rows.dtype)
        kind_of_row = self._row_type(width, len(rows))
        self.comm.Gatherv([rows, kind_of_row], [out, gathered, None, kind_of_row], root=0)
        return out[np.argsort(all_ids, kind="stable")]

    def _row_type(self, width: int, count: int) -> Any:
        if width not in self._types:
            self._types[width] = MPI.BYTE.Create_contiguous(width).Commit()  # counts in rows: no 2 GiB limit
        return self._types[width]

    def transport_bytes(self) -> int:
        return self._sent

    def close(self) -> None:
        self._watch.stop()
        for plan in self.plans.values():
            plan.free()
        self.plans.clear()
        self.comm.Free()


class Watchdog(threading.Thread):
    """Explains a hang: past the timeout without an arrival, says who waits for whom, on which arc and in which round."""

    def __init__(self, hood: MPINeighborhood, timeout: float):
        super().__init__(daemon=True, name="decentral-watchdog")
        self.hood, self.timeout = hood, timeout
        self.waiting: tuple[float, int] | None = None  # since when, in which round
        self.peer = 0  # index of the neighboring rank whose message is waited for
        self._over = threading.Event()
        if timeout > 0:
            self.start()

    def run(self) -> None:
        while not self._over.wait(min(1.0, self.timeout / 4)):
            waiting = self.waiting
            if waiting is None or time.monotonic() - waiting[0] < self.timeout:
                continue
            since, k = waiting
            peer = self.hood.peers[self.peer]
            arcs = ", ".join(f"{i}→{j}" for i, j in peer.edges[:4]) + (", …" if len(peer.edges) > 4 else "")
            abort(
                f"decentral: rank {self.hood.rank} has waited {time.monotonic() - since:.0f} s in round {k} for rank "
                f"{peer.rank}: nothing arrived on arc {arcs}. Is that rank alive, and does it run the same rounds? "
                f"The limit is transport.timeout = {self.timeout:g} s"
            )

    def stop(self) -> None:
        self._over.set()


def abort(sentence: str, status: int = 1) -> None:
    """End all ranks with one sentence from this one."""
    print(sentence, file=sys.stderr, flush=True)
    time.sleep(0.2)  # launchers drop what they have not forwarded when a job is aborted
    MPI.COMM_WORLD.Abort(status)


def library() -> str:
    """The MPI library in a line."""
    return MPI.Get_library_version().splitlines()[0].split(",")[0].strip("\x00 ")


def hosts(comm: MPI.Comm | None = None) -> list[str]:
    """Host name of every rank. COLLECTIVE."""
    return (MPI.COMM_WORLD if comm is None else comm).allgather(MPI.Get_processor_name())


def world() -> MPI.Comm:
    """The world, refused where the launcher started several processes but this MPI sees only one.

    Raises TransportError: ``mpirun`` of another MPI than the one mpi4py was built with.
    """
    comm = MPI.COMM_WORLD
    started = launched()
    if comm.size == 1 and started > 1:
        raise TransportError(
            f"the launcher started {started} processes but each sees a world of size 1: mpirun belongs to another MPI than "
            f"mpi4py's ({library()}). Use that library's mpirun, or rebuild: pip install --no-binary=mpi4py --force-reinstall mpi4py"
        )
    return comm
