"""Random numbers as a function of where they are used: counter-based Philox4x32-10.

A draw depends on (seed, purpose, round, step, agent or arc id, coordinate) and on nothing else, so it is the same on one
process and on many. The 64-bit key of the generator is the seed (low word, high word), its counter is

    (index of the block of 128 bits, id, round, purpose << 24 | step)

Salmon, Moraes, Dror, Shaw. Parallel random numbers: as easy as 1, 2, 3. SC 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from decentral import kernels
from decentral.errors import ProblemError
from decentral.state import Array

LANES = 32
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)


class Purpose(IntEnum):
    """What a draw is for; a message of stream s uses its purpose + 16 s, s from 0 to 15."""

    AGENT_MESSAGE = 1
    ARC_MESSAGE = 2
    BATCH = 3
    COIN = 4
    SPLIT = 5
    SYNTHETIC = 6
    GRAPH = 7
    TEST = 15


def philox4x32(c0: Array, c1: Array, c2: Array, c3: Array, k0: int, k1: int) -> tuple[Array, Array, Array, Array]:
    """The four output words, uint32, of ten rounds on counter words c0..c3 (broadcast together) under the key (k0, k1)."""
    m0, m1, low, half = (np.uint64(w) for w in (*MULTIPLIERS, 0xFFFFFFFF, 32))
    c0, c1, c2, c3 = (np.asarray(c, dtype=np.uint64) for c in (c0, c1, c2, c3))
    for _ in range(10):
        p0, p1 = c0 * m0, c2 * m1  # 32 x 32 bits: never overflows
        c0, c1 = (p1 >> half) ^ c1 ^ np.uint64(k0), p1 & low
        c2, c3 = (p0 >> half) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    a, b, c, d = np.broadcast_arrays(*(w.astype(np.uint32) for w in (c0, c1, c2, c3)))
    return a, b, c, d


@dataclass(slots=True, eq=False)  # not frozen: one is made for every message, and that would take three times as long
class Key:
    """What the draws of some rows are a function of.

    seed : 64 bits;  purpose : a `Purpose`, for messages plus 16 times the stream;  step : below 2^24
    ids : (rows,) int64 global ids of agents or arcs, below 2^32; what is drawn lies where they do
    """

    seed: int
    purpose: int
    round: int
    ids: Array
    step: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.purpose < 256 and 0 <= self.step < 1 << 24 and 0 <= self.round < 1 << 32):
            raise ValueError(f"purpose {self.purpose}, round {self.round} or step {self.step} exceeds 8, 32 or 24 bits")

    @property
    def constants(self) -> tuple[int, int, int]:
        """(seed as 64 unsigned bits, round, purpose << 24 | step): the counter words that all rows share."""
        return self.seed & 0xFFFFFFFFFFFFFFFF, self.round, self.purpose << 24 | self.step

    def words(self, count: int) -> Array:
        """(rows, count) uint32; word e of a row is word e mod 4 of block e div 4."""
        on, empty = kernels.of(self.ids)
        if on is not None:
            out: Array = empty((len(self.ids), count), np.uint32)
            on.words(*self.constants, self.ids, out)
            return out
        blocks = self._blocks(-(-count // 4))
        return np.ascontiguousarray(blocks.reshape(len(self.ids), blocks.shape[1] * 4)[:, :count])

    def halves(self, count: int) -> Array:
        """(rows, count) uint16 in tile order: element 256 g + 32 r + l (r < 8, l < 32) is half-word r of block 32 g + l.

        A block's eight half-words are its words in order, low half first; so a lane l makes the halves of its own column.
        """
        on, empty = kernels.of(self.ids)
        if on is not None:
            out: Array = empty((len(self.ids), count), np.uint16)
            on.halves(*self.constants, self.ids, out)
            return out
        blocks = self._blocks(-(-count // 256) * LANES)
        halves = np.stack((blocks & np.uint32(0xFFFF), blocks >> np.uint32(16)), axis=-1).astype(np.uint16)
        columns = halves.reshape(len(self.ids), -(-count // 256), LANES, 8).swapaxes(2, 3)
        return np.ascontiguousarray(columns.reshape(len(self.ids), -(-count // 256) * 256)[:, :count])

    def uniform(self, count: int) -> Array:
        """(rows, count) float64 in [0, 1): words times 2^-32."""
        return self.words(count) * 2.0**-32

    def _blocks(self, count: int) -> Array:
        """(rows, count, 4) uint32: the output words of the first blocks of every row."""
        seed, k, tag = self.constants
        index, ids = np.arange(count, dtype=np.uint64), self.ids.astype(np.uint64)[:, None]
        words = philox4x32(index, ids, np.asarray(k), np.asarray(tag), seed & 0xFFFFFFFF, seed >> 32)
        return np.stack(words, axis=-1)


def sample_batches(key: Key, sizes: Array, batch: int) -> Array:
    """(n, batch) int64: for each row a uniform draw without replacement from 0..size-1, in no particular order.

    sizes : (n,) int64, samples of each row. Floyd's algorithm, so the cost is that of the batch and not of the samples:
    for j = size-batch..size-1 take t, uniform in 0..j, or j itself where t was taken before.
    Raises ProblemError, naming the agent, where a batch exceeds the samples.
    """
    if (sizes < batch).any():
        row = int(np.argmin(sizes))
        raise ProblemError(f"a batch of {batch} from the {sizes[row]} samples of agent {key.ids[row]}: give at most {sizes[row]}")
    picks = np.empty((len(sizes), batch), np.int64)
    if kernels.c is not None:
        kernels.c.sample_batches(*key.constants, key.ids, sizes, picks)
        return picks
    words = key.words(batch).astype(np.uint64)
    rows, taken = np.arange(len(sizes)), np.zeros((len(sizes), int(sizes.max(initial=0))), bool)
    for e in range(batch):
        last = sizes - batch + e
        t = (words[:, e] * (last + 1).astype(np.uint64) >> np.uint64(32)).astype(np.int64)  # multiply-shift onto 0..last
        picks[:, e] = np.where(taken[rows, t], last, t)
        taken[rows, picks[:, e]] = True
    return picks
