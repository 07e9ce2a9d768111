"""The user's own data: .npz, CSV, or LibSVM text."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from decentral.data.dataset import Raw
from decentral.errors import DataError, unknown
from decentral.state import Array

LARGEST = 16 * 2**30
"""Bytes of X beyond which LibSVM text is refused: the rows are kept dense."""


def read_file(
    path: str | Path, label: str | int | None = None, group: str | int | None = None, regression: bool = False
) -> Raw:
    """A file as arrays, chosen by its suffix: ``.npz``, ``.csv``, anything else is LibSVM text.

    .npz: X (rows, features), y (rows,), optionally agent (rows,) and group (rows,). .csv: numbers, with a header or
    without; `label` and `group` name or number a column (default: the column "label"). Labels that are words or whole
    numbers are classes unless `regression`. Raises DataError.
    """
    if not isinstance(path, (str, Path)):
        raise DataError(f"data.path = {path!r}: give the path of a file")
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"data.path: there is no file {path}")
    suffix = path.suffix.lower()
    if suffix != ".csv" and (label is not None or group is not None):
        raise DataError(f"{path}: data.label and data.group choose columns of a .csv file, and this is none")
    try:
        if suffix == ".npz":
            raw = _npz(path)
        elif suffix == ".csv":
            raw = _csv(path, label, group)
        else:
            X, labels = parse_libsvm(path.read_text(encoding="utf-8"), str(path))
            raw = Raw(X, labels)
    except DataError:
        raise
    except Exception as error:  # a damaged archive raises whatever its decompressor raises
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0] if str(error) else error!r}") from error
    raw = _checked(raw, path)
    raw.regression = regression or raw.labels.dtype.kind == "f"
    if raw.regression and raw.labels.dtype.kind not in "iuf":
        raise DataError(f"{path}: regression needs numbers as labels, and found {raw.labels[0]!r}")
    return raw


def _checked(raw: Raw, path: Path) -> Raw:
    """`raw` with X float64 and whole-number labels as int64, or a DataError that says which row is wrong."""
    X, labels = raw.X, raw.labels
    if X.ndim != 2 or not X.size or X.dtype.kind not in "iufb":
        raise DataError(
            f"{path}: X has shape {X.shape} and type {X.dtype}; it must be (rows, features) numbers, not empty"
        )
    for name, array in {"y": labels, "agent": raw.owner, "group": raw.group}.items():
        if array is not None and array.shape != (len(X),):
            raise DataError(f"{path}: {name} has shape {array.shape}; X has {len(X)} rows, so it must be ({len(X)},)")
    X = np.ascontiguousarray(X, dtype=np.float64)
    if not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        raise DataError(f"{path}: X[{row}, {column}] is {X[row, column]}; all features must be finite")
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            row = int(np.argmin(np.isfinite(labels)))
            raise DataError(f"{path}: the label of row {row} is {labels[row]}; all labels must be finite")
        if (labels == np.rint(labels)).all():
            labels = labels.astype(np.int64)
    elif labels.dtype.kind == "U" and not labels.all():
        raise DataError(f"{path}: row {int(np.argmin(labels != ''))} has no label")
    elif labels.dtype.kind not in "iuU":
        if labels.dtype.kind != "b":
            raise DataError(f"{path}: labels of type {labels.dtype}; they must be numbers or text")
        labels = labels.astype(np.int64)
    owner = raw.owner
    if owner is not None:
        if owner.dtype.kind not in "iu" or owner.min() < 0:
            raise DataError(f"{path}: agent must hold the whole number of each row's agent, from 0")
        owner = owner.astype(np.int64)
    return Raw(X, labels, False, owner, raw.group)


def _npz(path: Path) -> Raw:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        for name in ("X", "y"):
            if name not in arrays:
                raise DataError(f"{path} has {', '.join(arrays) or 'no arrays'}; it must hold X and y")
        return Raw(
            arrays["X"],
            arrays["y"],
            owner=arrays["agent"] if "agent" in arrays else None,
            group=arrays["group"] if "group" in arrays else None,
        )


def _csv(path: Path, label: str | int | None, group: str | int | None) -> Raw:
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = [cell.strip() for cell in next(csv.reader(file), [])]
    if label is None and "label" in first:
        label = "label"
    if label is None:
        raise DataError(f'{path}: no column is called "label": give data.label, a name or a number (-1 is the last)')
    header = isinstance(label, str) or isinstance(group, str) or not any(map(_is_number, first))
    label_column = _column(path, first, label)
    group_column = None if group is None else _column(path, first, group)
    features = [c for c in range(len(first)) if c not in (label_column, group_column)]

    def read(columns: list[int], dtype: type) -> Array:
        with path.open(encoding="utf-8-sig") as file:
            lines = (line for line in file if not line.isspace())
            return np.loadtxt(
                lines,
                dtype,
                comments=None,
                delimiter=",",
                quotechar='"',
                skiprows=int(header),
                usecols=columns,
                ndmin=2,
            )

    labels = np.char.strip(read([label_column], str)[:, 0])
    return Raw(
        read(features, np.float64),
        labels.astype(np.float64) if all(map(_is_number, np.unique(labels))) else labels,
        group=None if group_column is None else np.char.strip(read([group_column], str)[:, 0]),
    )


def _column(path: Path, first: list[str], column: str | int) -> int:
    if isinstance(column, str):
        if column not in first:
            raise DataError(f"{path}: " + unknown("column", column, first))
        return first.index(column)
    if isinstance(column, bool) or not -len(first) <= column < len(first):
        raise DataError(f"{path}: there is no column {column}; it has {len(first)}")
    return column % len(first)


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse_libsvm(text: str, name: str, features: int | None = None) -> tuple[Array, Array]:
    """X (rows, features) float64 and labels (rows,) of lines ``label index:value ...``; what follows # is ignored.

    Indices count from 1, or from 0 where a 0 occurs. Raises DataError.
    """
    lines = [line for line in (line.partition("#")[0] for line in text.splitlines()) if line.strip()]
    if not lines:
        raise DataError(f"{name} is empty")
    lengths = np.array([line.count(":") for line in lines])
    starts = np.concatenate([[0], np.cumsum(2 * lengths + 1)])
    for row, line in enumerate(lines):
        if len(line.replace(":", " ").split()) != 2 * lengths[row] + 1:
            raise DataError(f'{name}: line "{line.strip()[:40]}" is not "label index:value index:value ..."')
    try:
        numbers = np.array(" ".join(lines).replace(":", " ").split(), dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{name}: {error} in LibSVM text") from error
    is_label = np.zeros(len(numbers), bool)
    is_label[starts[:-1]] = True
    labels, pairs = numbers[is_label], numbers[~is_label].reshape(-1, 2)
    index = pairs[:, 0].astype(np.int64)
    if (index != pairs[:, 0]).any() or index.min(initial=0) < 0:
        raise DataError(f"{name}: an index is not a whole number from 0")
    index -= 1 if index.min(initial=1) > 0 else 0
    width = max(int(index.max(initial=0)) + 1, features or 0)
    if len(lines) * width * 8 > LARGEST:
        raise DataError(f"{name}: {len(lines)} x {width} does not fit: rows are kept dense, up to {LARGEST >> 30} GiB")
    X = np.zeros((len(lines), width))
    X[np.repeat(np.arange(len(lines)), lengths), index] = pairs[:, 1]
    return X, labels
