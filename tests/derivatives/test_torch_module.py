"""A PyTorch module as the loss: the numbers of the same loss by formula, in any layout, and what cannot be trained says so."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from cases import facts_of, hood_of

from decentral import algorithms, experiment, runner
from decentral.cli import main
from decentral.errors import ConfigError, ProblemError
from decentral.estimators import Oracle
from decentral.estimators import build as estimator
from decentral.neighborhood import place
from decentral.problems import Softmax, gradient, torch_module
from decentral.ranks import Ranks

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

PTR = np.array([0, 7, 19, 31, 52])  # the second and third have as many samples


def data(ptr: Any = PTR, seed: int = 4) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(ptr[-1], 5)), rng.integers(0, 3, ptr[-1]), ptr


def made(net: Any, dtype: str = "float64", l2: float = 0.1, ptr: Any = PTR, loss: Any = torch_module.cross_entropy) -> Any:
    X, y, ptr = data(ptr)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return torch_module.TorchModule(X.astype(dtype), y, ptr, net(), loss, l2, classes=3)


def linear() -> Any:
    return nn.Linear(5, 3, bias=False)


def network() -> Any:
    return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))


def points(problem: Any, seed: int = 1) -> Any:
    x = problem.start + 0.1 * np.random.default_rng(seed).normal(size=(problem.n, problem.d))
    return x.astype(problem.X.dtype)


INDEX = np.array([[0, 3, 6], [5, 1, 11], [2, 9, 0], [20, 8, 7]])


def test_linear_with_cross_entropy_is_softmax() -> None:
    problem, formula = made(linear), Softmax(*data(), classes=3, l2=0.1)
    x, tolerance = points(problem), {"rtol": 1e-12, "atol": 1e-14}
    np.testing.assert_allclose(gradient(problem, x), gradient(formula, x), **tolerance)
    np.testing.assert_allclose(problem.estimate(x, INDEX), formula.estimate(x, INDEX), **tolerance)
    for index in (None, INDEX):  # one sample at a time
        sums = [p.combine(p.coefficients(x, index), index) for p in (problem, formula)]
        np.testing.assert_allclose(*sums, **tolerance)
    for found, expected in zip(problem.evaluate(x), formula.evaluate(x), strict=True):
        np.testing.assert_allclose(found, expected, **tolerance)
    np.testing.assert_allclose(problem.hessian(x[0]), formula.hessian(x[0]), **tolerance)
    np.testing.assert_allclose(problem.error_rate(x), formula.error_rate(x), **tolerance)


@pytest.mark.parametrize("name", ["lt-admm-cc", "lead", "choco-sgd"])
@pytest.mark.parametrize("e", ["full", "sgd", "saga", "svrg", "l-svrg"])
def test_runs_are_those_of_softmax(name: str, e: str) -> None:
    """40 rounds with 4 bits: x to 1e-10. A difference of rounding flips a code with a probability of about 1e-13 an entry."""
    hood = hood_of(nx.cycle_graph(4))
    problems = made(linear), Softmax(*data(), classes=3, l2=0.1)
    table = {"name": name, "compressor": {"name": "quantize", "bits": 4}}
    method = algorithms.build(table).tuned(facts_of(hood, problems[1], e, 3))
    found = []
    for problem in problems:
        oracle = Oracle(problem, estimator({"name": e, **({} if e == "full" else {"batch": 3})}), hood.agents, hood.seed)
        state = method.init(points(problems[0]), hood, oracle)
        for k in range(40):
            state = method.round(state, k, hood, oracle)
        found.append((state.x, oracle.evaluations))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-10, atol=1e-10)
    if "svrg" in e:  # two gradients a sample and step, and no table
        assert state.memory.table is not None and (found[0][1] > found[1][1]).all()
    else:
        np.testing.assert_array_equal(found[0][1], found[1][1])


def test_agents_at_once_are_a_loop_over_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made(network)
    assert problem._at_once and [g[2] for g in problem._groups] == [7, 12, 21]
    x = points(problem)
    at_once = gradient(problem, x), problem.estimate(x, INDEX), problem.coefficients(x)
    for row in range(4):
        part = slice(PTR[row], PTR[row + 1])
        leaf = torch.from_numpy(x[row].copy()).requires_grad_()
        module = made(network).module
        torch.nn.utils.vector_to_parameters(leaf, module.parameters())
        X, y = torch.from_numpy(problem.X[part]), torch.from_numpy(problem.y[part])
        plain = torch.autograd.grad(nn.functional.cross_entropy(module(X), y), list(module.parameters()))
        expected = torch.cat([g.reshape(-1) for g in plain]).numpy() + 0.1 * x[row]
        np.testing.assert_allclose(at_once[0][row], expected, rtol=1e-11, atol=1e-13)
    problem._at_once = False
    one_by_one = gradient(problem, x), problem.estimate(x, INDEX), problem.coefficients(x)
    for a, b in zip(at_once, one_by_one, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)
    monkeypatch.setattr(torch_module, "SAMPLES", 5)  # in pieces
    monkeypatch.setattr(torch_module, "CHUNK", 100)
    pieces = made(network)
    for found, expected in ((gradient(pieces, x), at_once[0]), (pieces.coefficients(x), at_once[2])):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)
    for found, expected in zip(pieces.evaluate(x), problem.evaluate(x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


def test_rows_and_tensors_share_memory() -> None:
    problem = made(network)
    x = points(problem)
    assert torch_module.tensor_of(x).data_ptr() == x.ctypes.data
    seen = []
    slopes = problem._slopes
    problem._slopes = lambda rows, X, y: seen.append((rows.data_ptr(), X.data_ptr(), g := slopes(rows, X, y))) or g
    g = problem.estimate(x, INDEX)
    assert seen[0][0] == x.ctypes.data and seen[0][2].data_ptr() == g.ctypes.data
    seen.clear()
    gradient(problem, x)
    assert [s[1] for s in seen] == [problem.X[a:].ctypes.data for a in (0, 7, 31)]  # the samples are not copied either


class Branching(nn.Module):
    """A forward that looks at its numbers, as vmap cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 3)

    def forward(self, X: Any) -> Any:
        return self.inner(X) if self.inner.weight.sum().item() > 1e9 else self.inner(X) * 2


def test_what_vmap_cannot_take_is_looped() -> None:
    problem = made(Branching)
    assert not problem._at_once
    x = points(problem)
    problem_2 = made(lambda: nn.Sequential(nn.Linear(5, 3), Doubled()))
    np.testing.assert_allclose(gradient(problem, x), gradient(problem_2, x), rtol=1e-12, atol=1e-14)


class Doubled(nn.Module):
    def forward(self, X: Any) -> Any:
        return 2 * X


def test_frozen_parameters_stay() -> None:
    net = network()
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    problem = made(lambda: net)
    assert problem.d == 8 + 8 + 27
    gradient(problem, points(problem))
    assert torch.equal(net[0].weight, before.double())


def test_float32_is_float64_rounded() -> None:
    wide, narrow = made(network), made(network, "float32")
    np.testing.assert_array_equal(narrow.start, wide.start.astype(np.float32))  # initialized in float32, both
    x = points(wide)
    g = gradient(narrow, x.astype(np.float32))
    assert g.dtype == narrow.coefficients(x.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(g, gradient(wide, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", algorithms.NAMES)
def test_a_given_step_size_is_all_that_a_method_needs_to_know(name: str) -> None:
    """L and μ are NaN; NaN steps are found out."""
    hood, formula = hood_of(nx.cycle_graph(4)), Softmax(*data(), classes=3, l2=0.1)
    facts = dataclasses.replace(facts_of(hood, formula, "sgd", 3), L=math.nan, mu=math.nan, L_max=math.nan)
    for known in (facts, dataclasses.replace(facts, estimator="full")):
        with pytest.raises(ConfigError, match='algorithm.step_size = nan of .*"auto" needs the smoothness'):
            algorithms.build({"name": name}).tuned(known)
        tuned = algorithms.build({"name": name, "step_size": 0.1}).tuned(known)
        numbers = [v for v in vars(tuned).values() if isinstance(v, float)]
        assert np.isfinite(numbers).all() and not tuned.check(known)


# --- what cannot be trained -------------------------------------------------------------------------------------------------

BAD = {
    "BatchNorm": (lambda: nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), 'layer "1" is BatchNorm1d.*GroupNorm or LayerNorm'),
    "BatchNorm without buffers": (lambda: nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3, track_running_stats=False)), "GroupNorm"),
    "dropout": (lambda: nn.Sequential(nn.Dropout(), nn.Linear(5, 3)), 'layer "0" is Dropout.*leave it out'),
    "noise": (lambda: Own(lambda X: X + torch.rand_like(X)), "another loss the second time"),
    "state": (lambda: Own(lambda X: X, counts=True), 'changes its buffer "count"'),
    "batch": (lambda: Own(lambda X: X - X.mean(dim=0)), "do not depend on the other samples"),
    "frozen": (lambda: nn.Linear(5, 3).requires_grad_(False), "no trainable parameters"),
    "detached": (lambda: Own(lambda X: X.detach()), "does not depend on the parameters"),
    "too few outputs": (lambda: nn.Linear(5, 2), r"outputs \(3, 2\).*need \(3, 3\)"),
    "infinite": (lambda: Own(lambda X: X / 0), "not finite at the start"),
    "wrong features": (lambda: nn.Linear(4, 3), r"fails on rows \(3, 5\): RuntimeError"),
}


class Own(nn.Module):
    def __init__(self, change: Any, counts: bool = False):
        super().__init__()
        self.inner, self.change, self.counts = nn.Linear(5, 3), change, counts
        self.register_buffer("count", torch.zeros(()))

    def forward(self, X: Any) -> Any:
        if self.counts:
            self.count += 1
        return self.change(self.inner(X))


@pytest.mark.parametrize("bad", BAD)
def test_a_module_that_cannot_be_trained_says_so(bad: str) -> None:
    with pytest.raises(ProblemError, match=BAD[bad][1]):
        made(BAD[bad][0])


def test_a_frozen_BatchNorm_and_a_sum_for_a_mean() -> None:
    made(lambda: nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Dropout()).eval())
    with pytest.raises(ProblemError, match="give a mean over samples"):
        made(linear, loss=nn.CrossEntropyLoss(reduction="sum"))
    with pytest.raises(ProblemError, match=r"has shape \(3,\)"):
        made(linear, loss=nn.CrossEntropyLoss(reduction="none"))


def test_a_table_that_is_too_large_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made(linear)
    monkeypatch.setattr(torch_module, "TABLE", problem.coefficients(points(problem)).nbytes - 1)
    with pytest.raises(ProblemError, match='use estimator "svrg"'):
        Oracle(problem, estimator({"name": "saga", "batch": 2}), np.arange(4))
    Oracle(problem, estimator({"name": "svrg", "batch": 2}), np.arange(4))


# --- a configuration ----------------------------------------------------------------------------------------------------------

MODEL = """
import torch
from torch import nn

def net(features, classes, hidden=6):
    return nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, classes))

def hinge(outputs, targets):
    return nn.functional.multi_margin_loss(outputs, targets)

def broken(features, classes):
    raise ValueError("no")

def nothing(features, classes):
    return 3
"""
TEXT = """
seed = 5
rounds = 30
graph.topology = "ring:6"
problem = { name = "torch", model = "my_model.py:net" }
data = { name = "synthetic", rows = 240 }
record = { every = 10, metrics = ["loss", "error_rate"] }
[algorithm]
name = "choco-sgd"
step_size = 0.2
estimator = { name = "sgd", batch = 4 }
compressor = { name = "quantize", bits = 4 }
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration and its model in a folder of their own, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(MODEL)
    path = tmp_path / "own.toml"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_run_trains_and_does_so_again(config: Path, dtype: str) -> None:
    chosen = experiment.load(config, [f"dtype={dtype}", "rounds=200"])
    outcome = runner.run(chosen)
    header, first, *_, last = [line.split(",") for line in (chosen.folder / "trace.csv").read_text().splitlines()]
    start, end = (dict(zip(header, row, strict=True)) for row in (first, last))
    assert float(end["loss"]) < 0.5 * float(start["loss"]) and float(end["error_rate"]) < 0.1
    assert outcome.record["problem"]["L"] is None and experiment.load(chosen.folder / "config.toml") == chosen
    np.testing.assert_array_equal(runner.run(chosen, force=True).x, outcome.x)
    other = runner.run(experiment.load(config, [f"dtype={dtype}", "rounds=0", "seed=6"])).x
    assert (other == other[0]).all() and not np.array_equal(other, runner.run(experiment.load(config, ["rounds=0"])).x)


@pytest.mark.parametrize("e", ["sgd", "svrg", "saga"])
def test_a_stopped_run_goes_on_where_it_was(config: Path, monkeypatch: pytest.MonkeyPatch, e: str) -> None:
    chosen = experiment.load(config, [f"algorithm.estimator.name={e}", "algorithm.step_size=0.05"])
    interrupts = runner.Interrupts()
    with monkeypatch.context() as patch:
        patch.setattr(runner, "Interrupts", lambda: interrupts)
        interrupts.signal = 15
        stopped = runner.run(chosen)
    assert stopped.status == "interrupted" and 0 < stopped.rounds < 30
    resumed = runner.run(chosen, resume=True)
    np.testing.assert_array_equal(resumed.x, runner.run(chosen, force=True).x)


def test_the_digest_is_that_of_the_source(config: Path) -> None:
    digest = experiment.load(config).digest
    config.with_name("elsewhere.py").write_text(MODEL)
    assert experiment.load(config, ["problem.model=elsewhere.py:net"]).digest == digest
    config.with_name("elsewhere.py").write_text(MODEL + "\n")
    assert experiment.load(config, ["problem.model=elsewhere.py:net"]).digest != digest


def test_show_and_own_parts(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(config), "--set", "problem.params={hidden=3}"]) == 0
    assert "torch module my_model.py:net, loss cross-entropy, l2 = 0; d = 26\n" in capfd.readouterr().out
    assert main(["run", str(config), "--set", "problem.loss=my_model.py:hinge"]) == 0
    assert main(["run", str(config), "--set", "problem.loss=mse", "--set", 'record.metrics=["loss"]']) == 0
    assert main(["report", *map(str, Path("results").glob("own-*"))]) == 0


SENTENCES = [
    (["problem.model="], "needs problem.model", "my_model.py:net"),
    (["problem.model=my_model.py"], 'problem.model = "my_model.py"', '"file.py:function"'),
    (["problem.model=my_model.py:nett"], 'no function "nett"', 'did you mean "net"?'),
    (["problem.model=none.py:net"], "none.py", "No such file"),
    (["problem.model=nowhere.models:net"], "cannot import nowhere.models", "No module named"),
    (["problem.model=my_model.py:broken"], "failed: ValueError: no", ""),
    (["problem.model=my_model.py:nothing"], "returned int", "torch.nn.Module"),
    (["problem.params={hiden=3}"], "failed: TypeError", "hiden"),
    (["problem.loss=crossentropy"], 'problem.loss = "crossentropy"', 'did you mean "cross-entropy"?'),
    (["problem.hidden=3"], 'unknown key in [problem] "hidden"', "model"),
    (["algorithm.step_size=auto"], "algorithm.step_size = nan of choco-sgd: give a positive", '("auto" needs the smoothness'),
    (['record.metrics=["error_rate"]', "problem.loss=mse"], 'metric "error_rate" needs a problem with classes', "softmax"),
]


@pytest.mark.parametrize(("overrides", "names", "helps"), SENTENCES, ids=[" ".join(case[0]) for case in SENTENCES])
def test_bad_values(config: Path, capfd: pytest.CaptureFixture[str], overrides: list[str], names: str, helps: str) -> None:
    status = main(["run", str(config), *(part for o in overrides for part in ("--set", o))])
    err = capfd.readouterr().err
    assert status == 2 and len(err.strip().splitlines()) == 1 and names in err and helps in err, err
    assert not list(Path(".").glob("results/*/final.npz"))


@pytest.mark.parametrize("seconds", [60.0, 0.0])
def test_auto_measures_a_module(config: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """From the module's own start; where its progress is not measured, none and 8 bits alone are compared."""
    monkeypatch.setattr("decentral.compressors.auto.SECONDS", seconds)
    compressor = 'algorithm.compressor={name="auto", latency=1e-6, bandwidth=1e3}'
    fast = ["rounds=200", "algorithm.name=lead", "algorithm.step_size=5.0", "algorithm.estimator=full"]  # F falls tenfold
    assert main(["run", str(config), *(part for o in (compressor, *fast) for part in ("--set", o))]) == 0
    out = "".join(capfd.readouterr())
    assert out.count("ms a round") == (4 if seconds else 2) and ("taken to need as many rounds" in out) == (not seconds)
    (run,) = Path("results").glob("*/run.json")
    assert json.loads(run.read_text())["parameters"]["compressor"]["name"] == "quantize"


def test_without_torch(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)  # what importing it then raises is an ImportError
    with pytest.raises(ConfigError, match=r'pip install "decentral\[torch\]"'):
        runner.run(experiment.load(config))


def test_another_problem_has_no_start_of_a_model(config: Path) -> None:
    with pytest.raises(ConfigError, match='x0 = "model" is the initialization of a torch module'):
        experiment.parse({"x0": "model", "problem": {"name": "softmax"}, "algorithm": {"name": "lead"}})


# --- under mpirun ---------------------------------------------------------------------------------------------------------------


@pytest.mark.mpi
@pytest.mark.parametrize("e", [{"name": "full"}, {"name": "sgd", "batch": 4}, {"name": "svrg", "batch": 2}], ids=lambda e: e["name"])
@pytest.mark.parametrize("name", ["lt-admm-cc", "lead", "choco-sgd"])
def test_ranks_compute_what_one_process_does(name: str, e: dict[str, Any]) -> None:
    """To 1e-10 after 15 rounds with 6 bits; a rounding difference flips a code with a probability of about 1e-12 an entry."""
    from mpi4py import MPI

    from decentral.neighborhood.mpi import MPINeighborhood

    one = hood_of(nx.cycle_graph(6))
    hood = MPINeighborhood(one.graph, one.mixing, place(6, MPI.COMM_WORLD.size, "block", seed=3), seed=7)
    ptr = np.array([0, 9, 18, 30, 42, 50, 58])
    formula = Softmax(*data(ptr), classes=3, l2=0.1)
    table = {"name": name, "step_size": 0.05, "compressor": {"name": "quantize", "bits": 6}}
    method = algorithms.build(table).tuned(facts_of(one, formula, e["name"], e.get("batch", 1)))
    found = []
    for where in (one, hood):
        X, y, _ = data(ptr)
        samples = np.concatenate([np.arange(ptr[i], ptr[i + 1]) for i in where.agents])
        mine = np.concatenate(([0], np.cumsum(np.diff(ptr)[where.agents])))
        torch.manual_seed(3)
        problem = torch_module.TorchModule(X[samples], y[samples], mine, network(), torch_module.cross_entropy, 0.01, 3)
        oracle = Oracle(problem, estimator(e), where.agents, where.seed)
        state = method.init(np.tile(problem.start, (where.n, 1)), where, oracle)
        for k in range(15):
            state = method.round(state, k, where, oracle)
        found.append(state.x)
    np.testing.assert_allclose(found[1], found[0][hood.agents], rtol=1e-10, atol=1e-10)
    assert np.abs(found[0] - problem.start).max() > 0.01
    hood.close()


@pytest.mark.mpi
def test_a_run_over_ranks_is_that_of_one_process(config: Path) -> None:
    chosen = experiment.load(config)
    outcome = runner.run(chosen, force=True)
    alone = runner.run(experiment.load(config, ["out=alone"]), ranks=Ranks())
    for metric in ("loss", "error_rate"):
        assert outcome.row[metric] == pytest.approx(alone.row[metric], rel=1e-9)
    if outcome.x is not None:
        np.testing.assert_allclose(outcome.x, alone.x, rtol=1e-10, atol=1e-10)


@pytest.mark.mpi
def test_ranks_that_start_at_different_points_are_told(config: Path) -> None:
    draw = "\n\ndef own(features, classes):\n    import os\n\n    torch.manual_seed(os.getpid())\n    return net(features, classes)\n"
    config.with_name("my_model.py").write_text(MODEL + draw)
    with pytest.raises(ConfigError, match="ranks start at different points"):
        runner.run(experiment.load(config, ["problem.model=my_model.py:own"]))
