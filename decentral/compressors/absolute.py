"""Rounding to a fixed grid: the step is a parameter and not the scale of the row, so that no scale is sent.

With Δ the step, L levels a side, and u = 1/2 ("nearest") or uniform in (0, 1) ("dithered"):

    code = floor(v/Δ + u) + L, clipped to 0..2L          C(v) = (code − L) Δ,          L = 2^(b−1) − 1

For b = 1 there are two symbols, ±Δ/2: L = 1/2, code = floor(v/Δ + u + 1/2), and C(v) is Δ/2 where v ≥ 0, −Δ/2 elsewhere.

The error of an entry is at most Δ/2 (dithered: below Δ) and no less for a small signal: there is no ω and no δ, C(c v) is
not c C(v), and with one bit C(0) is not 0. It is for methods that shrink the grid themselves, s_k C(v/s_k): Dyna-COLD and
DPDC-3. The range ends at (L + 1/2) Δ, dithered at L Δ; entries beyond it go to the last level, and `saturated` counts them.

Wire. A row is its codes of b bits, in the tiles of `grid`. d = 100, b = 1: 13 bytes. On a CPU packed in NumPy, without a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from decentral import kernels
from decentral.compressors.base import Compressor, damaged, expect, one_of, refuse_non_finite, stream_bytes, whole
from decentral.compressors.grid import pack_tiles, unpack_tiles
from decentral.errors import ConfigError
from decentral.random import Key
from decentral.state import Array

SMALLEST_STEP, LARGEST_STEP = 2.0**-100, 2.0**100


@dataclass(frozen=True)
class Absolute(Compressor):
    """b-bit uniform quantizer with an absolute step, for dyna-cold and dpdc3.

    bits : b from 1 to 16;  step : Δ from 2^-100 to 2^100, in units of the scale that the method divides by
    rounding : "nearest", or "dithered" (unbiased in its range)
    Raises ConfigError for other values.

    Yi, Zhang, Yang, Chai, Johansson. IEEE TAC 2023, uniform quantizer; Zhang, You, Xie. COLD. IEEE TAC 2023, one bit.
    """

    bits: int = 8
    step: float = 1.0
    rounding: Literal["nearest", "dithered"] = "nearest"
    name: ClassVar[str] = "absolute"
    relative: ClassVar[bool] = False

    def __post_init__(self) -> None:
        whole("bits", self.bits, 1, 16)
        one_of("rounding", self.rounding, ("nearest", "dithered"))
        if not SMALLEST_STEP <= self.step <= LARGEST_STEP:
            raise ConfigError(f"algorithm.compressor.step = {self.step}: give a number from 2^-100 to 2^100")

    @property
    def top(self) -> int:
        """2L, the largest code."""
        return max(1, (1 << self.bits) - 2)

    @property
    def reach(self) -> float:
        """The largest magnitude whose error is that of rounding."""
        return (self.top + (self.rounding == "nearest")) / 2 * self.step

    def encode(self, v: Array, key: Key) -> Array:
        device = kernels.device_of(v)
        if device is not None:
            payload: Array = device.empty((len(v), self.nbytes(v.shape[1], v.dtype)), np.uint8)
            grid = (self.top, self.bits, self.step, self.rounding == "dithered")
            device.absolute_encode(*key.constants, key.ids, v if v.flags.c_contiguous else v.copy(), payload, *grid)
            return payload
        refuse_non_finite(v)
        real = v.dtype.type
        u: Any = real(0.5)
        if self.rounding == "dithered":
            u = (key.halves(v.shape[1]).astype(v.dtype) + u) * real(2.0**-16)
        beyond = real((self.top + 2) * self.step)  # twice the range: a quotient that no integer holds is never formed
        y = np.clip(v, -beyond, beyond) / real(self.step) + (u + real(self.top % 2 / 2))
        codes = np.clip(np.floor(y).astype(np.int64) + self.top // 2, 0, self.top).astype(np.uint32)
        return pack_tiles(codes, self.bits)

    def decode(self, payload: Array, d: int, dtype: Any) -> Array:
        expect(payload, self.nbytes(d, dtype))
        device = kernels.device_of(payload)
        if device is not None:
            out: Array = device.empty((len(payload), d), dtype)
            rows = payload if payload.flags.c_contiguous else payload.copy()
            device.absolute_decode(rows, out, self.top, self.bits, self.step)
            return out
        codes = unpack_tiles(payload, d, self.bits)
        if (codes > self.top).any():
            raise damaged("a code is out of range")
        real = np.dtype(dtype).type
        return (codes.astype(dtype) - real(self.top / 2)) * real(self.step)

    def saturated(self, v: Array) -> Any:
        count = (np.abs(v) > self.reach).sum()
        return int(count) if kernels.device_of(v) is None else count

    def nbytes(self, d: int, dtype: Any) -> int:
        return stream_bytes(d, self.bits)  # tiles are of 1024 entries: whole bytes

    def ideal_bits(self, d: int, dtype: Any) -> float:
        return self.bits * d

    def omega(self, d: int) -> None:
        return None

    def delta(self, d: int) -> None:
        return None
