"""Figures of progress over every cost, and the list of all figures of a report."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from decentral.errors import ConfigError, unknown
from decentral.report import holdings
from decentral.report.extras import need
from decentral.report.figures import COLUMN, PAGE, Picture, blank, styled
from decentral.report.runs import FloatArray, Run, first_row, labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Seven colours of Okabe and Ito (the yellow is illegible on white) and two of Tol's beside them.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9", "#882255", "#7a7a3a")
DASHES = (  # one solid; each other has gaps through which a coinciding curve shows
    (1, 0), (5, 1.6), (1.3, 1.3), (7, 1.6, 1.3, 1.6), (3, 1.5), (6, 1.4, 1.3, 1.4, 1.3, 1.4), (9, 3), (4, 4),
    (1.6, 3),
)  # fmt: skip
MARKERS = "os^DvPX<>"
AXES = {
    "rounds": "rounds",
    "gradients": "component gradients per agent",
    "bytes": "wire bytes per arc",
    "modelled": "modelled time",
    "seconds": "wall-clock time (s)",
}
METRICS = {
    "grad_norm_sq": r"$\Vert\nabla F(\bar x)\Vert^2$",
    "consensus": "consensus error",
    "gap": r"$F(\bar x)-F^\star$",
    "loss": r"$F(\bar x)$",
    "error_rate": "error rate",
}
OVERVIEW = ("rounds", "bytes", "modelled", "seconds")
SMALLEST, LARGEST = 1e-34, 1e60  # what is drawn: squares of float64 rounding errors end above the first
POINTS = 4000  # of a curve; longer ones are thinned
WIDE = 12.0  # an axis of cost is logarithmic where the methods' needs differ by more than this factor


def pictures(
    runs: Sequence[Run],
    to: Mapping[str, float] | None = None,
    t_g: float | None = None,
    t_c: float | None = None,
) -> list[Picture]:
    """Every figure of a report: overview, one per axis of cost, consensus, and each distinct graph and split.

    ConfigError when no run has recorded anything.
    """
    runs = list(runs)
    if not any(run.rows for run in runs):
        raise ConfigError("nothing to draw: no run has recorded a round yet")
    target = dict(to or {})
    metric = next(iter(target), "grad_norm_sq")
    what = {"grad_norm_sq": "squared norm of the gradient at the average iterate"}.get(metric, metric)
    figure = overview(runs, metric, to=target, t_g=t_g, t_c=t_c)
    made = [Picture("overview", figure, f"Progress ({what}) over four costs.")]
    for axis, label in AXES.items():
        figure = convergence(runs, axis, metric, to=target, t_g=t_g, t_c=t_c)
        made.append(Picture(axis, figure, f"Progress over {label}."))
    if any((run.trace.get("consensus", np.empty(0)) > 0).any() for run in runs):
        figure = convergence(runs, "rounds", "consensus", to=target)
        caption = "Consensus error: mean squared distance of the agents from their average."
        made.append(Picture("consensus", figure, caption))
    for name, draw, facts, describe in (
        ("graph", holdings.graph, holdings.graph_facts, holdings.graph_caption),
        ("split", holdings.split, holdings.split_facts, holdings.split_caption),
    ):
        different = {repr(facts(run)): run for run in reversed(runs) if facts(run)}
        for k, run in enumerate(reversed(different.values()), start=1):
            made.append(Picture(name if k == 1 else f"{name}-{k}", draw(run), describe(run)))
    return made


def convergence(
    runs: Sequence[Run],
    axis: str = "rounds",
    metric: str = "grad_norm_sq",
    *,
    to: Mapping[str, float] | None = None,
    t_g: float | None = None,
    t_c: float | None = None,
) -> Figure:
    """One panel, one column wide, with its legend below: a metric over an axis of cost."""
    if axis not in AXES:
        raise ConfigError(unknown("axis", axis, AXES))
    names = labels(runs)
    legend_rows = math.ceil(len(runs) / _legend_columns(names, COLUMN))
    with styled():
        figure = blank(COLUMN, 2.35 + 0.155 * legend_rows)
        panel = figure.add_subplot()
        handles = _draw(panel, runs, axis, metric, to or {}, t_g, t_c)
        panel.set_ylabel(METRICS.get(metric, metric))
        _legend(figure, handles, names, COLUMN)
    return figure


def overview(
    runs: Sequence[Run],
    metric: str = "grad_norm_sq",
    *,
    to: Mapping[str, float] | None = None,
    t_g: float | None = None,
    t_c: float | None = None,
) -> Figure:
    """Four panels, a page wide, that share one legend: rounds, bytes, modelled time, seconds."""
    names = labels(runs)
    legend_rows = math.ceil(len(runs) / _legend_columns(names, PAGE))
    with styled():
        figure = blank(PAGE, 4.35 + 0.155 * legend_rows)
        panels = figure.subplots(2, 2, sharey=True)
        for letter, panel, axis in zip("abcd", panels.flat, OVERVIEW, strict=True):
            handles = _draw(panel, runs, axis, metric, to or {}, t_g, t_c)
            panel.set_title(f"({letter})", loc="left", fontweight="bold", pad=3)
        for panel in panels[:, 0]:
            panel.set_ylabel(METRICS.get(metric, metric))
        _legend(figure, handles, names, PAGE)
    return figure


def thin(values: FloatArray, points: int = POINTS) -> NDArray[np.int64]:
    """Indices of at most about `points` values that keep a curve's look: the extremes of each bin.

    The bins are even in the index and, for a logarithmic axis, even in its logarithm as well.
    """
    rows = len(values)
    if rows <= points:
        return np.arange(rows)
    bins = points // 4
    places = np.concatenate([np.linspace(0, rows, bins + 1), np.geomspace(1, rows, bins + 1)])
    edges = np.unique(places.astype(int))
    kept = [0, rows - 1]
    for a, b in itertools.pairwise(edges):
        kept += [a + int(np.argmin(values[a:b])), a + int(np.argmax(values[a:b]))]
    return np.unique(kept)


def _draw(
    panel: Axes,
    runs: Sequence[Run],
    axis: str,
    metric: str,
    to: Mapping[str, float],
    t_g: float | None,
    t_c: float | None,
) -> list[Any]:
    """The curves of one panel, its target, its limits; a handle per run, also for one without a curve."""
    curves = [_curve(run, axis, metric, t_g, t_c) for run in runs]
    level = to.get(metric)
    right, logarithmic = _extent(runs, curves, to, level)
    panel.set_yscale("log")
    if logarithmic:
        panel.set_xscale("log")
    handles = []
    for k, (x, y) in enumerate(curves):
        if logarithmic:
            x, y = x[x > 0], y[x > 0]
        kept = thin(y)
        handles += panel.plot(x[kept], y[kept], **_look(k, len(runs)))
    ticker = need("matplotlib.ticker", "a figure")
    shown = [y for _, y in curves if len(y)]
    if shown:
        low, start = min(float(y.min()) for y in shown), max(float(y[0]) for y in shown)
        top = min(max(float(y.max()) for y in shown), 1e4 * start)  # one that diverges does not set the scale
        bottom = max(low / 4, SMALLEST)
        if level:  # room for a word below the line
            bottom = min(bottom, level * min(level / start, 1e-2) ** 0.12)
        panel.set_ylim(bottom, max(4 * top, 100 * bottom))
    if level and shown:
        panel.axhline(level, color="0.35", linewidth=0.7, dashes=(4, 3), zorder=1)
        panel.annotate(f"target {level:g}", (1, level), (-1, -2.5), xycoords=("axes fraction", "data"),
                       textcoords="offset points", ha="right", va="top", fontsize=6.5, color="0.35",
                       bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5})  # fmt: skip
    decades = math.log10(panel.get_ylim()[1] / panel.get_ylim()[0])
    stride = max(1, 2 * round(decades / 14))
    panel.yaxis.set_major_locator(ticker.LogLocator(base=10.0**stride, numticks=20))
    panel.yaxis.set_minor_locator(ticker.NullLocator())
    positive = [float(x[x > 0].min()) for x, _ in curves if (x > 0).any()]
    if logarithmic:
        panel.set_xlim(min(positive), right * 1.1)
    elif right:
        panel.set_xlim(-0.015 * right, right)
    if axis == "bytes":
        panel.xaxis.set_major_formatter(ticker.EngFormatter(unit="B"))
    elif not logarithmic:
        plain, thousands = ticker.ScalarFormatter(), ticker.EngFormatter(sep="\u2009")
        panel.xaxis.set_major_formatter(thousands if right >= 1e4 else plain)
    panel.set_xlabel(AXES[axis] + (_times(runs[0], t_g, t_c) if axis == "modelled" else ""))
    return handles


def _curve(run: Run, axis: str, metric: str, t_g: float | None, t_c: float | None) -> tuple[FloatArray, FloatArray]:
    """Finite points of a curve; values beyond what is drawn, zero among them, are put at its bounds.

    Zeros at its start are left out: agents that start at one point have no consensus error yet.
    """
    x, y = run.along(axis, t_g, t_c), run.trace.get(metric, np.full(run.rows, np.nan))
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], np.clip(y[finite], SMALLEST, LARGEST)
    begun = np.logical_or.accumulate(y > SMALLEST)
    return x[begun], y[begun]


def _extent(
    runs: Sequence[Run], curves: Sequence[tuple[FloatArray, FloatArray]], to: Mapping[str, float], level: float | None
) -> tuple[float, bool]:
    """How far to the right a panel goes, and whether that axis is logarithmic.

    It ends a little after the slowest of the methods that reach the target has come down to it and to within a
    factor of ten of its best: a method that never gets there would otherwise squeeze all others into a corner.
    """
    ends = [
        float(x[np.argmax(y <= min(10 * y.min(), max(level or np.inf, y.min())))])
        for run, (x, y) in zip(runs, curves, strict=True)
        if len(y) and run.status not in ("failed", "diverged") and first_row(run, to) is not None
    ]
    last = max((float(x[-1]) for x, _ in curves if len(x)), default=0.0)
    positive = [end for end in ends if end > 0]
    if not positive:
        return last, False
    return min(last, 1.25 * max(positive)), max(positive) > WIDE * min(positive)


def _look(k: int, count: int) -> dict[str, Any]:
    """Colour, dashes, marker and width of the k-th curve.

    Curves that coincide stay distinguishable: later ones are thinner and dashed, so that earlier ones show
    beside and between them, and the markers of each start at another place.
    """
    turn = k // len(COLORS)
    return {
        "color": COLORS[k % len(COLORS)],
        "dashes": DASHES[(k + 2 * turn) % len(DASHES)],
        "marker": MARKERS[(k + 4 * turn) % len(MARKERS)],
        "markevery": (0.03 + 0.2 * k / max(count, 1), 0.2),
        "markersize": 3.8,
        "markerfacecolor": "white" if k % 2 else COLORS[k % len(COLORS)],
        "markeredgewidth": 0.8,
        "linewidth": 1.9 - 0.9 * k / max(count - 1, 1),
        "zorder": 2 + 0.01 * k,
    }


def _legend(figure: Figure, handles: Sequence[Any], names: Sequence[str], width: float) -> None:
    figure.legend(handles, names, loc="outside lower center", ncols=_legend_columns(names, width), columnspacing=1.0)


def _legend_columns(names: Sequence[str], width: float) -> int:
    """Columns of a legend that fit into a width in inches: a handle, gaps and 0.062 inches per letter."""
    column = 0.48 + 0.062 * max(len(name) for name in names)
    rows = math.ceil(len(names) / max(1, int(width / column)))
    return math.ceil(len(names) / rows)


def _times(run: Run, t_g: float | None, t_c: float | None) -> str:
    """The two times behind the modelled time, for a label; nothing where they are not known."""
    times = run.times(t_g, t_c)
    return "" if times is None else f" ($t_g$ = {times[0]:g}, $t_c$ = {times[1]:g})"
