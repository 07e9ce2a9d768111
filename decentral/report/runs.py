"""Reading run folders: config.toml, run.json and trace.csv, finished or not."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentral.errors import ConfigError, nearest, unknown

FloatArray = NDArray[np.float64]

COLUMNS = (
    "round", "gradients", "wire_bytes", "ideal_bits", "vectors", "modelled_seconds", "seconds",
    "grad_norm_sq", "consensus", "gap", "loss",
)  # fmt: skip
DEFAULT_T_G, DEFAULT_T_C = 0.1, 1.0  # time of a component gradient and of an exchange, in the model's unit
SEARCH_DEPTH = 4  # folders below the one asked for in which runs are looked for


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder, read.

    Attributes
        folder : where it lies
        config : text of config.toml ("" where there is none)
        record : run.json
        trace : column name -> (rows,) float64, a row per recorded round; there may be more than COLUMNS
    """

    folder: Path
    config: str
    record: dict[str, Any]
    trace: dict[str, FloatArray]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Run:
        """Read a run folder, also one whose run has not ended.

        ConfigError: it is no run folder (the message names those nearby), or a file in it is damaged.
        """
        path = Path(folder)
        if not (path / "run.json").is_file():
            raise ConfigError(_no_run_folder(path))
        try:
            record = json.loads((path / "run.json").read_text(encoding="utf-8"))
            config, trace = (
                file.read_text(encoding="utf-8") if file.is_file() else ""
                for file in (path / "config.toml", path / "trace.csv")
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read as a run folder: {error}") from error
        if not isinstance(record, dict):
            raise ConfigError(f"{path / 'run.json'} holds no table of facts: it is not the record of a run")
        return cls(path, config, record, _read_trace(trace, path / "trace.csv"))

    def fact(self, *keys: str, default: Any = None) -> Any:
        """record[key][key]..., or the default where a key is missing or its value is null."""
        value: Any = self.record
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return default if value is None else value

    @property
    def name(self) -> str:
        return str(self.fact("name", default=self.folder.name))

    @property
    def label(self) -> str:
        """The method as its paper writes it."""
        return str(self.fact("label", default=self.fact("algorithm", default=self.name)))

    @property
    def status(self) -> str:
        return str(self.fact("status", default="running"))

    @property
    def rows(self) -> int:
        """How many rounds are recorded."""
        return len(self.trace["round"])

    @property
    def rounds(self) -> int:
        """The last recorded round."""
        return int(self.trace["round"][-1]) if self.rows else 0

    @property
    def arcs(self) -> int:
        return 2 * int(self.fact("graph", "edges", default=0))

    def column(self, name: str) -> FloatArray:
        """A column of the trace; ConfigError when there is none of that name."""
        if name not in self.trace:
            raise ConfigError(unknown("trace column", name, self.trace, f"{self.folder / 'trace.csv'}"))
        return self.trace[name]

    def along(self, axis: str, t_g: float | None = None, t_c: float | None = None) -> FloatArray:
        """(rows,) positions of the recorded rounds on an axis: rounds, gradients, bytes, modelled or seconds.

        gradients are component gradients per agent; bytes are wire bytes per arc, NaN where run.json does not know the
        arcs; seconds are wall-clock.
        """
        match axis:
            case "rounds":
                return self.column("round")
            case "bytes":
                known = self.fact("graph", "edges") is not None
                return self.column("wire_bytes") / (max(self.arcs, 1) if known else np.nan)
            case "modelled":
                return self.modelled(t_g, t_c)
            case "gradients" | "seconds":
                return self.column(axis)
        raise ConfigError(unknown("axis", axis, ("rounds", "gradients", "bytes", "modelled", "seconds")))

    def modelled(self, t_g: float | None = None, t_c: float | None = None) -> FloatArray:
        """(rows,) modelled time: gradients per agent * t_g + exchanges * t_c.

        Without t_g and t_c, the time that the run itself recorded. With one of them, the other is the
        run's own (run.json "cost"), or the default of 0.1 or 1, the ratio of arXiv 2604.02558.
        """
        for name, value in (("t_g", t_g), ("t_c", t_c)):
            if value is not None and not (np.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} = {value}: the time of an operation must be finite and at least 0")
        if t_g is None and t_c is None:
            return self.column("modelled_seconds")
        gradient, exchange = self.times(t_g, t_c) or (DEFAULT_T_G, DEFAULT_T_C)
        vectors = self.trace.get("vectors")
        if vectors is None:  # an older trace
            vectors = self.column("round") * float(self.fact("cost", "exchanges_per_round", default=1))
        return self.column("gradients") * gradient + vectors * exchange

    def times(self, t_g: float | None = None, t_c: float | None = None) -> tuple[float, float] | None:
        """The times of a gradient and of an exchange behind `modelled`; None where none are recorded."""
        recorded = self.fact("cost", "t_g"), self.fact("cost", "t_c")
        if t_g is None and t_c is None and None in recorded:
            return None
        asked = ((t_g, recorded[0], DEFAULT_T_G), (t_c, recorded[1], DEFAULT_T_C))
        gradient, exchange = (float(next(value for value in row if value is not None)) for row in asked)
        return gradient, exchange


def first_reaching(run: Run, metric: str, level: float) -> int | None:
    """Index of the first recorded row whose metric is at most `level`; None when there is none.

    ConfigError when the trace has no such column.
    """
    run.column(metric)
    return first_row(run, {metric: level})


def first_row(run: Run, target: Mapping[str, float]) -> int | None:
    """Index of the first recorded row in which every metric of the target is at most its level, else None.

    A metric that the run did not record is not reached; an empty target is reached by any row.
    """
    reached = np.ones(run.rows, dtype=bool)
    for metric, level in target.items():
        reached &= run.trace.get(metric, np.full(run.rows, np.nan)) <= level  # NaN is not reached
    return int(np.argmax(reached)) if reached.any() else None


def read_runs(*places: str | os.PathLike[str]) -> list[Run]:
    """The runs in the given places, each once, in the order given and within a place of their start.

    A place is a run folder, a folder with run folders below it, or a glob pattern of such folders.
    ConfigError when a place holds no run.
    """
    runs: dict[Path, Run] = {}
    for place in places:
        path = Path(place)
        if path.exists() or not glob.has_magic(str(place)):
            candidates = [path]
        else:
            candidates = [Path(match) for match in glob.glob(str(place), recursive=True)]
        found = [Run.read(folder) for candidate in candidates for folder in find_runs(candidate)]
        if not found:
            raise ConfigError(_no_run_folder(path))
        for run in sorted(found, key=lambda run: (str(run.fact("start", default="~")), run.folder)):
            runs.setdefault(run.folder.resolve(), run)
    return list(runs.values())


def find_runs(path: Path) -> list[Path]:
    """The run folders at or below a path, not deeper than SEARCH_DEPTH."""
    found = []
    for place, below, files in os.walk(path):
        here = Path(place)
        if "run.json" in files:
            found.append(here)
            below.clear()
        elif len(here.relative_to(path).parts) >= SEARCH_DEPTH:
            below.clear()
        below[:] = sorted(name for name in below if not name.startswith("."))
    return found


def labels(runs: Sequence[Run]) -> list[str]:
    """A label per run that tells it from the others: the method, and settings in which namesakes differ."""
    names = [run.label for run in runs]
    for label in {name for name in names if names.count(name) > 1}:
        namesakes = [k for k, name in enumerate(names) if name == label]
        for k, difference in zip(namesakes, _differences([runs[k] for k in namesakes]), strict=True):
            names[k] = f"{label} ({difference})"
    return names


def _differences(runs: Sequence[Run]) -> list[str]:
    """What tells runs of one method apart: a few settings of their configurations, else their folders.

    Those of the method come first, then what it works on: its rounds, say, say less about it.
    """
    try:
        settings = [flat(tomllib.loads(run.config)) for run in runs]
    except tomllib.TOMLDecodeError:
        settings = [{} for _ in runs]
    chosen: list[str] = []
    distinct = 1
    keys = dict.fromkeys(key for setting in settings for key in setting)
    for key in sorted(keys, key=lambda key: (not key.startswith("algorithm."), not key.startswith(("problem.", "graph.", "data.")))):
        if key in ("name", "out") or distinct == len(runs):
            continue
        values = {tuple(repr(setting.get(k)) for k in [*chosen, key]) for setting in settings}
        if len(values) > distinct:
            chosen, distinct = [*chosen, key], len(values)
    if distinct < len(runs):
        names = [run.folder.name for run in runs]
        return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]
    return [", ".join(_setting(key, setting.get(key)) for key in chosen) for setting in settings]


def _setting(key: str, value: object) -> str:
    last = key.rpartition(".")[2]
    return f"{value}" if last in ("name", "topology") else f"{last}={'default' if value is None else value}"


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one table with dotted keys."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return values


def _read_trace(text: str, source: Path) -> dict[str, FloatArray]:
    """The columns of a trace; a last line that is still being written is left out."""
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
    lines = list(csv.reader(io.StringIO(text)))
    header, rows = (lines[0], [line for line in lines[1:] if line]) if lines else (list(COLUMNS), [])
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ConfigError(f"{source}, row {number}: {len(row)} cells under {len(header)} headings")
    trace: dict[str, FloatArray] = {}
    for k, name in enumerate(header):
        try:
            trace[name] = np.array([row[k] or "nan" for row in rows], dtype=np.float64)
        except ValueError as error:
            if name in COLUMNS:
                raise ConfigError(f"{source}, column {name}: {error}") from error
    if "round" not in trace:
        raise ConfigError(f'{source} has no column "round"; its columns: {", ".join(header)}')
    return trace


def _no_run_folder(path: Path) -> str:
    """The sentence for a path without a run, with the run folders at the nearest existing place."""
    asked = f'"{path}" ' + ("does not exist" if not path.exists() else "is no run folder (it has no run.json)")
    place = next((p for p in (path, path.parent) if p.is_dir()), Path("."))
    names = [str(folder.relative_to(place)) for folder in find_runs(place)][:200]
    if not names:
        return f'{asked}, and there is no run below "{place}"; make one: decentral run config.toml'
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{asked}; runs below {place}: {shown}{nearest(path.name, names)}. See: decentral compare {place}"
