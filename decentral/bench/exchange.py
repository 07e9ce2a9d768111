"""Messages between ranks against bare MPI calls with the same bytes, in one run.

What is compared, interleaved, the fastest of several windows each:

    transport   `exchange` of packed rows; the same request started bare; fresh Isend/Irecv; pickled send/recv.
                4 MiB: first the exchange alone, of rows that were made where neighbors read them; then with the
                time to make them of an array and to read what came into another
    pieces      a long row, quantized, to ranks as on other machines: encoded, sent and decoded in pieces, against whole
    averaging   the mean over neighbors of a float32 vector; bare: Isend/Irecv and NumPy
    methods     D-PSGD and exact diffusion, logistic regression, d = 100, 1000 samples an agent, full gradients;
                bare: the same recursion on Isend/Irecv and NumPy
    sharing     ranks that compute some 50 µs between exchanges, against the same with the bare persistent request; and the
                time of their work divided by the cores, of that, of all of it with no more than a change of ranks on a core,
                which is the least that any exchange can take, and of the work alone
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from decentral.algorithms import load
from decentral.algorithms.base import PLAIN
from decentral.bench.workload import TOLERANCE, ring, workload
from decentral.compressors import Quantize
from decentral.estimators import Full, Oracle
from decentral.graph import Graph, mixing
from decentral.message import Message
from decentral.neighborhood import base
from decentral.neighborhood.mpi import MPINeighborhood
from decentral.neighborhood.mpi_exchange import LARGE
from decentral.problems import Logistic
from decentral.state import Array

WORK = 50e-6
"""Seconds of work between exchanges of ranks that share cores, about."""
LONG, MOST_RANKS = 10_000_000, 4
"""Entries of a row that is sent in pieces, and ranks up to which that is measured."""


class Bare:
    """What one would write by hand on mpi4py: fresh Isend/Irecv of a vector to each neighbor."""

    def __init__(self, hood: MPINeighborhood):
        self.comm, self.peers = hood.comm, [peer.rank for peer in hood.peers]

    def exchange(self, send: Array, receive: Array) -> None:
        requests = [self.comm.Irecv(receive[i], p, 77) for i, p in enumerate(self.peers)]
        requests += [self.comm.Isend(send, p, 77) for p in self.peers]
        MPI.Request.Waitall(requests)


def moved(hood: MPINeighborhood, message: Message) -> None:
    """An exchange of a message that is encoded, and is not decoded."""
    if hood._swap((message,)) is not None:
        return
    form, pending = hood._begin((message,))
    hood._finish(pending)
    hood._end(pending)
    form.under_way = False


def persistent_exchange(hood: MPINeighborhood, send: Array, into: Array, sizes: list[int], starts: list[int]) -> list[Any]:
    """The least that MPI offers: a persistent neighborhood collective, or before MPI 4 a pair of persistent requests per peer."""
    ranks = [p.rank for p in hood.peers]
    adjacent = hood.comm.Create_dist_graph_adjacent(ranks, ranks, reorder=False)  # type: ignore[attr-defined]
    try:
        return [adjacent.Neighbor_alltoallv_init([send, sizes, starts, MPI.BYTE], [into, sizes, starts, MPI.BYTE])]
    except NotImplementedError:
        pass
    made = []
    for rank, size, at in zip(ranks, sizes, starts, strict=True):
        made.append(hood.comm.Recv_init([into[at : at + size], MPI.BYTE], rank, 79))
        made.append(hood.comm.Send_init([send[at : at + size], MPI.BYTE], rank, 79))
    return made


def race(comm: MPI.Comm, seconds: float, **bodies: Callable[[int], Any]) -> dict[str, float]:
    """Seconds a call of each, the fastest of interleaved windows, the slowest rank. COLLECTIVE.

    A body that returns a number is taken to have spent so many seconds on what is compared.
    """
    best = dict.fromkeys(bodies, np.inf)

    def window(body: Callable[[int], Any], count: int) -> float:
        comm.Barrier()
        start, told = time.perf_counter(), 0.0
        for k in range(count):
            told += found if isinstance(found := body(k), float) else 0.0
        spent = np.array((told or time.perf_counter() - start) / count)
        comm.Allreduce(MPI.IN_PLACE, spent, MPI.MAX)
        return float(spent)

    counts = {}
    for name, body in bodies.items():  # how many calls fill a window
        tried = [window(body, count) for count in (1, 4, 16)]
        counts[name] = int(np.clip(seconds / 6 / max(tried[-1], 1e-7), 3, 100_000))
    for _ in range(6):
        for name, body in bodies.items():
            best[name] = min(best[name], window(body, counts[name]))
    return best


def rows(seconds: float) -> list[dict[str, Any]]:
    """The rows of the table, on rank 0; [] elsewhere. COLLECTIVE over the world."""
    comm = MPI.COMM_WORLD
    graph = ring(comm.size)
    table: list[dict[str, Any]] = []

    def row(what: str, ours: float, bare: float, note: str = "") -> None:
        table.append({"what": what, "ours/s": 1 / ours, "bare/s": 1 / bare, "ours / bare time": ours / bare, "note": note})

    hood = MPINeighborhood(graph, mixing(graph), np.arange(comm.size), comm)
    _transport(hood, seconds, row)
    if comm.size <= MOST_RANKS:
        _pieces(comm, graph, seconds, row)
    _averaging(comm, graph, seconds, row)
    _methods(hood, seconds, row)
    _sharing(hood, seconds, row)
    hood.close()
    return table if comm.rank == 0 else []


def _transport(hood: MPINeighborhood, seconds: float, row: Callable[..., None]) -> None:
    comm, bare = hood.comm, Bare(hood)
    for size, name in ((1 << 10, "1 KiB"), (1 << 22, "4 MiB")):
        x = np.random.default_rng(comm.rank).normal(size=(1, size // 8))
        receive = np.empty((len(bare.peers), size // 8))
        sizes, starts = [size] * len(bare.peers), [size * i for i in range(len(bare.peers))]
        send, into = np.ones(size * len(bare.peers), np.uint8), np.empty(size * len(bare.peers), np.uint8)
        made = persistent_exchange(hood, send, into, sizes, starts)

        def persistent(k: int, made: list[Any] = made) -> None:
            MPI.Prequest.Startall(made)
            MPI.Request.Waitall(made)

        message = hood.to_neighbors(PLAIN, x, 0)

        def small(k: int, message: Message = message) -> None:
            moved(hood, message)

        def large(k: int, x: Array = x) -> float:
            message = hood.to_neighbors(PLAIN, x, k)
            comm.Barrier()  # all rows are made
            start = time.perf_counter()
            moved(hood, message)
            return time.perf_counter() - start

        ours = large if size >= LARGE else small

        def whole(k: int, x: Array = x) -> None:
            hood.exchange(hood.to_neighbors(PLAIN, x, k))

        def fresh(k: int, x: Array = x, receive: Array = receive) -> None:
            bare.exchange(x, receive)

        def pickled(k: int, x: Array = x) -> None:
            requests = [comm.isend(x, p, 78) for p in bare.peers]
            for p in bare.peers:
                comm.recv(source=p, tag=78)
            MPI.Request.waitall(requests)

        found = race(comm, seconds, ours=ours, whole=whole, persistent=persistent, fresh=fresh, pickled=pickled)
        for request in made:
            request.Free()
        row(f"{name}, exchange against the bare persistent request", found["ours"], found["persistent"], hood.transport)
        row(f"{name}, exchange against Isend/Irecv", found["ours"], found["fresh"])
        row(f"{name}, exchange against pickled send/recv", found["ours"], found["pickled"])
        row(f"{name}, array to array against Isend/Irecv", found["whole"], found["fresh"])
        row(f"{name}, array to array against pickled send/recv", found["whole"], found["pickled"])


def _pieces(comm: MPI.Comm, graph: Graph, seconds: float, row: Callable[..., None]) -> None:
    hood = MPINeighborhood(graph, mixing(graph), np.arange(comm.size), comm, dtype=np.float32, calls="pairs")
    x = np.random.default_rng(comm.rank).standard_normal((1, LONG), dtype=np.float32)
    u = np.zeros((len(hood.known), LONG), np.float32)

    def sent(piece: int, q: Quantize) -> Callable[[int], None]:  # a compressor for each size of pieces, as an exchange is made for one
        def body(k: int) -> None:
            base.PIECE = piece
            hood.exchange(hood.to_neighbors(q, x, k, minus=u), onto=u)

        return body

    usual = base.PIECE
    found = race(comm, seconds, pieces=sent(usual, Quantize(bits=4)), whole=sent(1 << 40, Quantize(bits=4, block=512)))
    base.PIECE = usual
    row(f"{LONG:,} float32, 4 bits, in pieces against whole", found["pieces"], found["whole"], hood.transport)
    hood.close()


def _averaging(comm: MPI.Comm, graph: Graph, seconds: float, row: Callable[..., None]) -> None:
    hood = MPINeighborhood(graph, mixing(graph), np.arange(comm.size), comm, dtype=np.float32)
    bare = Bare(hood)
    for d in (100, 100_000, 1_000_000):
        x = np.random.default_rng(comm.rank).normal(size=(1, d)).astype(np.float32)
        y, receive, w = x[0].copy(), np.empty((len(bare.peers), d), np.float32), np.float32(hood.weights[0])

        def by_hand(k: int, y: Array = y, receive: Array = receive, w: Any = w) -> None:
            bare.exchange(y, receive)
            mean = receive.sum(axis=0)
            mean *= w
            y *= 1 - len(bare.peers) * w
            y += mean

        def ours(k: int, x: Array = x) -> None:
            x -= hood.exchange(hood.to_neighbors(PLAIN, x, k), then=hood.disagreement)

        found = race(comm, seconds, ours=ours, bare=by_hand)
        row(f"average of {d:,} float32 over the neighbors", found["ours"], found["bare"])
    hood.close()


def _methods(hood: MPINeighborhood, seconds: float, row: Callable[..., None]) -> None:
    comm, bare = hood.comm, Bare(hood)
    problem = workload(hood.agents)
    oracle = Oracle(problem, Full(), hood.agents)
    smooth = float(hood.max(problem.constants()[0]).max())
    step = 1 / smooth
    X, y, d, w, peers = problem.X, problem.y, problem.d, float(hood.weights[0]), len(bare.peers)
    receive = np.empty((peers, d))

    def gradient(x: Array) -> Array:
        return X.T @ (-y / (1 + np.exp(y * (X @ x)))) / len(y) + problem.l2 * x

    def mixed(x: Array) -> Array:
        bare.exchange(x, receive)
        return (1 - peers * w) * x + w * receive.sum(axis=0)

    def dgd() -> Callable[[int], Array]:
        x = np.zeros(d)

        def step_of(k: int) -> Array:
            x[:] = mixed(x) - 0.1 * step * gradient(x)
            return x

        return step_of

    def diffusion() -> Callable[[int], Array]:
        x, psi = np.zeros(d), np.zeros(d)

        def step_of(k: int) -> Array:
            new = x - step * gradient(x)
            phi = new + x - psi if k else new
            psi[:] = new
            x[:] = 0.5 * (phi + mixed(phi))
            return x

        return step_of

    def method(name: str, **parameters: Any) -> Callable[[], Callable[[int], Array]]:
        def begin() -> Callable[[int], Array]:
            made = load(name)(**parameters)
            state = [made.init(np.zeros((1, d)), hood, oracle)]

            def step_of(k: int) -> Array:
                state[0] = made.round(state[0], k, hood, oracle)
                x: Array = state[0].x
                return x[0]

            return step_of

        return begin

    plain = method("d-psgd", step_size=0.1 * step)
    found = race(comm, seconds, ours=plain(), bare=dgd())
    row("D-PSGD round, full gradients", found["ours"], found["bare"])
    exact = method("exact-diffusion", step_size=step)
    ours, rounds = _until(hood, problem, exact, seconds)
    by_hand, bare_rounds = _until(hood, problem, diffusion, seconds)
    row(f"exact diffusion to {TOLERANCE:g}", ours, by_hand, f"{rounds} rounds in {ours:.4f} s; bare {bare_rounds} in {by_hand:.4f} s")
    before = hood.wire_bytes
    two_bits = method("lead", step_size=step, mixing_step=0.5, reference_step=0.2, compressor=Quantize(bits=2))
    spent, rounds = _until(hood, problem, two_bits, seconds, once=True)
    sent = (hood.wire_bytes - before) * rounds // MOST
    row(f"LEAD, 2 bits, to {TOLERANCE:g}", spent, by_hand, f"{rounds} rounds, {sent:,} bytes sent by an agent")


MOST = 200
"""Rounds that `_until` runs."""


def _until(
    hood: MPINeighborhood, problem: Logistic, begin: Callable[[], Callable[[int], Array]], seconds: float, once: bool = False
) -> tuple[float, int]:
    """Seconds and rounds to the tolerance on the mean iterate, the fastest of several runs. COLLECTIVE.

    Iterates are kept while the clock runs and looked at afterwards.
    """
    best, reached, comm = np.inf, MOST, hood.comm
    for _ in range(1 if once else 9):
        step_of = begin()
        kept, clock = np.empty((MOST, problem.d)), np.empty(MOST)
        comm.Barrier()
        start = time.perf_counter()
        for k in range(MOST):
            kept[k] = step_of(k)
            clock[k] = time.perf_counter() - start
        mean, clock = hood.sum(kept) / comm.size, hood.max(clock)
        gradients = hood.sum(problem.evaluate(mean)[1]) / comm.size
        good = np.flatnonzero(np.einsum("kd,kd->k", gradients, gradients) <= TOLERANCE)
        if not len(good):
            return np.inf, MOST
        reached = int(good[0]) + 1
        best = min(best, float(clock[good[0]]))
    return best, reached


def _sharing(hood: MPINeighborhood, seconds: float, row: Callable[..., None]) -> None:
    comm = hood.comm
    message = Message("agents", np.ones((1, 1024), np.uint8), PLAIN, 128, np.dtype(np.float64))
    matrix = np.random.default_rng(0).normal(size=(64, 64))

    def least(body: Callable[[], Any]) -> float:
        best = np.inf
        for _ in range(2000):
            start = time.perf_counter()
            body()
            best = min(best, time.perf_counter() - start)
        return best

    repeats = comm.bcast(max(1, round(WORK / least(lambda: matrix @ matrix))) if comm.rank == 0 else 0)

    def work() -> None:
        for _ in range(repeats):
            matrix @ matrix

    alone = comm.bcast(least(work) if comm.rank == 0 else 0.0)  # while the others wait, so that the work is known
    peers, (send, into) = len(hood.peers), np.zeros((2, len(hood.peers) * 1024), np.uint8)
    made = persistent_exchange(hood, send, into, [1024] * peers, [1024 * i for i in range(peers)])

    def ours(k: int) -> None:
        work()
        moved(hood, message)

    def bare(k: int) -> None:
        work()
        MPI.Prequest.Startall(made)
        MPI.Request.Waitall(made)

    def switch(k: int) -> None:
        work()
        os.sched_yield()

    def silent(k: int) -> None:
        work()

    found = race(comm, seconds, ours=ours, bare=bare, switch=switch, silent=silent)
    for request in made:
        request.Free()
    cores = len(os.sched_getaffinity(0))
    ideal = alone * max(1.0, comm.size / cores)
    share = {name: f"{ideal / spent:.2f}" for name, spent in found.items()}
    row(
        f"{alone * 1e6:.0f} µs of work and 1 KiB to the neighbors, {comm.size} ranks on {cores} cores", found["ours"], found["bare"],
        f"ideal / measured {share['ours']}; bare {share['bare']}; taking turns alone {share['switch']}; work alone {share['silent']}",
    )  # fmt: skip
