"""Runs with device = "cuda" on a stand-in for CuPy: the numbers of the CPU, and the CPU waits where it says so and nowhere else."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import networkx as nx
import numpy as np
import pytest
from cases import facts_of, hood_of, logistic_data, p100
from gpu import strict

import decentral
from decentral import algorithms, device, kernels, runner
from decentral.compressors import build as compressor
from decentral.errors import ConfigError, NonFiniteError, TransportError
from decentral.estimators import Oracle
from decentral.estimators import build as estimator
from decentral.experiment import parse
from decentral.graph import Graph, mixing
from decentral.kernels import gpu
from decentral.neighborhood import place
from decentral.preview import preview
from decentral.problems import LeastSquares, Logistic, NonconvexLogistic, Quadratic, Softmax, TorchModule
from decentral.random import Key, Purpose
from decentral.ranks import Ranks
from decentral.state import rows

COMPRESSORS = ({"name": "identity"}, {"name": "quantize", "bits": 7}, {"name": "top-k", "k": 2})
OTHERS = (
    {"name": "qsgd", "levels": 63},
    {"name": "norm-sign"},
    {"name": "scaled-sign"},
    {"name": "top-k-quantize", "k": 4, "quantize": {"bits": 7}},
    {"name": "rand-k", "k": 2, "contracted": True},  # its places are sent
    DRAWN := {"name": "rand-k", "fraction": 0.5},  # they are drawn by both ends
    {"name": "absolute", "bits": 5},
)
CASES = [
    (name, c)
    for name in algorithms.NAMES
    for c in (COMPRESSORS if "compressor" in algorithms.load(name).__dataclass_fields__ else COMPRESSORS[:1])
]
CASES += [("deepsqueeze", c) for c in OTHERS]
CASES += [("dyna-cold", {"name": "absolute", "bits": 1}), ("dpdc3", {"name": "absolute", "bits": 5, "rounding": "dithered"})]


@pytest.fixture
def stand_in(monkeypatch):
    """Puts a `strict.Cupy` in the place of CuPy: the first of its two devices; `kernels.device` is put back."""

    def put(emulator):
        module = strict.Cupy(emulator)
        monkeypatch.setattr(gpu, "cupy", lambda: module)
        monkeypatch.setattr(kernels, "device", None)
        gpu.kernel.cache_clear()
        return device.choose("cuda", local_rank=2)

    yield put
    gpu.kernel.cache_clear()


@pytest.fixture
def cuda(emulator, stand_in):
    return stand_in(emulator)


def quadratic(agents=10, d=33, dtype=np.float64):
    Q = np.random.default_rng(0).normal(size=(agents, d, d)) / d**0.5
    Q = Q @ Q.swapaxes(1, 2) + 0.1 * np.eye(d)
    return Quadratic(Q.astype(dtype), np.random.default_rng(1).normal(size=(agents, d)).astype(dtype))


def network(X, y, ptr):
    """A small one in PyTorch, whose rows come and go by DLPack, in the memory of the device."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from decentral.problems.torch_module import cross_entropy

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(X.shape[1], 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    return TorchModule(X, (y > 0).astype(np.int64), ptr, net, cross_entropy, l2=0.1, classes=2)


def table_of(name, c):
    return {"name": name} | ({"compressor": c} if "compressor" in algorithms.load(name).__dataclass_fields__ else {})


def start(table, problem, hood, est=None):
    """(round, state, method, oracle) of a run on the device of the neighborhood, or on the CPU."""
    est = estimator(est or {"name": "full"})
    method = algorithms.build(table).tuned(facts_of(hood, problem, est.name, getattr(est, "batch", 1)))
    losses = problem if hood.device is None else problem.to_device(hood.device)
    oracle = Oracle(losses, est, hood.agents, hood.seed)
    state = method.init(hood.give(np.zeros((hood.n, problem.d), hood.dtype)), hood, oracle)
    return SimpleNamespace(method=method, oracle=oracle, state=state, hood=hood, k=0)


def advance(run, rounds):
    for _ in range(rounds):
        run.state = run.method.round(run.state, run.k, run.hood, run.oracle)
        run.k += 1


def on_device(where, dtype=np.float64):
    hood = hood_of(nx.cycle_graph(10), dtype=dtype)
    hood.to_device(where)
    return hood


def arrays(run):
    return {name: run.hood.take(a) for name, _, a in rows(run.state)}


@pytest.mark.parametrize("name, c", CASES)
def test_every_method_has_the_bits_of_the_cpu(cuda, name, c):
    """Where gradients are the same operations: quadratics. And nothing moves, and nobody waits, in a round."""
    one, other = (start(table_of(name, c), quadratic(), hood) for hood in (hood_of(nx.cycle_graph(10)), on_device(cuda)))
    advance(one, 5)
    strict.counts.clear()
    advance(other, 5)
    assert not strict.counts
    expected, found = arrays(one), arrays(other)
    assert expected.keys() == found.keys()
    for key, a in expected.items():
        assert a.dtype == found[key].dtype and a.tobytes() == found[key].tobytes(), key
    assert one.hood.wire_bytes == other.hood.wire_bytes and one.hood.ideal_bits == other.hood.ideal_bits
    assert one.hood.saturated == other.hood.saturated and isinstance(other.hood.saturated, int)


@pytest.mark.parametrize("c", COMPRESSORS)
@pytest.mark.parametrize("name", ["choco-sgd", "lead"])
def test_the_reference_advances_where_the_difference_is_encoded(cuda, monkeypatch, name, c):
    """One kernel reads x and u once, and writes u and the message."""
    called = []
    for kernel in ("quantize_encode", "quantize_feedback", "quantize_advance"):
        made = getattr(gpu, kernel)
        monkeypatch.setattr(gpu, kernel, lambda *args, made=made, kernel=kernel: (called.append(kernel), made(*args))[1])
    run = start(table_of(name, c), quadratic(), on_device(cuda))
    called.clear()
    advance(run, 3)
    assert called == (["quantize_feedback"] * 3 if c["name"] == "quantize" else [])


def test_long_references_advance_where_received_rows_are_summed(cuda, monkeypatch):
    """And û is not an array."""
    from decentral.neighborhood import in_process

    called = []
    for kernel in ("encode", "feedback", "advance", "mix"):
        made = getattr(gpu, f"quantize_{kernel}")
        monkeypatch.setattr(gpu, f"quantize_{kernel}", lambda *args, made=made, kernel=kernel: (called.append(kernel), made(*args))[1])
    monkeypatch.setattr(in_process, "LONG", 0)
    one, other = (start(table_of("lead", COMPRESSORS[1]), quadratic(), hood) for hood in (hood_of(nx.cycle_graph(10)), on_device(cuda)))
    assert one.method.reference_step != 1
    for run in (one, other):
        advance(run, 3)
    assert called == ["encode", "mix"] * 3
    for key, a in arrays(one).items():
        assert a.tobytes() == arrays(other)[key].tobytes(), key


@pytest.mark.parametrize("form", "BCDE")
def test_every_form_has_the_bits_of_the_cpu(cuda, form):
    table = {"name": "lt-admm-cc", "form": form, "compressor": {"name": "quantize", "bits": 7}}
    one, other = (start(table, quadratic(), hood) for hood in (hood_of(nx.cycle_graph(10)), on_device(cuda)))
    for run in (one, other):
        advance(run, 5)
    for key, a in arrays(one).items():
        assert a.tobytes() == arrays(other)[key].tobytes(), key


@pytest.mark.parametrize("c", COMPRESSORS)
@pytest.mark.parametrize("name", ["lead", "lt-admm-cc"])
def test_float32_has_the_bits_of_the_cpu(cuda, name, c):
    problem, hoods = quadratic(dtype=np.float32), (hood_of(nx.cycle_graph(10), dtype=np.float32), on_device(cuda, np.float32))
    one, other = (start(table_of(name, c), problem, hood) for hood in hoods)
    for run in (one, other):
        advance(run, 4)
    for key, a in arrays(one).items():
        assert a.dtype == np.float32 and a.tobytes() == arrays(other)[key].tobytes(), key


@pytest.mark.parametrize("name, c", CASES)
def test_p100_in_its_first_rounds(cuda, name, c):
    """Gradients differ in rounding: 1e-12 after six rounds, decisions of quantizers and top-k included."""
    one, other = (start(table_of(name, c), p100(samples=20), hood) for hood in (hood_of(nx.cycle_graph(10)), on_device(cuda)))
    for run in (one, other):
        advance(run, 6)
    for key, a in arrays(one).items():
        np.testing.assert_allclose(arrays(other)[key], a, rtol=1e-12, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("name", ["nids", "lead", "lt-admm-cc"])
def test_p100_takes_the_same_rounds(cuda, name):
    def rounds(hood):
        problem = p100(samples=20)
        run = start(table_of(name, COMPRESSORS[1]), problem, hood)
        for k in range(400):
            mean = hood.take(run.state.x).mean(axis=0)
            g = problem.evaluate(mean[None])[1][0] / problem.n
            if g @ g < 1e-10:
                return k
            advance(run, 1)
        return None

    expected = rounds(hood_of(nx.cycle_graph(10)))
    assert expected is not None and rounds(on_device(cuda)) == expected


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("kind", [Logistic, NonconvexLogistic, LeastSquares, Softmax, TorchModule])
@pytest.mark.parametrize(
    "est, given",
    [
        ({"name": "full"}, 0),
        ({"name": "sgd", "batch": 3}, 1),
        ({"name": "saga", "batch": 3}, 1),
        ({"name": "saga", "batch": 3, "reset": True}, 0.8),
        ({"name": "svrg", "batch": 3, "every": 4}, 1.1),
        ({"name": "l-svrg", "batch": 3, "probability": 0.5}, None),
    ],
)  # fmt: skip
def test_gradients(cuda, est, given, kind, even):
    """To 1e-12; indices of batches go to the device, one array a gradient, and masks with snapshots; nothing comes back."""
    X, y, ptr = logistic_data(samples=12)
    if not even:
        kept = np.arange(12) < 3 + np.arange(10)[:, None]
        X, y, ptr = X[kept.ravel()], y[kept.ravel()], np.concatenate(([0], np.cumsum(kept.sum(axis=1))))
    if kind is TorchModule:
        problem, given = network(X, y, ptr), None if "svrg" in est["name"] else given
    else:
        problem = Softmax(X, y > 0, ptr, classes=2, l2=0.1) if kind is Softmax else kind(X, y, ptr, l2=0.1)
    table = {"name": "lt-admm", "local_steps": 5, "step_size": 0.01, "dual_step": 0.01}
    one, other = (start(table, problem, hood, est) for hood in (hood_of(nx.cycle_graph(10)), on_device(cuda)))
    advance(one, 8)
    strict.counts.clear()
    advance(other, 8)
    assert strict.counts["fetched"] == strict.counts["waited"] == 0
    assert given is None or strict.counts["given"] == round(8 * 5 * given)
    for key, a in arrays(one).items():
        np.testing.assert_allclose(arrays(other)[key], a, rtol=1e-12, atol=1e-12, err_msg=key)
    np.testing.assert_array_equal(one.oracle.evaluations, other.oracle.evaluations)


def test_rows_of_a_torch_module_stay_where_they_are(cuda):
    X, y, ptr = logistic_data(samples=12)
    problem = network(X, y, ptr).to_device(cuda)
    x = cuda.give(np.tile(problem.start, (10, 1)))
    seen, slopes = [], problem._slopes
    problem._slopes = lambda rows, X, y: seen.append((rows.data_ptr(), g := slopes(rows, X, y))) or g
    for index in (None, np.zeros((10, 3), np.int64)):
        g = problem.estimate(x, index)
        assert seen[-1][0] == x.host.ctypes.data and seen[-1][1].data_ptr() == g.host.ctypes.data


def test_what_comes_back_comes_with_one_waiting(cuda):
    run = start(table_of("lead", COMPRESSORS[1]), quadratic(), on_device(cuda))
    advance(run, 2)
    strict.counts.clear()
    run.hood.take(run.state.x)
    assert strict.counts == {"fetched": 2, "waited": 1}  # the rows, and what was noted


@pytest.mark.parametrize("c", [*COMPRESSORS, *OTHERS])
def test_rows_that_must_not_be_sent_are_raised_with_the_next_rows(cuda, c):
    hood = on_device(cuda)
    v = np.zeros((hood.m, 40))
    v[5, 3], v[2, 39] = np.nan, np.inf
    x = hood.exchange(hood.along_arcs(compressor(c), hood.give(v), 17))
    strict.counts.clear()
    with pytest.raises(NonFiniteError, match="round 17: agent 1, 2 would send NaN"):
        hood.take(x)
    hood.take(hood.give(v))  # it is said once


@pytest.mark.parametrize("c", [*COMPRESSORS, *OTHERS])
def test_damaged_bytes_are_raised_with_the_next_rows(cuda, c):
    codec, key = compressor(c), Key(1, Purpose.TEST, 0, np.arange(3))
    payload = codec.encode(np.ones((3, 40)), key)
    payload[1] = 0xFF
    codec.decode(cuda.give(payload), 40, np.float64)
    with pytest.raises(TransportError, match="damaged"):
        cuda.fetch()


def test_a_stream_of_top_k_begins_where_it_ended(cuda, monkeypatch):
    """Variables of one form are told apart by their draws' purpose; only so many are remembered."""
    guessed, launch, rng = [], gpu._launch, np.random.default_rng(0)

    def watch(name, blocks, *args, **options):
        launch(name, blocks, *args, **options)
        if name.startswith("top_k_sample"):
            guessed.append((args[2].host[:, -1] == 64).all())

    monkeypatch.setattr(gpu, "_launch", watch)
    v, ids = rng.standard_normal((2, 9000)), np.arange(2)
    codecs = [compressor({"name": name, "k": 300}) for name in ("top-k", "top-k-quantize")]
    for k in range(4):
        for c, purpose, scale in zip(codecs, (1, 17), (0.7**k, 1e6), strict=True):
            key, x = Key(1, purpose, k, ids), scale * v
            found = c.encode_difference(cuda.give(x), cuda.give(x / 2), Key(1, purpose, k, cuda.give(ids)))
            assert found.host.tobytes() == c.encode_difference(x, x / 2, key).tobytes()
    assert guessed == [False] * 4 + [True] * 4
    for k in range(1, 21):
        compressor({"name": "top-k", "k": k}).encode(cuda.give(v[:, :50]), key)
    assert len(cuda._searches) == device.SEARCHES


# --- over MPI ------------------------------------------------------------------------------------------------------------


def on_ranks(how, **others):
    from mpi4py import MPI

    from decentral.neighborhood.mpi import MPINeighborhood

    g = Graph.from_networkx(nx.cycle_graph(10))
    return MPINeighborhood(g, mixing(g), place(10, MPI.COMM_WORLD.size, how), seed=7, **others)


def bytes_of_others(hood):
    """What a rank receives in a round in which it makes each of its exchanges once."""
    rows = {"agents": hood.g, "arcs": hood.m - len(hood.local)}
    return sum(rows[kind] * size for form, e in hood.exchanges.items() for (kind, *_), (_, size) in zip(form, e.shapes, strict=True))


@pytest.mark.mpi
@pytest.mark.parametrize("how", ["block", "cyclic"])
@pytest.mark.parametrize("c", [*COMPRESSORS, DRAWN])
@pytest.mark.parametrize("name", ["lt-admm-cc", "dpdc2"])
def test_ranks_have_the_bits_of_one_process(small_emulator, stand_in, name, c, how):
    """And wait where they send alone: for what was noted, and for each of two payloads. What comes back are rows of others."""
    hood = on_ranks(how)
    hood.to_device(stand_in(small_emulator))
    counts, moved = have_the_bits_of_one_process(hood, table_of(name, c))
    assert counts["waited"] == 0 and counts["events"] == counts["fetched"] == 6 * 3
    assert moved["given"] == 6 * bytes_of_others(hood)
    assert how == "cyclic" or counts["given"] == 6 * 2 * len(hood.peers)
    hood.close()


@pytest.mark.mpi
@pytest.mark.parametrize("name, expected", [
    ("lead", ["encode", "mix"]),  # the sum's pass advances own rows too
    ("beer", ["feedback", "feedback", "advance", "advance"]),  # no sum: own rows where they are encoded, then those of others
    ("lt-admm-cc", ["feedback", "feedback", "advance", "advance"]),  # rows of agents and arcs
])  # fmt: skip
def test_ranks_read_each_array_once(small_emulator, stand_in, monkeypatch, name, expected):
    called = []
    for kernel in ("encode", "feedback", "advance", "mix"):
        made = getattr(gpu, f"quantize_{kernel}")
        monkeypatch.setattr(gpu, f"quantize_{kernel}", lambda *args, made=made, kernel=kernel: (called.append(kernel), made(*args))[1])
    hood, problem, table = on_ranks("block"), quadratic(), table_of(name, COMPRESSORS[1])
    hood.to_device(stand_in(small_emulator))
    own = Quadratic(problem.Q[hood.agents], problem.c[hood.agents])
    one, other = start(table, problem, hood_of(nx.cycle_graph(10))), start(table, own, hood)
    other.method = one.method
    advance(one, 3)
    called.clear()
    advance(other, 3)
    assert called == expected * 3
    index, found = {"agents": hood.agents, "known": hood.known, "arcs": hood.arcs}, arrays(other)
    for key, kind, a in rows(one.state):
        assert a[index[kind]].tobytes() == found[key].tobytes(), key
    hood.close()


def have_the_bits_of_one_process(hood, table):
    """After seven rounds; returns the counts of the last six of them, and the bytes."""
    problem = quadratic()
    own = Quadratic(problem.Q[hood.agents], problem.c[hood.agents])
    one, other = start(table, problem, hood_of(nx.cycle_graph(10))), start(table, own, hood)
    other.method = one.method  # tuned to all agents
    advance(one, 7)
    advance(other, 1)  # what makes the exchanges
    strict.counts.clear()
    strict.moved.clear()
    advance(other, 6)
    counts, moved = strict.counts.copy(), strict.moved.copy()
    index = {"agents": hood.agents, "known": hood.known, "arcs": hood.arcs}
    found = arrays(other)
    for key, kind, a in rows(one.state):
        assert a[index[kind]].tobytes() == found[key].tobytes(), key
    return counts, moved


@pytest.mark.mpi
@pytest.mark.parametrize("how", ["block", "cyclic"])
@pytest.mark.parametrize("name, c", [("lt-admm-cc", COMPRESSORS[1]), ("dpdc2", COMPRESSORS[0]), ("lead", DRAWN)])
def test_ranks_of_other_machines_send_from_device_memory(small_emulator, stand_in, name, c, how):
    """MPI takes and brings the rows there, and is told to only when the device is done; what is fetched are the notes."""
    from mpi4py import MPI

    hood = on_ranks(how, machines=np.arange(MPI.COMM_WORLD.size), device_buffers="yes")
    hood.to_device(stand_in(small_emulator))
    counts, _ = have_the_bits_of_one_process(hood, table_of(name, c))
    assert counts == {"waited": 6, "fetched": 6} and "from and to device memory" in hood.transport
    hood.close()


@pytest.mark.mpi
@pytest.mark.parametrize("c", [{"name": "quantize", "bits": 7, "block": 32}, {"name": "identity"}, {"name": "top-k", "k": 300}])
def test_long_rows_come_and_go_in_pieces(small_emulator, stand_in, monkeypatch, c):
    """A piece is sent when it is on the CPU, while the next one comes, and brought to the device when it arrives."""
    from decentral.neighborhood import base

    monkeypatch.setattr(base, "PIECE", 1000)
    hood, one, rng, d = on_ranks("block", calls="pairs"), hood_of(nx.cycle_graph(10)), np.random.default_rng(5), 2500
    hood.to_device(stand_in(small_emulator))
    q, u = compressor(c), {w: w.give(np.zeros((len(w.known), d))) for w in (hood, one)}
    for k in range(3):
        x = rng.normal(size=(10, d))
        strict.counts.clear()
        for w in (hood, one):
            message = w.to_neighbors(q, w.give(x[w.agents]), k, minus=u[w])
            w.exchange(message, onto=u[w], step=0.5)
        assert strict.counts["waited"] == 0 and strict.counts["events"] > 1 + hood.n * len(q.cut(d, np.float64, 1000)) // 2
    np.testing.assert_array_equal(hood.take(u[hood]), u[one][hood.known])
    hood.close()


@pytest.mark.mpi
def test_some_rows_go_by_device_memory_and_some_do_not(small_emulator, stand_in):
    """Two ranks a machine: from three ranks on there are others."""
    from mpi4py import MPI

    hood = on_ranks("cyclic", machines=np.arange(MPI.COMM_WORLD.size) // 2, device_buffers="yes")
    hood.to_device(stand_in(small_emulator))
    counts, moved = have_the_bits_of_one_process(hood, table_of("lt-admm-cc", COMPRESSORS[1]))
    assert counts["waited"] == 6 * bool(hood.far) and counts["fetched"] == 6 * (3 if hood.near else 1)
    assert (moved["given"] > 0) == bool(hood.near)
    hood.close()


@pytest.mark.mpi
@pytest.mark.parametrize("device_buffers", ["auto", "no"])
def test_rows_go_by_pinned_memory_unless_mpi_says_otherwise(small_emulator, stand_in, device_buffers):
    from mpi4py import MPI

    from decentral.neighborhood.mpi import takes_device_memory

    if takes_device_memory(MPI.COMM_WORLD):
        pytest.skip("this MPI takes device memory")
    hood = on_ranks("cyclic", machines=np.arange(MPI.COMM_WORLD.size), device_buffers=device_buffers)
    hood.to_device(stand_in(small_emulator))
    counts, moved = have_the_bits_of_one_process(hood, table_of("lt-admm-cc", COMPRESSORS[1]))
    assert counts["waited"] == 0 and counts["events"] == counts["fetched"] == 6 * 3
    assert moved["given"] == 6 * bytes_of_others(hood)
    assert "by way of pinned memory" in hood.transport
    hood.close()


@pytest.mark.mpi
@pytest.mark.parametrize(
    "kinds, yes",
    [
        ("", False), ("mpi,system", False), ("mpi, cuda:host", False), ("rocm:device", False), ("nocuda", False),
        ("cuda", True), ("system,cuda:device", True), ("cuda:host:device", True),
    ],
)  # fmt: skip
def test_what_mpi_says_of_device_memory(kinds, yes):
    from mpi4py import MPI

    from decentral.neighborhood.mpi import takes_device_memory

    info = MPI.Info.Create()
    if kinds:
        info.Set("mpi_memory_alloc_kinds", kinds)
    assert takes_device_memory(SimpleNamespace(Get_info=lambda: info)) is yes


@pytest.mark.mpi
def test_a_rank_names_who_would_send_nan(small_emulator, stand_in):
    hood = on_ranks("block")
    hood.to_device(stand_in(small_emulator))
    v = np.zeros((hood.n, 40))
    v[-1, 3] = np.nan
    with pytest.raises(NonFiniteError, match=f"round 4: agent {hood.agents[-1]} would send NaN"):
        hood.exchange(hood.to_neighbors(compressor(COMPRESSORS[1]), hood.give(v), 4))
    hood.close()


# --- whole runs ----------------------------------------------------------------------------------------------------------


def experiment(folder, **other):
    table = {
        "rounds": 30, "out": str(folder), "graph": {"topology": "ring", "agents": 6}, "data": {"name": "synthetic"},
        "algorithm": {"name": "lt-admm-cc", "compressor": {"name": "quantize", "bits": 7}, "estimator": {"name": "saga", "batch": 2}},
        "record": {"every": 5},
    }  # fmt: skip
    return parse(table | other)


def run_of(experiment, **how):
    return decentral.run(experiment, ranks=Ranks(), **how)


def test_a_run(cuda, tmp_path):
    one, other = run_of(experiment(tmp_path)), run_of(experiment(tmp_path, device="cuda:1"))
    assert other.record["device"] == "cuda:1 (stand-in 1)" and one.record["device"] == "cpu"
    assert one.folder != other.folder == experiment(tmp_path, device="cuda").folder
    np.testing.assert_allclose(other.x, one.x, rtol=1e-12, atol=1e-12)
    assert other.row["wire_bytes"] == one.row["wire_bytes"] and other.row["gradients"] == one.row["gradients"]
    for metric in ("grad_norm_sq", "consensus", "gap"):
        np.testing.assert_allclose(other.row[metric], one.row[metric], rtol=1e-9, atol=1e-18)


def test_a_preview(cuda, tmp_path):
    """But for the folder."""
    shown = [preview(experiment(tmp_path, device=d)).splitlines() for d in ("cuda", "cpu")]
    assert len(shown[0]) > 10 and [a for a, b in zip(*shown, strict=True) if a != b and not a.startswith("folder")] == []


@pytest.mark.mpi
@pytest.mark.parametrize("transport", [{}, {"calls": "pairs", "device_buffers": "yes"}], ids=["auto", "device"])
def test_a_run_on_ranks_that_share_devices(small_emulator, stand_in, tmp_path, transport):
    stand_in(small_emulator)
    asked = experiment(tmp_path, device="cuda", transport=transport)
    one, other = run_of(experiment(tmp_path / "one", device="cuda")), decentral.run(asked)
    assert kernels.device.number == Ranks.start().local_rank() % 2
    if other.x is not None:  # rank 0
        assert other.record["device"] == "cuda:0 (stand-in 0)" and other.record["ranks"] > 1
        assert ("from and to device memory" in other.record["transport"]) == bool(transport) and one.folder.name == other.folder.name
        np.testing.assert_array_equal(other.x, one.x)
        assert other.row["wire_bytes"] == one.row["wire_bytes"]


def test_a_run_that_is_stopped_continues(cuda, tmp_path):
    """Also on the CPU, where its folder is put in the place of that of the CPU's run."""
    whole = run_of(experiment(tmp_path / "whole", device="cuda"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.Interrupts, "__enter__", lambda self: setattr(self, "signal", signal.SIGTERM) or self)
        stopped = run_of(experiment(tmp_path, device="cuda"))
    assert stopped.status == "interrupted" and 0 < stopped.rounds < 30
    shutil.copytree(stopped.folder, experiment(tmp_path).folder)
    again = run_of(experiment(tmp_path, device="cuda"), resume=True)
    assert again.status == "finished" and again.x.tobytes() == whole.x.tobytes()
    np.testing.assert_allclose(run_of(experiment(tmp_path), resume=True).x, whole.x, rtol=1e-12, atol=1e-12)


def test_a_run_counts_what_it_clips(cuda, tmp_path):
    """Also across a stop: what was counted on the device is in the checkpoint, and the count goes on from there."""
    table = {"name": "dpdc3", "compressor": {"name": "absolute"}, "scale_decay": 0.5}
    one, other = (run_of(experiment(tmp_path / name, device=name, algorithm=table)) for name in ("cpu", "cuda"))
    assert one.record["saturated"] == other.record["saturated"] > 0
    stopped = experiment(tmp_path, device="cuda", algorithm=table, record={"every": 5, "checkpoint": 20})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.Interrupts, "__enter__", lambda self: setattr(self, "signal", signal.SIGTERM) or self)
        assert run_of(stopped).status == "interrupted"
    assert run_of(stopped, resume=True).record["saturated"] == one.record["saturated"]


def test_a_run_that_chooses_its_compressor(cuda, tmp_path):
    outcome = run_of(experiment(tmp_path, device="cuda", algorithm={"name": "deepsqueeze", "compressor": "auto"}, rounds=2))
    assert outcome.status == "finished" and outcome.record["parameters"]["compressor"]["name"] in ("identity", "quantize")


def test_a_run_that_diverges(cuda, tmp_path):
    table = {"name": "lead", "step_size": 1e160, "compressor": {"name": "quantize", "bits": 7}}
    outcome = run_of(experiment(tmp_path, device="cuda", algorithm=table, record={"every": 1}))
    assert outcome.status == "diverged" and "try a smaller step_size" in outcome.why


# --- sentences -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table, sentence",
    [
        ({"device": "gpu"}, 'give "cpu", "cuda"'),
        ({"device": "cuda:x"}, 'give "cpu", "cuda"'),
        ({"transport": {"device_buffers": "maybe"}}, 'give one of "auto", "yes", "no"'),
    ],
)  # fmt: skip
def test_what_a_configuration_may_not_ask(tmp_path, table, sentence):
    with pytest.raises(ConfigError, match=sentence):
        experiment(tmp_path, **table)


def test_devices_that_are_not_there(cuda, monkeypatch):
    with pytest.raises(ConfigError, match="this machine has 2, numbered from 0"):
        device.choose("cuda:2")
    assert device.choose("cuda", local_rank=3).number == 1  # ranks share them in turn

    def missing():
        raise ImportError("No module named 'cupy'")

    monkeypatch.setattr(gpu, "cupy", missing)
    with pytest.raises(ConfigError, match=r"needs CuPy.*pip install cupy"):
        device.choose("cuda")
    monkeypatch.setattr(gpu, "cupy", lambda: SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=lambda: 1 / 0))))
    with pytest.raises(ConfigError, match="no GPU is at hand"):
        device.choose("cuda")


def test_the_command_line_says_what_is_missing(tmp_path):
    try:
        if gpu.cupy().cuda.runtime.getDeviceCount():
            pytest.skip("a device is there")
    except ImportError:
        pass
    except Exception as error:  # CuPy without a driver: `no GPU is at hand`
        assert error
    (tmp_path / "a.toml").write_text('rounds = 1\n[graph]\ntopology = "ring:4"\n[algorithm]\nname = "d-psgd"\n')
    command = [sys.executable, "-m", "decentral", "run", str(tmp_path / "a.toml"), "--set", "device=cuda", "--set", f"out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "device = \"cuda\"" in done.stderr and len(done.stderr.strip().splitlines()) == 1
