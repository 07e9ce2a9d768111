"""Figures and the page: whole, self-contained, harmless to what lies beside them."""

import base64
import re
import subprocess
import sys

import numpy as np
import pytest

from decentral.errors import ConfigError
from decentral.report import Run, figures, holdings, plots, read_runs, report, table
from decentral.report.html import page

NAMES = ["overview", "rounds", "gradients", "bytes", "modelled", "seconds", "consensus", "graph", "split"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def reported(nine):
    """The runs of the nine methods and the report on them."""
    runs = read_runs(nine)
    return runs, report(runs)


def few(write_run, folder, labels=("LT-ADMM-CC", "D-PSGD"), **more):
    return [Run.read(write_run(folder / label, label, **more)) for label in labels]


def test_a_report_leaves_the_figures_and_one_page_beside_the_runs(reported):
    runs, path = reported
    assert path.parent.parent == runs[0].folder.parent and re.fullmatch("report-[0-9a-f]{8}", path.parent.name)
    assert sorted(file.name for file in path.parent.iterdir()) == sorted([f"{n}.png" for n in NAMES] + ["report.html"])
    for name in NAMES:
        assert (path.parent / f"{name}.png").read_bytes().startswith(PNG)


def test_the_page_needs_nothing_but_itself(reported):
    _, path = reported
    text = path.read_text()
    outside = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"<script|<link|@import|url\(|src=\"(?!\")|https?://", outside)
    pictures = [base64.b64decode(code) for code in re.findall(r"base64,([A-Za-z0-9+/=]+)", text)]
    assert sorted(pictures) == sorted((path.parent / f"{name}.png").read_bytes() for name in NAMES)


def test_the_page_says_what_was_compared_and_how_to_go_on(reported):
    runs, path = reported
    text = re.sub(r"\s+", " ", path.read_text())
    for part in (
        "<title>9 methods on a9a over ring:8</title>",
        "logistic regression with l2 weight 0.1 with 123 unknowns on a9a (32,561 samples)",
        "8 agents on the graph ring:8 (split: sorted by label)",
        "by 8 MPI ranks on node01 with decentral 0.1.0, python 3.11.9",
        "not reached: floor 3.6e-05 (a constant step keeps a bias where the agents&#39; data differ)",
        "<b>compressor.bits</b> 8",
        "warm start: one gradient step before round 1",
        "mpirun -n 8 python -m decentral run ring.toml --set algorithm.name=cold",
        "@article{platoon99",
    ):
        assert part in text, part
    assert text.count("@article{platoon99") == 1
    assert f"decentral compare {runs[0].folder.parent} --to" in text  # one folder names all nine


def test_each_host_is_named_once(write_run, tmp_path):
    runs = few(write_run, tmp_path, ["LEAD"], edit={"hosts": ["vm", "vm", "other", "vm"]})
    assert "by 8 MPI ranks on vm, other with" in page(runs, [], {"grad_norm_sq": 1e-10})


def test_a_record_without_a_graph_has_no_bytes_per_arc(write_run, tmp_path):
    folder = write_run(tmp_path / "a", "LEAD")
    (folder / "run.json").write_text("{}")
    runs = [Run.read(folder)]
    assert table(runs, {"grad_norm_sq": 1e-10})[0].bytes is None
    assert "<td>-</td>" in page(runs, [], {"grad_norm_sq": 1e-10}) and plots.pictures(runs)


def test_text_of_a_run_is_never_markup(write_run, tmp_path):
    evil = "<script>alert(1)</script>"
    edit = {"label": evil, "notes": [evil], "cite": [evil], "command": evil, "parameters": {evil: evil}}
    runs = few(write_run, tmp_path, ["LEAD"], edit=edit)
    text = page(runs, [("overview", evil, PNG)], {"grad_norm_sq": 1e-10})
    assert evil not in text and text.count("&lt;script&gt;") >= 7


def test_a_second_report_replaces_the_first_and_the_same_runs_give_the_same_bytes(reported):
    runs, path = reported
    made = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    (path.parent / "report.html").write_bytes(b"decentral report, an older one")
    assert report(runs) == path
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == made


@pytest.mark.parametrize(("format", "head"), [("png", PNG), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_a_figure_of_any_format_is_marked_and_repeats_to_the_byte(write_run, tmp_path, format, head):
    runs = few(write_run, tmp_path, ["LEAD"])
    first, second = (figures.render(plots.convergence(runs), format) for _ in range(2))
    assert first == second and first.startswith(head) and figures.MARK.encode() in first


def test_a_single_run_gets_its_report_in_its_own_folder_in_the_formats_asked_for(write_run, tmp_path):
    runs = few(write_run, tmp_path, ["LEAD"])
    assert report(runs, formats=["svg"]) == runs[0].folder / "report.html"
    names = {file.name for file in runs[0].folder.iterdir()}
    assert {"overview.svg", "split.svg", "trace.csv"} <= names and "overview.png" not in names


def test_files_of_others_are_not_overwritten(write_run, tmp_path):
    runs = few(write_run, tmp_path, ["LEAD"])
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "split.png").write_bytes(PNG + b"a holiday")
    with pytest.raises(ConfigError, match=r"split\.png was not made by a report"):
        report(runs, folder)
    assert [file.name for file in folder.iterdir()] == ["split.png"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        report(runs, tmp_path / "file" / "out")


def test_runs_of_every_fate_are_drawn(write_run, tmp_path):
    runs = few(write_run, tmp_path, ["LEAD", "NIDS", "COLD", "DPDC", "CEDAS"], rounds=600)
    runs[0].trace["grad_norm_sq"][:] = np.geomspace(1, 1e300, runs[0].rows)  # diverges
    runs[0].trace["consensus"][5:] = np.nan
    for column in runs[1].trace:
        runs[1].trace[column] = np.empty(0)  # has recorded nothing
    runs[2].trace["grad_norm_sq"][20:] = 0.0  # exact
    del runs[3].trace["consensus"]
    record = runs[4].record
    record |= {"graph": {"agents": 1, "edges": 0, "arcs": []}, "data": {"agents": [{"samples": 9}]}}
    names = [picture.name for picture in plots.pictures(runs, {"grad_norm_sq": 1e-10})]
    assert names == [*NAMES[:7], "graph", "graph-2", "split", "split-2"]
    panel = plots.convergence(runs, to={"grad_norm_sq": 1e-10}).axes[0]
    low, high = panel.get_ylim()
    assert low == plots.SMALLEST and 1 < high < 1e6
    assert report(runs, tmp_path / "out").is_file()


def test_nothing_recorded_is_nothing_to_draw(write_run, tmp_path):
    runs = few(write_run, tmp_path, ["LEAD"])
    (runs[0].folder / "trace.csv").write_text("round,grad_norm_sq\n")
    with pytest.raises(ConfigError, match="no run has recorded a round"):
        report(read_runs(tmp_path))


def test_a_run_that_starts_at_consensus_is_drawn_from_where_it_leaves_it(write_run, tmp_path):
    runs = few(write_run, tmp_path)
    for run in runs:
        run.trace["consensus"][:3] = 0.0  # all agents start at zero
    panel = plots.convergence(runs, "rounds", "consensus").axes[0]
    low, high = panel.get_ylim()
    for run, line in zip(runs, panel.get_lines(), strict=True):
        drawn = run.trace["consensus"][3:]
        assert low < drawn.min() and drawn.max() < high
        assert line.get_xdata()[0] == 3 and line.get_ydata()[0] == drawn[0]
        run.trace["consensus"][:] = 0.0
    assert "consensus" not in [picture.name for picture in plots.pictures(runs)]


def test_a_method_that_stalls_does_not_squeeze_the_others(write_run, tmp_path):
    runs = few(write_run, tmp_path)  # 154 rounds to the target; 1500 on a floor
    panel = plots.convergence(runs, "rounds", to={"grad_norm_sq": 1e-10}).axes[0]
    assert runs[0].rounds <= panel.get_xlim()[1] < 1.5 * runs[0].rounds
    panel = plots.convergence(runs, "rounds").axes[0]  # without a target nobody is cut
    assert panel.get_xlim()[1] >= 150


@pytest.mark.parametrize("count", [9, 27])
def test_no_two_curves_look_alike(count):
    looks = [plots._look(k, count) for k in range(count)]
    assert len({(look["color"], look["dashes"], look["marker"]) for look in looks}) == count
    assert len({look["markevery"][0] for look in looks}) == count
    assert len({look["linewidth"] for look in looks}) == count
    assert sum(look["dashes"] == (1, 0) for look in looks[:9]) == 1


def test_thinning_keeps_ends_and_extremes():
    rows = 100_000
    values = np.exp(-np.arange(rows) / 1e4) * (1 + 0.1 * np.sin(np.arange(rows)))
    values[[33, 77_777]] = 50.0, 1e-9
    kept = plots.thin(values, 1000)
    assert len(kept) <= 1100 and (np.diff(kept) > 0).all()
    assert {0, 33, 77_777, rows - 1} <= set(kept)
    assert (kept < 100).sum() > 50  # a logarithmic axis still has a beginning
    np.testing.assert_array_equal(plots.thin(values[:1000], 1000), np.arange(1000))


def test_agents_are_coloured_only_where_shares_differ(write_run, tmp_path):
    uneven, even = few(write_run, tmp_path, ["LEAD", "NIDS"])
    for holding in even.record["data"]["agents"]:
        holding["samples"] = 5
    assert len(holdings.graph(uneven).axes) == 2 and len(holdings.graph(even).axes) == 1
    assert [text.get_text() for text in holdings.graph(even).axes[0].texts] == list("01234567")


@pytest.mark.parametrize("agents", [1, 8, 100])
@pytest.mark.parametrize("classes", [0, 2, 30])
def test_splits_of_any_size_stack_up_to_all_samples(write_run, tmp_path, agents, classes):
    (run,) = few(write_run, tmp_path, ["LEAD"])
    counts = np.arange(1, agents * max(classes, 1) + 1).reshape(agents, -1)
    run.record["data"]["agents"] = [
        {"agent": i, "samples": int(row.sum()), "classes": {str(c): int(row[c]) for c in range(classes)}}
        for i, row in enumerate(counts)
    ]
    figure = holdings.split(run)
    high = figure.axes[0].get_ylim()[1]
    assert high == pytest.approx(1.05 * counts.sum(axis=1).max())
    assert figures.render(figure).startswith(PNG)
    assert len(figure.legends) == (classes == 2)


def test_wrong_questions_get_a_sentence(write_run, tmp_path):
    runs = few(write_run, tmp_path, ["LEAD"])
    with pytest.raises(ConfigError, match=r'unknown axis "byte".*did you mean "bytes"'):
        plots.convergence(runs, "byte")
    with pytest.raises(ConfigError, match=r'unknown figure format "jpg".*did you mean "png"'):
        report(runs, formats=("jpg",))
    runs[0].record["graph"] = runs[0].record["data"] = None
    for draw in (holdings.graph, holdings.split):
        with pytest.raises(ConfigError, match="there is no"):
            draw(runs[0])


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_a_missing_library_is_named_with_the_way_to_get_it(write_run, tmp_path, monkeypatch, missing):
    runs = few(write_run, tmp_path, ["LEAD"])
    for module in [name for name in sys.modules if name.partition(".")[0] == missing] + [missing]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"needs {missing}.*pip install 'decentral\[report\]'"):
        report(runs)


def test_reading_runs_imports_no_drawing_library():
    code = "import decentral.report, sys; print({'matplotlib', 'jinja2', 'rich', 'networkx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
