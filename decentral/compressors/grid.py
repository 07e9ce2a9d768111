"""Rounding to a symmetric grid of levels, for the b-bit quantizer and QSGD: arithmetic, constants, wire format.

With s the scale of the entry's block (its largest magnitude, or its 2-norm), L levels a side, and u uniform in (0, 1):

    code = floor(v L/s + u) + L, clipped to 0..2L          C(v) = (code − L) s/L

so every entry goes to one of the two levels around it, the nearer one more often: E C(v) = v. "nearest" takes u = 1/2: less
error, but biased. A block of zeros has s = 0 and decodes to zeros.

How many bits. L = 2^(b−1), as papers write, makes 2^b + 1 symbols, for the largest entry reaches level L: b + 1 bits
("paper"). The default "packed" takes L = 2^(b−1) − 1, and b bits are b bits (b = 2 is ternary). For b = 1 it has two
symbols, −s and +s, the sign by dither: L = 1/2, code = floor(v L/s + u + 1/2), C(v) = (code − 1/2) s/L.

Constants, for n entries under one scale (both norms; E over u):
    per entry the variance is at most (s/L)²/4 and at most (s/L)|v|, and s ≤ ‖v‖₂, so ω = min(n/(4L²), √n/L); b = 1: n − 1
    nearest, inf-norm: an error is at most |v| and at most s/(2L), and 0 for the largest: δ = 4L²/(4L² + n − 1)
    nearest, 2-norm:   δ = 1 − n/(4L²) where that is positive.          b = 1 nearest: none

Arithmetic, the same in NumPy, C and on a GPU: the largest magnitude is exact, the 2-norm is summed in float64 by
`tree_sum`; s is rounded up to float32, so |v| ≤ s always, and lies in {0} ∪ [2^-110, 2^126], so that L/s, s/L and all that
is decoded are normal numbers. Then, in the type of v and rounded once each: inv = L/s, v·inv, + u, floor; code − L, s/L,
their product. u = (r + 1/2)/65536 with r the 16-bit half-words of `Key.halves` (bias at most 2^-17 of a level).

Wire. A row is its scales, float32, one a block, then its codes of w = b (or b + 1) bits, all little-endian. Blocks are
cut along the row, a multiple of 32 entries each. Codes go in tiles of 1024 = 32 rows x 32 lanes, entry e = 32 row + lane:
a lane packs its 32 codes, lowest row in the lowest bits, into exactly w 32-bit words, and word j of all lanes is
contiguous; so a row of a tile is 32 neighbors in memory, and a vector instruction or a warp serves it. The rest of the
row, fewer than 1024 entries, is one bit stream of ceil(rest · w/8) bytes. d = 100, b = 2: 4 + 25 bytes. Whoever decodes
refuses a scale outside its range, and reads a code above 2L, which no encoder makes, as 2L.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from decentral import kernels
from decentral.compressors.base import (
    TILE,
    Blocks,
    Compressor,
    Part,
    Sums,
    damaged,
    expect,
    mixed,
    pack,
    read_scales,
    scales_above,
    stream_bytes,
    tree_sum,
    unpack,
)
from decentral.errors import ConfigError, NonFiniteError
from decentral.random import LANES, Key
from decentral.state import Array

DEFAULT_BLOCK = 512


@dataclass(frozen=True)
class Grid:
    """A grid of codes 0..top, `width` bits each, for rows of d entries in blocks; L = top/2."""

    top: int
    width: int
    two_norm: bool
    dithered: bool
    d: int
    block: int

    @cached_property
    def scales(self) -> int:
        """Scales a row."""
        return -(-self.d // self.block)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of a row."""
        tiles, rest = divmod(self.d, TILE)
        return 4 * self.scales + tiles * stream_bytes(TILE, self.width) + stream_bytes(rest, self.width)

    def cut(self, nbytes: int) -> list[Part]:
        """The parts of a row: whole tiles and whole blocks each; whole tiles where the row is one block, with the first its scale."""
        one = self.block >= self.d
        unit = TILE if one else math.lcm(TILE, self.block)
        width = max(1, nbytes // stream_bytes(unit, self.width)) * unit
        parts = []
        for begin in range(0, self.d, width) if width < self.d else ():
            end = min(begin + width, self.d)
            scales = (4 * (begin // self.block), 4 * -(-end // self.block))
            first, last = (4 * self.scales + stream_bytes(column, self.width) for column in (begin, end))
            parts.append(Part(begin, end, ((first, last),) if one and begin else (scales, (first, last))))
        return parts

    def encode(self, v: Array, key: Key, minus: Array | None, payload: Array, part: Part | None = None) -> None:
        """Rows v (rows, d), or v − minus, to payload (rows, nbytes), or one part of them."""
        on, _ = kernels.of(v)
        if on is not None:
            grid = (self.top, self.width, self.block, self.two_norm, self.dithered)
            minus = minus if minus is None or minus.flags.c_contiguous else minus.copy()
            rows = v if v.flags.c_contiguous else v.copy()
            bad = on.quantize_encode(*key.constants, key.ids, rows, minus, payload, *grid, *_columns(part))
            if bad is not None:
                raise NonFiniteError(bad)
            return
        if part is not None and part.begin > 0:
            return  # without kernels the first part makes all
        if minus is not None:
            v = v - minus
        half = v.dtype.type(self.top / 2)
        s = scales_above(self._magnitudes(v))
        inv = np.divide(half, s, out=np.zeros_like(s, dtype=v.dtype), where=s > 0, dtype=v.dtype)
        u: Any = v.dtype.type(0.5)
        if self.dithered:
            u = (key.halves(self.d).astype(v.dtype) + v.dtype.type(0.5)) * v.dtype.type(2.0**-16)
        y = v * self._per_entry(inv, self.d) + (u + v.dtype.type(self.top % 2 / 2))
        codes = np.clip(np.floor(y).astype(np.int64) + self.top // 2, 0, self.top).astype(np.uint32)
        payload[:, : 4 * self.scales] = s.astype("<f4").view(np.uint8)
        payload[:, 4 * self.scales :] = pack_tiles(codes, self.width)

    def decode(self, payload: Array, out: Array, gain: float = 1.0, part: Part | None = None) -> None:
        """Rows to out (rows, d), times `gain`, or one part of them."""
        expect(payload, self.nbytes)
        on, _ = kernels.of(payload)
        if on is None or not out.flags.c_contiguous:
            begin, end = _columns(part) or (0, self.d)
            out[:, begin:end] = self._decoded(payload, out.dtype, gain, begin, end)
            return
        rows = payload if payload.flags.c_contiguous else payload.copy()
        if not on.quantize_decode(rows, out, self.top, self.width, self.block, gain, *_columns(part)):
            raise damaged("a scale is out of range")

    def advance(self, payload: Array, u: Array, step: float, out: Array, gain: float = 1.0, part: Part | None = None) -> None:
        """`Compressor.advance_into` with gain · q; one pass over u where a kernel serves these rows."""
        expect(payload, self.nbytes)
        on, _ = kernels.of(u)
        fused = on is not None and u.flags.c_contiguous and out.flags.c_contiguous
        if not fused:
            begin, end = _columns(part) or (0, self.d)
            q = self._decoded(payload, u.dtype, gain, begin, end)
            if step != 1:
                out[:, begin:end] = u[:, begin:end] + q
            u[:, begin:end] += q if step == 1 else step * q
            return
        rows, estimate = payload if payload.flags.c_contiguous else payload.copy(), None if step == 1 else out
        if not on.quantize_advance(rows, u, estimate, self.top, self.width, self.block, gain, step, *_columns(part)):
            raise damaged("a scale is out of range")

    def feedback(self, x: Array, u: Array, key: Key, payload: Array, step: float, out: Array, part: Part | None = None) -> bool:
        """`Compressor.feedback`, where a kernel serves these rows, and x and u have no memory in common."""
        on, _ = kernels.of(x)
        if on is None or not (x.flags.c_contiguous and u.flags.c_contiguous):
            return False
        if isinstance(x, np.ndarray) and np.may_share_memory(x, u):
            return False
        grid = (self.top, self.width, self.block, self.two_norm, self.dithered)
        bad = on.quantize_feedback(*key.constants, key.ids, x, u, None if step == 1 else out, payload, *grid, step, *_columns(part))
        if bad is not None:
            raise NonFiniteError(bad)
        return True

    def _decoded(self, payload: Array, dtype: Any, gain: float, begin: int, end: int) -> Array:
        """Columns begin..end − 1 of the decoded rows, in NumPy; they begin with a tile and a block."""
        real = np.dtype(dtype).type
        half = real(self.top / 2)
        scales = read_scales(payload[:, 4 * (begin // self.block) :], -(-end // self.block) - begin // self.block)
        step = scales.astype(dtype) / half * real(gain)
        codes = payload[:, 4 * self.scales + stream_bytes(begin, self.width) :]
        codes = np.minimum(unpack_tiles(codes, end - begin, self.width), self.top)
        return (codes.astype(dtype) - half) * self._per_entry(step, end - begin)

    def _magnitudes(self, v: Array) -> Array:
        """(rows, scales) float64: largest magnitude or 2-norm of every block."""
        padded = np.zeros((len(v), self.scales * self.block))
        padded[:, : self.d] = v
        blocks = np.abs(padded).reshape(len(v), self.scales, self.block)
        largest = blocks.max(axis=-1)
        if not self.two_norm:
            return largest
        with np.errstate(over="ignore"):
            return np.maximum(largest, np.sqrt(tree_sum(blocks * blocks)))

    def _per_entry(self, of_blocks: Array, count: int) -> Array:
        return of_blocks if self.scales == 1 else np.repeat(of_blocks, self.block, axis=1)[:, :count]


grid_of = lru_cache(maxsize=256)(Grid)
"""A Grid, made once for each set of parameters."""


def _columns(part: Part | None) -> tuple[int, int] | tuple[()]:
    """(begin, end), or nothing, which is all."""
    return () if part is None else (part.begin, part.end)


class OnGrid(Compressor):
    """A compressor that rounds to a grid, times a gain."""

    def grid(self, d: int) -> Grid:
        """The grid of rows of d entries."""
        raise NotImplementedError

    def gain(self, d: int) -> float:
        """What decoded rows of d entries are multiplied by."""
        return 1.0

    def cut(self, d: int, dtype: Any, nbytes: int) -> list[Part]:
        return self.grid(d).cut(nbytes)

    def encode(self, v: Array, key: Key) -> Array:
        return self._encode(v, key, None)

    def encode_difference(self, x: Array, u: Array, key: Key) -> Array:
        return self._encode(x, key, u)

    def _encode(self, v: Array, key: Key, minus: Array | None) -> Array:
        grid = self.grid(v.shape[1])
        payload: Array = kernels.of(v)[1]((len(v), grid.nbytes), np.uint8)
        grid.encode(v, key, minus, payload)
        return payload

    def encode_into(self, v: Array, key: Key, payload: Array, minus: Array | None = None, part: Part | None = None) -> None:
        self.grid(v.shape[1]).encode(v, key, minus, payload, part)

    def decode(self, payload: Array, d: int, dtype: Any) -> Array:
        out: Array = kernels.of(payload)[1]((len(payload), d), dtype)
        self.decode_into(payload, out)
        return out

    def decode_into(self, payload: Array, out: Array, part: Part | None = None) -> None:
        d = out.shape[1]
        self.grid(d).decode(payload, out, self.gain(d), part)

    def advance(self, payload: Array, u: Array, step: float) -> Array:
        out = u if step == 1 else np.empty_like(u)
        self.advance_into(payload, u, step, out)
        return out

    def advance_into(self, payload: Array, u: Array, step: float, out: Array, part: Part | None = None) -> None:
        d = u.shape[1]
        self.grid(d).advance(payload, u, step, out, self.gain(d), part)

    def mix(self, blocks: Blocks, d: int, dtype: Any, u: Array | None, step: float, sums: Sums) -> Array | None:
        grid = self.grid(d)
        return mixed(blocks, d, dtype, u, step, sums, grid.top, grid.width, grid.block, self.gain(d))

    def feedback(self, x: Array, u: Array, key: Key, payload: Array, step: float, out: Array, part: Part | None = None) -> bool:
        d = x.shape[1]
        return self.gain(d) == 1 and self.grid(d).feedback(x, u, key, payload, step, out, part)

    def nbytes(self, d: int, dtype: Any) -> int:
        return self.grid(d).nbytes


def pack_tiles(codes: Array, width: int) -> Array:
    """(rows, bytes) uint8: full tiles transposed, the rest as a bit stream; codes (rows, d) uint32 below 2^width."""
    full = codes.shape[1] // TILE
    tiles = codes[:, : full * TILE].reshape(-1, LANES, LANES)
    words = np.zeros((len(tiles), width, LANES), np.uint32)
    for row in range(LANES if full else 0):
        word, shift = divmod(row * width, 32)
        words[:, word] |= tiles[:, row] << np.uint32(shift)
        if shift + width > 32:
            words[:, word + 1] |= tiles[:, row] >> np.uint32(32 - shift)
    packed = words.astype("<u4", copy=False).view(np.uint8).reshape(len(codes), full * stream_bytes(TILE, width))
    return np.concatenate((packed, pack(codes[:, full * TILE :], width)), axis=1)


def unpack_tiles(packed: Array, d: int, width: int) -> Array:
    """(rows, d) codes of `pack_tiles`."""
    full, rest = divmod(d, TILE)
    cut = full * stream_bytes(TILE, width)
    words = np.ascontiguousarray(packed[:, :cut]).view("<u4").reshape(-1, width, LANES)
    tiles = np.empty((len(words), LANES, LANES), np.int64)
    mask = np.uint32((1 << width) - 1)
    for row in range(LANES if full else 0):
        word, shift = divmod(row * width, 32)
        low = words[:, word] >> np.uint32(shift)
        if shift + width > 32:
            low = low | words[:, word + 1] << np.uint32(32 - shift)
        tiles[:, row] = low & mask
    return np.concatenate((tiles.reshape(len(packed), full * TILE), unpack(packed[:, cut:], rest, width)), axis=1)


def variance(top: int, n: int) -> float:
    """ω of dithered rounding of n entries to the codes 0..top."""
    return n - 1.0 if top == 1 else min(n / top**2, 2 * math.sqrt(n) / top)


def block_of(block: int | None, d: int) -> int:
    """Entries under one scale, in a row of d."""
    if block is None:
        return DEFAULT_BLOCK if d > DEFAULT_BLOCK else d
    return block if 0 < block < d else d


def check_block(block: int | None) -> None:
    if block is not None and (block < 0 or block % LANES):
        raise ConfigError(
            f"algorithm.compressor.block = {block}: give a multiple of {LANES}, 0 for one scale a row, or leave it out for "
            f"{DEFAULT_BLOCK} where a row is longer"
        )
