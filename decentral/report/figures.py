"""What all figures have in common: the style of a two-column paper, sizes, file formats.

Nothing here touches matplotlib's global state: figures are made as objects and drawn under STYLE.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decentral.errors import ConfigError, unknown
from decentral.report.extras import need

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK = "decentral report"  # written into every file that a report makes, so that it overwrites only its own
FORMATS = ("png", "pdf", "svg")
DPI = 200
COLUMN, PAGE = 3.5, 7.16  # inches: the widths of a column and of a page of two columns
STYLE: dict[str, Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7.5,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.linewidth": 0.6,
    "axes.grid": True, "grid.color": "0.9", "grid.linewidth": 0.5, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "ytick.minor.size": 0,
    "legend.frameon": False, "legend.handlelength": 2.8, "lines.dash_capstyle": "butt",
    "pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "decentral",
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its file without suffix, and what it shows."""

    name: str
    figure: Figure
    caption: str


def blank(width: float, height: float) -> Figure:
    """An empty figure of a size in inches."""
    make: type[Figure] = need("matplotlib.figure", "a figure").Figure
    return make(figsize=(width, height), layout="constrained")


def styled() -> Any:
    """A context in which figures are drawn and saved in STYLE."""
    return need("matplotlib", "a figure").rc_context(STYLE)


def render(figure: Figure, format: str = "png") -> bytes:
    """The figure as a PNG of 200 dpi, a PDF or an SVG; the same figure gives the same bytes."""
    if format not in FORMATS:
        raise ConfigError(unknown("figure format", format, FORMATS))
    metadata: dict[str, dict[str, str | None]] = {
        "png": {"Software": MARK},
        "pdf": {"Creator": MARK, "Producer": MARK, "CreationDate": None},
        "svg": {"Creator": MARK, "Date": None},
    }
    out = io.BytesIO()
    with styled():
        figure.savefig(out, format=format, dpi=DPI, metadata=metadata[format])
    return out.getvalue()
