"""No compression."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from decentral import kernels
from decentral.compressors.base import Compressor, Part, all_finite, copy_finite, damaged, expect, refuse_non_finite
from decentral.random import Key
from decentral.state import Array


@dataclass(frozen=True)
class Identity(Compressor):
    """C(v) = v. A row is the raw little-endian numbers; ω = 0, δ = 1."""

    name: ClassVar[str] = "identity"

    def encode(self, v: Array, key: Key) -> Array:
        _, empty = kernels.of(v)
        payload: Array = empty((len(v), self.nbytes(v.shape[1], v.dtype)), np.uint8)
        self.encode_into(v, key, payload)  # a copy: the state may change before the message has left
        return payload

    def cut(self, d: int, dtype: Any, nbytes: int) -> list[Part]:
        size = np.dtype(dtype).itemsize
        ends = [*range(0, d, max(1, nbytes // size)), d]
        return [Part(a, b, ((a * size, b * size),)) for a, b in pairwise(ends)] if len(ends) > 2 else []

    def encode_into(self, v: Array, key: Key, payload: Array, minus: Array | None = None, part: Part | None = None) -> None:
        columns = slice(None) if part is None else slice(part.begin, part.end)
        v, row = v[:, columns], payload.view(v.dtype)[:, columns]
        if minus is not None:
            np.subtract(v, minus[:, columns], out=row)
        if not (copy_finite(v, row, to_send=True) if minus is None else all_finite(row, to_send=True)):
            refuse_non_finite(v if minus is None else row)

    def encode_difference(self, x: Array, u: Array, key: Key) -> Array:
        v = x - u
        refuse_non_finite(v)
        return v.view(np.uint8)  # nobody else holds it

    def decode(self, payload: Array, d: int, dtype: Any) -> Array:
        expect(payload, self.nbytes(d, dtype))
        v = (payload if payload.flags.c_contiguous else payload.copy()).view(dtype)
        if isinstance(v, np.ndarray) and not v.flags.aligned:
            v = v.copy()
        if not all_finite(v):
            raise damaged("NaN or infinite entries")
        return v

    def decode_into(self, payload: Array, out: Array, part: Part | None = None) -> None:
        expect(payload, self.nbytes(out.shape[1], out.dtype))
        if part is not None:
            size = out.itemsize
            payload, out = payload[:, part.begin * size : part.end * size], out[:, part.begin : part.end]
        if not copy_finite(payload, out):
            raise damaged("NaN or infinite entries")

    def advance_into(self, payload: Array, u: Array, step: float, out: Array, part: Part | None = None) -> None:
        if part is not None:
            size, columns = out.itemsize, slice(part.begin, part.end)
            payload, u, out = payload[:, part.begin * size : part.end * size], u[:, columns], out[:, columns]
        q = self.decode(payload, u.shape[1], u.dtype)
        if step != 1:
            np.add(u, q, out=out)
        u += q if step == 1 else step * q

    def nbytes(self, d: int, dtype: Any) -> int:
        return d * np.dtype(dtype).itemsize

    def ideal_bits(self, d: int, dtype: Any) -> float:
        return 8 * self.nbytes(d, dtype)

    def omega(self, d: int) -> float:
        return 0.0

    def delta(self, d: int) -> float:
        return 1.0
