"""Some entries of a row and their places: rand-k, top-k, and top-k whose survivors are quantized.

Values travel in the type of the state, places in increasing order and coded as `places` says. Rand-k sends four bytes from
which the receiver draws the places again, except where the places themselves are not more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from decentral import kernels
from decentral.compressors.base import Compressor, all_finite, bits_for, damaged, expect, refuse_non_finite
from decentral.compressors.places import Places, places_of
from decentral.compressors.quantize import Quantize
from decentral.errors import ConfigError, NonFiniteError
from decentral.random import Key, Purpose, sample_batches
from decentral.state import Array

TICKET = 4
"""Bytes that stand for the places of rand-k."""
DENSE = 256
"""Up to so many entries a place, places are sorted by marking them among all d."""


@dataclass(frozen=True)
class Sparse(Compressor):
    """Common to all: how many entries, where they are on the wire, and back into rows of zeros.

    k : entries that are kept, or
    fraction : of the d entries, rounded, at least one; give one of the two
    """

    k: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        if (self.k is None) == (self.fraction is None):
            raise ConfigError(f"compressor {self.name} needs either k, a number of entries, or fraction, a share of them")
        if self.k is not None and self.k < 1:
            raise ConfigError(f"algorithm.compressor.k = {self.k}: give a whole number from 1 to the entries of a message")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ConfigError(f"algorithm.compressor.fraction = {self.fraction}: give a number above 0 and at most 1")

    def kept(self, d: int) -> int:
        """Entries kept of a row of d. Raises ConfigError where k is more than there are."""
        if self.fraction is not None:
            return max(1, round(self.fraction * d))
        assert self.k is not None
        if self.k > d:
            raise ConfigError(f"algorithm.compressor.k = {self.k} of messages with {d} entries: give at most {d}, or use fraction")
        return self.k

    def places(self, d: int) -> Places:
        """The code of the places in a row of d."""
        return places_of(d, self.kept(d))

    def decode(self, payload: Array, d: int, dtype: Any) -> Array:
        _, empty = kernels.of(payload)
        return scatter(*self._read(payload, d, dtype), empty((len(payload), d), dtype))

    def advance(self, payload: Array, u: Array, step: float) -> Array:
        """`Compressor.advance` at the places alone; elsewhere q is zero."""
        if not u.flags.c_contiguous:
            return super().advance(payload, u, step)
        places, q = self._read(payload, u.shape[1], u.dtype)
        estimate = u if step == 1 else scatter(places, q, u.copy(), 1.0)
        scatter(places, q, u, step)
        return estimate

    def _read(self, payload: Array, d: int, dtype: Any) -> tuple[Array, Array]:
        """Places (rows, k) in increasing order, and values (rows, k)."""
        raise NotImplementedError

    def _place_bits(self, d: int) -> float:
        return self.kept(d) * bits_for(d)


def scatter(places: Array, values: Array, out: Array, step: float | None = None) -> Array:
    """out (rows, d) = values (rows, k) at places (rows, k), zeros elsewhere; with a step, out += step values at the places."""
    on, _ = kernels.sparse_of(out)
    if on is not None:
        on.scatter(places, values, out, step)
        return out
    if step is not None:
        values = np.take_along_axis(out, places, axis=1) + step * values
    else:
        out[...] = 0
    np.put_along_axis(out, places, values, axis=1)
    return out


def as_bytes(values: Array) -> Array:
    """(rows, bytes) uint8 of values (rows, k)."""
    return (values if values.flags.c_contiguous else values.copy()).view(np.uint8)


def as_values(stream: Array, dtype: Any) -> Array:
    """(rows, k) of `as_bytes`. Raises TransportError for NaN or infinity."""
    values = stream.copy().view(dtype)  # a copy begins where a number may
    if not all_finite(values):
        raise damaged("NaN or infinite entries")
    return values


@dataclass(frozen=True)
class RandK(Sparse):
    """k entries drawn uniformly without replacement, times d/k: unbiased, ω = d/k − 1 exactly.

    contracted : without the factor d/k: biased, E‖C(v) − v‖² = (1 − k/d)‖v‖², δ = k/d
    A row is 4 bytes that key the draw, or the k places where they take no more, then the k values, already times d/k.
    """

    contracted: bool = False
    name: ClassVar[str] = "rand-k"

    @property
    def unbiased(self) -> bool:
        return not self.contracted

    def encode(self, v: Array, key: Key) -> Array:
        refuse_non_finite(v)
        d = v.shape[1]
        ticket = key.words(1)
        places = self._draw(ticket, d)
        head = ticket.astype("<u4").view(np.uint8) if self._keyed(d) else self.places(d).pack(places)
        values = np.take_along_axis(v, places, axis=1)
        if not self.contracted:
            with np.errstate(over="ignore"):
                values *= v.dtype.type(d / self.kept(d))
            refuse_non_finite(values)
        return np.concatenate((head, as_bytes(values)), axis=1)

    def _read(self, payload: Array, d: int, dtype: Any) -> tuple[Array, Array]:
        expect(payload, self.nbytes(d, dtype))
        cut = self._head_bytes(d)
        head = payload[:, :cut].copy()
        places = self._draw(head.view("<u4"), d) if self._keyed(d) else self.places(d).unpack(head)
        return places, as_values(payload[:, cut:], dtype)

    def _draw(self, ticket: Array, d: int) -> Array:
        """(rows, k) places in increasing order, a function of the ticket (rows, 1) uint32."""
        key = Key(0, Purpose.AGENT_MESSAGE, 0, ticket[:, 0].astype(np.int64))
        device = kernels.device_of(ticket)
        if device is not None:
            there: Array = device.empty((len(ticket), self.kept(d)), np.int64)
            device.sample_places(*key.constants, key.ids, d, there)
            return there
        places = sample_batches(key, np.full(len(ticket), d, np.int64), self.kept(d))
        if kernels.sparse is None or d > DENSE * places.shape[1]:
            return np.sort(places, axis=1)
        kernels.sparse.sort_places(places, d)
        return places

    def _keyed(self, d: int) -> bool:
        return self.places(d).nbytes > TICKET

    def _head_bytes(self, d: int) -> int:
        return min(TICKET, self.places(d).nbytes)

    def nbytes(self, d: int, dtype: Any) -> int:
        return self._head_bytes(d) + self.kept(d) * np.dtype(dtype).itemsize

    def ideal_bits(self, d: int, dtype: Any) -> float:
        """32 a value, and its place or a shared 64-bit seed."""
        return 32 * self.kept(d) + min(64.0, self._place_bits(d))

    def omega(self, d: int) -> float | None:
        return None if self.contracted else d / self.kept(d) - 1

    def delta(self, d: int) -> float | None:
        if self.contracted:
            return self.kept(d) / d
        omega = d / self.kept(d) - 1
        return 1 - omega if omega < 1 else None


def largest(v: Array, k: int) -> Array:
    """(rows, k) places of the k largest magnitudes of each row, in increasing order; ties to the smallest place."""
    d = v.shape[1]
    magnitudes = np.abs(v)
    least = np.partition(magnitudes, d - k, axis=1)[:, d - k, None]
    above, ties = magnitudes > least, magnitudes == least
    room = k - np.count_nonzero(above, axis=1, keepdims=True)
    keep = above | (ties & (np.cumsum(ties, axis=1) <= room))
    return np.nonzero(keep)[1].reshape(len(v), k)


def write_largest(
    v: Array, minus: Array | None, places: Places, payload: Array, values: Array | None = None, stream: int = 0
) -> None:
    """Into payload (rows, bytes): its rows end with the places of the k largest magnitudes of v, or v − minus (rows, d).

    Their values go to `values` (rows, k), or where it is None before the places. On a device, a call begins where the last one
    of the same stream ended.
    Raises NonFiniteError with the rows that hold NaN or infinity.
    """
    start = payload.shape[1] - places.nbytes
    on, _ = places.kernels_of(v)
    if on is not None:
        u = minus if minus is None or minus.flags.c_contiguous else minus.copy()
        call = v if v.flags.c_contiguous else v.copy(), u, payload, start, places.k, places.low, values
        bad = on.top_k(*call) if on is kernels.sparse else on.top_k(*call, stream)
        if bad is not None:
            raise NonFiniteError(bad)
        return
    if minus is not None:
        v = v - minus
    refuse_non_finite(v)
    kept = largest(v, places.k)
    payload[:, start:] = places.pack(kept)
    if values is None:
        payload[:, :start] = as_bytes(np.take_along_axis(v, kept, axis=1))
    else:
        values[...] = np.take_along_axis(v, kept, axis=1)


class Largest(Sparse):
    """The k entries of largest magnitude, ties to the smallest place."""

    def encode(self, v: Array, key: Key) -> Array:
        return self._encode(v, None, key)

    def encode_difference(self, x: Array, u: Array, key: Key) -> Array:
        return self._encode(x, u, key)

    def _encode(self, v: Array, minus: Array | None, key: Key) -> Array:
        """Payload of v, or of v − minus."""
        raise NotImplementedError

    def omega(self, d: int) -> None:
        return None


@dataclass(frozen=True)
class TopK(Largest):
    """The k entries of largest magnitude, ties to the smallest place: biased, δ = k/d.

    A row is k values, then k places.
    """

    name: ClassVar[str] = "top-k"

    def _encode(self, v: Array, minus: Array | None, key: Key) -> Array:
        d = v.shape[1]
        _, empty = kernels.of(v)
        payload: Array = empty((len(v), self.nbytes(d, v.dtype)), np.uint8)
        write_largest(v, minus, self.places(d), payload, stream=key.purpose)
        return payload

    def _read(self, payload: Array, d: int, dtype: Any) -> tuple[Array, Array]:
        expect(payload, self.nbytes(d, dtype))
        cut = self.kept(d) * np.dtype(dtype).itemsize
        return self.places(d).unpack(payload[:, cut:]), as_values(payload[:, :cut], dtype)

    def nbytes(self, d: int, dtype: Any) -> int:
        return self.kept(d) * np.dtype(dtype).itemsize + self.places(d).nbytes

    def ideal_bits(self, d: int, dtype: Any) -> float:
        """32 a value, and ceil(log2 d) its place; what is sent may be less."""
        return 32 * self.kept(d) + self._place_bits(d)

    def delta(self, d: int) -> float:
        return self.kept(d) / d


@dataclass(frozen=True)
class TopKQuantize(Largest):
    """Top-k, then the survivors alone through a quantizer: δ = δ_Q k/d, with δ_Q that of k entries.

    quantize : parameters of `Quantize`
    A row is the quantizer's row of k entries, then k places.
    """

    quantize: Quantize = field(default_factory=Quantize)
    name: ClassVar[str] = "top-k-quantize"

    def _encode(self, v: Array, minus: Array | None, key: Key) -> Array:
        d = v.shape[1]
        _, empty = kernels.of(v)
        payload: Array = empty((len(v), self.nbytes(d, v.dtype)), np.uint8)
        values: Array = empty((len(v), self.kept(d)), v.dtype)
        write_largest(v, minus, self.places(d), payload, values, key.purpose)
        payload[:, : self.quantize.nbytes(self.kept(d), v.dtype)] = self.quantize.encode(values, key)
        return payload

    def _read(self, payload: Array, d: int, dtype: Any) -> tuple[Array, Array]:
        expect(payload, self.nbytes(d, dtype))
        k = self.kept(d)
        cut = self.quantize.nbytes(k, dtype)
        return self.places(d).unpack(payload[:, cut:]), self.quantize.decode(payload[:, :cut], k, dtype)

    def nbytes(self, d: int, dtype: Any) -> int:
        return self.quantize.nbytes(self.kept(d), dtype) + self.places(d).nbytes

    def ideal_bits(self, d: int, dtype: Any) -> float:
        return self.quantize.ideal_bits(self.kept(d), dtype) + self._place_bits(d)

    def delta(self, d: int) -> float | None:
        of_survivors = self.quantize.delta(self.kept(d))
        return None if of_survivors is None else of_survivors * self.kept(d) / d
