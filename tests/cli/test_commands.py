"""show, list, data, check, cite, compare: what a user types after a look at the README."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from decentral import algorithms, experiment, report
from decentral.cli import NAMESPACES, main
from tests.cli.conftest import Command


def test_show_graph(command: Command) -> None:
    result = command("show", "ring:16")
    assert result.status == 0 and "l_l = 0.152241" in result.out  # 2 − 2 cos(2π/16)


@pytest.mark.parametrize("option", [("--set", "graph.agents=4"), ("--ranks", "3")])
def test_show_graph_takes_no_options_of_a_configuration(command: Command, option: tuple[str, str]) -> None:
    result = command("show", "ring:8", *option)
    assert result.status == 2 and option[0] in result.err and "configuration" in result.err


def test_show_config_says_what_a_run_then_does(config: Path, command: Command) -> None:
    shown = command("show", config, "--ranks", 3)
    assert shown.status == 0, shown.err
    assert "56 bytes per arc" in shown.out  # 16 of framing, 5 numbers of 8
    assert "rank 2     agents 4, 5; hears 2 elsewhere" in shown.out
    assert re.search(r"\n +step_size 0\.\d{1,5}\n", shown.out) and "\n             estimator full\n" in shown.out
    assert not Path("results").exists()
    assert command("show", config, "--ranks", 7).status == 2
    for ranks in (0, -2):
        refused = command("show", config, "--ranks", ranks)
        assert refused.status == 2 and f"--ranks {ranks}: give a whole number, at least 1" in refused.err


def test_show_says_what_auto_chose_and_where(config: Path, command: Command) -> None:
    shown = command("show", config, "--set", "algorithm.name=lead", "--set", "algorithm.compressor=auto", "--ranks", 3)
    assert shown.out.count("compressor auto: ") == 4 and shown.out.count("<- chosen") == 1
    assert "measured here, in one process" in shown.out


def test_show_averages_over_rounds_that_communicate(config: Path, command: Command) -> None:
    shown = command("show", config, "--set", "algorithm.name=proxskip", "--set", "algorithm.probability=0.25")
    assert "14 bytes per arc (headers included, on average)" in shown.out  # a quarter of 56


@pytest.mark.parametrize("what", NAMESPACES)
def test_list(command: Command, what: str) -> None:
    result = command("list", what)
    assert result.status == 0 and len(result.out.splitlines()) > 2


def test_list_names_every_algorithm(command: Command) -> None:
    found = command("list", "algorithms").out
    assert all(f"  {name} " in found for name in algorithms.NAMES)


def test_data(command: Command) -> None:
    result = command("data")
    assert result.status == 0 and "a9a" in result.out and "DECENTRAL_DATA" in result.out
    head, *lines = result.out.splitlines()[:-1]
    begin = head.index("source")
    assert all(line[begin - 2 : begin] == "  " and line[begin] != " " for line in lines)  # columns do not run together
    assert command("data", "fetch", "a9b").status == 2
    assert command("data", "fetch").status == 2


def test_check(command: Command) -> None:
    result = command("check")
    assert result.status == 0, result.out
    assert "self-test     passed" in result.out


def test_cite(config: Path, command: Command) -> None:
    assert "@" in command("cite", "lt-admm-cc").out
    command("run", config)
    assert command("cite", experiment.load(config).folder).out.startswith("@")
    assert command("cite", "nobody").status == 2


def test_compare(config: Path, command: Command) -> None:
    command("run", config)
    command("run", config, "--set", "algorithm.name=nids")
    found = json.loads(command("compare", "results", "--to", "grad_norm_sq=1e-2", "--json").out)
    assert {row["label"] for row in found["rows"]} == {"D-PSGD", "NIDS"}
    assert command("compare", "results", "--to", "nonsense").status == 2
    command("run", config, "--set", "out=own", "--set", "target.loss=0.69", "--set", "record.every=1")
    (own,) = json.loads(command("compare", "own", "--json").out)["rows"]
    assert own["reached"] and own["best"] <= 0.69
    assert "D-PSGD" in command("compare", "results").out
    assert command("compare", "results", "--csv").out.startswith("label,")


@pytest.mark.parametrize(
    ("given", "asked"),
    [([], ["png"]), (["--format", "pdf"], ["pdf"]), (["--format", "svg, pdf", "--format", "png"], ["svg", "pdf", "png"])],
    ids=["default", "pdf", "all"],
)
def test_report_in_the_formats_asked_for(
    config: Path, command: Command, monkeypatch: pytest.MonkeyPatch, given: list[str], asked: list[str]
) -> None:
    """What is made of them is tested in tests/report."""
    seen: list[object] = []
    monkeypatch.setattr(report, "report", lambda *arguments: seen.append(arguments[-1]))
    command("run", config)
    assert command("report", experiment.load(config).folder, *given).status == 0 and seen == [asked]


def test_report_in_an_unknown_format(config: Path, command: Command) -> None:
    command("run", config)
    result = command("report", experiment.load(config).folder, "--format", "jpg")
    assert result.status == 2 and 'unknown figure format "jpg"; known: pdf, png, svg' in result.err


def test_starts_without_heavy_imports() -> None:
    """A run in one process needs neither MPI nor SciPy, networkx, rich and the like to say what is wrong."""
    code = "import sys; from decentral.cli import main; main(['run', 'missing.toml']); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"mpi4py", "scipy", "networkx", "matplotlib", "rich", "sklearn", "pandas", "torch", "numba"}
    assert not heavy & set(found)


def test_a_run_imports_only_what_it_uses(config: Path) -> None:
    """Eight ranks start as quickly as their imports: no networkx for a ring, no numpy.ma, no compressor that is not used."""
    code = f"import sys; from decentral.cli import main; main(['run', {str(config)!r}]); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "decentral.algorithms.d_psgd" in found
    heavy = {"mpi4py", "scipy", "networkx", "numpy.ma", "rich", "decentral.compressors.quantize"}
    assert not heavy & set(found)


def test_a_component_within_a_component(config: Path, command: Command) -> None:
    """The resolved configuration names the inner one, and can be run."""
    inner = "algorithm.compressor={name='top-k-quantize', k=2, quantize={bits=3}}"
    assert command("run", config, "--set", "algorithm.name=choco-sgd", "--set", inner).status == 0
    shown = command("show", config, "--set", "algorithm.name=choco-sgd", "--set", inner).out
    assert "compressor top-k-quantize(k=2, quantize=quantize(bits=3, " in shown
    (resolved,) = Path("results").glob("*/config.toml")
    assert 'name = "quantize"' in resolved.read_text()
    assert "was run already" in command("run", resolved).out


def test_what_a_start_keeps_from_the_collector_is_collected_again_after_it(config: Path, command: Command) -> None:
    assert command("run", config).status == 0 and gc.isenabled()
    assert command("run", "missing.toml").status == 2 and gc.isenabled()


def test_module_is_the_command() -> None:
    found = subprocess.run([sys.executable, "-m", "decentral", "--version"], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("decentral ")


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("run", "show", "list", "compare", "report", "data", "check", "cite", "bench"):
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0 and name in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_benches_are_listed(command: Command, arguments: list[str]) -> None:
    from decentral.bench import WHAT

    found = command("bench", *arguments)
    assert found.status == 0 and "--seconds" in found.out
    for name in WHAT:
        assert sum(f"bench {name} " in line for line in found.out.splitlines()) == 1, name


def test_own_data_file(config: Path, command: Command) -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 3))
    np.savez("mine.npz", X=X, y=np.sign(X[:, 0] + 0.1), agent=np.arange(60) % 6)
    result = command("run", config, "--set", "data.name=file", "--set", "data.path=mine.npz")
    assert result.status == 0, result.err
    assert "split as the data says" in result.out
