"""What a loaded data set is, and the options that all sets share: classes, rows, scale, intercept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from decentral.data.split import permutation
from decentral.errors import DataError, unknown
from decentral.state import Array

SCALES = ("none", "standard", "unit", "maxabs")
"""none; columns to mean 0 and variance 1; rows to 2-norm 1; columns divided by their largest absolute value."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples with labels. The arrays are read-only, and X may be a memory-mapped file that many processes share.

    X (rows, features) float64, C-contiguous. y (rows,): two classes are float64 in {-1, +1}, more are int64 in
    0..C-1, and regression targets are float64. `classes` are the labels as the source writes them, in the order of y's
    values, empty for regression. `load(name, **parameters)` gives the same data set again.
    """

    X: Array
    y: Array
    name: str
    source: str
    classes: tuple[Any, ...] = ()
    owner: Array | None = None
    """(rows,) int64 agent of each row, where the data says it."""
    group: Array | None = None
    """(rows,) group of each row, for the split by group."""
    notes: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)

    def signs(self) -> Array:
        """y (rows,) float64 in {-1, +1}. Raises DataError where there are not two classes."""
        if len(self.classes) != 2:
            has = f"{len(self.classes)} classes" if self.classes else "regression targets"
            hint = f": choose two, e.g. classes = [{self.classes[0]}, {self.classes[1]}]" if self.classes else ""
            raise DataError(f'data "{self.name}" has {has} where two classes are needed{hint}')
        return self.y

    def indices(self) -> Array:
        """(rows,) int64 class of each row in 0..C-1. Raises DataError for regression targets."""
        if not self.classes:
            raise DataError(f'data "{self.name}" has regression targets where classes are needed')
        return (self.y > 0).astype(np.int64) if len(self.classes) == 2 else self.y


@dataclass
class Raw:
    """What a reader found: X (rows, features) float64, labels (rows,) as written, and whose rows they are if it says so."""

    X: Array
    labels: Array
    regression: bool = False
    owner: Array | None = None
    group: Array | None = None


def prepare(
    raw: Raw,
    *,
    classes: Sequence[Any] | None = None,
    rows: int | None = None,
    scale: str = "none",
    intercept: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """X, y, classes, owner and group of a Dataset: classes chosen, then rows, then columns scaled, then a column of ones.

    `classes` keeps the rows of these labels, the first becomes class 0 (or -1); `rows` keeps that many rows, drawn with
    `seed`, in their old order.
    """
    if scale not in SCALES:
        raise DataError(unknown("data.scale", scale, SCALES))
    if not isinstance(intercept, bool):
        raise DataError(f"data.intercept = {intercept!r}: give true or false")
    if raw.regression and classes is not None:
        raise DataError("data.classes chooses among classes, but this data has regression targets")
    names, y = ((), raw.labels.astype(np.float64)) if raw.regression else _encode(raw.labels, classes)
    keep = np.flatnonzero(y >= 0) if names else np.arange(len(y))
    if rows is not None:
        if isinstance(rows, bool) or not isinstance(rows, int) or not 1 <= rows <= len(keep):
            raise DataError(f"data.rows = {rows!r}: give a whole number from 1 to {len(keep)}")
        keep = np.sort(keep[permutation(seed, len(keep), stream=1)[:rows]])
    if len(keep) < len(y):
        raw = Raw(
            raw.X[keep], raw.labels, raw.regression, *(a if a is None else a[keep] for a in (raw.owner, raw.group))
        )
        y = y[keep]
    if len(names) == 2:
        y = 2.0 * y - 1.0
    X = _scaled(raw.X, scale)
    if intercept:
        X = np.concatenate([X, np.ones((len(X), 1))], axis=1)
    for array in (X, y, raw.owner, raw.group):
        if array is not None:
            array.setflags(write=False)
    return {"X": X, "y": y, "classes": names, "owner": raw.owner, "group": raw.group}


def _encode(labels: Array, wanted: Sequence[Any] | None) -> tuple[tuple[Any, ...], Array]:
    """Class names and (rows,) int64 classes, -1 for the rows of a class that is not wanted."""
    order = np.argsort(labels, kind="stable")
    first = np.ones(len(labels), bool)  # of its class, in this order
    first[1:] = labels[order[1:]] != labels[order[:-1]]
    names = labels[order[first]].tolist()
    inverse = np.empty(len(labels), np.int64)
    inverse[order] = np.cumsum(first) - 1
    if wanted is not None:
        chosen = list(wanted) if isinstance(wanted, (list, tuple)) else [wanted]
        for label in chosen:
            if label not in names:
                raise DataError(unknown("class", label, map(str, names[:30])))
        if len(set(chosen)) < max(2, len(chosen)):
            raise DataError(f"data.classes = {chosen}: give at least two different classes")
        place = np.full(len(names), -1)
        place[[names.index(label) for label in chosen]] = np.arange(len(chosen))
        return tuple(chosen), place[inverse]
    if len(names) < 2:
        raise DataError(f"all rows have the label {names[0]}: a classification needs two classes")
    return tuple(names), inverse


def _scaled(X: Array, scale: str) -> Array:
    if scale == "none":
        return np.ascontiguousarray(X)
    if scale == "unit":
        norms = np.sqrt(np.einsum("rf,rf->r", X, X))[:, None]
        return X / np.where(norms > 0, norms, 1.0)
    low, high = X.min(axis=0), X.max(axis=0)
    if scale == "maxabs":
        size = np.maximum(-low, high)
        return X / np.where(size > 0, size, 1.0)
    centered = X - X.mean(axis=0)
    deviation = np.sqrt(np.einsum("rf,rf->f", centered, centered) / len(X))
    constant = low == high  # rounding leaves them a tiny deviation, which must not be blown up to 1
    centered[:, constant] = 0.0
    centered /= np.where(constant, 1.0, deviation)
    return centered
