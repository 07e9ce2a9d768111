"""Run folders are read as they lie, whole or not, and found where a person would look."""

import json

import numpy as np
import pytest

from decentral.errors import ConfigError
from decentral.report import Run, first_reaching, labels, read_runs


def write_trace(folder, text):
    (folder / "trace.csv").write_text(text)
    return folder


def test_a_run_is_read(write_run, tmp_path):
    run = Run.read(write_run(tmp_path / "a", "LT-ADMM-CC"))
    assert (run.label, run.status, run.arcs, run.rounds) == ("LT-ADMM-CC", "target", 16, run.rows - 1)
    assert run.trace["grad_norm_sq"][-1] <= 1e-10 < run.trace["grad_norm_sq"][-2]
    np.testing.assert_array_equal(run.along("bytes"), run.trace["round"] * 286)
    assert run.fact("graph", "nothing", "below", default=3) == 3
    assert 'name = "lt-admm-cc"' in run.config


def test_a_line_that_is_still_being_written_is_left_out(write_run, tmp_path):
    folder = write_run(tmp_path / "a")
    whole = Run.read(folder)
    text = (folder / "trace.csv").read_text()
    for cut in (1, 3, 40):
        run = Run.read(write_trace(folder, text[:-cut]))
        assert run.rows == whole.rows - 1
        np.testing.assert_array_equal(run.trace["seconds"], whole.trace["seconds"][:-1])


@pytest.mark.parametrize("text", ["", "round,gradi", "round,gradients,grad_norm_sq\n"])
def test_a_run_that_has_recorded_nothing_is_read(write_run, tmp_path, text):
    run = Run.read(write_trace(write_run(tmp_path / "a", edit={"status": "running"}), text))
    assert (run.rows, run.rounds, run.status) == (0, 0, "running")


def test_columns_of_other_people_are_kept_and_text_in_them_is_no_error(write_run, tmp_path):
    text = "round,grad_norm_sq,mine,word\n0,1,7,a\n1,,8,b\n"
    run = Run.read(write_trace(write_run(tmp_path / "a"), text))
    assert set(run.trace) == {"round", "grad_norm_sq", "mine"}
    np.testing.assert_array_equal(run.trace["mine"], [7, 8])
    np.testing.assert_array_equal(run.trace["grad_norm_sq"], [1, np.nan])


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("trace.csv", "round,gap\n0,1\n1\n2,1\n", "row 2: 1 cells under 2 headings"),
        ("trace.csv", "round,gap\n0,one\n", "column gap"),
        ("trace.csv", "gap\n1\n", 'no column "round"'),
        ("run.json", "{", "cannot be read"),
        ("run.json", "[]", "no table of facts"),
    ],
)
def test_a_damaged_file_is_named(write_run, tmp_path, file, text, says):
    folder = write_run(tmp_path / "a")
    (folder / file).write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        Run.read(folder)
    assert str(folder) in str(caught.value)


def test_what_is_no_run_folder_is_refused_with_the_runs_nearby(nine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # which runs are nearby depends on where one stands
    with pytest.raises(ConfigError, match="it has no run") as caught:
        Run.read(nine)
    assert "ring-lead-0123abcd" in str(caught.value)
    with pytest.raises(ConfigError, match=r'does not exist.*did you mean "ring-lead-0123abcd"'):
        Run.read(nine / "ring-laed-0123abcd")
    with pytest.raises(ConfigError, match="no run below"):
        read_runs(nine / "nowhere" / "at" / "all")
    with pytest.raises(ConfigError, match="does not exist"):
        read_runs(str(nine / "x*"))


def test_parents_and_patterns_stand_for_the_runs_below_each_once(nine):
    below = read_runs(nine.parent)
    assert [run.label for run in below[:3]] == ["LT-ADMM-CC", "LT-ADMM", "LEAD"]  # as they were started
    assert len(below) == 9
    some = read_runs(nine / "ring-nids-0123abcd", str(nine / "ring-l*"), nine)
    assert [run.label for run in some[:4]] == ["NIDS", "LT-ADMM-CC", "LT-ADMM", "LEAD"]
    assert len(some) == 9


def test_folders_below_a_run_or_hidden_ones_are_no_runs(write_run, tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "a" / "checkpoint" / "b")
    write_run(tmp_path / ".trash" / "c")
    assert [run.folder.name for run in read_runs(tmp_path)] == ["a"]


def test_modelled_time_follows_from_gradients_and_exchanges(write_run, tmp_path):
    run = Run.read(write_run(tmp_path / "a", "LT-ADMM-CC"))
    recorded = run.trace["modelled_seconds"]
    np.testing.assert_array_equal(run.modelled(), recorded)
    np.testing.assert_allclose(run.modelled(0.1, 1.0), recorded, rtol=1e-14)
    np.testing.assert_allclose(run.modelled(t_g=0.1), recorded, rtol=1e-14)
    np.testing.assert_allclose(run.modelled(0.0, 3.0), 2 * 3.0 * run.trace["round"])
    run.record["cost"] |= {"t_g": 5.0, "t_c": 7.0}
    assert run.times(t_c=2.0) == (5.0, 2.0)
    run.trace["vectors"] = run.trace["round"] // 4  # one that does not communicate in every round
    np.testing.assert_allclose(run.modelled(0.0, 3.0), 3.0 * (run.trace["round"] // 4))
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="t_c = "):
            run.modelled(t_c=wrong)


def test_the_first_row_that_reaches_a_level_counts(write_run, tmp_path):
    text = "round,gap\n0,nan\n5,3\n6,1\n7,2\n8,0.5\n"
    run = Run.read(write_trace(write_run(tmp_path / "a"), text))
    assert first_reaching(run, "gap", 1) == 2
    assert first_reaching(run, "gap", 0.5) == 4
    assert first_reaching(run, "gap", 0.4) is None
    with pytest.raises(ConfigError, match=r'unknown trace column "gab".*did you mean "gap"'):
        first_reaching(run, "gab", 1)


def test_namesakes_are_told_apart_by_what_differs(write_run, tmp_path):
    folders = [write_run(tmp_path / name, "LEAD") for name in "abc"] + [write_run(tmp_path / "d", "NIDS")]
    for k, folder in enumerate(folders[:3]):
        text = (folder / "config.toml").read_text().replace("bits = 8", f"bits = {2 * (k // 2) + 2}")
        (folder / "config.toml").write_text(text.replace("seed = 7", f"seed = {k % 2}"))
    runs = [Run.read(folder) for folder in folders]
    assert labels(runs) == ["LEAD (bits=2, seed=0)", "LEAD (bits=2, seed=1)", "LEAD (bits=4, seed=0)", "NIDS"]
    assert labels(runs[:2]) == ["LEAD (seed=0)", "LEAD (seed=1)"]
    assert labels(runs[1:3]) == ["LEAD (bits=2)", "LEAD (bits=4)"]
    (folders[0] / "config.toml").write_text("not = [toml")
    assert labels([Run.read(folder) for folder in folders[:2]]) == ["LEAD (a)", "LEAD (b)"]


def test_what_the_method_is_tells_namesakes_apart_before_how_long_it_ran(write_run, tmp_path):
    folders = [write_run(tmp_path / name, "LEAD") for name in "ab"]
    text = (folders[1] / "config.toml").read_text().replace("rounds = 1500", "rounds = 60")
    (folders[1] / "config.toml").write_text(text.replace('"quantize"', '"qsgd"') + '[data]\nsplit = "iid"\n')
    assert labels([Run.read(folder) for folder in folders]) == ["LEAD (quantize)", "LEAD (qsgd)"]
    (folders[1] / "config.toml").write_text(text + '[data]\nsplit = "iid"\n')
    assert labels([Run.read(folder) for folder in folders]) == ["LEAD (split=default)", "LEAD (split=iid)"]


def test_facts_that_are_null_are_missing(write_run, tmp_path):
    folder = write_run(tmp_path / "a", edit={"label": None, "graph": None})
    assert json.loads((folder / "run.json").read_text())["label"] is None
    run = Run.read(folder)
    assert (run.label, run.arcs) == ("lead", 0)
    assert np.isnan(run.along("bytes")).all()  # of all arcs together they would be taken for those of one
    run.record["graph"] = {"agents": 1, "edges": 0}
    assert np.isfinite(run.along("bytes")).all()
