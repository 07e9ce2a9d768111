"""The four identities of the neighborhood's verbs, in process (under MPI: tests/layout)."""

from __future__ import annotations

import time
from typing import Any

import networkx as nx
import numpy as np
import pytest
from cases import hood_of

from decentral import kernels, message
from decentral.algorithms.base import PLAIN
from decentral.compressors import build as compressor
from decentral.errors import NonFiniteError, TransportError
from decentral.graph import Graph, mixing
from decentral.message import Scattered
from decentral.neighborhood import HEADER, Emulated, Lossy, Traced, in_process

GRAPHS = {
    "ring": nx.cycle_graph(9),
    "star": nx.star_graph(8),
    "random": nx.erdos_renyi_graph(20, 0.3, seed=2),
    "path of two": nx.path_graph(2),
    "complete": nx.complete_graph(12),
}


@pytest.fixture(params=GRAPHS)
def graph(request: pytest.FixtureRequest) -> nx.Graph:
    return GRAPHS[request.param]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("compiled", [True, False])
def test_identities(graph: nx.Graph, dtype: type, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(kernels, "c", None)
    hood, rng = hood_of(graph, dtype=dtype), np.random.default_rng(0)
    x = rng.normal(size=(hood.n, 3)).astype(dtype)
    z, w = rng.normal(size=(2, hood.m, 3)).astype(dtype)
    tolerance = {"rtol": 1e-5 if dtype == np.float32 else 1e-12}

    def exchange(v: np.ndarray) -> np.ndarray:
        return hood.exchange(hood.along_arcs(PLAIN, v, 0))

    np.testing.assert_array_equal(exchange(exchange(z)), z)
    np.testing.assert_allclose((exchange(z) * w).sum(), (z * exchange(w)).sum(), **tolerance)
    np.testing.assert_allclose((hood.spread(x) * z).sum(), (x * hood.total(z)).sum(), **tolerance)
    lap = nx.laplacian_matrix(graph, nodelist=range(len(graph))).toarray()
    known = hood.exchange(hood.to_neighbors(PLAIN, x, 0))
    np.testing.assert_allclose(hood.total(hood.spread(x) - hood.heads(known)), lap @ x, atol=1e-4 if dtype == np.float32 else 1e-12)
    np.testing.assert_allclose(hood.laplacian(known), lap @ x, atol=1e-4 if dtype == np.float32 else 1e-12)
    W = hood.mixing.dense()
    np.testing.assert_allclose(hood.disagreement(known), x - W @ x, atol=1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.skipif(kernels.c is None, reason="the compiled kernels are not installed")
def test_compiled_sums_are_the_sums_of_numpy(graph: nx.Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    hood, rng = hood_of(graph), np.random.default_rng(1)
    x, z = rng.normal(size=(hood.n, 7)), rng.normal(size=(hood.m, 7))
    fast = hood.total(z), hood.disagreement(x), hood.laplacian(x)
    monkeypatch.setattr(kernels, "c", None)
    for a, b in zip(fast, (hood.total(z), hood.disagreement(x), hood.laplacian(x)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("step", [1.0, 0.3])
@pytest.mark.parametrize("spec", [{"name": "quantize", "bits": 4}, {"name": "top-k", "k": 2}, {"name": "identity"}])
@pytest.mark.parametrize("compiled", [True, False])
def test_error_feedback_is_the_plain_recursion(
    graph: nx.Graph, spec: dict, step: float, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """û = u + q, u ← u + η q on known rows and on arcs, in one exchange, to the bit."""
    if not compiled:
        monkeypatch.setattr(kernels, "c", None)
    hood, rng, C = hood_of(graph), np.random.default_rng(3), compressor(spec)
    x, z = rng.normal(size=(hood.n, 7)), rng.normal(size=(hood.m, 7))
    u, r = rng.normal(size=(hood.n + hood.g, 7)), rng.normal(size=(hood.m, 7))
    q = hood.exchange(hood.to_neighbors(C, x - hood.own(u), 5), hood.along_arcs(C, z - r, 5, stream=1))
    expected = [(ref + v, ref + step * v) for ref, v in zip((u, r), q, strict=True)]
    messages = hood.to_neighbors(C, x, 5, minus=u), hood.along_arcs(C, z, 5, stream=1, minus=r)
    own = messages[1].decode().copy()
    estimates = hood.exchange(*messages, onto=(u, r), step=step)
    for (estimate, moved), found, ref in zip(expected, estimates, (u, r), strict=True):
        np.testing.assert_array_equal(found, estimate)
        np.testing.assert_array_equal(ref, moved)
    s = rng.normal(size=z.shape)
    expected_own = s + own
    np.testing.assert_array_equal(messages[1].advance(s, step), expected_own)


@pytest.mark.parametrize("d", [7, 2000])
@pytest.mark.parametrize("step", [1.0, 0.3])
@pytest.mark.parametrize("spec", [{"name": "quantize", "bits": 4}, {"name": "top-k", "k": 2}])
@pytest.mark.parametrize("compiled", [True, False])
def test_what_is_sent_along_arcs_advances_its_own_reference(
    graph: nx.Graph, spec: dict, step: float, d: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`step`: the plain composition, also where the rows are encoded when they are sent."""
    if not compiled:
        monkeypatch.setattr(kernels, "c", None)
    hood, rng, C = hood_of(graph), np.random.default_rng(3), compressor(spec)
    z, s, r = rng.normal(size=(3, hood.m, d))
    sent = hood.along_arcs(C, z - s, 5)
    q, q_in = sent.decode(), hood.exchange(sent)
    expected = s + q, s + step * q, r + q_in
    message = hood.along_arcs(C, z, 5, minus=s, step=step)
    found = hood.exchange(message, onto=r, step=1.0)
    for mine, other in zip((message.estimate, s, found), expected, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert (message.estimate is s) == (step == 1)
    np.testing.assert_array_equal(hood.exchange(message), q_in)  # once


@pytest.mark.parametrize("reference, step", [(False, 1.0), (True, 1.0), (True, 0.3)])
@pytest.mark.parametrize("spec", [{"name": "identity"}, {"name": "quantize", "bits": 4}, {"name": "qsgd"}, {"name": "top-k", "k": 2}])
@pytest.mark.parametrize("compiled", [True, False])
def test_then_is_the_plain_composition(
    graph: nx.Graph, spec: dict, reference: bool, step: float, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`then` gives the bits of the verb applied to what would have come back, and moves the references as without it."""
    if not compiled:
        monkeypatch.setattr(kernels, "c", None)
    hood, rng, C = hood_of(graph, dtype=np.float32), np.random.default_rng(3), compressor(spec)
    x, y = rng.normal(size=(2, hood.n, 70)).astype(np.float32)
    u = rng.normal(size=(2, hood.n + hood.g, 70)).astype(np.float32)
    for verb in (hood.disagreement, hood.laplacian, lambda rows: 2 * hood.own(rows)):
        moved, expected = u.copy(), u.copy()
        messages = [hood.to_neighbors(C, x, 4), hood.to_neighbors(C, y, 4, stream=1)]
        rows = hood.exchange(*messages, onto=tuple(expected) if reference else None, step=step)
        found = hood.exchange(*messages, onto=tuple(moved) if reference else None, step=step, then=verb)
        for mine, other in zip(found, rows, strict=True):
            np.testing.assert_array_equal(mine, verb(other))
            mine += 1  # new arrays
        np.testing.assert_array_equal(moved, expected)


@pytest.mark.skipif(kernels.c is None, reason="the compiled kernels are not installed")
def test_then_takes_one_pass_where_a_kernel_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain and quantized rows; not rows of other kinds, and not so many that columns of all of them would leave the cache."""
    called: list[str] = []

    class Spy:
        def __getattr__(self, name: str) -> object:
            made = getattr(compiled, name)
            return (lambda *args: (called.append(name), made(*args))[1]) if name in ("mix", "disagreement") else made

    compiled, rng = kernels.c, np.random.default_rng(0)
    monkeypatch.setattr(kernels, "c", Spy())
    for agents, d, name, expected in (
        (9, 100, "identity", ["mix"]), (9, 100, "quantize", ["mix"]), (9, 100, "qsgd", ["mix"]), (9, 100, "norm-sign", ["disagreement"]),
        (90, 100, "identity", ["mix"]), (90, 1000, "identity", ["mix", "disagreement"]),
    ):  # fmt: skip
        hood = hood_of(nx.cycle_graph(agents))
        called.clear()
        hood.exchange(hood.to_neighbors(compressor({"name": name}), rng.normal(size=(hood.n, d)), 0), then=hood.disagreement)
        assert called == expected


@pytest.mark.parametrize("name", ["identity", "quantize"])
@pytest.mark.parametrize("reference", [False, True])
def test_then_refuses_a_damaged_message(name: str, reference: bool) -> None:
    hood = hood_of(nx.cycle_graph(5))
    message = hood.to_neighbors(compressor({"name": name}), np.ones((5, 40)), 0)
    message.payload[3, :8] = 255  # a NaN, and no scale
    u = hood.zeros_known(np.ones((5, 40))) if reference else None
    with pytest.raises(TransportError, match="damaged or mixed-up message"):
        hood.exchange(message, onto=u, then=hood.disagreement)


def test_then_takes_references_in_another_order() -> None:
    """No kernel serves these; the two passes do."""
    hood = hood_of(nx.cycle_graph(5))
    x, u = np.random.default_rng(0).normal(size=(5, 40)), np.ones((5, 40), order="F")
    expected = u.copy("K")
    rows = hood.exchange(hood.to_neighbors(PLAIN, x, 0), onto=expected, step=0.5)
    found = hood.exchange(hood.to_neighbors(PLAIN, x, 0), onto=u, step=0.5, then=hood.disagreement)
    np.testing.assert_array_equal(found, hood.disagreement(rows))
    np.testing.assert_array_equal(u, expected)


@pytest.mark.parametrize("d", [1, 33, 5000])
@pytest.mark.parametrize("name", ["identity", "quantize"])
def test_then_of_rows_in_several_places(name: str, d: int) -> None:
    hood, C = hood_of(nx.cycle_graph(6)), compressor({"name": name})
    of = hood.to_neighbors(C, np.random.default_rng(d).normal(size=(6, d)), 0)
    blocks = [(4, of.payload[4:].copy(), None), (0, of.payload[:1], None), (1, of.payload[1:4].copy(), None)]
    for step in (1.0, 0.3):
        for here in (True, False):  # where it is not all here, it is decoded as it comes
            u, v = np.ones((2, 6, d))
            found = hood._read(Scattered(of, 6, iter(blocks), here), u, step, hood.disagreement)
            np.testing.assert_array_equal(found, hood.disagreement(of.advance(v, step)))
            np.testing.assert_array_equal(u, v)


@pytest.mark.skipif(kernels.c is None, reason="the compiled kernels are not installed")
def test_long_rows_are_encoded_and_advance_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the reference is the one of which the difference is sent."""
    called: list[str] = []

    class Spy:
        def __getattr__(self, name: str) -> object:
            made = getattr(compiled, name)
            return made if not name.startswith("quantize") else lambda *args: (called.append(name[9:]), made(*args))[1]

    compiled, C, rng = kernels.c, compressor({"name": "quantize", "bits": 4}), np.random.default_rng(0)
    monkeypatch.setattr(kernels, "c", Spy())
    hood = hood_of(nx.cycle_graph(9))
    for d in (10, 2000):  # 720 bytes, 144,000 bytes
        x, u, r = rng.normal(size=(3, hood.n, d))
        one, two = ["feedback"] if d == 2000 else ["encode", "advance"], ["encode", "advance"]
        for onto, begun, step, expected in (
            (u, False, 1.0, one), (u[:], False, 0.5, one), (r, False, 1.0, two), (u, True, 1.0, two)
        ):  # fmt: skip
            plain, moved = hood.to_neighbors(C, x - u, 3).decode(), onto.copy()
            called.clear()
            q = hood.to_neighbors(C, x, 3, minus=u)
            found = hood.finish(hood.start(q), onto, step) if begun else hood.exchange(q, onto=onto, step=step)
            assert called == expected and (found is onto) == (step == 1)
            moved_once = onto.copy()
            hood.exchange(q, onto=(again := onto.copy()), step=step)  # a message that is sent twice counts twice
            np.testing.assert_array_equal(again, moved_once + step * plain)
            np.testing.assert_array_equal(found, moved + plain)
            np.testing.assert_array_equal(onto, moved + step * plain)


@pytest.mark.skipif(kernels.c is None, reason="the compiled kernels are not installed")
@pytest.mark.parametrize("agents, long, step, expected", [
    (9, 1 << 24, 1.0, ["quantize_feedback", "disagreement"]), (9, 1 << 24, 0.5, ["quantize_feedback", "disagreement"]),
    (9, 1, 1.0, ["quantize_feedback", "disagreement"]), (9, 1, 0.5, ["quantize_encode", "mix"]),
    (33, 1, 0.5, ["quantize_feedback", "disagreement"]),  # too many for their columns to stay in the cache
])  # fmt: skip
def test_own_rows_advance_where_fewer_bytes_move(
    agents: int, long: int, step: float, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are encoded; or, where û would be an array of its own and longer than the caches, as they are summed."""
    called: list[str] = []

    class Spy:
        def __getattr__(self, name: str) -> object:
            made = getattr(compiled, name)
            return lambda *args: (called.append(name), made(*args))[1]

    compiled, C, hood = kernels.c, compressor({"name": "quantize", "bits": 4}), hood_of(nx.cycle_graph(agents))
    x, u = np.random.default_rng(0).normal(size=(2, hood.n, 2000))
    q = hood.exchange(hood.to_neighbors(C, x - u, 3))
    sums, moved = hood.disagreement(u + q), u + step * q
    monkeypatch.setattr(kernels, "c", Spy())
    monkeypatch.setattr(in_process, "LONG", long)
    found = hood.exchange(hood.to_neighbors(C, x, 3, minus=u), onto=u, step=step, then=hood.disagreement)
    assert called == expected
    np.testing.assert_array_equal(found, sums)
    np.testing.assert_array_equal(u, moved)


def test_what_is_not_encoded_yet_cannot_be_written_to() -> None:
    """A method that moves x before it is sent would send something else; NumPy refuses, until it is sent, begun or dropped."""
    hood, C = hood_of(nx.cycle_graph(9)), compressor({"name": "quantize", "bits": 4})
    x, u = np.random.default_rng(0).normal(size=(2, hood.n, 2000))
    for use in (lambda q: hood.exchange(q, onto=u), hood.start, lambda q: q.decode(), lambda q: None):
        q = hood.to_neighbors(C, x, 0, minus=u)
        for rows in (x, u):
            with pytest.raises(ValueError, match="read-only"):
                rows += 1
        use(q)
        del q
        for rows in (x, u):
            rows += 1
    view = x[:4]
    messages = hood.to_neighbors(C, x, 0, minus=u), hood.to_neighbors(C, u, 0, minus=x)
    view += 1  # this is not seen
    hood.exchange(*messages, onto=(u, x))
    for rows in (x, u):
        rows += 1


def test_what_several_messages_are_made_of_is_held_until_the_last_is_encoded() -> None:
    """Whether they hold the array, a view that was made before, or one that was made of it while it was held."""
    hood, C = hood_of(nx.cycle_graph(9)), compressor({"name": "quantize", "bits": 4})
    x, u, w = np.random.default_rng(0).normal(size=(3, hood.n, 2000))
    x, u, w = x.copy(), u.copy(), w.copy()
    view = x[:]

    def refused(*arrays: Any) -> None:
        for a in arrays:
            with pytest.raises(ValueError, match="read-only"):
                a += 1

    first, second = hood.to_neighbors(C, x, 0, minus=u), hood.to_neighbors(C, x, 0, 1, minus=w)
    expected = hood.to_neighbors(C, x - w, 0, 1).decode()
    first.decode()
    u += 1
    refused(x, w)
    np.testing.assert_array_equal(second.decode(), expected)
    x += 1
    w += 1
    first, second = hood.to_neighbors(C, x, 0, minus=u), hood.to_neighbors(C, view, 0, 1, minus=w)
    second.decode()
    w += 1
    refused(x, view)
    del first
    view += 1
    x += 1
    first, second = hood.to_neighbors(C, x, 0, minus=u), hood.to_neighbors(C, x[:], 0, 1, minus=w)
    first.decode()
    refused(x)
    del second
    x += 1
    assert not message._holds


@pytest.mark.parametrize("name", ["identity", "quantize"])
def test_what_comes_back_cannot_be_written_to(name: str) -> None:
    """In process it may be what was sent; a method that wrote to it would see other numbers than over MPI."""
    hood, C = hood_of(nx.cycle_graph(9)), compressor({"name": name})
    message = hood.to_neighbors(C, np.ones((hood.n, 40)), 0)
    found = hood.exchange(message)
    with pytest.raises(ValueError, match="read-only"):
        found *= 2
    np.testing.assert_array_equal(message.decode(), found)


def test_what_the_first_message_moves_is_not_sent_by_the_next() -> None:
    """Two messages that share a reference, and one of which the first is a part; a row that is its own reference."""
    hood, C = hood_of(nx.cycle_graph(9)), compressor({"name": "quantize", "bits": 4})
    x, u, w = np.random.default_rng(0).normal(size=(3, hood.n, 2000))
    for v, minus in ((x / 2, u), (u, w)):
        expected = hood.exchange(hood.to_neighbors(C, x - u, 0), hood.to_neighbors(C, v - minus, 0, 1))
        start = u.copy(), w.copy()
        messages = hood.to_neighbors(C, x, 0, minus=u), hood.to_neighbors(C, v, 0, 1, minus=minus)
        hood.exchange(*messages, onto=(u, w))
        for a, b, q in zip((u, w), start, expected, strict=True):
            np.testing.assert_array_equal(a, b + q)
    start = u.copy()
    hood.exchange(hood.to_neighbors(C, u, 0, minus=u), onto=u)
    np.testing.assert_array_equal(u, start)


def test_a_long_row_that_is_not_finite_is_named() -> None:
    hood, C, u = hood_of(nx.cycle_graph(9)), compressor({"name": "quantize", "bits": 4}), np.zeros((9, 2000))
    x = np.ones((9, 2000))
    x[4, 7] = np.nan
    with pytest.raises(NonFiniteError, match=r"round 6: agent 4 would send NaN or infinite entries \(1 of 2,000\)"):
        hood.exchange(hood.to_neighbors(C, x, 6, minus=u), onto=u)


@pytest.mark.parametrize("compiled", [True, False])
def test_blend_on_arcs(graph: nx.Graph, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(kernels, "c", None)
    hood, rng = hood_of(graph), np.random.default_rng(4)
    y, w, x = rng.normal(size=(hood.m, 3)), rng.normal(size=(hood.m, 3)), rng.normal(size=(hood.n, 3))
    expected = (0.3 * y - 0.7 * w) + 2.5 * hood.heads(x)
    np.testing.assert_array_equal(hood.blend(0.3, y, -0.7, w, 2.5, x, out=y), expected)


def test_bytes_are_counted_for_each_arc_and_exchange() -> None:
    hood = hood_of(GRAPHS["star"])
    q = compressor({"name": "quantize", "bits": 8})
    x, z = np.ones((9, 5)), np.ones((16, 5))
    hood.exchange(hood.to_neighbors(q, x, 0), hood.along_arcs(q, z, 0))
    assert hood.wire_bytes == 16 * (HEADER + 2 * q.nbytes(5, np.float64))
    assert HEADER <= 32


def test_a_lost_payload_arrives_as_zeros_and_only_there() -> None:
    g = Graph.from_networkx(nx.path_graph(3))
    lost = Lossy(g, mixing(g), lost=lambda k, arcs: arcs == 0)  # arc 0 is 0→1
    x = np.arange(1.0, 4.0)[:, None]
    known = lost.exchange(lost.to_neighbors(PLAIN, x, 0))
    assert known[:3].ravel().tolist() == [1, 2, 3]
    assert lost.heads(known).ravel().tolist() == [2, 0, 3, 2]  # agent 1 does not see x_0
    z = np.arange(1.0, 5.0)[:, None]
    assert lost.exchange(lost.along_arcs(PLAIN, z, 0)).ravel().tolist() == [2, 0, 4, 3]


def test_a_trace_says_who_sent_what_to_whom() -> None:
    g = Graph.from_networkx(nx.path_graph(3))
    hood = Traced(g, mixing(g))
    for k in range(2):
        hood.exchange(hood.to_neighbors(PLAIN, np.ones((3, 2)), k))
    assert hood.lines == [
        f"round {k}: {arc} agents:identity(16 B)" for k in range(2) for arc in ("0→1", "1→0", "1→2", "2→1")
    ]


def test_an_emulated_network_takes_its_time_and_changes_nothing() -> None:
    graph = nx.cycle_graph(5)
    g = Graph.from_networkx(graph)
    slow, plain = Emulated(g, mixing(g), latency=2e-3, bandwidth=1e6), hood_of(graph)
    x = np.random.default_rng(4).normal(size=(5, 500))
    start = time.perf_counter()
    known = slow.exchange(slow.to_neighbors(PLAIN, x, 0))
    assert time.perf_counter() - start >= 2 * (2e-3 + (500 * 8 + HEADER) / 1e6)
    np.testing.assert_array_equal(known, plain.exchange(plain.to_neighbors(PLAIN, x, 0)))
    assert slow.wire_bytes == plain.wire_bytes
