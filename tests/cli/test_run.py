"""A run and its folder: what is in it, when it is run again, how it stops and goes on."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decentral import allocation, cli, experiment, metrics, runner
from decentral.assembly import Data
from decentral.data import partition
from decentral.experiment import Experiment
from decentral.recorder import COLUMNS, bibtex, references, write_text
from tests.cli.conftest import Command


def trace(folder: Path) -> list[dict[str, float]]:
    with (folder / "trace.csv").open() as file:
        return [{k: float(v or "nan") for k, v in row.items()} for row in csv.DictReader(file)]


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def final(folder: Path) -> Any:
    with np.load(folder / "final.npz") as file:
        return file["x"]


def test_folder(config: Path, command: Command) -> None:
    result = command("run", config)
    assert result.status == 0, result.err
    chosen = experiment.load(config)
    folder = chosen.folder
    assert f"next      decentral report {folder}" in result.out
    found = trace(folder)
    assert (folder / "trace.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    assert [row["round"] for row in found] == list(range(0, 61, 3))
    assert final(folder).shape == (6, 5)
    about = record(folder)
    assert about["status"] == "finished" and about["ranks"] == 1 and about["executor"] == "in-process"
    assert sum(a["samples"] for a in about["data"]["agents"]) == about["data"]["rows"]
    assert about["parameters"]["step_size"] > 0
    again = experiment.load(folder / "config.toml")
    assert again == chosen and again.digest == chosen.digest
    last = found[-1]
    assert last["gradients"] == 60 * about["data"]["rows"] / 6
    assert last["wire_bytes"] == 60 * 12 * (16 + 5 * 8)
    assert last["modelled_seconds"] == pytest.approx(last["gradients"] * 0.1 + 60)
    assert all(a["seconds"] < b["seconds"] for a, b in zip(found, found[1:], strict=False))


def test_metrics_are_their_definitions(config: Path, command: Command) -> None:
    chosen = experiment.load(config, ['record.metrics=["grad_norm_sq", "consensus", "gap", "loss"]'])
    outcome = runner.run(chosen)
    x = outcome.x
    assert x is not None
    data = Data.load(chosen, 6, print)
    X, y, ptr = partition(data.dataset, data.owner, range(6))
    mean = x.mean(axis=0)
    loss = slope = 0.0
    for i in range(6):
        A, b = X[ptr[i] : ptr[i + 1]], y[ptr[i] : ptr[i + 1]]
        t = b * (A @ mean)
        loss += (np.log1p(np.exp(-t)).mean() + 0.05 * mean @ mean) / 6
        slope = slope + (-(b / (1 + np.exp(t))) @ A / len(b) + 0.1 * mean) / 6
    assert outcome.row["loss"] == pytest.approx(loss, rel=1e-12)
    assert trace(outcome.folder)[-1]["loss"] == outcome.row["loss"]
    assert outcome.row["grad_norm_sq"] == pytest.approx(slope @ slope, rel=1e-9)
    assert outcome.row["consensus"] == pytest.approx(((x - mean) ** 2).sum() / 6, rel=1e-9)
    assert 0 <= outcome.row["gap"] <= slope @ slope / (2 * 0.1) + 1e-12


def test_not_run_again_unless_forced(config: Path, command: Command) -> None:
    command("run", config)
    folder = experiment.load(config).folder
    before = record(folder)["start"], os.stat(folder / "final.npz").st_mtime_ns
    again = command("run", config)
    assert again.status == 0 and "was run already: finished after 60 rounds" in again.out
    assert os.stat(folder / "final.npz").st_mtime_ns == before[1]
    assert command("run", config, "--force").status == 0
    assert os.stat(folder / "final.npz").st_mtime_ns > before[1]


def test_target_ends_the_run_at_the_round_that_reached_it(config: Path, command: Command) -> None:
    sets = ["--set", "algorithm.name=nids", "--set", "target.grad_norm_sq=1e-6", "--set", "rounds=5000"]
    result = command("run", config, *sets)
    assert result.status == 0 and "reached its target" in result.out
    chosen = experiment.load(config, sets[1::2])
    found = trace(chosen.folder)
    assert found[-1]["grad_norm_sq"] <= 1e-6 < found[-2]["grad_norm_sq"]
    rounds = int(found[-1]["round"])
    assert record(chosen.folder)["rounds_run"] == rounds
    straight = runner.run(experiment.load(config, ["algorithm.name=nids", f"rounds={rounds}"]))
    np.testing.assert_array_equal(final(chosen.folder), straight.x)


class Stops(runner.Silent):
    """Sends this process a signal once `after` rounds are done."""

    def __init__(self, after: int, number: int):
        self.after, self.number = after, number

    def progress(self, k: int, row: Any) -> None:
        if k >= self.after and self.number:
            os.kill(os.getpid(), self.number)
            self.number = 0


class Breaks(runner.Silent):
    def progress(self, k: int, row: Any) -> None:
        if k > 40:
            raise RuntimeError("the power failed")


def long(config: Path, **more: object) -> Experiment:
    sets = {"rounds": 300, "algorithm.estimator.name": "saga", "algorithm.estimator.batch": 2, **more}
    return experiment.load(config, [f"{k}={v}" for k, v in sets.items()])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_and_resume_is_bit_identical(
    config: Path, command: Command, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "BEAT", 0.0)
    straight = runner.run(long(config, out="straight"))
    chosen = long(config)
    stopped = runner.run(chosen, watch=Stops(100, number))
    assert stopped.status == "interrupted" and stopped.exit_status == 128 + number
    assert 100 <= stopped.rounds <= 102
    assert "stopped by SIG" in str(record(chosen.folder)["why"])
    with pytest.raises(experiment.ConfigError, match="--resume"):
        runner.run(chosen)
    resumed = runner.run(chosen, resume=True)
    assert resumed.status == "finished"
    np.testing.assert_array_equal(resumed.x, straight.x)
    one, other = trace(chosen.folder), trace(straight.folder)
    for column in set(COLUMNS) - {"seconds"}:  # NaN where it was not asked for
        np.testing.assert_array_equal([row[column] for row in one], [row[column] for row in other], column)
    assert not (chosen.folder / "checkpoint" / "state.npz").exists()


def test_only_rounds_that_communicate_are_charged(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "BEAT", 0.0)
    skips = {"algorithm.name": "proxskip", "algorithm.probability": 0.3}
    straight = runner.run(long(config, out="straight", **skips))
    for row in trace(straight.folder):
        assert row["wire_bytes"] == row["vectors"] * 12 * (16 + 5 * 8)
        assert row["modelled_seconds"] == pytest.approx(row["gradients"] * 0.1 + row["vectors"])
    assert 50 < row["vectors"] < 130  # of 300 coins: misses by 5 standard deviations, the seed is fixed
    assert straight.record["cost"]["exchanges_per_round"] == row["vectors"] / 300
    chosen = long(config, **skips)
    assert runner.run(chosen, watch=Stops(100, signal.SIGTERM)).status == "interrupted"
    assert runner.run(chosen, resume=True).row["vectors"] == row["vectors"]


def test_periodic_checkpoint_outlives_a_crash(config: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "BEAT", 0.0)
    straight = runner.run(long(config, out="straight"))
    chosen = long(config, **{"record.checkpoint": 20})
    with pytest.raises(RuntimeError, match="power"):
        runner.run(chosen, watch=Breaks())
    assert record(chosen.folder)["status"] == "failed" and record(chosen.folder)["why"] == "the power failed"
    with (chosen.folder / "trace.csv").open("a") as file:
        file.write("41,1,1")  # a line that a kill cut off
    resumed = runner.run(chosen, resume=True)
    np.testing.assert_array_equal(resumed.x, straight.x)
    assert [row["round"] for row in trace(chosen.folder)] == [row["round"] for row in trace(straight.folder)]


@pytest.mark.parametrize(("decay", "clips"), [(0.98, False), (0.5, True)])
def test_clipped_entries_are_counted_and_said(config: Path, command: Command, decay: float, clips: bool) -> None:
    chosen = ["algorithm.name=dpdc3", "algorithm.compressor.name=absolute", f"algorithm.scale_decay={decay}"]
    result = command("run", config, *(part for item in chosen for part in ("--set", item)))
    about = record(experiment.load(config, chosen).folder)
    assert (about["saturated"] > 0) == clips == ("were clipped" in result.err)
    assert clips == any(f"{about['saturated']} entries" in text for text in about["warnings"])


def test_clipped_entries_are_counted_across_a_stop(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "BEAT", 0.0)
    dpdc3 = {"algorithm.name": "dpdc3", "algorithm.compressor.name": "absolute", "algorithm.scale_decay": 0.5}
    straight = runner.run(long(config, out="straight", **dpdc3))
    chosen = long(config, **dpdc3)
    assert runner.run(chosen, watch=Stops(100, signal.SIGTERM)).status == "interrupted"
    assert runner.run(chosen, resume=True).record["saturated"] == straight.record["saturated"] > 0


@pytest.mark.parametrize("program", ["/opt/venv/bin/decentral", str(Path(runner.__file__).with_name("__main__.py"))])
def test_commands_can_be_pasted(config: Path, command: Command, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(runner, "BEAT", 0.0)
    monkeypatch.setattr(cli._Printer, "progress", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    arguments = ["run", "small.toml", "--set", "algorithm.name=lead", "--set", 'algorithm.compressor={name="quantize", bits=8}']
    monkeypatch.setattr(sys, "argv", [program, *arguments, "--force"])
    result = command(*sys.argv[1:])
    assert result.status == 143
    said = result.out.partition("next      ")[2].strip()
    assert shlex.split(said) == ["decentral", *arguments, "--resume"]
    assert shlex.split(record(experiment.load(config, arguments[3::2]).folder)["command"]) == ["decentral", *sys.argv[1:]]


def test_only_a_process_of_our_own_keeps_what_it_frees(config: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    monkeypatch.setattr(allocation, "keep_freed_memory", lambda: kept.append(1))
    monkeypatch.setattr(runner, "keep_freed_memory", lambda: kept.append(1), raising=False)
    runner.run(experiment.load(config))
    assert not kept  # a notebook's, say
    assert command("run", config, "--force").status == 0 and kept == [1]


def test_ranks_that_fail_together_write_one_whole_file(tmp_path: Path) -> None:
    """Rank 1 writes run.json while rank 0 does."""
    path, write = tmp_path / "run.json", Path.write_text

    def interrupted(part: Path, text: str, **more: Any) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "write_text", write)
            written = part.write_text(text[:1], **more)
            write_text(path, "of rank 1")
            with part.open("a") as file:
                file.write(text[1:])
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", interrupted)
        write_text(path, "of rank 0")
    assert path.read_text() == "of rank 0"
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("damage", [b"", b"plain text", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_named(config: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes) -> None:
    monkeypatch.setattr(runner, "BEAT", 0.0)
    chosen = long(config)
    runner.run(chosen, watch=Stops(100, signal.SIGTERM))
    (chosen.folder / "checkpoint" / "state.npz").write_bytes(damage)
    with pytest.raises(experiment.ConfigError, match="state.npz is damaged, or of another version: run again with --force"):
        runner.run(chosen, resume=True)


def test_divergence_is_an_outcome(config: Path, command: Command) -> None:
    result = command("run", config, "--set", "algorithm.step_size=1e6", "--set", "rounds=500")
    assert result.status == 1
    assert "diverged" in result.out and "round" in result.err and "Traceback" not in result.err
    folder = next(Path("results").iterdir())
    assert record(folder)["status"] == "diverged"
    assert len(trace(folder)) > 1


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("name=other", True),
        ("out=elsewhere", True),
        ("transport.placement=cyclic", True),
        ("record.checkpoint=10", True),
        ("algorithm.step_size=auto", True),
        ("algorithm.estimator=full", True),
        ("data.split=iid", False),
        ("seed=6", False),
        ("rounds=61", False),
        ("record.every=1", False),
        ("graph.weights=lazy", False),
        ("algorithm.estimator=sgd", False),
        ("dtype=float32", False),
    ],
)
def test_digest(config: Path, override: str, same: bool) -> None:
    assert (experiment.load(config).digest == experiment.load(config, [override]).digest) == same


OWN = '''
from dataclasses import dataclass
from decentral.algorithms.d_psgd import DPSGD

@dataclass(frozen=True)
class Mine(DPSGD):
    extra: float = {extra}
    name = "mine"
    label = "My method"
'''


def test_own_method_by_path(config: Path, command: Command) -> None:
    Path("mine.py").write_text(OWN.format(extra=1.0))
    result = command("run", config, "--set", "algorithm.name=mine.py:Mine")
    assert result.status == 0, result.err
    assert "My method" in result.out
    theirs = runner.run(experiment.load(config))
    np.testing.assert_array_equal(final(experiment.load(config, ["algorithm.name=mine.py:Mine"]).folder), theirs.x)
    before = experiment.load(config, ["algorithm.name=mine.py:Mine", "algorithm.extra=1.0"]).digest
    Path("mine.py").write_text(OWN.format(extra=1.0) + "\n# edited\n")
    assert experiment.load(config, ["algorithm.name=mine.py:Mine"]).digest != before  # its content counts


def test_float32(config: Path) -> None:
    outcome = runner.run(experiment.load(config, ["dtype=float32"]))
    assert outcome.x is not None and outcome.x.dtype == np.float32
    double = runner.run(experiment.load(config))
    np.testing.assert_allclose(outcome.x, double.x, atol=1e-4)


def test_quadratic_needs_no_data(config: Path, command: Command) -> None:
    table = tomllib.loads(config.read_text())
    del table["data"]
    table["problem"] = {"name": "quadratic", "d": 3}
    table["algorithm"] = {"name": "nids"}
    outcome = runner.run(experiment.parse(table | {"rounds": 200, "target": {"gap": 1e-12}}))
    assert outcome.status == "target"


def test_data_are_synthetic_where_none_are_named(config: Path, command: Command) -> None:
    named = experiment.load(config)
    config.write_text(config.read_text().replace('[data]\nname = "synthetic"\n', ""))
    assert experiment.load(config) == named and command("run", config).status == 0


def test_single_agent(config: Path) -> None:
    outcome = runner.run(experiment.load(config, ["graph.topology=complete", "graph.agents=1", "rounds=5"]))
    assert outcome.status == "finished" and outcome.row["wire_bytes"] == 0 and outcome.row["consensus"] == 0


def test_bibtex() -> None:
    assert references(), "references.bib is part of the package"
    for key in references():
        assert bibtex([key])[0].startswith("@")


def test_large_iterates_are_measured_without_a_copy(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = runner.run(experiment.load(config, ["out=many"]))
    monkeypatch.setattr(metrics, "BUFFER", 0)
    one = runner.run(experiment.load(config, ["out=one"]))
    np.testing.assert_array_equal(one.x, many.x)
    for a, b in zip(trace(one.folder), trace(many.folder), strict=True):
        for name in ("round", "wire_bytes", "gradients"):
            assert a[name] == b[name]
        for name in ("grad_norm_sq", "consensus", "gap"):
            assert a[name] == pytest.approx(b[name], rel=1e-9, abs=1e-15)


def test_thousand_records_are_cheap(config: Path) -> None:
    """Ten agents, d = 5, 100 samples each: what is not the rounds themselves stays below half a second, with room."""
    import time

    chosen = experiment.load(config, ["graph.agents=10", "rounds=1000", "record.every=1"])
    spent = []
    for attempt in range(3):
        begin = time.perf_counter()
        outcome = runner.run(chosen, force=attempt > 0)
        spent.append(time.perf_counter() - begin - outcome.row["seconds"])
    assert min(spent) < 1.0
