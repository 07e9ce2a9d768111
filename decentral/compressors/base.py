"""What a compressor must offer, and the pieces that several share: bit streams and float32 scales."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from decentral import kernels
from decentral.errors import ConfigError, NonFiniteError, TransportError
from decentral.random import LANES, Key
from decentral.state import Array

TILE = LANES * LANES
SMALLEST_SCALE, LARGEST_SCALE = np.float32(2.0**-110), np.float32(2.0**126)


class Part(NamedTuple):
    """A part of a row that can be encoded, sent and decoded by itself: its columns, and where its bytes are in the payload.

    begin, end : columns begin..end − 1
    where : (from, to) of each stretch of bytes; the stretches of all parts make up the row
    """

    begin: int
    end: int
    where: tuple[tuple[int, int], ...]


Blocks = tuple[tuple[int, Array], ...]
"""Received rows: (the first one's number, their payload), each row once."""
Sums = tuple[Array, Array, Array | None]
"""Of own agents: arcs ptr[i] : ptr[i + 1] leave i, (n + 1,); the received row at the head of each, (m,); their weights, or ones."""


class Compressor(Protocol):
    """Rows in, packed rows out: C(v) = decode(encode(v)), the same bits at both ends of an arc.

    A compressor is a frozen dataclass whose fields are its configuration; `name` is not one of them. It is *unbiased* with
    variance ω, E C(v) = v and E‖C(v) − v‖² ≤ ω‖v‖², or *contractive* with δ, E‖C(v) − v‖² ≤ (1 − δ)‖v‖², 0 < δ ≤ 1, or
    neither. C(0) = 0, and C(c v) = c C(v) to the bit for the same draws where c is a power of two. Both hold of entries
    in the range of the scales, 2^-110 to 2^126; below it errors are absolute and of that size.
    """

    name: ClassVar[str]
    relative: ClassVar[bool] = True
    """False where the error does not shrink with v: then C(0) = 0 and C(c v) = c C(v) do not hold; see `absolute`."""

    def encode(self, v: Array, key: Key) -> Array:
        """Rows (rows, d) to payload (rows, nbytes) uint8; a new array.

        Raises NonFiniteError with the rows that hold NaN, infinity or magnitudes whose scale would exceed 2^126.
        """
        ...

    def decode(self, payload: Array, d: int, dtype: Any) -> Array:
        """Rows (rows, d) from payload alone, always finite.

        Raises TransportError for another number of bytes, and for scales, places and float values that no encoder makes;
        `absolute` also for codes beyond its grid. Codes beyond a grid of `grid` count as its last level.
        """
        ...

    def encode_difference(self, x: Array, u: Array, key: Key) -> Array:
        """Payload of x − u, rows (rows, d); see `encode`. This text is the definition, a kernel may stand for it."""
        return self.encode(x - u, key)

    def cut(self, d: int, dtype: Any, nbytes: int) -> list[Part]:
        """The parts of a row, in the order in which they are to be encoded, of about `nbytes` bytes; none where it has no parts."""
        return []

    def encode_into(self, v: Array, key: Key, payload: Array, minus: Array | None = None, part: Part | None = None) -> None:
        """`encode`, or `encode_difference`, to bytes that are there, (rows, nbytes) uint8; of a `part` its bytes alone.

        v and `minus` are whole rows also where a part of them is encoded. This text is the definition, as below.
        """
        payload[...] = self.encode(v, key) if minus is None else self.encode_difference(v, minus, key)

    def decode_into(self, payload: Array, out: Array, part: Part | None = None) -> None:
        """`decode` to rows that are there, (rows, d); of a `part` its columns alone."""
        out[...] = self.decode(payload, out.shape[1], out.dtype)

    def advance_into(self, payload: Array, u: Array, step: float, out: Array, part: Part | None = None) -> None:
        """`advance` with û to rows that are there, (rows, d), u itself where step = 1; of a `part` its columns alone."""
        estimate = self.advance(payload, u, step)
        if step != 1:
            out[...] = estimate

    def advance(self, payload: Array, u: Array, step: float) -> Array:
        """Error feedback with q = decode(payload): returns û = u + q and moves u ← u + step q, in place, rows (rows, d).

        With step = 1 both are the same numbers and the result is u itself. This text is the definition, as above.
        """
        q = self.decode(payload, u.shape[1], u.dtype)
        estimate = u if step == 1 else u + q
        u += q if step == 1 else step * q
        return estimate

    def feedback(self, x: Array, u: Array, key: Key, payload: Array, step: float, out: Array, part: Part | None = None) -> bool:
        """`encode_into` of x − u to `payload`, and `advance_into` of u by it, in one pass where a kernel does both.

        Else False, and nothing is done. Raises NonFiniteError as `encode` does; then u has advanced somewhere, or not.
        """
        return False

    def mix(self, blocks: Blocks, d: int, dtype: Any, u: Array | None, step: float, sums: Sums) -> Array | None:
        """Σ_j w_ij (û_i − û_j), (n, d), of received rows û = u + q, and `advance` of u, in one pass where a kernel does it.

        Without a reference u (k, d), û = q. Else None, and nothing is done. Raises TransportError as `decode` does; then u
        has advanced somewhere, or not.
        """
        return None

    def nbytes(self, d: int, dtype: Any) -> int:
        """Bytes of a row on the wire."""
        ...

    def ideal_bits(self, d: int, dtype: Any) -> float:
        """Bits of a row as papers count them: codes, places and scales, with no header and no padding.

        A scale, and a value that top-k or rand-k keeps, counts 32 bits whatever `dtype` is, for papers send float32. Identity
        counts the numbers of the run: in float64, whose values top-k and rand-k send whole, compare `wire_bytes` instead.
        """
        ...

    def omega(self, d: int) -> float | None:
        """Relative variance ω of a row of d entries; None where the compressor is biased."""
        ...

    def delta(self, d: int) -> float | None:
        """Contraction δ of a row of d entries; None where none is known for every v."""
        ...

    def saturated(self, v: Array) -> Any:
        """Entries of v (rows, d) beyond the range of the compressor, which it clips; none where scales follow v.

        An int; on a device an array (), so that nobody waits for it.
        """
        return 0

    @property
    def unbiased(self) -> bool:
        """E C(v) = v."""
        return self.omega(1) is not None


def bits_for(count: int) -> int:
    """Bits that tell `count` things apart: ceil(log2 count)."""
    return (count - 1).bit_length()


def stream_bytes(count: int, width: int) -> int:
    """Bytes of `count` codes of `width` bits."""
    return -(-count * width // 8)


def pack(codes: Array, width: int) -> Array:
    """(rows, bytes) uint8: one little-endian bit stream a row from codes (rows, count) below 2^width."""
    if width == 0:
        return np.empty((len(codes), 0), np.uint8)
    bits = codes[:, :, None] >> np.arange(width, dtype=codes.dtype) & codes.dtype.type(1)
    return np.packbits(bits.astype(np.uint8).reshape(len(codes), codes.shape[1] * width), axis=1, bitorder="little")


def unpack(stream: Array, count: int, width: int) -> Array:
    """(rows, count) int64 codes of bit streams (rows, bytes)."""
    if width == 0:
        return np.zeros((len(stream), count), np.int64)
    bits = np.unpackbits(stream, axis=1, count=count * width, bitorder="little").reshape(len(stream), count, width)
    return bits @ (1 << np.arange(width, dtype=np.int64))


def refuse_non_finite(v: Array) -> None:
    """Raise NonFiniteError with the rows that hold NaN or infinity; on a device they are noted, see `Device`."""
    if not all_finite(v, to_send=True):
        raise NonFiniteError(np.flatnonzero(~np.isfinite(v).all(axis=1)))


def copy_finite(v: Array, out: Array, to_send: bool = False) -> bool:
    """out (rows, d) = v, the same rows or their bytes, in one pass; what `all_finite` says of them."""
    if kernels.c is not None and isinstance(v, np.ndarray) and v.flags.c_contiguous and out.flags.c_contiguous:
        return bool(kernels.c.copy_finite(v, out))
    out.view(v.dtype)[...] = v
    return all_finite(out, to_send)


def all_finite(v: Array, to_send: bool = False) -> bool:
    """No NaN and no infinity in v (rows, d); on a device True, and rows that hold some are noted."""
    if kernels.device is not None and not isinstance(v, np.ndarray):
        return bool(kernels.device.all_finite(v, to_send))
    if kernels.c is not None:
        return bool(kernels.c.all_finite(np.ascontiguousarray(v)))
    if v.dtype not in (np.float32, np.float64):  # as the kernels do: the receiver takes bytes for numbers of this machine
        raise ValueError(f"rows of {v.dtype.str}: give float32 or float64")
    return bool(np.isfinite(v).all())


def mixed(
    blocks: Blocks, d: int, dtype: Any, u: Array | None, step: float, sums: Sums, *grid: float
) -> Array | None:
    """`Compressor.mix` of plain numbers, or of codes of a grid: top, width, block and gain."""
    on, empty = kernels.of(blocks[0][1])
    if on is None or not d or not (u is None or u.flags.c_contiguous):
        return None
    rows, out = sum([len(payload) for _, payload in blocks]), empty((len(sums[0]) - 1, d), dtype)
    done = on.mix(blocks, rows, u, *sums, out, *(grid or (0, 0, 0, 1.0)), step)
    if done is False:
        raise damaged("NaN or infinite entries, or a scale out of range")
    return out if done else None


def scales_above(m: Array) -> Array:
    """(...) float32: the smallest scales not below the float64 magnitudes m; 0 for 0.

    Raises NonFiniteError with the indices along the first axis whose m is NaN or above 2^126.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        s = m.astype(np.float32)
        s = np.where(s < m, np.nextafter(s, np.float32(np.inf)), s)
    bad = ~(s <= LARGEST_SCALE)
    if bad.any():
        raise NonFiniteError(np.flatnonzero(bad.reshape(len(m), -1).any(axis=1)))
    return np.where(s > 0, np.maximum(s, SMALLEST_SCALE), s)


def read_scales(payload: Array, count: int) -> Array:
    """(rows, count) float32 at the start of every row. Raises TransportError for one that no encoder makes."""
    scales = np.ascontiguousarray(payload[:, : 4 * count]).view("<f4").astype(np.float32, copy=False)
    if not ((scales == 0) | ((scales >= SMALLEST_SCALE) & (scales <= LARGEST_SCALE))).all():
        raise damaged("a scale is out of range")
    return scales


def tree_sum(x: Array) -> Array:
    """(...) float64: sums over the last axis in an order that CPU and GPU can share.

    In tiles of 32 rows of 32 lanes: each lane adds its rows in order, lanes are halved, tiles are added by pairs.
    """
    tiles, rows = -(-x.shape[-1] // TILE), min(LANES, -(-x.shape[-1] // LANES))
    padded = np.zeros((*x.shape[:-1], tiles * rows * LANES))
    padded[..., : x.shape[-1]] = x
    padded = padded.reshape(*x.shape[:-1], tiles, rows, LANES)
    sums = padded[..., 0, :]
    for row in range(1, rows):
        sums = sums + padded[..., row, :]
    while (lanes := sums.shape[-1]) > 1:
        sums = sums[..., : lanes // 2] + sums[..., lanes // 2 :]
    sums = sums[..., 0]
    while (tiles := sums.shape[-1]) > 1:
        odd = sums[..., tiles - tiles % 2 :]
        sums = np.concatenate((sums[..., 0 : tiles - 1 : 2] + sums[..., 1::2], odd), axis=-1)
    return sums[..., 0]


def damaged(what: str) -> TransportError:
    """The error for a payload that no encoder makes."""
    return TransportError(f"a damaged or mixed-up message: {what}. Do all ranks run the same configuration and version?")


def expect(payload: Array, nbytes: int) -> None:
    """Raise TransportError unless the rows have `nbytes` bytes."""
    if payload.ndim != 2 or payload.shape[1] != nbytes:
        raise damaged(f"rows of {payload.shape[-1]} bytes in place of {nbytes}")


def whole(name: str, value: int | None, low: int, high: int, word: str = "") -> None:
    """Raise ConfigError unless the parameter is in low..high (None passes)."""
    if value is not None and not low <= value <= high:
        raise ConfigError(f"algorithm.compressor.{name} = {value}: give a whole number from {low} to {high}{word}")


def one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError unless the parameter is one of the allowed words."""
    if value not in allowed:
        raise ConfigError(f'algorithm.compressor.{field} = "{value}": give one of {", ".join(allowed)}')
