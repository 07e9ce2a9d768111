"""Memory that the ranks of one machine share: what a rank posts there, its neighbors read where it lies.

    place of a rank:  header, 16 bytes | count of the ranks that sleep until it changes | from byte 64 the rows that leave the rank

The rows of a message are there once, however many ranks read them. Nobody asks whether a place is free: each rank has two,
used in turns, and posts exchange t + 2 over t only when it has read what its neighbors posted in t + 1, which they did
after they had read t. The number of the exchange is the last that is written of a header; who waits for it looks at it, then
sleeps until the kernel wakes it, so that a waiting rank leaves its core to a working one.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from decentral import kernels
from decentral.kernels.cores import own_cores, quota
from decentral.message import Place
from decentral.neighborhood.pieces import ALIGN, Messages, Peer, Route, move, payload_of, runs, table
from decentral.state import Array

FOLDER = Path("/dev/shm")
SPINS = 400_000
"""Looks before a rank sleeps, where each has a core of its own: some 10 ms."""
NAP = 2e-3
"""Seconds of sleep after which a waiting rank lets MPI move what it still has to move; doubled each time, up to 64 times as long."""

SPARE = 4 << 20
"""Bytes a rank that are left to others: MPI's own memory there grows later, and crashes where it cannot."""


class Machine:
    """The ranks that share this one's memory. COLLECTIVE over them.

    comm : the communicator of these ranks;  ranks : their numbers among all;  progress : lets MPI work, after a nap
    cores : those of this rank, which others may use too;  spins : looks before it sleeps, none where ranks take turns on a core
    Raises MemoryError on all of them where one cannot share memory, or sleep until it changes.
    """

    def __init__(self, comm: Any, rank: int, progress: Callable[[], Any]):
        cores = own_cores() if usable() else set()
        every = comm.allgather((rank, os.urandom(8).hex(), sorted(cores)))
        if not all(others for _, _, others in every):
            raise MemoryError
        self.comm, self.ranks, self.progress = comm, [r for r, _, _ in every], progress
        self._token, self._made = every[0][1], 0
        beside = sum(bool(cores & set(others)) for _, _, others in every)  # ranks that may run on our cores
        self.cores = max(1, int(min(len(cores), quota())))
        self.spins = SPINS if beside <= self.cores else 0

    def memory(self, nbytes: int) -> tuple[Array, dict[int, int]]:
        """Two halves (2, bytes) uint8 of zeros that all ranks see, and where in a half each rank's `nbytes` begin. COLLECTIVE.

        Raises MemoryError on all of them where there is no room, or no memory in common.
        """
        self._made += 1
        sizes: list[int] = self.comm.allgather(aligned(nbytes))
        whole, starts = sum(sizes), [sum(sizes[:i]) for i in range(len(sizes))]
        path, file, mine = FOLDER / f"decentral-{self._token}-{self._made}", -1, None
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            mine = os.fstat(file).st_dev, os.fstat(file).st_ino
        except OSError:
            pass
        files: list[tuple[int, int] | None] = self.comm.allgather(mine)
        if self.comm.rank == 0 or mine != files[0]:  # the memory lives as long as who uses it
            path.unlink(missing_ok=True)
        memory = None
        try:
            if mine is not None and all(other == mine for other in files):
                os.ftruncate(file, 2 * whole)
                for half in (0, whole):  # no room is an error here, and not a crash in a round; each rank its own, near its core
                    os.posix_fallocate(file, half + starts[self.comm.rank], sizes[self.comm.rank])
                left = os.fstatvfs(file)
                if left.f_bavail * left.f_frsize >= SPARE * len(sizes):
                    memory = mmap.mmap(file, 2 * whole)
        except OSError:
            pass
        if file >= 0:
            os.close(file)
        if not all(self.comm.allgather(memory is not None)) or memory is None:
            raise MemoryError
        return np.frombuffer(memory, np.uint8).reshape(2, whole), dict(zip(self.ranks, starts, strict=True))


def aligned(nbytes: int) -> int:
    """The next multiple of ALIGN."""
    return -(-nbytes // ALIGN) * ALIGN


def usable() -> bool:
    """Can this process share memory with others?"""
    return hasattr(kernels.wire, "Post") and FOLDER.is_dir()


class Shared(Route):
    """By way of memory, to the peers on this machine.

    rows : of each message, the own rows that leave this rank;  large : are payloads worth being made in this memory
    `post`, which `join` makes, posts and waits; between exchanges halves[post.turn] holds the last one.
    Raises MemoryError on all ranks of the machine where there is no room. COLLECTIVE over them.
    """

    def __init__(self, machine: Machine, rank: int, peers: list[Peer], messages: Messages, rows: list[Array], large: bool):
        super().__init__(peers)
        sizes = [m.row_bytes for m in messages]
        self.machine = machine
        self.halves, starts = machine.memory(ALIGN + sum(aligned(len(own) * size) for own, size in zip(rows, sizes, strict=True)))
        self.at, self.post = starts[rank], None  # type: int, Any
        self.headers = np.array([starts[p.rank] for p in peers], np.int64)
        for peer in peers:
            at = starts[peer.rank] + ALIGN
            for i, (message, size) in enumerate(zip(messages, sizes, strict=True)):
                there, get = peer.there[message.kind], peer.get[message.kind]
                self.pieces += [(at + a * size, i, b, count) for a, b, count in runs(there, get)]
                at += aligned(peer.leaves[message.kind] * size)
        pack: list[list[tuple[int, int, int, int, int]]] = []
        self._places: list[list[Place]] = [[], []]  # of each half and message
        self._whole = [len(own) == len(m.payload) for own, m in zip(rows, messages, strict=True)]
        at = self.at + ALIGN
        for i, (own, size) in enumerate(zip(rows, sizes, strict=True)):
            pack.append([(i, a * size, 0, at + b * size, count * size) for a, b, count in runs(own, np.arange(len(own)))])
            for half, places in zip(self.halves, self._places, strict=True):
                places.append(Place(half[at : at + len(own) * size].reshape(-1, size)))
            at += aligned(len(own) * size)
        self._packs = [table(p) for p in pack] if large else []
        self._pack = table([] if large else sum(pack, []))

    def join(self, unpack: Array) -> None:
        """unpack : the `table` of what goes from a half, source 0, and own payloads into the rows that come back"""
        self.post = kernels.wire.Post(self.halves, self.at, self.headers, self._pack, unpack, self.machine.spins)

    @property
    def buffer(self) -> Array:  # type: ignore[override]
        half: Array = self.halves[self.post.turn]
        return half

    def place(self, index: int) -> Place | None:
        """Where the next payload of a message can be made, in place of a copy; None where it cannot. Between exchanges."""
        if not self._packs or not self._whole[index]:
            return None
        place = self._places[1 - self.post.turn][index]
        place.clear()
        return place

    def start(self, messages: Messages, header: bytes) -> None:
        payloads = tuple(map(payload_of, messages))
        turn = 1 - self.post.turn
        for pack, payload, place in zip(self._packs, payloads, self._places[turn], strict=False):
            if payload is not place.rows:
                place.clear()
                move(pack, payloads, (self.halves[turn],))
        self.post.send(payloads, header)

    def wait(self, header: bytes) -> int:
        nap = NAP
        while True:
            found: int | None = self.post.wait(nap)
            if found is not None:
                return found
            self.machine.progress()
            nap = min(2 * nap, 64 * NAP)

    def free(self) -> None:
        self.halves, self.post = np.empty((2, 0), np.uint8), None
        self._places = [[], []]
