"""No compression."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from decentral import kernels
from decentral.compressors.base import (
    Blocks,
    Compressor,
    Part,
    Sums,
    all_finite,
    copy_finite,
    damaged,
    expect,
    mixed,
    refuse_non_finite,
)
from decentral.random import Key
from decentral.state import Array


@dataclass(frozen=True)
class Identity(Compressor):
    """C(v) = v. A row is the raw little-endian numbers; ω = 0, δ = 1."""

    name: ClassVar[str] = "identity"

    def encode(self, v: Array, key: Key) -> Array:
        row: Array = kernels.of(v)[1](v.shape, v.dtype)  # a copy: the state may change before the message has left
        if not copy_finite(v, row, to_send=True):
            refuse_non_finite(row)
        return row.view(np.uint8)

    def cut(self, d: int, dtype: Any, nbytes: int) -> list[Part]:
        size = np.dtype(dtype).itemsize
        ends = [*range(0, d, max(1, nbytes // size)), d]
        return [Part(a, b, ((a * size, b * size),)) for a, b in pairwise(ends)] if len(ends) > 2 else []

    def encode_into(self, v: Array, key: Key, payload: Array, minus: Array | None = None, part: Part | None = None) -> None:
        if part is not None:
            v, payload, minus = _slices(part, v, payload, minus)
        row = payload.view(v.dtype)
        if not (copy_finite(v, row, to_send=True) if minus is None else all_finite(np.subtract(v, minus, out=row), to_send=True)):
            refuse_non_finite(row)

    def encode_difference(self, x: Array, u: Array, key: Key) -> Array:
        v = x - u
        refuse_non_finite(v)
        return (v if v.flags.c_contiguous else v.copy()).view(np.uint8)  # nobody else holds it

    def decode(self, payload: Array, d: int, dtype: Any) -> Array:
        expect(payload, self.nbytes(d, dtype))
        v = (payload if payload.flags.c_contiguous else payload.copy()).view(dtype)
        if isinstance(v, np.ndarray) and not v.flags.aligned:
            v = v.copy()
        if not all_finite(v):
            raise damaged("NaN or infinite entries")
        return v

    def decode_into(self, payload: Array, out: Array, part: Part | None = None) -> None:
        if part is not None:
            payload, out = _slices(part, payload, out)
        expect(payload, self.nbytes(out.shape[1], out.dtype))
        if not copy_finite(payload, out):
            raise damaged("NaN or infinite entries")

    def advance_into(self, payload: Array, u: Array, step: float, out: Array, part: Part | None = None) -> None:
        if part is not None:
            payload, u, out = _slices(part, payload, u, out)
        super().advance_into(payload, u, step, out)

    def mix(self, blocks: Blocks, d: int, dtype: Any, u: Array | None, step: float, sums: Sums) -> Array | None:
        return mixed(blocks, d, dtype, u, step, sums)

    def nbytes(self, d: int, dtype: Any) -> int:
        return d * np.dtype(dtype).itemsize

    def ideal_bits(self, d: int, dtype: Any) -> float:
        return 8 * self.nbytes(d, dtype)

    def omega(self, d: int) -> float:
        return 0.0

    def delta(self, d: int) -> float:
        return 1.0


def _slices(part: Part, *rows: Array | None) -> list[Any]:
    """The part of rows of numbers (rows, d), or of their bytes (uint8)."""
    ((begin, end),) = part.where
    return [None if v is None else v[:, begin:end] if v.dtype == np.uint8 else v[:, part.begin : part.end] for v in rows]
