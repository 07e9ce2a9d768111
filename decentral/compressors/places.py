"""The places of k entries among d on the wire: Elias-Fano coded, or a bitmap, whichever is shorter for this k and d.

Elias-Fano: of each place p_0 < ... < p_{k-1} < d the lowest `low` bits, then a stream in which bit (p_i >> low) + i is 1
for every i, and the others are 0. The ones are k, so the last of its k + ((d - 1) >> low) bits goes without saying. `low`
is what makes the whole shortest, about log2(d/k). Bitmap: d bits, bit p is 1 for every place p. Both are bit streams, lowest bit
first, and take

    bits = k low + k + ((d - 1) >> low) - 1        or d, rounded up to bytes,

a function of k and d alone: all rows of a message have one length, and no length is sent. The bitmap wins for k above about
d/4. No other common code is shorter. A place in ceil(log2 d) bits takes what Elias-Fano takes with low = ceil(log2 d) - 1, and
a larger k makes a smaller low better. Gaps in units of 16 bits (all ones: 65535 entries without a place) take at least 16 bits a
place, Elias-Fano at most 16 for k above d/16384. Closest are the two at that k, for uniformly random places: 16.3 against 16.0,
and 2 % of the gaps escape. For a smaller k only places in clusters have shorter gaps, and the length depends on the data. The
least that any code of fixed length needs is log2 of binomial(d, k):

    k/d                                0.1 %    1 %      10 %     25 %     50 %
    least, bits a place                11.40    8.08     4.69     3.24     2.00
    sent                               11.95    8.56     5.25     4.00     2.00
    with a float32 value, sent/least   1.013    1.012    1.015    1.021    1.000

Elias. Efficient storage and retrieval by content and address of static files. JACM 1974; Fano 1971.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from decentral import kernels
from decentral.compressors.base import bits_for, damaged
from decentral.state import Array

BITMAP = -1
"""`Places.low` of a bitmap."""


@dataclass(frozen=True)
class Places:
    """k places below d, k from 1 to d."""

    d: int
    k: int

    @cached_property
    def low(self) -> int:
        """Low bits of a place in the Elias-Fano code, or BITMAP."""
        low = min(range(bits_for(self.d) + 1), key=self._elias_fano)
        return BITMAP if -(-self.d // 8) <= -(-self._elias_fano(low) // 8) else low

    @cached_property
    def nbytes(self) -> int:
        """Bytes of a row."""
        return -(-self._bits // 8)

    def pack(self, places: Array) -> Array:
        """(rows, nbytes) uint8 of places (rows, k) in increasing order."""
        on, empty = self.kernels_of(places)
        if on is not None:
            out: Array = empty((len(places), self.nbytes), np.uint8)
            on.pack_places(places if places.flags.c_contiguous else places.copy(), self.d, self.low, out)
            return out
        low = max(self.low, 0)
        bits = np.zeros((len(places), self._bits + 1), np.uint8)  # and the bit that is not sent
        bits[:, : self.k * low] = (places[:, :, None] >> np.arange(low) & 1).reshape(len(places), self.k * low)
        np.put_along_axis(bits, self.k * low + (places >> low) + self._numbers, 1, axis=1)
        return np.packbits(bits[:, : self._bits], axis=1, bitorder="little")

    def unpack(self, stream: Array) -> Array:
        """(rows, k) int64 places from `pack`. Raises TransportError for bytes that are not k increasing places below d."""
        on, empty = self.kernels_of(stream)
        if on is not None:
            places: Array = empty((len(stream), self.k), np.int64)
            if not on.unpack_places(stream if stream.flags.c_contiguous else stream.copy(), self.d, self.low, places):
                raise damaged(NO_PLACES)
            return places
        low = max(self.low, 0)
        bits = np.unpackbits(stream, axis=1, count=self._bits, bitorder="little")
        lows = bits[:, : self.k * low].reshape(len(stream), self.k, low) @ (1 << np.arange(low, dtype=np.int64))
        high = bits[:, self.k * low :]
        ones = np.count_nonzero(high, axis=1)
        if self.low != BITMAP:
            high = np.concatenate((high, (ones == self.k - 1)[:, None]), axis=1)
            ones = np.count_nonzero(high, axis=1)
        if (ones != self.k).any():
            raise damaged(NO_PLACES)
        places = (np.nonzero(high)[1].reshape(len(stream), self.k) - self._numbers << low) | lows
        if (places >= self.d).any() or (np.diff(places, axis=1) <= 0).any():
            raise damaged(NO_PLACES)
        return places

    def kernels_of(self, v: Array) -> Any:
        """`kernels.sparse_of`, for this size."""
        on, empty = kernels.sparse_of(v)
        return on if self.d >> 32 == 0 else None, empty

    def _elias_fano(self, low: int) -> int:
        return self.k * low + self.k + (self.d - 1 >> low) - 1

    @property
    def _bits(self) -> int:
        return self.d if self.low == BITMAP else self._elias_fano(self.low)

    @property
    def _numbers(self) -> Array:
        """What each place's bit stands behind: i in the Elias-Fano code, 0 in a bitmap."""
        return np.zeros(self.k, np.int64) if self.low == BITMAP else np.arange(self.k)


NO_PLACES = "places beyond the row or out of order"

places_of = lru_cache(maxsize=256)(Places)
"""Places, made once for each d and k."""
