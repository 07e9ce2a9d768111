"""Tables: what each method spent until it reached a target, or why it did not."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from decentral.errors import ConfigError, unknown
from decentral.report.extras import need
from decentral.report.runs import FloatArray, Run, first_row, labels

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_TARGET = {"grad_norm_sq": 1e-10}
OTHER_METRICS = ("gap", "loss", "error_rate", "consensus")
HEADINGS = (
    "rounds", "gradients\nper agent", "bytes\nper arc", "bytes\nratio", "modelled\ntime", "seconds", "best",
)  # fmt: skip
SORTS = ("rounds", "gradients", "bytes", "modelled", "seconds", "best")


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table; what a method spent is None when it did not reach the target."""

    label: str
    run: str
    status: str
    reached: bool
    rounds: int | None
    gradients: float | None  # component gradients per agent
    bytes: float | None  # wire bytes per arc
    bytes_ratio: float | None  # to the cheapest method that reached the target
    modelled: float | None
    seconds: float | None
    best: float | None  # smallest recorded value of the (first) metric of the target
    outcome: str  # "reached", or the sentence why not
    reason: str | None = None  # why theory expects no better, where it does


def parse_target(text: str) -> dict[str, float]:
    """``grad_norm_sq=1e-10`` (several separated by commas) as a target; ConfigError for anything else."""
    target: dict[str, float] = {}
    for part in text.split(","):
        metric, equals, level = part.partition("=")
        try:
            target[metric.strip()] = float(level)
        except ValueError:
            equals = ""
        if not equals or not metric.strip() or not target[metric.strip()] > 0:
            raise ConfigError(f'target "{part}" is not METRIC=LEVEL with a level above 0; e.g. grad_norm_sq=1e-10')
    return target


def common_target(runs: Sequence[Run]) -> dict[str, float]:
    """The target of the runs, the loosest where they differ.

    Where there is none: DEFAULT_TARGET, or if no run has its metric, what all runs reach of another one that they recorded.
    """
    targets = [target for run in runs if (target := run.fact("target"))]
    metrics = [metric for metric in targets[0] if all(metric in target for target in targets)] if targets else []
    loosest = {metric: max(float(target[metric]) for target in targets) for metric in metrics}
    return loosest or _reached_by_all(runs)


def _reached_by_all(runs: Sequence[Run]) -> dict[str, float]:
    for metric in (*DEFAULT_TARGET, *OTHER_METRICS):
        found = [values[np.isfinite(values) & (values > 0)] for run in runs for values in [run.trace.get(metric, np.empty(0))]]
        if metric in DEFAULT_TARGET and any(map(len, found)):
            break
        if found and all(map(len, found)):
            level = max(float(values.min()) for values in found)
            digit = 10.0 ** np.floor(np.log10(level))
            return {metric: float(f"{np.ceil(level / digit) * digit:.0e}")}  # rounded up to a digit
    return dict(DEFAULT_TARGET)


def table(
    runs: Sequence[Run],
    to: Mapping[str, float] | None = None,
    *,
    sort: str = "rounds",
    t_g: float | None = None,
    t_c: float | None = None,
) -> list[Row]:
    """A row per run: those that reached the target, cheapest first by `sort`, then the others, best first.

    `to` holds one or more metrics and the level that each must reach in the same round; by default the
    runs' own target. With t_g or t_c the modelled time is computed anew.
    ConfigError: an unknown metric or sort, or no run.
    """
    if not runs:
        raise ConfigError("no run to compare; give run folders, e.g. decentral compare results/*")
    if sort not in SORTS:
        raise ConfigError(unknown("sort", sort, SORTS))
    target = dict(to or common_target(runs))
    for metric in target:
        if not any(metric in run.trace for run in runs):
            known = [name for name in runs[0].trace if name != "round"]
            raise ConfigError(unknown("metric", metric, known, f"{runs[0].folder / 'trace.csv'}"))
    rows = [_row(run, label, target, t_g, t_c) for run, label in zip(runs, labels(runs), strict=True)]
    cheapest = min((row.bytes for row in rows if row.bytes is not None), default=0.0)
    if cheapest > 0:
        ratios = [None if row.bytes is None else row.bytes / cheapest for row in rows]
        rows = [dataclasses.replace(row, bytes_ratio=r) for row, r in zip(rows, ratios, strict=True)]

    def order(row: Row) -> tuple[bool, float, float]:
        cost, best = getattr(row, sort), np.inf if row.best is None else row.best
        return not row.reached, cost if row.reached and cost is not None else best, best

    return sorted(rows, key=order)


def show(rows: Sequence[Row], to: Mapping[str, float], console: Console | None = None) -> None:
    """Print the table."""
    rich_table, rich_text = need("rich.table", "the table"), need("rich.text", "the table")
    if console is None:
        console = need("rich.console", "the table").Console()
        if not console.is_terminal:
            console.width = 110  # a log or a file has room, whatever the terminal that it is not
    grid = rich_table.Table(
        box=need("rich.box", "the table").SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        pad_edge=False,
        title=f"to reach {target_text(to)}",
        title_justify="left",
        title_style="bold",
    )
    grid.add_column("method", overflow="fold")
    for heading in HEADINGS:
        grid.add_column(heading, justify="right", overflow="fold")
    for row in rows:
        grid.add_row(*(rich_text.Text(cell) for cell in (row.label, *row_cells(row), scientific(row.best))))
    console.print(grid)
    for row in rows:
        if not row.reached:
            console.print(rich_text.Text.assemble((row.label, "bold"), f" {sentence(row)}"))


def sentence(row: Row) -> str:
    """The outcome with its reason, e.g. ``not reached: floor 3.6e-05 (a constant step keeps a bias)``."""
    return f"{row.outcome} ({row.reason})" if row.reason and not row.reached else row.outcome


def row_cells(row: Row) -> list[str]:
    """What a method spent, for people: rounds, gradients, bytes, ratio of bytes, modelled time, seconds."""
    if not row.reached:
        return ["-"] * 6
    return [
        f"{row.rounds:,}",
        number(row.gradients),
        byte_text(row.bytes),
        "-" if row.bytes_ratio is None else f"{row.bytes_ratio:.3g}",
        number(row.modelled),
        number(row.seconds),
    ]


def to_csv(rows: Sequence[Row]) -> str:
    """The table as CSV text with exact numbers, empty where the target was not reached."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in dataclasses.fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    return out.getvalue()


def to_json(rows: Sequence[Row], to: Mapping[str, float]) -> str:
    """The table as JSON text: {"target": {...}, "rows": [...]}, null where the target was not reached."""
    content: dict[str, Any] = {"target": dict(to), "rows": [dataclasses.asdict(row) for row in rows]}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def target_text(to: Mapping[str, float]) -> str:
    return ", ".join(f"{metric} ≤ {level:g}" for metric, level in to.items())


def number(value: float | None) -> str:
    """Four significant digits, thousands separated; "-" for None."""
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def scientific(value: float | None) -> str:
    """Two significant digits; "-" for None."""
    return "-" if value is None else f"{value:.1e}"


def byte_text(value: float | None) -> str:
    """Bytes with a decimal unit and three significant digits."""
    if value is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _row(run: Run, label: str, target: Mapping[str, float], t_g: float | None, t_c: float | None) -> Row:
    k = first_row(run, target)
    metric = next(iter(target))
    finite = run.trace[metric][np.isfinite(run.trace[metric])] if metric in run.trace else np.empty(0)

    def spent(axis: str) -> float | None:
        value = float(run.along(axis, t_g, t_c)[k]) if k is not None else np.nan
        return value if np.isfinite(value) else None

    return Row(
        label=label,
        run=str(run.folder),
        status=run.status,
        reached=k is not None,
        rounds=None if k is None else int(run.trace["round"][k]),
        gradients=spent("gradients"),
        bytes=spent("bytes"),
        bytes_ratio=None,
        modelled=spent("modelled"),
        seconds=spent("seconds"),
        best=float(finite.min()) if finite.size else None,
        outcome="reached" if k is not None else _why_not(run, target, finite),
        reason=run.fact("floor_reason") if run.fact("exact") is False else None,
    )


def _why_not(run: Run, target: Mapping[str, float], values: FloatArray) -> str:
    """The sentence for a run that did not reach the target; `values`: the finite ones of the first metric."""
    missing = [metric for metric in target if metric not in run.trace]
    if missing:
        return f"{missing[0]} was not recorded"
    if not values.size:
        return "no round recorded" if not run.rows else f"{next(iter(target))} was never finite"
    best, rounds = f"best {values.min():.2g}", f"{run.rounds:,} round" + "s" * (run.rounds != 1)
    match run.status:
        case "diverged" | "failed":
            return f"{run.status} after {rounds}: {run.fact('why', default=best)}"
        case "running":
            return f"still running, {rounds} so far: {best}"
        case "interrupted":
            return f"interrupted after {rounds}: {best}"
        case "target":
            own = target_text(run.fact("target", default={}))
            return f"not reached: stopped after {rounds} at its own target, {own}"
    if run.fact("exact") is False:
        floor, before = _last_tenths(values)
        if floor > 0.8 * before:  # level: not a method that was merely stopped on its way down
            return f"not reached: floor {floor:.2g}"
        return f"not reached in {rounds}: {best}, still falling towards a floor"
    return f"not reached in {rounds}: {best}"


def _last_tenths(values: FloatArray) -> tuple[float, float]:
    """Medians of the last tenth of the rows and of the tenth before it."""
    tenth = max(1, len(values) // 10)
    last, before = values[-tenth:], values[-2 * tenth : -tenth]
    return float(np.median(last)), float(np.median(before)) if before.size else float("inf")
