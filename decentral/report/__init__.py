"""Reads run folders and shows them: tables, figures, a page. It never runs anything."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from decentral.errors import ConfigError
from decentral.report.compare import Row, common_target, parse_target, show, table, to_csv, to_json
from decentral.report.runs import Run, first_reaching, labels, read_runs

__all__ = [
    "Row", "Run", "common_target", "default_folder", "first_reaching", "labels", "parse_target", "read_runs",
    "report", "show", "table", "to_csv", "to_json",
]  # fmt: skip


def report(
    runs: Sequence[Run],
    out_dir: str | os.PathLike[str] | None = None,
    t_g: float | None = None,
    t_c: float | None = None,
    to: Mapping[str, float] | None = None,
    formats: Sequence[str] = ("png",),
) -> Path:
    """Write the figures and report.html of some runs into a folder (default_folder); its path.

    The page inlines its pictures, so it can be sent alone; `formats` of the figures' files: png, pdf, svg.
    Files of an earlier report are replaced, each in one step. ConfigError when a name is taken by any other
    file, when the folder cannot be written, and when there is nothing to show.
    """
    from decentral.report import figures, html, plots

    target = dict(to or common_target(runs))
    images, files = [], {}
    for picture in plots.pictures(runs, target, t_g, t_c):
        png = figures.render(picture.figure)
        images.append((picture.name, picture.caption, png))
        for format in formats:
            content = png if format == "png" else figures.render(picture.figure, format)
            files[f"{picture.name}.{format}"] = content
    files["report.html"] = html.page(runs, images, target, t_g, t_c).encode()
    folder = Path(out_dir) if out_dir is not None else default_folder(runs)
    _write(folder, files, figures.MARK.encode())
    return folder / "report.html"


def default_folder(runs: Sequence[Run]) -> Path:
    """The folder of a single run; for several a folder beside the first, named by a digest of their names."""
    if not runs:
        raise ConfigError("no run to report on; give run folders, e.g. decentral report results/*")
    if len(runs) == 1:
        return runs[0].folder
    digest = hashlib.sha256("\n".join(sorted(run.folder.name for run in runs)).encode()).hexdigest()[:8]
    return runs[0].folder.parent / f"report-{digest}"


def _write(folder: Path, files: Mapping[str, bytes], mark: bytes) -> None:
    """Put the files into the folder; files of the same name are replaced if they all bear the mark."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in files:
            if (folder / name).exists() and mark not in (folder / name).read_bytes():
                raise ConfigError(
                    f"{folder / name} was not made by a report and is not overwritten; name another folder"
                )
        for name, content in files.items():
            part = folder / f".{name}.part{os.getpid()}"
            try:
                part.write_bytes(content)
                part.replace(folder / name)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"the report cannot be written to {folder}: {error.strerror or error}") from error
