"""One self-contained page about some runs: table, figures, parameters, references, commands."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decentral.report import compare
from decentral.report.extras import need
from decentral.report.figures import MARK
from decentral.report.runs import Run, find_runs, flat, labels

# What the overview already shows goes into a folded part of the page.
FOLDED = ("rounds", "bytes", "modelled", "seconds")


def page(
    runs: Sequence[Run],
    images: Sequence[tuple[str, str, bytes]],
    to: Mapping[str, float],
    t_g: float | None = None,
    t_c: float | None = None,
) -> str:
    """The page as text; `images` are (name, caption, PNG), inlined."""
    jinja2 = need("jinja2", "the report page")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = labels(runs)
    rows = compare.table(runs, to, t_g=t_g, t_c=t_c)
    figures = [
        {"name": name, "caption": caption, "data": base64.b64encode(png).decode(), "wide": name == "overview"}
        for name, caption, png in images
    ]
    page: str = environment.get_template("report.html").render(
        mark=MARK,
        title=_title(runs, names),
        summary=_summary(runs, names),
        facts=_facts(runs),
        target=compare.target_text(to),
        rows=rows,
        least={row.run: _least(row, rows) for row in rows},
        cells=compare.row_cells,
        sentence=compare.sentence,
        scientific=compare.scientific,
        times=_times(runs, t_g, t_c),
        figures=[figure for figure in figures if figure["name"] not in FOLDED],
        folded=[figure for figure in figures if figure["name"] in FOLDED],
        methods=[_method(run, name) for run, name in zip(runs, names, strict=True)],
        remarks=[(name, *remark) for run, name in zip(runs, names, strict=True) for remark in _remarks(run)],
        cite=_distinct(entry.strip() for run in runs for entry in run.fact("cite", default=[])),
        made=_distinct(run.fact("command", default="") for run in runs),
        next=_next_commands(runs, rows, to),
    )
    return page


def _title(runs: Sequence[Run], names: Sequence[str]) -> str:
    shown = ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]
    what = shown if len(names) <= 4 else f"{len(names)} methods" if len(set(names)) == len(names) else "runs"
    where = _values(runs, "data", "name") or _values(runs, "problem", "name")
    graph = _values(runs, "graph", "name")
    return what + (f" on {where}" if where else "") + (f" over {graph}" if graph else "")


def _summary(runs: Sequence[Run], names: Sequence[str]) -> str:
    """What was compared, on what, by which machine, in one paragraph."""
    text = f"{_count(len(runs), 'run')}: {', '.join(names)}."
    if problem := _values(runs, "problem", "description") or _values(runs, "problem", "name"):
        text += f" The problem is {problem}"
        text += f" with {unknowns} unknowns" if (unknowns := _values(runs, "problem", "d")) else ""
        text += f" on {data}" if (data := _values(runs, "data", "name")) else ""
        text += f" ({rows} samples)" if (rows := _values(runs, "data", "rows")) else ""
        text += "."
    if agents := _values(runs, "graph", "agents"):
        text += f" It is shared by {agents} agents on the graph {_values(runs, 'graph', 'name')}"
        text += f" (split: {how})" if (how := _values(runs, "data", "split")) else ""
        text += "."
    where = _distinct_text(_executor(run) for run in runs)
    versions = _distinct_text(_versions(run) for run in runs) or "decentral"
    return text + f" The runs were made {where} with {versions}."


def _executor(run: Run) -> str:
    hosts = _distinct(run.fact("hosts", default=[]))  # one per rank
    more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
    place = f" on {', '.join(hosts[:3])}{more}" if hosts else ""
    if run.fact("executor") != "mpi":
        return "in one process" + place
    return f"by {_count(run.fact('ranks', default='several'), 'MPI rank')}{place}"


def _facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Numbers behind the summary; where the runs differ, all values."""
    rows = [
        ("smoothness L", _values(runs, "problem", "L")),
        ("strong convexity μ", _values(runs, "problem", "mu")),
        ("optimal value", _values(runs, "problem", "f_star")),
        ("edges", _values(runs, "graph", "edges")),
        ("diameter", _values(runs, "graph", "diameter")),
        ("degrees", _distinct_text(_degrees(run) for run in runs)),
        ("Laplacian extremes", _distinct_text(_pair(run, "graph", "l_l", "l_u") for run in runs)),
        ("spectral gap", _values(runs, "graph", "gap")),
        ("executor", _values(runs, "executor")),
        ("MPI library", _values(runs, "mpi_library")),
        ("device", _values(runs, "device")),
        ("git commit", _values(runs, "git")),
        ("started", min((str(run.fact("start")) for run in runs if run.fact("start")), default="")),
    ]
    return [(name, value) for name, value in rows if value]


def _method(run: Run, name: str) -> dict[str, Any]:
    parameters = flat(run.fact("parameters", default={}))
    cost = {
        "gradients per agent": run.fact("cost", "gradients_per_round"),
        "exchanges": run.fact("cost", "exchanges_per_round"),
        "bytes per arc": run.fact("cost", "bytes_per_arc_per_round"),
    }
    return {
        "name": name,
        "run": str(run.folder),
        "status": run.status,
        "rounds": f"{run.rounds:,}",
        "parameters": [(key, _text(value)) for key, value in parameters.items()],
        "cost": [(key, compare.number(float(value))) for key, value in cost.items() if value is not None],
    }


def _remarks(run: Run) -> list[tuple[str, str]]:
    """Warnings and notes of a run, each with its kind."""
    remarks = [("warning", str(text)) for text in run.fact("warnings", default=[])]
    if run.status in ("failed", "diverged", "interrupted"):
        remarks.insert(0, (run.status, str(run.fact("why", default="no reason was recorded"))))
    if run.fact("exact") is False and run.fact("floor_reason"):
        remarks.append(("floor", str(run.fact("floor_reason"))))
    return remarks + [("note", str(text)) for text in run.fact("notes", default=[])]


def _next_commands(runs: Sequence[Run], rows: Sequence[compare.Row], to: Mapping[str, float]) -> list[tuple[str, str]]:
    """What to try next, each with the reason to."""
    parents = {run.folder.parent for run in runs}
    together = len(parents) == 1 and len(find_runs(*parents)) == len(runs) > 1  # then the parent says it
    folders = " ".join(shlex.quote(str(p)) for p in (parents if together else [run.folder for run in runs]))
    first = shlex.quote(str(runs[0].folder / "config.toml"))
    metric, level = next(iter(to.items()))
    commands = [
        ("the same table to another target, cheapest in bytes first",
         f"decentral compare {folders} --to {metric}={3 * level:.1g} --sort bytes"),
        ("this page for a network whose gradients are ten times cheaper",
         f"decentral report {folders} --t-g 0.01 --t-c 1"),
        ("the first run on another graph", f"decentral run {first} --set graph.topology=complete"),
    ]  # fmt: skip
    for row in rows:
        if not row.reached and row.status in ("interrupted", "running"):
            commands.append((f"go on with {row.label}", f"decentral run {_config(row)} --resume"))
    return commands


def _config(row: compare.Row) -> str:
    return shlex.quote(str(Path(row.run) / "config.toml"))


def _times(runs: Sequence[Run], t_g: float | None, t_c: float | None) -> str:
    """How the modelled time was made."""
    times = runs[0].times(t_g, t_c)
    text = "gradients per agent · t_g + exchanges · t_c"
    if times is None:
        return f"{text}, as the runs recorded it"
    return f"{text} with t_g = {times[0]:g} and t_c = {times[1]:g}"


def _least(row: compare.Row, rows: Sequence[compare.Row]) -> list[bool]:
    """For each cell of a row, whether no other method spent less."""
    costs = ("rounds", "gradients", "bytes", "bytes_ratio", "modelled", "seconds")
    reached = [other for other in rows if other.reached]
    spent = {cost: [value for other in reached if (value := getattr(other, cost)) is not None] for cost in costs}
    several = row.reached and len(reached) > 1
    return [several and getattr(row, cost) == min(spent[cost], default=None) for cost in costs]


def _values(runs: Sequence[Run], *keys: str) -> str:
    return _distinct_text(_text(value) for run in runs if (value := run.fact(*keys)) is not None)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _distinct(values: Any) -> list[str]:
    return [value for value in dict.fromkeys(values) if value]


def _distinct_text(values: Any) -> str:
    return "; ".join(_distinct(values))


def _count(count: int | str, noun: str) -> str:
    return f"{count} {noun}" + ("" if str(count) == "1" else "s")


def _degrees(run: Run) -> str:
    low, high = run.fact("graph", "degree_min"), run.fact("graph", "degree_max")
    return "" if low is None else str(low) if low == high else f"{low} to {high}"


def _pair(run: Run, table: str, low: str, high: str) -> str:
    values = run.fact(table, low), run.fact(table, high)
    return "" if None in values else f"{_text(values[0])}, {_text(values[1])}"


def _versions(run: Run) -> str:
    return ", ".join(f"{name} {version}" for name, version in run.fact("versions", default={}).items())
