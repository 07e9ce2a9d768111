"""The same bits in process and on any number of ranks, with any placement; the identities over MPI.

Run under mpirun: every rank computes the in-process answer as well and compares its own rows with it, bit for bit.
"""

from __future__ import annotations

import gc
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import networkx as nx
import numpy as np
import pytest
from cases import facts_of, hood_of, p100

from decentral import algorithms, kernels
from decentral.algorithms.base import PLAIN
from decentral.compressors import build as compressor
from decentral.errors import ConfigError, NonFiniteError, TransportError
from decentral.estimators import Oracle
from decentral.estimators import build as estimator
from decentral.graph import Graph, MixingMatrix, mixing
from decentral.neighborhood import place
from decentral.state import rows

pytestmark = pytest.mark.mpi

GRAPHS = {
    "ring": nx.cycle_graph(10),
    "random": nx.erdos_renyi_graph(10, 0.4, seed=1),
    "star": nx.star_graph(9),
}
Q3 = {"name": "quantize", "bits": 3}
CASES = [
    (name, c, e)
    for name in algorithms.NAMES
    for c, e in (
        [(Q3, {"name": "saga", "batch": 2}), ({"name": "top-k", "k": 2}, {"name": "sgd", "batch": 3})]
        if hasattr(algorithms.load(name), "compressor")
        else [(None, {"name": "saga", "batch": 2}), (None, {"name": "l-svrg", "batch": 2})]
    )
] + [
    ("lt-admm-cc", {"name": "rand-k", "k": 3}, {"name": "svrg", "batch": 2, "every": 3}),
    ("lead", Q3, {"name": "full"}),
    ("dyna-cold", {"name": "absolute", "bits": 1}, {"name": "full"}),
    ("dpdc3", {"name": "absolute", "bits": 5, "rounding": "dithered"}, {"name": "saga", "batch": 2}),
]


def mpi_hood(graph: nx.Graph, how: str, seed: int = 7, calls: str = "auto", machines: object = None):
    from mpi4py import MPI

    from decentral.neighborhood.mpi import MPINeighborhood

    g = Graph.from_networkx(graph)
    try:
        return MPINeighborhood(g, mixing(g), place(len(graph), MPI.COMM_WORLD.size, how, seed=3), seed=seed, calls=calls, machines=machines)
    except TransportError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("how", ["block", "cyclic", "random"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_identities(graph: str, how: str) -> None:
    hood, one = mpi_hood(GRAPHS[graph], how), hood_of(GRAPHS[graph])
    rng = np.random.default_rng(0)
    x, z, w = rng.normal(size=(one.n, 3)), rng.normal(size=(one.m, 3)), rng.normal(size=(one.m, 3))
    mine, my_z, my_w = x[hood.agents], z[hood.arcs], w[hood.arcs]

    def exchange(v: np.ndarray) -> np.ndarray:
        return hood.exchange(hood.along_arcs(PLAIN, v, 0))

    np.testing.assert_array_equal(exchange(exchange(my_z)), my_z)
    np.testing.assert_array_equal(exchange(my_z), z[one.graph.reverse][hood.arcs])
    left, right = ((exchange(my_z) * my_w).sum(), (my_z * exchange(my_w)).sum())
    np.testing.assert_allclose(hood.sum(np.array([left])), hood.sum(np.array([right])), rtol=1e-12)
    known = hood.exchange(hood.to_neighbors(PLAIN, mine, 0))
    np.testing.assert_array_equal(known, x[hood.known])
    np.testing.assert_array_equal(hood.disagreement(known), one.disagreement(x)[hood.agents])
    np.testing.assert_array_equal(hood.laplacian(known), one.laplacian(x)[hood.agents])
    np.testing.assert_array_equal(hood.total(my_z), one.total(z)[hood.agents])
    np.testing.assert_array_equal(hood.heads(known), one.heads(x)[hood.arcs])
    for kind, part, whole in (("agents", mine, x), ("arcs", my_z, z), ("known", known, x)):
        found = hood.collect(kind, part)
        if hood.rank == 0:
            np.testing.assert_array_equal(found, whole)
        else:
            assert found is None
    hood.close()


@pytest.mark.parametrize("how", ["block", "random"])
@pytest.mark.parametrize(("name", "c", "e"), CASES, ids=lambda v: v["name"] if isinstance(v, dict) else str(v))
def test_same_bits_as_in_process(name: str, c: dict | None, e: dict, how: str) -> None:
    graph = GRAPHS["random" if how == "random" else "ring"]
    hood, one = mpi_hood(graph, how), hood_of(graph)
    cls = algorithms.load(name)
    method = cls(**({"compressor": compressor(c)} if c else {}))
    states, bytes_sent = [], []
    method = method.tuned(facts_of(one, p100(), e["name"], e.get("batch", 1)))
    for where in (one, hood):
        problem = p100(own=where.agents)
        oracle = Oracle(problem, estimator(e), where.agents, where.seed)
        s = method.init(np.zeros((where.n, 5)), where, oracle)
        for k in range(12):
            s = method.round(s, k, where, oracle)
        states.append(s)
        bytes_sent.append(float(where.sum(np.array([float(where.wire_bytes)]))[0]))
    assert bytes_sent[0] == bytes_sent[1]
    mine = {
        "agents": hood.agents,
        "known": hood.known,
        "arcs": hood.arcs,
        "samples": (hood.agents[:, None] * 100 + np.arange(100)).ravel(),
    }
    names = []
    for (field, kind, whole), (_, _, part) in zip(rows(states[0]), rows(states[1]), strict=True):
        np.testing.assert_array_equal(part, whole[mine[kind]], err_msg=f"{name}.{field}")
        names.append(field)
    assert "x" in names
    hood.close()


def routes(hood) -> set[str]:
    """How messages went, on all ranks together."""
    return set().union(*hood.comm.allgather([type(r).__name__ for e in hood.exchanges.values() for r in e.routes]))


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "numpy"])
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("calls", ["auto", "machines", "no room", "collective", "pairs"])
def test_same_bits_however_they_are_sent(calls: str, large: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from mpi4py import MPI

    from decentral.neighborhood import mpi, mpi_exchange, shared_memory

    size = MPI.COMM_WORLD.size
    if not compiled:
        monkeypatch.setattr(kernels, "wire", None)
    if large:
        monkeypatch.setattr(mpi_exchange, "LARGE", 0)
    if calls == "no room" and MPI.COMM_WORLD.rank == size - 1:
        monkeypatch.setattr(shared_memory, "FOLDER", shared_memory.FOLDER / "nowhere")
        monkeypatch.setattr(shared_memory, "usable", lambda: kernels.wire is not None)
    graph = GRAPHS["random"]
    machines = np.arange(size) // 2 if calls == "machines" else None  # as if two ranks each shared one
    hood = mpi_hood(graph, "random", calls=calls if calls in mpi.CALLS else "auto", machines=machines)
    one = hood_of(graph)
    q, rng = compressor(Q3), np.random.default_rng(3)
    kept, moving, sums = [], [], []  # what one exchange returned must survive the next ones
    u = {where: np.zeros((len(where.known), 70)) for where in (one, hood)}
    for k in range(5):
        x, z = rng.normal(size=(one.n, 70)), rng.normal(size=(one.m, 70))
        for where in (one, hood):
            messages = where.to_neighbors(q, x[where.agents], k), where.along_arcs(PLAIN, z[where.arcs], k)
            kept.append(where.exchange(*messages))
            kept.append((where.exchange(where.to_neighbors(PLAIN, x[where.agents], k)), where.spread(x[where.agents])))
            moving.append(where.exchange(where.to_neighbors(q, x[where.agents], k, minus=u[where]), onto=u[where], step=0.5))
            sums.append(where.exchange(where.to_neighbors(PLAIN, x[where.agents], k), then=where.disagreement))
            sums.append(where.exchange(where.to_neighbors(q, x[where.agents], k), onto=u[where], step=0.5, then=where.laplacian))
    far, near = "Direct" if large else "Staged", "Shared" if kernels.wire is not None else None
    expected = {"auto": {near or far}, "machines": {near or far, *[far] * (size > 2)}}
    assert routes(hood) == expected.get(calls, {far})
    assert hood.rank or ("shared memory" in hood.transport) == (near is not None and calls in ("auto", "machines", "no room"))
    assert hood.rank or ("had no room" in " ".join(hood.remarks)) == (near is not None and calls == "no room")
    for (known, arcs), (mine, my_arcs) in zip(kept[::4] + kept[1::4], kept[2::4] + kept[3::4], strict=True):
        np.testing.assert_array_equal(mine, known[hood.known])
        np.testing.assert_array_equal(my_arcs, arcs[hood.arcs])
    for whole, part in zip(moving[::2], moving[1::2], strict=True):
        np.testing.assert_array_equal(part, whole[hood.known])
    for whole, part in zip(sums[0::4] + sums[1::4], sums[2::4] + sums[3::4], strict=True):
        np.testing.assert_array_equal(part, whole[hood.agents])
    np.testing.assert_array_equal(u[hood], u[one][hood.known])
    hood.close()


PIECES = [
    {"name": "quantize", "bits": 4},
    {"name": "quantize", "bits": 3, "block": 0, "norm": "2"},
    {"name": "qsgd"},
    {"name": "top-k", "k": 300},
    {"name": "identity"},
]


@pytest.mark.parametrize("machines", [False, True], ids=["pairs", "machines"])
@pytest.mark.parametrize("graph", ["random", "complete"])
@pytest.mark.parametrize("c", PIECES, ids=lambda c: c["name"])
def test_long_rows_in_pieces(c: dict, graph: str, machines: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoded, sent and decoded a piece at a time, looked at before they are sent, and not sent at all."""
    from mpi4py import MPI

    from decentral.neighborhood import base, mpi_exchange

    size = MPI.COMM_WORLD.size
    monkeypatch.setattr(mpi_exchange, "LARGE", 0)
    monkeypatch.setattr(base, "PIECE", 3000)
    monkeypatch.setattr(mpi_exchange, "MOST", 1000)
    one_per_rank = nx.complete_graph(size) if graph == "complete" else GRAPHS["random"]
    where = {"machines": np.arange(size) // 2} if machines else {"calls": "pairs"}
    hood, one = mpi_hood(one_per_rank, "random", **where), hood_of(one_per_rank)
    q, rng, d = compressor(c), np.random.default_rng(3), 9000
    u, r, found = ({w: np.zeros((rows, d)) for w, rows in ((one, one.n), (hood, hood.n + hood.g))}, {}, {})
    for w in (one, hood):
        r[w], found[w] = np.zeros((w.m, d)), []
    for k in range(4):
        x, z = rng.normal(size=(one.n, d)), rng.normal(size=(one.m, d))
        for w in (one, hood):
            my_x, my_z = x[w.agents], z[w.arcs]
            mine, theirs = w.to_neighbors(q, my_x, k, minus=u[w]), w.along_arcs(q, my_z, k, minus=r[w])
            if k == 2:
                w.to_neighbors(q, x[w.agents] - 1, k)  # never sent
                theirs.advance(np.zeros((w.m, d)), 0.5)  # encodes it
            started = w.start(mine, theirs)
            my_x[...] = my_z[...] = 0  # what was sent is sent
            seen = mine.payload.copy()
            found[w].append((seen, *w.finish(started, onto=(u[w], r[w]), step=0.5)))
            found[w].append((seen, w.exchange(w.to_neighbors(q, x[w.agents], k)), w.exchange(w.along_arcs(q, z[w.arcs], k))))
    assert "Direct" in routes(hood) or (machines and size == 2)
    for (payload, known, arcs), (mine, my_known, my_arcs) in zip(found[one], found[hood], strict=True):
        np.testing.assert_array_equal(mine, payload[hood.agents])
        np.testing.assert_array_equal(my_known, known[hood.known])
        np.testing.assert_array_equal(my_arcs, arcs[hood.arcs])
    np.testing.assert_array_equal(u[hood], u[one][hood.known])
    with pytest.raises(NonFiniteError, match=f"round 7: agent {hood.agents[-1]} would send NaN"):
        x[hood.agents[-1], -1] = np.nan
        hood.exchange(hood.to_neighbors(q, x[hood.agents], 7))
    hood.comm.Barrier()
    hood.close()


@pytest.mark.parametrize("where", ["memory", "pairs", "machines"])
@pytest.mark.parametrize("c", PIECES, ids=lambda c: c["name"])
def test_own_references_advance_as_long_rows_are_encoded(c: dict, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one pass where a kernel does it, in pieces or whole; the numbers of the definition."""
    from mpi4py import MPI

    from decentral.neighborhood import base, mpi_exchange

    size, called = MPI.COMM_WORLD.size, []

    class Spy:
        def __getattr__(self, name: str) -> object:
            made = getattr(compiled, name)
            return (lambda *args: (called.append(name[9:]), made(*args))[1]) if name.startswith("quantize_") else made

    compiled = kernels.c
    monkeypatch.setattr(mpi_exchange, "LARGE", 0)
    monkeypatch.setattr(base, "PIECE", 3000)
    how = {"memory": {}, "pairs": {"calls": "pairs"}, "machines": {"machines": np.arange(size) // 2}}[where]
    graph = nx.complete_graph(size)
    hood, one = mpi_hood(graph, "random", **how), hood_of(graph)
    q, rng, d, eta = compressor(c), np.random.default_rng(3), 9000, 0.5
    u, s, r = np.zeros((one.n, d)), np.zeros((one.m, d)), np.zeros((one.m, d))
    my_u, my_s, my_r = u[hood.known], s[hood.arcs], r[hood.arcs]
    for k in range(3):
        x, z = rng.normal(size=(one.n, d)), rng.normal(size=(one.m, d))
        sent = one.along_arcs(q, z - s, k)
        qx, qz_in = one.exchange(one.to_neighbors(q, x - u, k), sent)
        qz = sent.decode()
        if compiled is not None:
            monkeypatch.setattr(kernels, "c", Spy())
        arcs = hood.along_arcs(q, z[hood.arcs], k, minus=my_s, step=eta)
        agents = hood.to_neighbors(q, x[hood.agents], k, minus=my_u)
        for row in (my_s, my_u):
            with pytest.raises(ValueError, match="read-only"):
                row += 1
        xh, zh_in = hood.exchange(agents, arcs, onto=(my_u, my_r), step=eta)
        monkeypatch.setattr(kernels, "c", compiled)
        for found, ref, whole, v, ids in (
            (xh, my_u, u, qx, hood.known), (zh_in, my_r, r, qz_in, hood.arcs), (arcs.estimate, my_s, s, qz, hood.arcs)
        ):  # fmt: skip
            np.testing.assert_array_equal(found, (whole + v)[ids])
            whole += eta * v
            np.testing.assert_array_equal(ref, whole[ids])
    if compiled is not None and c["name"] == "quantize":
        assert "encode" not in called and called.count("feedback") >= 2 * 3
    hood.close()


@pytest.mark.parametrize("c", [{"name": "quantize", "bits": 4, "block": 0}, {"name": "qsgd"}], ids=lambda c: c["name"])
def test_a_part_waits_for_the_scale_of_its_row(c: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests complete in any order, here the last first; the scale of a row comes with its first part."""
    from mpi4py import MPI

    from decentral.compressors.grid import OnGrid
    from decentral.neighborhood import base, mpi_exchange

    def last_first(requests: list[MPI.Request], statuses: list[MPI.Status] | None = None) -> list[int] | None:
        active = [i for i, request in enumerate(requests) if request]
        if active:
            status = MPI.Status()
            requests[active[-1]].Wait(status)
            if statuses is not None:
                statuses.append(status)
        return active[-1:] or None

    late = SimpleNamespace(Waitsome=last_first, Waitall=MPI.Request.Waitall)
    monkeypatch.setattr(mpi_exchange, "MPI", SimpleNamespace(**vars(MPI) | {"Request": late}))
    monkeypatch.setattr(mpi_exchange, "LARGE", 0)
    monkeypatch.setattr(base, "PIECE", 1000)
    decode, seen = OnGrid.decode_into, {}

    def spy(self, payload, out, part=None):
        if part is not None:
            seen.setdefault(payload.ctypes.data, []).append(part.begin)
        decode(self, payload, out, part)

    monkeypatch.setattr(OnGrid, "decode_into", spy)
    graph, d = GRAPHS["random"], 9000
    hood, one = mpi_hood(graph, "random", calls="pairs"), hood_of(graph)
    q, rng = compressor(c), np.random.default_rng(3)
    for k in range(3):
        x = rng.normal(size=(one.n, d)) * 10.0**k
        seen.clear()
        found = hood.exchange(hood.to_neighbors(q, x[hood.agents], k))
        assert seen and all(parts[0] == 0 and len(parts) > 2 for parts in seen.values())
        np.testing.assert_array_equal(found, one.exchange(one.to_neighbors(q, x, k))[hood.known])
    hood.close()


def test_what_is_lent_is_not_written_while_it_is_sent_in_another_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message made in the memory of one form of exchange, on its way in another, while the first is used again."""
    from mpi4py import MPI

    from decentral.neighborhood import mpi_exchange

    size = MPI.COMM_WORLD.size
    monkeypatch.setattr(mpi_exchange, "LARGE", 0)
    hood = mpi_hood(nx.complete_graph(size), "block", machines=np.arange(size) // 2)
    one, d = hood_of(nx.complete_graph(size)), 300_000
    x, lent = np.random.default_rng(1).normal(size=(8, one.n, d)), 0
    for k in range(2):  # makes the memory
        hood.exchange(hood.to_neighbors(PLAIN, x[k][hood.agents], k))
    for k in range(2, 6, 2):
        first = hood.to_neighbors(PLAIN, x[k][hood.agents], k)
        lent += first.lent
        started = hood.start(first, hood.along_arcs(PLAIN, np.ones((hood.m, 2)), k))  # another form
        assert not first.lent  # whatever happens to the memory now
        other = hood.start(hood.to_neighbors(PLAIN, x[k + 1][hood.agents], k))
        time.sleep(0.05)
        np.testing.assert_array_equal(hood.finish(started)[0], x[k][hood.known])
        np.testing.assert_array_equal(hood.finish(other), x[k + 1][hood.known])
    assert lent or hood.machine is None
    hood.close()


def test_what_is_read_first_may_move_the_reference_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows are encoded before the first of what comes is read, also those that nobody elsewhere needs."""
    from decentral.neighborhood import mpi_exchange

    monkeypatch.setattr(mpi_exchange, "LARGE", 0)
    graph = nx.path_graph(8)
    hood, one = mpi_hood(graph, "block", calls="pairs"), hood_of(graph)
    q, v = compressor(Q3), np.random.default_rng(4).normal(size=(one.n, 50))
    found = []
    for where in (one, hood):
        u, w = np.zeros((len(where.known), 50)), np.zeros((len(where.known), 50))
        messages = where.to_neighbors(q, v[where.agents], 0, minus=u), where.to_neighbors(q, v[where.agents] / 2, 0, 1, minus=u)
        found.append(where.exchange(*messages, onto=(u, w)))
    for whole, part in zip(*found, strict=True):
        np.testing.assert_array_equal(part, whole[hood.known])
    hood.close()


def test_rows_without_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    from decentral.neighborhood import mpi_exchange

    monkeypatch.setattr(mpi_exchange, "LARGE", 0)
    hood = mpi_hood(GRAPHS["ring"], "block", calls="pairs")
    empty, full = hood.exchange(*[hood.to_neighbors(PLAIN, np.ones((hood.n, d)), 0) for d in (0, 5)])
    assert empty.shape == (hood.n + hood.g, 0) and (full == 1).all()
    hood.close()


def test_one_machine_without_room_and_ranks_without_peers_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path on machines of two ranks: the first rank has no peer elsewhere; its machine has no room for shared memory."""
    from mpi4py import MPI

    from decentral.neighborhood import mpi_exchange, shared_memory

    size = MPI.COMM_WORLD.size
    if size < 3:
        pytest.skip("two machines")
    path = nx.path_graph(size)
    x = np.arange(float(size))[:, None] + np.arange(7)
    for folder in (shared_memory.FOLDER, shared_memory.FOLDER / "nowhere"):
        for large in (1 << 16, 0):
            monkeypatch.setattr(mpi_exchange, "LARGE", large)
            if MPI.COMM_WORLD.rank == 0:
                monkeypatch.setattr(shared_memory, "FOLDER", folder)
                monkeypatch.setattr(shared_memory, "usable", lambda: kernels.wire is not None)
            hood = mpi_hood(path, "block", machines=np.arange(size) // 2)
            for k in range(3):
                np.testing.assert_array_equal(hood.exchange(hood.to_neighbors(PLAIN, x[hood.agents] + k, k)), x[hood.known] + k)
            hood.close()


def test_two_exchanges_of_a_form_at_once_are_refused() -> None:
    for hood in (mpi_hood(GRAPHS["ring"], "block"), hood_of(GRAPHS["ring"])):
        first = hood.start(hood.to_neighbors(PLAIN, np.ones((hood.n, 2)), 0))
        with pytest.raises(TransportError, match="was started while one like it was not finished"):
            hood.start(hood.to_neighbors(PLAIN, np.ones((hood.n, 2)), 0))
        hood.finish(first)
        hood.close()


def test_what_mpi_may_still_write_to_is_kept() -> None:
    """Rank 0 is a round behind: both see it, and leave receives that MPI may complete when the neighborhood is closed."""
    from mpi4py import MPI

    from decentral.neighborhood import mpi

    comm = MPI.COMM_WORLD
    hood = mpi_hood(nx.cycle_graph(max(comm.size, 3)), "block", calls="pairs")
    x, k = np.ones((hood.n, 200_000)), int(comm.rank > 0)
    hood.exchange(hood.to_neighbors(PLAIN, x, 0))
    (exchange,) = hood.exchanges.values()
    before = len(mpi._abandoned)
    try:
        hood.exchange(hood.to_neighbors(PLAIN, x, 1 + k))
    except TransportError as error:
        assert "out of step" in str(error)
    comm.Barrier()
    failed = any(form.under_way for form in hood._forms.values())
    hood.close()
    assert comm.allreduce(failed) and failed == (exchange in mpi._abandoned[before:])
    comm.Barrier()
    for _ in range(100):
        comm.Iprobe()


def test_who_catches_an_error_is_not_ended_for_waiting() -> None:
    hood = mpi_hood(GRAPHS["ring"], "block")
    with pytest.raises(TransportError, match="sizes of their agents"):
        hood.collect("samples", np.ones((hood.n, 3)))
    assert hood._watch.waiting is None
    hood.close()


def test_a_closed_neighborhood_leaves_nothing_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    from decentral.neighborhood import mpi_exchange

    def mapped() -> int:
        lines = Path("/proc/self/maps").read_text().splitlines() if Path("/proc/self/maps").exists() else []
        return sum("decentral-" in line for line in lines)

    monkeypatch.setattr(mpi_exchange, "LARGE", 0)
    before, hood = mapped(), mpi_hood(GRAPHS["ring"], "block")
    hood.exchange(hood.to_neighbors(PLAIN, np.ones((hood.n, 500)), 0))
    assert mapped() > before or "shared memory" not in hood.transport or not Path("/proc/self/maps").exists()
    hood.close()
    gc.collect()
    assert mapped() == before


@pytest.mark.parametrize("c", [{"name": "identity"}, Q3], ids=["identity", "quantize"])
def test_messages_keep_their_bytes(c: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Payloads that lie in shared memory: sent out of order, twice, by pairs, not at all, and looked at rounds later."""
    from decentral.neighborhood import mpi_exchange

    monkeypatch.setattr(mpi_exchange, "LARGE", 0)
    one_per_rank = nx.complete_graph(mpi_hood(GRAPHS["ring"], "block").ranks)
    hood, one = mpi_hood(one_per_rank, "block"), hood_of(one_per_rank)
    q, rng = compressor(c), np.random.default_rng(5)
    kept = []

    def message(k: int):
        v = rng.normal(size=(one.n, 40))
        mine = hood.to_neighbors(q, v[hood.agents], k)
        kept.append((mine, one.to_neighbors(q, v, k).decode()))
        return kept[-1]

    def sent(*pairs) -> None:
        found = hood.exchange(*[mine for mine, _ in pairs])
        for got, (_, whole) in zip(found if len(pairs) > 1 else [found], pairs, strict=True):
            np.testing.assert_array_equal(got, whole[hood.known])

    lent = 0
    for k in range(6):
        a, b, c = message(3 * k), message(3 * k + 1), message(3 * k + 2)
        lent += sum(m.lent for m, _ in (a, b, c))
        sent(b)
        sent(a)
        sent(a)
        if k > 3:  # from here on in two forms of exchange
            sent(a, c)
            sent(c)
            started = hood.start(a[0])
            d = message(100 + k)
            np.testing.assert_array_equal(hood.finish(started), a[1][hood.known])
            sent(d)
    for mine, whole in kept:
        np.testing.assert_array_equal(mine.decode(), whole[hood.agents])
        mine.keep()
        np.testing.assert_array_equal(q.decode(mine.payload, 40, np.float64), whole[hood.agents])
    assert lent > 0 or kernels.wire is None
    hood.close()


@pytest.mark.parametrize("machines", [False, True])
def test_late_ranks_are_waited_for(machines: bool) -> None:
    """Longer than a rank looks, yields, and sleeps at a stretch."""
    from mpi4py import MPI

    hood = mpi_hood(GRAPHS["ring"], "block", machines=np.arange(MPI.COMM_WORLD.size) // 2 if machines else None)
    x = np.arange(10.0)[:, None] + np.arange(4)
    for k in range(3 * hood.ranks):
        if k % hood.ranks == hood.rank:
            time.sleep(0.02)
        np.testing.assert_array_equal(hood.exchange(hood.to_neighbors(PLAIN, x[hood.agents] + k, k)), x[hood.known] + k)
    hood.close()


@pytest.mark.skipif(kernels.c is None, reason=kernels.why)
def test_same_bits_with_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """In process with one thread, over MPI with two: rows long enough that they are used on up to four ranks."""
    from mpi4py import MPI

    if MPI.COMM_WORLD.size > 4:
        pytest.skip("four agents")
    graph, d, threads = nx.complete_graph(4), 600_000, kernels.threads
    hood, one = mpi_hood(graph, "block"), hood_of(graph)
    q, x = compressor({"name": "quantize", "bits": 4}), np.random.default_rng(3).normal(size=(one.n, d))
    found = []
    try:
        for where, count in ((one, 1), (hood, 2)):
            kernels.use_threads(count)
            known = np.zeros((len(where.known), d))
            for k in range(3):
                own = x[where.agents] - where.disagreement(known)
                known = where.exchange(where.to_neighbors(q, own, k, minus=known), onto=known, step=0.5)
            found.append(known)
    finally:
        kernels.use_threads(threads)
    np.testing.assert_array_equal(found[1], found[0][hood.known])
    hood.close()


@pytest.mark.parametrize("calls", ["auto", "pairs"])
@pytest.mark.parametrize("large", [False, True])
def test_a_message_that_does_not_fit_is_refused(large: bool, calls: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from decentral.neighborhood import mpi_exchange

    if large:
        monkeypatch.setattr(mpi_exchange, "LARGE", 0)
    for norm, k, sentence in (
        ("2", 0, "another message than it expects, which is agents rows of .* Quantize"),  # as many bytes, another meaning
        ("inf", 3, r"exchange 1 of round \d in place of exchange 1 of round \d: a rank is out of step"),
    ):
        hood = mpi_hood(GRAPHS["ring"], "block", calls=calls)
        odd = hood.rank == 1
        q = compressor({"name": "quantize", "bits": 4, "norm": norm if odd else "inf"})
        touched = odd or any(peer.rank == 1 for peer in hood.peers)
        with pytest.raises(TransportError, match=sentence) if touched else nullcontext():
            hood.exchange(hood.to_neighbors(q, np.ones((hood.n, 40)), k if odd else 0))
        hood.close()


@pytest.mark.parametrize("calls", ["auto", "pairs"])
def test_variables_and_rounds_that_changed_places_are_refused(calls: str) -> None:
    """As many bytes, in the round of the first: the streams of rank 1 are exchanged, or its second message is an older one."""
    for odd_streams, odd_round in (((1, 0), 5), ((0, 1), 4)):
        hood = mpi_hood(GRAPHS["ring"], "block", calls=calls)
        odd, q, x = hood.rank == 1, compressor(Q3), np.ones((hood.n, 40))
        streams, rounds = (odd_streams, (5, odd_round)) if odd else ((0, 1), (5, 5))
        messages = [hood.to_neighbors(q, x, k, stream) for k, stream in zip(rounds, streams, strict=True)]
        touched = odd or any(peer.rank == 1 for peer in hood.peers)
        with pytest.raises(TransportError, match="another message than it expects") if touched else nullcontext():
            hood.exchange(*messages)
        hood.close()


@pytest.mark.parametrize("large", [False, True])
def test_a_message_that_was_cut_is_refused(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends of rank 1 lose their last byte; what the receiver had there before is not taken for it."""
    from mpi4py import MPI

    from decentral.neighborhood import mpi_exchange

    if large:
        monkeypatch.setattr(mpi_exchange, "LARGE", 0)
    hood = mpi_hood(GRAPHS["ring"], "block", calls="pairs")
    odd, q, x = hood.rank == 1, compressor(Q3), np.random.default_rng(0).normal(size=(hood.n, 40))
    hood.exchange(hood.to_neighbors(q, x, 0))
    (route,) = next(iter(hood.exchanges.values())).routes
    assert type(route).__name__ == ("Direct" if large else "Staged")
    if odd and large:
        for piece in route._gives:
            (a, b), *more = piece.where
            piece.where[:] = [(a, b - 1)]
            object.__setattr__(piece, "kind", None)
    elif odd:
        half = len(route.peers)
        parts = zip(route._requests[half:], route.peers, strict=True)
        route._requests[half:] = [hood.comm.Send_init([route._send[:20], MPI.BYTE], p.rank, route.tag) for _, p in parts]
    touched = any(peer.rank == 1 for peer in hood.peers)
    with pytest.raises(TransportError, match="rank 1 sent .* bytes in place of") if touched else nullcontext():
        hood.exchange(hood.to_neighbors(q, 2 * x, 1))
    assert hood._watch.waiting is None
    hood.comm.Barrier()
    hood.close()


def test_ranks_that_were_made_differently_are_refused() -> None:
    from mpi4py import MPI

    from decentral.neighborhood.mpi import MPINeighborhood

    comm, graph = MPI.COMM_WORLD, Graph.from_networkx(nx.cycle_graph(10))
    given = {"graph": graph, "mixing": mixing(graph), "placement": place(10, comm.size, "block"), "seed": 0, "dtype": np.float64}
    other = Graph.from_networkx(nx.path_graph(10))
    for name, odd in (
        ("graph", {"graph": other, "mixing": mixing(other)}),
        ("mixing weights", {"mixing": MixingMatrix(graph, mixing(graph).weights / 2, "half")}),
        ("placement", {"placement": place(10, comm.size, "block")[::-1].copy()}),
        ("seed", {"seed": 1}),
        ("type", {"dtype": np.float32}),
    ):
        changed = odd if comm.rank == 1 else {}
        with pytest.raises(TransportError, match=f"rank 1 has another {name} than rank 0"):
            MPINeighborhood(comm=comm, **given | changed)


def test_equal_compressors_share_what_is_made_for_them() -> None:
    """A method may make its compressor in every round; many messages may go together."""
    hood, one = mpi_hood(GRAPHS["ring"], "block"), hood_of(GRAPHS["ring"])
    x = np.random.default_rng(0).normal(size=(one.n, 40))
    for k in range(5):
        whole = one.exchange(one.to_neighbors(compressor(Q3), x, k))
        np.testing.assert_array_equal(hood.exchange(hood.to_neighbors(compressor(Q3), x[hood.agents], k)), whole[hood.known])
    assert len(hood.exchanges) == len(hood._forms) == len(one._forms) == 1
    messages = [hood.to_neighbors(compressor(Q3), x[hood.agents], 0, i % 16) for i in range(33)]
    found = hood.exchange(*messages[:32])
    for i in (0, 15, 31):
        np.testing.assert_array_equal(found[i], one.to_neighbors(compressor(Q3), x, 0, i % 16).decode()[hood.known])
    with pytest.raises(TransportError, match="33 messages in one exchange: at most 32"):
        hood.exchange(*messages)
    with pytest.raises(ConfigError, match="stream = 16: give a whole number from 0 to 15"):
        hood.to_neighbors(PLAIN, x[hood.agents], 0, 16)
    hood.close()


def test_one_agent_per_rank_sends_what_is_counted() -> None:
    from mpi4py import MPI

    size = MPI.COMM_WORLD.size
    if size < 3:
        pytest.skip("a ring needs three agents")
    hood = mpi_hood(nx.cycle_graph(size), "block")
    q = compressor(Q3)
    for k in range(3):
        hood.exchange(hood.to_neighbors(q, np.ones((1, 50)), k), hood.along_arcs(q, np.ones((2, 50)), k))
    assert hood.transport_bytes() == hood.wire_bytes > 0
    hood.close()


@pytest.mark.skipif(not hasattr(kernels.wire, "Post"), reason="no shared memory here")
def test_ranks_that_take_turns_on_a_core_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from mpi4py import MPI

    from decentral.neighborhood import shared_memory

    comm = MPI.COMM_WORLD
    for cores, machines, words in (
        ({0}, None, "taking turns on 1 core (-n 1, with more agents each, is faster)"), ({comm.rank}, None, ""),
        ({0}, np.arange(comm.size) // 2, "taking turns on 1 core (fewer ranks, with more" if comm.size > 2 else "(-n 1"),
    ):  # fmt: skip
        monkeypatch.setattr(shared_memory, "own_cores", lambda cores=cores: cores)
        hood = mpi_hood(GRAPHS["ring"], "block", machines=machines)
        if words and hood.machine is not None:
            assert words in hood.transport
        else:
            assert "taking turns" not in hood.transport
        hood.close()


@pytest.mark.parametrize("nap", [60.0, 0.0], ids=["in one call", "late"])
def test_small_exchanges_use_their_memory_again_unless_it_is_kept(nap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a caller holds is not written to by later exchanges; what nobody holds is not made anew where nothing is late."""
    from decentral.neighborhood import mpi_exchange

    monkeypatch.setattr(mpi_exchange, "NAP", nap)  # how long the one call waits for what is late
    graph = nx.cycle_graph(8)
    hood, one = mpi_hood(graph, "block"), hood_of(graph)
    x = np.random.default_rng(0).normal(size=(9, one.n, 5))

    kept, places = [], []
    hood.exchange(hood.to_neighbors(PLAIN, x[0][hood.agents], 0))  # the first of its form
    for k in range(9):
        found = hood.exchange(hood.to_neighbors(PLAIN, x[k][hood.agents], k))
        if k % 3 < 2:
            kept.append(found[:, 1:3] if k % 3 else found)  # it, or a view of it
        del found
        places += [e._rows[0].ctypes.data for e in hood.exchanges.values() if isinstance(e, mpi_exchange.Small)]
    if nap:
        assert all((places[k] == places[k - 1]) == (k % 3 == 0) for k in range(1, len(places))), places
    for number, seen in enumerate(kept):
        k = number // 2 * 3 + number % 2
        np.testing.assert_array_equal(seen, x[k][hood.known][:, 1:3] if k % 3 else x[k][hood.known])
    hood.close()
