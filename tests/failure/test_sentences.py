"""Bad input: exit status 2, one sentence that names the key and the nearest known one, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from decentral.cli import main
from tests.cli.conftest import TEXT

CASES = [
    (["roundz=3"], 'unknown key "roundz"', '"rounds"'),
    (["agents=3"], 'the key "agents" stands outside every table', "graph.agents?"),
    (["algorithm.name=lead", "compressor=auto"], 'the key "compressor" stands outside', "algorithm.compressor?"),
    (["graph.topologi=ring"], 'unknown key in [graph] "topologi"', '"topology"'),
    (["graph.topology=rnig"], 'unknown topology "rnig"', '"ring"'),
    (["graph.weights=metropols"], '"metropols"', '"metropolis"'),
    (["problem.name=logistik"], 'unknown problem "logistik"', '"logistic"'),
    (["problem.l3=1"], 'unknown key in [problem] "l3"', '"l2"'),
    (["problem.l2=-1"], "problem.l2 = -1", "at least 0"),
    (["algorithm.name=d-psdg"], 'unknown algorithm "d-psdg"', '"d-psgd"'),
    (["algorithm.stepsize=1"], '"stepsize"', '"step_size"'),
    (["algorithm.step_size=-1"], "algorithm.step_size = -1", "positive"),
    (["algorithm.step_size=inf"], "algorithm.step_size = inf", "finite"),
    (["algorithm.step_size=nan"], "algorithm.step_size = nan", "finite"),
    (["algorithm.name=proxskip", "algorithm.chi=nan"], "algorithm.chi = nan", "at least 1"),
    (["algorithm.step_size=fast"], 'algorithm.step_size = "fast"', 'give a number or "auto"'),
    (['algorithm.step_size="0.1"'], 'step_size = "0.1"', "did you mean 0.1?"),
    (["algorithm.step_size=[0.1]"], "step_size = [0.1]", 'give a number or "auto"'),
    (["algorithm.step_size=autto"], 'step_size = "autto"', 'did you mean "auto"?'),
    (["algorithm.name=lead", "algorithm.warm_start=True"], 'algorithm.warm_start = "True"', "true or false (did you mean true?)"),
    (["algorithm.name=lt-admm", "algorithm.local_steps=2.5"], "local_steps = 2.5", "give a whole number"),
    (["algorithm.compressor.name=quantize"], "uncompressed", "lt-admm-cc"),
    (["algorithm.name=choco-sgd", "algorithm.compressor.name=quantise"], 'unknown compressor "quantise"', '"quantize"'),
    (["algorithm.name=choco-sgd", "algorithm.compressor.name=quantize", "algorithm.compressor.bits=77"], "bits", "16"),
    (["graph.topology=regular", "graph.degree=3"], 'unknown key in [graph] "degree"', "graph.params.degree"),
    (["algorithm.name=lead", "algorithm.compressor={name='quantize', norm=2}"], "norm = 2", 'did you mean "2", with quotes?'),
    (
        ["algorithm.name=choco-sgd", "algorithm.compressor={name='top-k-quantize', k=1, quantize={bits='many'}}"],
        'algorithm.compressor.quantize.bits = "many"',
        "give a whole number",
    ),
    (
        ["algorithm.name=choco-sgd", "algorithm.compressor={name='top-k-quantize', k=1, quantize={bits=99}}"],
        "algorithm.compressor.quantize.bits = 99",
        "give a whole number from 1 to 16",
    ),
    (["algorithm.estimator.name=sage"], 'unknown estimator "sage"', '"saga"'),
    (["algorithm.estimator.name=sgd", "algorithm.estimator.batch=100000"], "estimator.batch = 100000", "at most"),
    (["algorithm.name=choco-sgd", "algorithm.compressor=3"], "algorithm.compressor = 3", "give a name or a table"),
    (["algorithm.name=choco-sgd", "algorithm.compressor=[1]"], "algorithm.compressor = [1]", "give a name or a table"),
    (["algorithm.name=choco-sgd", "algorithm.compressor={name=[1]}"], "algorithm.compressor.name = [1]", "give a string"),
    (["algorithm.estimator=5"], "algorithm.estimator = 5", "give a name or a table"),
    (["algorithm.estimator.name=5"], "algorithm.estimator.name = 5", "give a string"),
    (["algorithm.name=mine.py:Mine"], "mine.py", "no file"),
    (["algorithm.name=json:Mine"], "class in json", "Mine"),
    (["algorithm.name=json:JSONDecoder"], "JSONDecoder is no dataclass", "its fields"),
    (["algorithm.name=:Mine"], 'unknown algorithm ":Mine"', "file.py:Class"),
    (["algorithm.name=choco-sgd", "algorithm.compressor.bits=40"], "algorithm.compressor has bits and no name", "quantize"),
    (["algorithm.name=.mine:Mine"], "cannot import .mine", "relative"),
    (["algorithm.name=syntax.py:Mine"], "cannot import syntax.py", "line 2"),
    (["algorithm.name=undefined.py:Mine"], "cannot import undefined.py (NameError", "line 2"),
    (["graph.topology=:make"], 'unknown topology ":make"', "package.module:function"),
    (["graph.topology=syntax.py:make"], "cannot import syntax.py", "line 2"),
    (["graph.topology=undefined.py:make"], "cannot import undefined.py (NameError", "line 2"),
    (["data.name=a9b"], 'unknown data "a9b"', '"a9a"'),
    (["data.name=file", "data.path=missing.npz"], "missing.npz", ""),
    (["data.splitt=iid"], '"splitt"', ""),
    (["rounds=many"], 'rounds = "many"', "give a whole number"),
    (["rounds=true"], "rounds = true", "give a whole number"),
    (["name=3"], "name = 3", "give a string"),
    (["record.metrics=loss"], 'record.metrics = "loss"', "give a list of strings"),
    (["record.metrics=[1]"], "record.metrics = [1]", "give a list of strings"),
    (["graph.params=3"], "graph.params = 3", "give a table"),
    (["graph.seed=x"], 'graph.seed = "x"', "give a whole number"),
    (["rounds=-1"], "rounds = -1", "at least 0"),
    (["seed=-1"], "seed = -1", "from 0 to 18446744073709551615"),
    (["seed=18446744073709551616"], "seed = 18446744073709551616", "from 0 to 18446744073709551615"),
    (["graph.seed=18446744073709551616"], "graph.seed = 18446744073709551616", "from 0 to"),
    (["record.every=0"], "record.every = 0", "at least 1"),
    (["record.metrics=[\"lost\"]"], 'unknown metric "lost"', '"loss"'),
    (["target=1e-3"], "target", "table"),
    (["target.grad_norm_sq=0"], "target.grad_norm_sq", "above 0"),
    (["target.gap=1e-3", "problem.name=nonconvex-logistic"], "target.gap = 0.001", "grad_norm_sq"),
    (["target.grad_norm_sq=small"], 'target.grad_norm_sq = "small"', "give a number"),
    (["dtype=float16"], 'dtype = "float16"', 'give one of "float64", "float32" (did you mean "float'),
    (["transport.placement=3"], "transport.placement = 3", "give a string or a list of whole numbers"),
    (["name=a/b"], 'name = "a/b"', ""),
    (["name="], 'name = ""', "letters"),
    (["name=-a"], 'name = "-a"', "leading"),
    (['name="a\\u0000b"'], 'name = "a\\u0000b"', "letters"),
    (["transport.placement=blok"], 'unknown placement "blok"', '"block"'),
    (["transport.placement=[0, 1]"], "transport.placement", "one rank for each of 6 agents"),
    (["rounds"], '"rounds" is not PATH=VALUE', ""),
    (["out=/proc/nothing"], "/proc/nothing", "cannot write"),
]


def run(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, capfd.readouterr().err


@pytest.mark.parametrize(("overrides", "names", "helps"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_bad_value(
    overrides: list[str], names: str, helps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(TEXT)
    Path("syntax.py").write_text("x = 1\ndef make(:\n")
    Path("undefined.py").write_text("x = 1\nx = y\n")
    status, err = run(["run", "small.toml", *(part for o in overrides for part in ("--set", o))], capfd)
    assert status == 2, err
    assert err.startswith("decentral: ") and len(err.strip().splitlines()) == 1, err
    assert names in err and helps in err
    assert not list(Path(".").glob("results/*/final.npz"))


@pytest.mark.parametrize(("arguments", "sentence"), [
    ("rnu", 'unknown command "rnu"; known: bench, check, cite, compare, data, list, report, run, show (did you mean "run"?)'),
    ("list algoritms", '(did you mean "algorithms"?). See: decentral list --help'),
    ("bench kernel", '(did you mean "kernels"?). See: decentral bench --help'),
    ("bench target --size 5000", "--size 5000 is for bench kernels: leave it out for bench target"),
    ("bench kernels --size 5", "--size 5: give a whole number, at least 1000"),
    ("bench kernels --size 400000000000000", "arrays of so many entries do not fit into memory"),
    ("run", "arguments are required: config. See: decentral run --help"),
    ("run small.toml --sed rounds=3", "unrecognized arguments: --sed rounds=3"),
    ("show ring:4 --ranks two", "invalid int value: 'two'. See: decentral show --help"),
])  # fmt: skip
def test_bad_command_line(arguments: str, sentence: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, err = run(arguments.split(), capfd)
    assert status == 2 and sentence in err
    assert err.startswith("decentral: ") and len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize("name", ["top-k", "rand-k"])
def test_what_does_not_fit_a_row_is_refused_before_there_is_a_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(TEXT.replace('"d-psgd"', f'"lead"\ncompressor = {{ name = "{name}", k = 100 }}'))
    status, err = run(["run", "small.toml"], capfd)
    assert status == 2 and "k = 100 of messages with 5 entries: give at most 5" in err
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rounds = ", "is not TOML"),
        ("rounds = 3", "[algorithm] needs name"),
        ("algorithm = 3", "give a table, [algorithm]"),
        (TEXT.replace("agents = 6", ""), "agents"),
        (TEXT.replace('name = "synthetic"', 'name = "file"'), "data.path"),
        (TEXT.replace('[data]\nname = "synthetic"', "").replace("l2 = 0.1", 'name = "quadratic"\nmu = 3.0'), "mu"),
    ],
)
def test_bad_file(
    text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.toml").write_text(text)
    status, err = run(["run", "bad.toml"], capfd)
    assert status == 2 and sentence in err and len(err.strip().splitlines()) == 1, err


def test_missing_file_names_those_nearby(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(TEXT)
    Path("pyproject.toml").write_text("")
    status, err = run(["run", "smal.toml"], capfd)
    assert status == 2 and "small.toml" in err and "pyproject" not in err


@pytest.mark.parametrize("asked, status", [("nump", 2), ("C", 2), ("numpy", 0), ("c", 0), ("", 0)])
def test_kernels_that_are_not(asked: str, status: int) -> None:
    """They are chosen at the first import."""
    found = subprocess.run(
        [sys.executable, "-m", "decentral", "list", "compressors"],
        env={**os.environ, "DECENTRAL_KERNELS": asked}, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == status, found.stderr
    if status:
        (line,) = found.stderr.splitlines()
        assert line.startswith(f'decentral: DECENTRAL_KERNELS = "{asked}": give numpy or c')


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(TEXT)
    Path("locked").mkdir(mode=0o500)
    status, err = run(["run", "small.toml", "--set", "out=locked"], capfd)
    assert status == 2 and "locked" in err
