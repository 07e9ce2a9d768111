"""The one writer of run folders: config.toml, run.json, trace.csv, checkpoint/ and final.npz.

Only rank 0 makes a `Recorder`; a rank that fails by itself notes why in run.json. Files are replaced whole, so that a
reader never sees half of one; trace.csv alone is appended to, and after a kill at most its last line is incomplete.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TextIO
from zipfile import BadZipFile

import numpy as np

from decentral.errors import ConfigError, unknown
from decentral.state import Array

COLUMNS = (
    "round", "gradients", "wire_bytes", "ideal_bits", "vectors", "modelled_seconds", "seconds",
    "grad_norm_sq", "consensus", "gap", "loss",
)  # fmt: skip
DONE = ("finished", "target", "diverged")
"""States of a run that the same configuration would only reach again."""


@dataclass
class Checkpoint:
    """A run after `round` rounds, free of its layout: rows in global order.

    kinds : name of a state array -> "agents", "known", "arcs" or "samples";  arrays : its global rows
    evaluations (N,) component gradients so far;  sizes (N,) samples of each agent
    parameters : the algorithm's numbers, those of "auto" included;  saturated : entries of messages that were clipped
    vectors : exchanged with each neighbor so far
    """

    round: int
    seconds: float
    wire_bytes: int
    ideal_bits: float
    transport_bytes: int
    parameters: dict[str, Any]
    kinds: dict[str, str]
    arrays: dict[str, Array] = field(default_factory=dict)
    evaluations: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    sizes: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    saturated: int = 0
    vectors: int = 0

    def save(self, path: Path) -> None:
        facts = {k: getattr(self, k) for k in FACTS}
        arrays = {f"state.{name}": rows for name, rows in self.arrays.items()}
        arrays |= {"evaluations": self.evaluations, "sizes": self.sizes, "facts": np.array(json.dumps(facts))}
        save_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """ConfigError when the file is missing or damaged."""
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                facts = json.loads(str(file["facts"]))
                arrays = {name: file[f"state.{name}"] for name in facts["kinds"]}
                facts = {name: facts[name] for name in FACTS}
                return cls(**facts, arrays=arrays, evaluations=file["evaluations"], sizes=file["sizes"])
        except FileNotFoundError:
            raise ConfigError(f"{path.parent.parent} has no checkpoint to resume from: run it again with --force") from None
        except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile):  # NumPy's words are not for users
            raise ConfigError(f"the checkpoint {path} is damaged, or of another version: run again with --force") from None


FACTS = ("round", "seconds", "wire_bytes", "ideal_bits", "transport_bytes", "saturated", "vectors", "parameters", "kinds")


def checkpoint_path(folder: Path) -> Path:
    return folder / "checkpoint" / "state.npz"


def read_record(folder: Path) -> dict[str, Any] | None:
    """run.json of a folder; None where there is none that can be read."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


class Recorder:
    """Writes one run folder.

    record : the content of run.json, see `update`
    Raises ConfigError when the folder cannot be written.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], record: dict[str, Any], keep_rounds: int | None = None,
        metrics: Iterable[str] = (),
    ):  # fmt: skip
        """keep_rounds : continue a trace, keeping its rows up to this round; None starts afresh.  metrics : more columns"""
        import tomli_w

        self.folder, self.record = folder, record
        self.columns = (*COLUMNS, *(m for m in metrics if m not in COLUMNS))
        trace = folder / "trace.csv"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            kept: list[str] = []
            if keep_rounds is None:
                for old in (trace, folder / "final.npz", checkpoint_path(folder)):
                    old.unlink(missing_ok=True)
            else:
                for line in trace.read_text(encoding="utf-8").splitlines(keepends=True)[1:] if trace.exists() else ():
                    number = line.partition(",")[0]
                    if line.endswith("\n") and number.isdigit() and int(number) <= keep_rounds:
                        kept.append(line)
            write_text(folder / "config.toml", tomli_w.dumps(dict(config)))
            write_text(trace, ",".join(self.columns) + "\n" + "".join(kept))
            self._trace: TextIO = trace.open("a", encoding="utf-8")
        except OSError as error:
            why = error.strerror or error
            raise ConfigError(f'cannot write the run folder "{folder}": {why}. Set out to a folder of yours') from None
        self.last = int(kept[-1].partition(",")[0]) if kept else -1
        self.update(status="running")

    def update(self, **facts: Any) -> None:
        """Put facts into run.json."""
        self.record.update(facts)
        write_record(self.folder, self.record)

    def rows(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Append rows to the trace; those of rounds that it has already are left out."""
        for row in rows:
            if row["round"] > self.last:
                self._trace.write(",".join(_cell(row.get(column)) for column in self.columns) + "\n")
                self.last = int(row["round"])
        self._trace.flush()

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        checkpoint_path(self.folder).parent.mkdir(exist_ok=True)
        checkpoint.save(checkpoint_path(self.folder))

    def finish(self, status: str, why: str | None, x: Array | None = None, **facts: Any) -> None:
        """Write final.npz with x (N, d), rows by agent id, and the outcome."""
        if x is not None:
            save_arrays(self.folder / "final.npz", {"x": x})
        self.close()
        self.update(status=status, why=why, end=now(), **facts)

    def close(self) -> None:
        self._trace.close()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Replace run.json; a line per fact."""
    lines = (f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False, default=_plain)}" for k, v in record.items())
    write_text(folder / "run.json", "{\n" + ",\n".join(lines) + "\n}\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file whole."""
    with _whole(path) as part:
        part.write_text(text, encoding="utf-8")


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Replace an .npz whole."""
    with _whole(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place when it is written; no other process writes it, on whatever machine."""
    part = path.with_name(f".{path.name}.part{os.urandom(4).hex()}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _cell(value: float | None) -> str:
    return "" if value is None or value != value else repr(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)


@cache
def references() -> dict[str, str]:
    """The entries of references.bib by key."""
    path = Path(__file__).with_name("references.bib")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    entries = re.findall(r"^@\w+\{([^,\s]+),.*?^\}", text, re.MULTILINE | re.DOTALL)
    bodies = re.findall(r"^@\w+\{[^,\s]+,.*?^\}", text, re.MULTILINE | re.DOTALL)
    return dict(zip(entries, bodies, strict=True))


def bibtex(keys: Iterable[str]) -> list[str]:
    """BibTeX entries of the keys. ConfigError for an unknown one."""
    known, wanted = references(), list(keys)
    for key in wanted:
        if key not in known:
            raise ConfigError(unknown("reference", key, known))
    return [known[key] for key in wanted]
