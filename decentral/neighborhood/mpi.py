"""Blocks of agents on MPI ranks. With mpi_exchange, and bench/exchange beside them, all that imports mpi4py.

One message per neighboring rank and exchange holds the packed rows that this rank needs: an agent's row once however many
neighbors live there, an arc's row for the agent at its head. How they get there is in `mpi_exchange`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

with warnings.catch_warnings():  # of a launcher that belongs to another MPI: `world` says so in one sentence
    warnings.filterwarnings("ignore", "suspicious MPI", RuntimeWarning)
    from mpi4py import MPI

from decentral.compressors import Identity
from decentral.errors import TransportError
from decentral.message import Deferred, Message, Place
from decentral.neighborhood import base, mpi_exchange
from decentral.neighborhood.base import Form, Neighborhood, form_of
from decentral.neighborhood.mpi_exchange import Exchange, Small, exchange_of
from decentral.neighborhood.pieces import Peer
from decentral.neighborhood.placement import launched
from decentral.neighborhood.shared_memory import Machine
from decentral.state import Array

if TYPE_CHECKING:
    from decentral.compressors import Compressor
    from decentral.compressors.base import Part
    from decentral.device import Copy, Device
    from decentral.graph import Graph, MixingMatrix

CALLS = ("auto", "collective", "pairs")
SLOW = 5e-3
"""Seconds of a small exchange or of a maximum over all ranks from which something is wrong: waiting ranks hold the cores of others."""


_abandoned: list[Exchange] = []
"""Of neighborhoods that failed: MPI may still write to their memory."""


class MPINeighborhood(Neighborhood):
    """The agents of this rank, and messages to the ranks that own their neighbors.

    placement : (N,) rank that owns each agent
    timeout : seconds without an arrival after which the waiting rank names whom it waits for and ends the run
    calls : "auto", shared memory to the ranks on this machine, and to the others the faster, measured here, of these calls
        of MPI; or one of them for all: "collective", one persistent neighborhood collective (for small messages),
        "pairs", a persistent send and receive per peer
    machines : (ranks,) as if only ranks with the same number shared memory
    device_buffers : does MPI take rows where they lie on a device: "yes", "no" (they go by way of pinned memory), or "auto",
        where the library says that it can; one that cannot ends in a segmentation fault
    latency : seconds of an exchange of 1 KiB, measured here

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
        calls: str = "auto",
        machines: Array | None = None,
        device_buffers: str = "auto",
    ):
        comm = MPI.COMM_WORLD if comm is None else comm
        placement = np.asarray(placement, dtype=np.int64)
        _agree(comm, graph, placement, mixing, seed, dtype)
        idle = sorted(set(range(comm.size)) - set(placement.tolist()))
        if idle:
            raise TransportError(
                f"{graph.n_agents} agents on {comm.size} ranks leave rank {idle[0]} without an agent: "
                f"start at most {graph.n_agents} ranks, or set graph.agents = {comm.size}"
            )
        super().__init__(graph, mixing, np.flatnonzero(placement == comm.rank), seed, dtype)
        self.transport = ""
        self._device_buffers, self.buffers_there = device_buffers, False
        self.comm = comm.Dup()  # no tag of ours can meet a tag of the user's
        self.rank, self.ranks, self.timeout, self.placement = comm.rank, comm.size, timeout, placement
        ranks = sorted(set(placement[self.known].tolist()) - {self.rank})
        self.peers = [Peer(self, r, placement) for r in ranks]
        self.machine = self._machine(machines) if calls == "auto" else None
        beside = set(self.machine.ranks) if self.machine is not None else set()
        self.near = [p for p in self.peers if p.rank in beside]
        self.far = [p for p in self.peers if p.rank not in beside]
        here = placement[self.known[self.head]] == self.rank
        self.local = np.flatnonzero(here)  # arcs between two own agents, and their opposites
        self.opposite = np.searchsorted(self.arcs, graph.reverse[self.arcs[self.local]])
        self.adjacent: Any = None
        self.tag = 0  # of the form of exchange that was made last
        self._lenders: dict[tuple[Any, ...], tuple[Exchange, int] | None] = {}
        self._round = 0
        self._current: Exchange | str = ""  # in which this rank waits
        self._types: dict[int, Any] = {}
        self._watch = Watchdog(self, timeout)
        try:
            with self._waiting("to begin"):
                self.calls, self.latency, meeting = self._choose(calls)
        except BaseException:
            self._watch.stop()
            raise
        words = {"memory": "", "collective": "a persistent neighborhood collective", "pairs": "persistent sends and receives"}
        ways = [*["shared memory"] * (self.machine is not None), *[words[self.calls]] * (self.calls != "memory")]
        self.transport = f"{' and '.join(ways)}, {self.latency * 1e6:.0f} µs for 1 KiB{self.transport}"
        if self.machine is not None and not self.machine.spins:
            cores = self.machine.cores
            fewer = f"-n {cores}" if len(beside) == self.ranks else "fewer ranks"
            self.transport += f", taking turns on {cores} core{'s' * (cores > 1)} ({fewer}, with more agents each, is faster)"
        if max(self.latency, meeting) > SLOW:
            self.trouble = (
                f"1 KiB to the neighbors takes {self.latency * 1e3:.1f} ms, a sum over all {self.ranks} ranks {meeting * 1e3:.1f} ms: "
                "waiting ranks hold the cores of working ones, or the machine is busy. "
                + ("Set OMPI_MCA_mpi_yield_when_idle=1 (launch/mpirun.sh does), or start" if "Open MPI" in library() else "Start")
                + " fewer ranks"
            )

    def to_device(self, device: Device) -> None:
        super().to_device(device)
        how = self._device_buffers
        self.buffers_there = self.calls != "memory" and (how == "yes" or (how == "auto" and takes_device_memory(MPI.COMM_WORLD)))
        by = "by way of pinned memory" if not self.buffers_there else "by MPI from and to device memory"
        why = " (MPI does not say that it takes device memory)" * (how == "auto" and not self.buffers_there and self.calls != "memory")
        self.transport += f", rows of the device {by}{why}"

    def _machine(self, machines: Array | None) -> Machine | None:
        """The ranks that share memory with this one; None on all of them where they cannot. COLLECTIVE."""
        comm = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        if machines is not None:
            whole, comm = comm, comm.Split(int(machines[self.rank]))
            whole.Free()
        try:
            if comm.size > 1:
                return Machine(comm, self.rank, self._progress)
        except MemoryError:
            pass
        comm.Free()
        return None

    @contextmanager
    def _waiting(self, what: str) -> Iterator[None]:
        """Within it the watchdog is on; afterwards as before, also for who catches an error."""
        before, self._watch.waiting = self._watch.waiting, (time.monotonic(), self._round, what)
        try:
            yield
        finally:
            self._watch.waiting = before

    def _progress(self) -> None:
        """Lets MPI work, while this rank sleeps in an exchange and again."""
        if self._watch.waiting is None:
            self._watch.waiting = (time.monotonic(), self._round, self._current)
        self.comm.Iprobe()

    def _choose(self, calls: str) -> tuple[str, float, float]:
        """The faster calls for small messages; measured, the seconds of such an exchange, and of a maximum. COLLECTIVE."""
        payload = np.zeros((self.n, 1024), np.uint8)
        probe = (Message("agents", payload, Identity(), 128, np.float64),)
        if self.machine is not None and len(self.machine.ranks) == self.ranks:
            names = ["memory"]
        else:
            names = list(CALLS[1:]) if calls == "auto" else [calls]
            far = [p.rank for p in self.far]
            self.adjacent = self.comm.Create_dist_graph_adjacent(far, far, reorder=False)  # type: ignore[attr-defined]
        found: dict[str, float] = {}
        meeting = np.inf
        for self.calls in names:
            try:
                exchange = exchange_of(self, probe)
            except NotImplementedError:  # before MPI 4; on all ranks alike
                continue
            best = np.array([np.inf])
            for _ in range(3):
                self.comm.Barrier()
                start = time.perf_counter()
                for number in range(1, 6):
                    exchange.start(probe, 0, number)
                    exchange.wait()
                    exchange.end()
                best = np.minimum(best, (time.perf_counter() - start) / 5)
                start = time.perf_counter()
                slowest = self.max(best)[0]
                meeting = min(meeting, time.perf_counter() - start)
                if slowest > SLOW:
                    break
            found[self.calls] = float(self.max(best)[0])
            exchange.free()
        if not found:
            raise TransportError(f'transport.calls = "{calls}": this MPI ({library()}) has no such calls; use "pairs"')
        chosen = min(found, key=lambda name: found[name])
        return chosen, found[chosen], meeting

    def agree(self, digest: str) -> None:
        """Refuse to start unless all ranks hold the same digest of configuration, graph, version and kernels. COLLECTIVE."""
        digests = self.comm.allgather(digest)
        odd = [r for r, other in enumerate(digests) if other != digests[0]]
        if odd:
            raise TransportError(
                f"rank {odd[0]} runs another configuration, graph, version or kernels than rank 0 "
                f"({digests[odd[0]]} against {digests[0]}): give all ranks the same files, installation and environment"
            )

    def _place(self, kind: str, compressor: Compressor, v: Array, stream: int) -> Place | None:
        lender = self._lenders.get((kind, id(compressor), v.shape[1], v.dtype, stream)) if self._lenders else None
        return None if lender is None or self.device is not None else lender[0].place(lender[1])

    @property
    def exchanges(self) -> dict[tuple[Any, ...], Exchange]:
        """What was made so far for each form of exchange."""
        return {key: form.exchange for key, form in self._forms.items() if form.exchange is not None}

    def _start(self, messages: tuple[Message, ...], form: Form) -> Any:
        self._round = messages[0].round
        exchange = form.exchange or self._new(messages, form)
        if self._lenders:
            for message in messages:
                if message.lent and (self._lenders.get(message.form) or (None,))[0] is not exchange:
                    message.keep()  # who lent the memory may write there while this exchange is under way
        copies = () if self.device is None else self._copies(self.device, exchange, messages)
        exchange.start(messages, self._round, form.count & 0xFFFFFFFF, copies)
        return exchange, messages

    def _new(self, messages: tuple[Message, ...], form: Form) -> Exchange:
        """An exchange of a form that has not been met before. COLLECTIVE."""
        with self._waiting("to begin an exchange of a new form"):
            exchange = exchange_of(self, messages)
        form.exchange, form.sent = exchange, exchange.nbytes
        form.swap = exchange.swap if isinstance(exchange, Small) else None
        if exchange.large and exchange.shared is not None:
            for i, one in enumerate(m.form for m in messages):  # where one is sent in two ways, nobody knows where it will be needed
                self._lenders[one] = None if one in self._lenders else (exchange, i)
        return exchange

    def _copies(self, device: Device, exchange: Exchange, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The messages on the CPU, for routes that need them there; long ones are still coming, and can be sent piece by piece.

        The one place of a round where the CPU waits for the device.
        """
        copied = messages if exchange.copied else ()
        if exchange.there:  # what MPI reads on the device must be complete
            payloads = self._fetch(*[m.payload for m in copied])
            return tuple(map(Message.received, copied, payloads))
        with self._naming():
            copies = device.bring(base.PIECE, *[m.payload for m in copied])

        def coming(m: Message, copy: Copy) -> Deferred:
            def wait(first: int, last: int, part: Part | None) -> None:
                copy.wait(last * m.row_bytes if part is None else first * m.row_bytes + part.where[-1][1])

            parts = m.compressor.cut(m.d, m.dtype, base.PIECE)
            return Deferred(m.kind, copy.memory, m.compressor, m.d, m.dtype, m.round, m.stream, wait, parts)

        return tuple([coming(m, copy) for m, copy in zip(copied, copies, strict=True)])

    def _swap(self, messages: tuple[Message, ...]) -> list[Message] | None:
        form = self._forms.get(tuple(map(form_of, messages)))
        if form is None or form.swap is None or form.under_way:
            return None
        form.count += 1
        received: list[Message] | None = form.swap(messages, form.count & 0xFFFFFFFF)
        if received is None:
            form.under_way, self._round, pending = True, messages[0].round, (form.exchange, messages)
            try:
                received = self._finish(pending)
                self._end(pending)
            except BaseException:
                self._failed()
                raise
            form.under_way = False
        return received

    def _finish(self, pending: Any) -> list[Message]:
        exchange, messages = pending
        self._current = exchange
        if not exchange.alone:
            self._watch.waiting = (time.monotonic(), self._round, exchange)
        wrong = exchange.wait()
        if wrong is not None:
            peer, found = wrong
            who = f"rank {self.rank} in round {messages[0].round} received from rank {peer.rank}"
            raise TransportError(f"{who} {exchange.mismatch(found)}")
        received: list[Message] = exchange.received(messages)
        return received

    def _end(self, pending: Any) -> None:
        pending[0].end()
        self._watch.waiting = None

    def _failed(self) -> None:
        self._watch.waiting = None  # who catches the error is not ended for a wait that is over

    def _defers(self, compressor: Compressor, v: Array, minus: Array | None) -> bool:
        if self.device is not None:
            return minus is not None
        return (minus is not None or bool(self.far)) and compressor.nbytes(v.shape[1], v.dtype) >= mpi_exchange.LARGE

    def _mixes(self, message: Message, step: float) -> bool:
        return self.device is not None or not self.far  # what comes in pieces is summed in a pass of its own

    def forget(self, compressor: Compressor) -> None:
        for key, form in self._forms.items():
            if form.exchange is not None and compressor in form.compressors:
                form.exchange.free()
                for one in key:
                    self._lenders.pop(one, None)
        super().forget(compressor)

    def sum(self, values: Array) -> Array:
        return self._reduce(values, MPI.SUM)

    def max(self, values: Array) -> Array:
        return self._reduce(values, MPI.MAX)

    def _reduce(self, values: Array, op: MPI.Op) -> Array:
        out = np.empty_like(values)
        with self._waiting("to meet in a sum or maximum"):
            self.comm.Allreduce(np.ascontiguousarray(values), out, op=op)
        return out

    def collect(self, kind: str, rows: Array, sizes: Array | None = None) -> Array | None:
        with self._waiting("to bring rows together"):
            return self._collect(kind, rows, sizes)

    def _collect(self, kind: str, rows: Array, sizes: Array | None) -> Array | None:
        rows = np.ascontiguousarray(self.take(self.own(rows) if kind == "known" else rows))
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
            self.comm.Gatherv([rows, self._row_type(width)], None, root=0)
            return None
        all_ids = np.empty(sum(gathered), np.int64)
        self.comm.Gatherv([ids, MPI.INT64_T], [all_ids, gathered], root=0)
        out = np.empty((len(all_ids), *rows.shape[1:]), rows.dtype)
        kind_of_row = self._row_type(width)
        self.comm.Gatherv([rows, kind_of_row], [out, gathered, None, kind_of_row], root=0)
        return out[np.argsort(all_ids, kind="stable")]

    def _row_type(self, width: int) -> Any:
        if width not in self._types:
            self._types[width] = MPI.BYTE.Create_contiguous(width).Commit()  # counts in rows: no 2 GiB limit
        return self._types[width]

    def close(self) -> None:
        self._watch.stop()
        broken = any(form.under_way for form in self._forms.values())
        if broken:
            _abandoned.extend(self.exchanges.values())
        else:
            for exchange in self.exchanges.values():
                exchange.free()
        self._forms.clear()
        self._lenders.clear()
        for row in self._types.values():
            row.Free()
        if self.adjacent is not None:
            self.adjacent.Free()
        if self.machine is not None:
            self.machine.comm.Free()
        if not broken:  # else messages may be on their way, and some MPI would deliver them to the next communicator
            self.comm.Free()


def _agree(comm: MPI.Comm, graph: Graph, placement: Array, mixing: MixingMatrix, seed: int, dtype: Any) -> None:
    """Raise TransportError on all ranks unless they hold the same of each. COLLECTIVE."""
    parts = {"graph": (graph.tail, graph.head), "placement": (placement,), "mixing weights": (mixing.weights,)}
    mine = {name: [zlib.crc32(a.tobytes()) for a in arrays] for name, arrays in parts.items()}
    every = comm.allgather({**mine, "seed": seed, "type": np.dtype(dtype).str})
    for rank, other in enumerate(every):
        for name, value in other.items():
            if value != every[0][name]:
                raise TransportError(f"rank {rank} has another {name} than rank 0: give all ranks the same files and arguments")


class Watchdog(threading.Thread):
    """Explains a hang: past the timeout without an arrival, says who waits for whom, on which arc and in which round."""

    def __init__(self, hood: MPINeighborhood, timeout: float):
        super().__init__(daemon=True, name="decentral-watchdog")
        self.hood, self.timeout = hood, timeout
        self.waiting: tuple[float, int, Exchange | str] | None = None  # since when, in which round, for what
        self._over = threading.Event()
        if timeout > 0:
            self.start()

    def run(self) -> None:
        while not self._over.wait(min(1.0, self.timeout / 4)):
            waiting = self.waiting
            if waiting is None or time.monotonic() - waiting[0] < self.timeout:
                continue
            since, k, what = waiting
            if isinstance(what, str):
                whom = f"the other ranks, {what}. Are they alive, and do they"
            else:
                since = max(since, what.heard)
                if time.monotonic() - since < self.timeout:
                    continue
                peer = [*what.missing(), *self.hood.peers][0]
                arcs = ", ".join(f"{i}→{j}" for i, j in peer.edges[:4]) + (", …" if len(peer.edges) > 4 else "")
                whom = f"rank {peer.rank}: its message on arc {arcs} has not arrived. Is that rank alive, and does it"
            abort(
                f"decentral: rank {self.hood.rank} has waited {time.monotonic() - since:.0f} s in round {k} for {whom} "
                f"run the same rounds? The limit is transport.timeout = {self.timeout:g} s"
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
    first = MPI.Get_library_version().splitlines()[0].split(",")[0].strip("\x00 ")
    return " ".join(first.replace("Version:", "").split())  # MPICH says "MPICH Version:      4.0.2"


def takes_device_memory(comm: MPI.Comm) -> bool:
    """Does the library say, as MPI 4.1 has it, that it sends from and receives into memory of CUDA devices?"""
    info = comm.Get_info()
    kinds = [kind.strip().split(":") for kind in (info.Get("mpi_memory_alloc_kinds") or "").split(",")]
    info.Free()
    return any(name == "cuda" and (not which or "device" in which) for name, *which in kinds)


def hosts(comm: MPI.Comm | None = None) -> list[str]:
    """Host name of every rank. COLLECTIVE."""
    return (MPI.COMM_WORLD if comm is None else comm).allgather(MPI.Get_processor_name())


def local_rank(comm: MPI.Comm) -> int:
    """The rank among those that share this machine's memory. COLLECTIVE."""
    machine = comm.Split_type(MPI.COMM_TYPE_SHARED)
    rank: int = machine.rank
    machine.Free()
    return rank


def world() -> MPI.Comm:
    """The world, refused where the launcher started several processes but this MPI sees only one.

    Raises TransportError: ``mpirun`` of another MPI than the one mpi4py was built with.
    """
    comm = MPI.COMM_WORLD
    started, slurm = launched(), "SLURM_JOB_ID" in os.environ
    if comm.size == 1 and started > 1:
        raise TransportError(
            f"the launcher started {started} processes but each sees a world of size 1: it belongs to another MPI than mpi4py's "
            f"({library()}). Use that library's mpirun" + (" (or srun --mpi=pmix for Open MPI, pmi2 for MPICH)" * slurm) + ", or rebuild "
            "mpi4py for the MPI on the PATH: DECENTRAL_MPI=system bash launch/setup.sh"
        )
    return comm
