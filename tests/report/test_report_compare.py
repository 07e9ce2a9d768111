"""The table says what a method spent until the target, and why it did not reach it."""

import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console

from decentral.errors import ConfigError
from decentral.report import Run, common_target, parse_target, read_runs, show, table, to_csv, to_json

TO = {"grad_norm_sq": 1e-10}


def trace(folder, values, gap=None):
    """In round k: 10 k gradients, 32 k bytes, a modelled time of 100 k, k/4 seconds, the k-th value."""
    gap = values if gap is None else gap
    pairs = enumerate(zip(values, gap, strict=True))
    rows = [f"{k},{10 * k},{32 * k},0,{100 * k},{k / 4},{v:g},0,{g:g}" for k, (v, g) in pairs]
    head = "round,gradients,wire_bytes,ideal_bits,modelled_seconds,seconds,grad_norm_sq,consensus,gap"
    (folder / "trace.csv").write_text("\n".join([head, *rows]) + "\n")
    return Run.read(folder)


def test_costs_are_those_of_the_first_row_at_the_target(write_run, tmp_path):
    (row,) = table([trace(write_run(tmp_path / "a"), [1, 1e-3, 1e-11, 1e-9, 1e-12])], TO)
    assert row.reached and row.outcome == "reached"
    assert (row.rounds, row.gradients, row.bytes, row.modelled, row.seconds) == (2, 20, 4, 200, 0.5)
    assert (row.best, row.bytes_ratio) == (1e-12, 1)


def test_modelled_time_can_be_asked_for_another_machine(write_run, tmp_path):
    run = trace(write_run(tmp_path / "a", "LT-ADMM-CC"), [1, 1e-3, 1e-11])
    (row,) = table([run], TO, t_g=2, t_c=3)
    assert row.modelled == 2 * 20 + 3 * 2 * 2


def test_all_metrics_of_a_target_must_be_reached_in_the_same_row(write_run, tmp_path):
    run = trace(write_run(tmp_path / "a"), [1, 0.1, 1, 0.1], gap=[1, 1, 0.1, 0.1])
    (row,) = table([run], {"gap": 0.1, "grad_norm_sq": 0.1})
    assert row.rounds == 3


@pytest.mark.parametrize(
    ("values", "edit", "outcome"),
    [
        (np.full(50, 3.6e-5), {"exact": False, "status": "finished"}, "not reached: floor 3.6e-05"),
        (
            0.5 ** np.arange(20),
            {"exact": False, "status": "finished"},
            "not reached in 19 rounds: best 1.9e-06, still falling towards a floor",
        ),
        (0.5 ** np.arange(20), {"status": "finished"}, "not reached in 19 rounds: best 1.9e-06"),
        (
            [1, 1e9],
            {"status": "diverged", "why": "agent 3, round 2"},
            "diverged after 1 round: agent 3, round 2",
        ),
        ([1, 0.5], {"status": "running"}, "still running, 1 round so far: best 0.5"),
        ([1, 0.5], {"status": "interrupted"}, "interrupted after 1 round: best 0.5"),
        (
            [1, 0.5],
            {"status": "target", "target": {"grad_norm_sq": 0.6}},
            "not reached: stopped after 1 round at its own target, grad_norm_sq ≤ 0.6",
        ),
        ([np.nan, np.nan], {"status": "finished"}, "grad_norm_sq was never finite"),
        ([], {"status": "running"}, "no round recorded"),
    ],
)
def test_the_outcome_says_why_not(write_run, tmp_path, values, edit, outcome):
    (row,) = table([trace(write_run(tmp_path / "a", edit={"floor_reason": "a bias"} | edit), values)], TO)
    assert row.outcome == outcome
    assert not row.reached and row.rounds is row.bytes is row.seconds is None
    assert row.reason == ("a bias" if edit.get("exact") is False else None)


def test_the_cheapest_comes_first_and_the_unreached_last(nine):
    runs = read_runs(nine)
    by_rounds = [row.label for row in table(runs)]
    assert by_rounds[:2] == ["LT-ADMM", "LT-ADMM-CC"] and set(by_rounds[-2:]) == {"D-PSGD", "CHOCO-SGD"}
    by_bytes = table(runs, sort="bytes")
    assert by_bytes[0].label == "LT-ADMM-CC" and by_bytes[0].bytes_ratio == 1
    lt_admm = next(row for row in by_bytes if row.label == "LT-ADMM")
    assert lt_admm.bytes_ratio == pytest.approx(984 * lt_admm.rounds / by_bytes[0].bytes)
    reached = [row.bytes for row in by_bytes if row.reached]
    assert len(reached) == 7 and reached == sorted(reached)
    assert [row.best for row in by_bytes[-2:]] == sorted(row.best for row in by_bytes[-2:])


def test_the_target_is_the_runs_own_the_loosest_where_they_differ(write_run, tmp_path):
    runs = [
        Run.read(write_run(tmp_path / name, edit={"target": target}))
        for name, target in (("a", {"gap": 1e-3, "grad_norm_sq": 1e-8}), ("b", {"grad_norm_sq": 1e-6}))
    ]
    assert common_target(runs) == {"grad_norm_sq": 1e-6}
    runs[1].record["target"] = {"gap": 1e-4}
    assert common_target(runs) == {"gap": 1e-3}
    runs[0].record["target"] = runs[1].record["target"] = None
    assert common_target(runs) == TO


def test_without_a_target_it_is_what_all_runs_reach_of_what_they_recorded(write_run, tmp_path):
    runs = [Run.read(write_run(tmp_path / name, edit={"target": None})) for name in "ab"]
    for run, last in zip(runs, (0.013, 0.0421), strict=True):
        lost = np.full(run.rows, np.nan)
        run.trace.update({"grad_norm_sq": lost, "gap": lost, "loss": lost, "error_rate": np.linspace(0.9, last, run.rows)})
    assert common_target(runs) == {"error_rate": 0.05}
    runs[1].trace["loss"] = np.ones(runs[1].rows)  # the other has none
    assert common_target(runs) == {"error_rate": 0.05}
    runs[0].trace["loss"] = np.full(runs[0].rows, 3.0)
    assert common_target(runs) == {"loss": 3.0}
    runs[0].trace["grad_norm_sq"] = np.ones(runs[0].rows)
    assert common_target(runs) == TO


def test_wrong_questions_get_a_sentence(nine):
    runs = read_runs(nine)
    with pytest.raises(ConfigError, match=r'unknown metric "grad_norm".*did you mean "grad_norm_sq"'):
        table(runs, {"grad_norm": 1.0})
    with pytest.raises(ConfigError, match=r'unknown sort "byte".*did you mean "bytes"'):
        table(runs, sort="byte")
    with pytest.raises(ConfigError, match="no run to compare"):
        table([])


def test_a_metric_that_only_one_run_recorded(write_run, tmp_path):
    runs = [Run.read(write_run(tmp_path / "a", "LEAD")), Run.read(write_run(tmp_path / "b", "NIDS"))]
    runs[0].trace["mine"] = runs[0].trace["gap"]
    assert [row.outcome for row in table(runs, {"mine": 1e-3})] == ["reached", "mine was not recorded"]


def test_targets_are_parsed():
    assert parse_target("grad_norm_sq=1e-10") == TO
    assert parse_target("gap=1e-3, consensus=2") == {"gap": 1e-3, "consensus": 2.0}
    for wrong in ("gap", "gap=", "gap=x", "=1", "gap=0", "gap=-1", "gap=nan", "gap=1,"):
        with pytest.raises(ConfigError, match="METRIC=LEVEL"):
            parse_target(wrong)


def test_the_printed_table_is_whole_at_eighty_columns_and_says_why_not(nine):
    out = io.StringIO()
    show(table(read_runs(nine)), TO, Console(file=out, width=80))
    text = out.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    (line,) = [line for line in text.splitlines() if "LT-ADMM-CC" in line]
    assert line.split() == [
        "LT-ADMM-CC",
        "154",
        "3,133,900",
        "44",
        "kB",
        "1",
        "313,698",
        "0.08502",
        "8.8e-11",
    ]
    assert "CHOCO-SGD not reached: floor 3.6e-05 (a constant step keeps a bias" in text
    show(table(read_runs(nine)), TO, Console(file=out, width=40))
    assert "…" not in out.getvalue()


def test_markup_in_a_label_is_text(write_run, tmp_path):
    out = io.StringIO()
    runs = [Run.read(write_run(tmp_path / "a", edit={"label": "[red]LEAD[/]"}))]
    show(table(runs), TO, Console(file=out, width=80))
    assert "[red]LEAD[/]" in out.getvalue()


def test_data_for_other_programs_is_exact_and_has_no_nan(nine):
    rows = table(read_runs(nine))
    data = json.loads(to_json(rows, TO), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert data["target"] == TO and [row["label"] for row in data["rows"]] == [row.label for row in rows]
    assert data["rows"][-1]["bytes"] is None and data["rows"][0]["bytes"] == rows[0].bytes
    lines = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [float(line["seconds"]) for line in lines[:7]] == [row.seconds for row in rows[:7]]
    assert lines[-1]["seconds"] == ""
