"""Figures of the setting: the graph, and who holds which samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from decentral.errors import ConfigError
from decentral.report.extras import need
from decentral.report.figures import COLUMN, blank, styled
from decentral.report.runs import FloatArray, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASS_COLORS = (
    "#4477aa", "#ee8866", "#44aa99", "#ddcc77", "#aa4466",
    "#77aadd", "#999933", "#bbbbbb", "#332288", "#ffaabb",
)  # fmt: skip
DRAWN_AGENTS = 500  # larger graphs are not drawn


def graph(run: Run) -> Figure:
    """The graph, its agents coloured by the share of the samples that they hold."""
    drawable = graph_facts(run)
    if drawable is None:
        raise ConfigError(f"{run.folder} lists no graph of at most {DRAWN_AGENTS} agents: there is nothing to draw")
    agents, edges, samples = drawable
    positions = _positions(agents, edges)
    with styled():
        figure = blank(COLUMN, 2.8)
        panel = figure.add_subplot()
        panel.set_axis_off()
        panel.set_aspect("equal")
        panel.margins(0.12)
        ends = positions[np.array(edges, dtype=int).reshape(-1, 2)]
        collections = need("matplotlib.collections", "a figure")
        alpha = min(1.0, max(0.4, 60 / max(len(edges), 1)))
        panel.add_collection(collections.LineCollection(ends, colors="0.45", linewidths=0.8, alpha=alpha, zorder=1))
        size = float(np.clip(6000 / agents, 12, 300))
        shares = 100 * np.array(samples) / max(sum(samples), 1)
        uneven = bool(shares.max() > 1.005 * shares.min())
        # the light part of the map, on which black text stays legible
        blues = need("matplotlib", "a figure").colormaps["Blues"](np.linspace(0.03, 0.62, 64))
        cmap = need("matplotlib.colors", "a figure").ListedColormap(blues)
        colors: Any = {"c": shares, "cmap": cmap, "vmin": 0.0} if uneven else {"color": "#9ecae1"}
        x, y = positions.T
        nodes = panel.scatter(x, y, size, edgecolors="0.2", linewidths=0.6, zorder=2, **colors)
        if uneven:
            bar = figure.colorbar(nodes, ax=panel, shrink=0.7, aspect=22, label="share of the samples (%)")
            bar.outline.set_visible(False)
        if agents <= 40:
            text: Any = {"ha": "center", "va": "center", "fontsize": 7 if agents <= 24 else 5.5}
            for i in range(agents):
                panel.text(x[i], y[i], str(i), zorder=3, **text)
    return figure


def split(run: Run) -> Figure:
    """Stacked bars: how many samples of each class every agent holds."""
    holdings = split_facts(run)
    if holdings is None:
        raise ConfigError(f"{run.folder} does not say who holds which samples: there is no split to draw")
    classes = list(dict.fromkeys(name for holding in holdings for name in holding.get("classes") or {}))
    try:
        classes.sort(key=float)
    except ValueError:
        classes.sort()
    if classes:
        counts = np.array([[(h.get("classes") or {}).get(name, 0) for h in holdings] for name in classes], dtype=float)
    else:
        counts = np.array([[h["samples"] for h in holdings]], dtype=float)
    agents = np.array([h.get("agent", i) for i, h in enumerate(holdings)], dtype=float)
    colors: list[Any] = list(CLASS_COLORS[: len(counts)])
    if len(counts) > len(CLASS_COLORS):
        colors = list(need("matplotlib", "a figure").colormaps["viridis"](np.linspace(0, 1, len(counts))))
    with styled():
        figure = blank(COLUMN, 2.4)
        panel = figure.add_subplot()
        panel.grid(visible=False, axis="x")
        below = np.zeros(len(agents))
        handles: list[Any] = []
        for color, row in zip(colors, counts, strict=True):
            if len(agents) <= 64:
                edge: Any = {"edgecolor": "white", "linewidth": 0.4 if len(agents) <= 24 else 0}
                handles.append(panel.bar(agents, row, 0.8, below, color=color, **edge))
            else:  # bars without gaps, drawn as one shape
                shape = panel.fill_between(agents, below, below + row, step="mid", color=color, linewidth=0)
                handles.append(shape)
            below = below + row
        panel.set(xlabel="agent", ylabel="samples")
        ticker = need("matplotlib.ticker", "a figure")
        panel.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=9))
        panel.set_xlim(agents.min() - 0.6, agents.max() + 0.6)
        panel.set_ylim(0, 1.05 * max(below.max(), 1))
        if 1 <= len(classes) <= len(CLASS_COLORS):
            figure.legend(handles, classes, title="class", loc="outside right upper", handlelength=1.2)
    return figure


def graph_facts(run: Run) -> tuple[int, list[list[int]], list[float]] | None:
    """Agents, edges and samples per agent; None where there is no graph that can be drawn."""
    agents = int(run.fact("graph", "agents", default=0))
    edges = run.fact("graph", "arcs")
    if edges is None or not 0 < agents <= DRAWN_AGENTS:
        return None
    holdings = run.fact("data", "agents", default=[])
    samples = {h.get("agent", i): h.get("samples", 0) for i, h in enumerate(holdings)}
    return agents, [list(edge) for edge in edges], [float(samples.get(i, 0)) for i in range(agents)]


def split_facts(run: Run) -> list[Any] | None:
    """What each agent holds; None where the run does not say."""
    return run.fact("data", "agents") or None


def graph_caption(run: Run) -> str:
    edges, diameter = run.fact("graph", "edges"), run.fact("graph", "diameter")
    facts = [f"{run.fact('graph', 'agents')} agents", f"{edges} edge{'s' * (edges != 1)}"]
    facts += [f"diameter {diameter}"] if diameter is not None else []
    return f"The graph {run.fact('graph', 'name', default='')}: {', '.join(facts)}."


def split_caption(run: Run) -> str:
    name, how = run.fact("data", "name", default="the data"), run.fact("data", "split")
    return f"Who holds what of {name}" + (f" (split: {how})." if how else ".")


def _positions(agents: int, edges: Sequence[Sequence[int]]) -> FloatArray:
    """(agents, 2) places in the plane: a circle for rings, complete graphs and the like, else springs."""
    networkx = need("networkx", "a figure of the graph")
    drawn = networkx.Graph()
    drawn.add_nodes_from(range(agents))
    drawn.add_edges_from(edges)
    degrees = [degree for _, degree in drawn.degree]
    if len(set(degrees)) == 1 and (degrees[0] <= 2 or 2 * degrees[0] >= agents - 1):
        places = networkx.circular_layout(drawn)
    elif agents <= 150:
        places = networkx.kamada_kawai_layout(drawn)
    else:
        places = networkx.spring_layout(drawn, seed=1)
    return np.array([places[i] for i in range(agents)])
