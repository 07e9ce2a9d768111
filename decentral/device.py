"""A GPU on which the rows of a run lie, in the place of the CPU's memory: arrays of CuPy, and the CUDA kernels for them.

Methods, problems and compressors are the same text for both: NumPy's functions work on CuPy's arrays, and
`kernels.of(v)` is a `Device` for a v that lies there. The CPU draws batches and coins, evaluates metrics and writes files.

The CPU never waits for a kernel that finds something wrong. What it would have raised is noted in device memory, and
`fetch` brings the notes along with the rows that it brings: when messages are sent to other processes, and when rows are
recorded. Between two fetches a diverged run may go on for some rounds; its error names the last of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from decentral import kernels
from decentral.compressors.base import damaged
from decentral.errors import ConfigError, NonFiniteError
from decentral.kernels import gpu
from decentral.state import Array

INSTALL = "pip install cupy-cuda12x"
SEARCHES = 16
"""Streams of top-k whose last thresholds are kept."""


def check(name: str) -> None:
    """Raise ConfigError for what is no device."""
    if name == "cpu":
        return
    kind, colon, number = name.partition(":")
    if kind != "cuda" or (colon and not number.isdigit()):
        raise ConfigError(f'device = "{name}": give "cpu", "cuda" (each rank takes one of its machine\'s), or "cuda:0", "cuda:1", ...')


def choose(name: str, local_rank: int = 0) -> Device | None:
    """The device of a rank, which becomes that of `kernels`; None for "cpu".

    "cuda" gives the ranks of a machine its GPUs in turn, so that several may share one.
    Raises ConfigError without CuPy, a driver or such a device.
    """
    check(name)
    kernels.device = None
    if name == "cpu":
        return None
    try:
        runtime = gpu.cupy().cuda.runtime
    except ImportError as error:
        raise ConfigError(f'device = "{name}" needs CuPy, which is not installed ({error}): {INSTALL}, or device = "cpu"') from None
    try:
        count = runtime.getDeviceCount()
    except Exception as error:  # of a class of CuPy's: no driver, no device
        raise ConfigError(f'device = "{name}": no GPU is at hand ({error}): use device = "cpu"') from None
    number = int(name.partition(":")[2] or local_rank % max(count, 1))
    if number >= count:
        raise ConfigError(f'device = "{name}": this machine has {count}, numbered from 0: use one of these, or device = "cpu"')
    gpu.cupy().cuda.Device(number).use()
    kernels.device = Device(number, runtime.getDeviceProperties(number)["name"].decode())
    return kernels.device


class Device:
    """One GPU: rows to it and back, and the functions of `kernels.gpu` for rows there, which note and do not wait.

    number, name : as CUDA has them;  round : the round of the last message
    refused_of : how many rows the array had whose refused rows `fetch` raised
    """

    def __init__(self, number: int, name: str):
        self.number, self.name = number, name
        self.round = self.refused_of = 0
        self._refused: dict[int, Any] = {}  # by the rows of an array: (rows,) int32, 1 for a row that must not be sent
        self._damaged: dict[int, Any] = {}  # and for a row of bytes that no encoder makes
        self._searches: dict[tuple[Any, ...], Any] = {}  # of top-k, by the form of a call; the one used last is the last

    def __str__(self) -> str:
        return f"cuda:{self.number} ({self.name})"

    # --- to the device and back ---

    def give(self, a: Array) -> Array:
        """A copy of an array of the CPU on the device; the CPU does not wait for the device's earlier work."""
        return gpu.cupy().asarray(a)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A new array on the device."""
        return gpu.cupy().empty(shape, dtype)

    def fetch(self, *arrays: Array) -> list[Array]:
        """Copies on the CPU, in pinned memory; the one place where the CPU waits for the device, and it does so once, also
        where nothing is copied: what lies on the device is then complete.

        Raises NonFiniteError (rows of an array of `refused_of` rows) or TransportError for what was noted up to here.
        """
        marks = self._marks()
        copies = [_to_pinned(a) for a in (*marks, *arrays)]
        gpu.cupy().cuda.get_current_stream().synchronize()
        self._look(copies[: len(marks)])
        return copies[len(marks) :]

    def bring(self, piece: int, *arrays: Array) -> list[Copy]:
        """`fetch` of bytes (rows, row_bytes) that waits for the work before them alone: they come `piece` bytes at a time."""
        marks = self._marks()
        noted, now = [_to_pinned(a) for a in marks], gpu.cupy().cuda.Event()
        now.record()
        copies = [Copy(a, piece) for a in arrays]
        now.synchronize()
        self._look(noted)
        return copies

    def _marks(self) -> list[Array]:
        """What was noted, in one array if in any."""
        marks = [*self._refused.values(), *self._damaged.values()]
        return [np.concatenate(marks)] if marks else []

    def _look(self, noted: list[Array]) -> None:
        if any(marks.any() for marks in noted):
            self._raise()

    def _raise(self) -> None:
        refused = self._refused
        self._refused, self._damaged = {}, {}
        for count, marks in refused.items():
            if (rows := np.flatnonzero(marks.get())).size:
                self.refused_of = count
                raise NonFiniteError(rows.tolist())
        raise damaged(f"round {self.round}, a scale, a code, a place or a number is out of range")

    # --- kernels ---

    words, halves = staticmethod(gpu.words), staticmethod(gpu.halves)
    total, disagreement = staticmethod(gpu.total), staticmethod(gpu.disagreement)
    pack_places, scatter = staticmethod(gpu.pack_places), staticmethod(gpu.scatter)
    sample_places, most_mixed = staticmethod(gpu.sample_places), staticmethod(gpu.most_mixed)

    def quantize_encode(self, seed: int, round: int, tag: int, ids: Array, *rest: Any) -> None:
        self._refusing(ids, gpu.quantize_encode, seed, round, tag, ids, *rest)

    def quantize_feedback(self, seed: int, round: int, tag: int, ids: Array, *rest: Any) -> None:
        self._refusing(ids, gpu.quantize_feedback, seed, round, tag, ids, *rest)

    def absolute_encode(self, seed: int, round: int, tag: int, ids: Array, *rest: Any) -> None:
        self._refusing(ids, gpu.absolute_encode, seed, round, tag, ids, *rest)

    def sign_encode(self, v: Array, *rest: Any) -> None:
        self._refusing(v, gpu.sign_encode, v, *rest)

    def top_k(
        self, v: Array, minus: Array | None, payload: Array, start: int, k: int, low: int, values: Array | None, stream: int
    ) -> None:
        form = stream, v.shape, v.dtype.char, k, minus is None
        search = self._searches.pop(form, None)
        if search is None:
            search = gpu.cupy().zeros((len(v), gpu.SEARCH), np.int64)
        self._searches[form] = search
        if len(self._searches) > SEARCHES:
            del self._searches[next(iter(self._searches))]
        self._refusing(v, gpu.top_k, v, minus, payload, start, k, low, values, search)

    def quantize_decode(self, payload: Array, *rest: Any) -> bool:
        return self._noting(gpu.quantize_decode, payload, *rest)

    def quantize_advance(self, payload: Array, *rest: Any) -> bool:
        return self._noting(gpu.quantize_advance, payload, *rest)

    def mix(
        self, blocks: Any, rows: int, u: Array | None, ptr: Array, head: Array, weights: Array | None, out: Array, *grid: Any
    ) -> bool | None:
        """As that of C: None, and nothing is done, for plain numbers, rows in several places, and too many of them."""
        (_, payload), top = blocks[0], grid[0]
        if len(payload) < rows or not top or rows > gpu.most_mixed(out.dtype):
            return None
        return self._noting(gpu.quantize_mix, payload, u, ptr, head, weights, out, *grid)

    def absolute_decode(self, payload: Array, *rest: Any) -> bool:
        return self._noting(gpu.absolute_decode, payload, *rest)

    def sign_decode(self, payload: Array, *rest: Any) -> bool:
        return self._noting(gpu.sign_decode, payload, *rest)

    def unpack_places(self, stream: Array, *rest: Any) -> bool:
        return self._noting(gpu.unpack_places, stream, *rest)

    def _refusing(self, rows: Array, encode: Callable[..., Any], *args: Any) -> None:
        encode(*args, _marks(self._refused, rows))

    def _noting(self, decode: Callable[..., Any], payload: Array, *rest: Any) -> bool:
        decode(payload, *rest, _marks(self._damaged, payload))
        return True

    def all_finite(self, v: Array, to_send: bool = False) -> bool:
        """True; rows of v (rows, d) with NaN or infinity are noted, as damaged or as rows that must not be sent."""
        marks = _marks(self._refused if to_send else self._damaged, v)
        marks |= ~np.isfinite(v).all(axis=1)
        return True


class Copy:
    """Bytes of a device that come to `memory` on the CPU, (rows, row_bytes) uint8, so that the first can be used while the rest comes."""

    def __init__(self, a: Any, piece: int):
        self.memory = _pinned(a)
        there, here = a.reshape(-1), self.memory.reshape(-1)
        self._coming = []  # (first byte, event) of each piece
        for begin in range(0, a.nbytes, piece):
            there[begin : begin + piece].get(out=here[begin : begin + piece], blocking=False)
            event = gpu.cupy().cuda.Event()
            event.record()
            self._coming.append((begin, event))

    def wait(self, nbytes: int) -> None:
        """Until the first `nbytes` are there."""
        while self._coming and self._coming[0][0] < nbytes:
            self._coming.pop(0)[1].synchronize()


def _marks(of: dict[int, Any], v: Array) -> Any:
    """The notes for arrays with as many rows as v."""
    if len(v) not in of:
        of[len(v)] = gpu.cupy().zeros(len(v), np.int32)
    return of[len(v)]


def _to_pinned(a: Any) -> Array:
    """A copy that is there when the stream is synchronized."""
    copy = _pinned(a)
    a.get(out=copy, blocking=False)
    return copy


def _pinned(a: Any) -> Array:
    """Pinned memory for an array of the device."""
    memory = gpu.cupy().cuda.alloc_pinned_memory(max(1, a.nbytes))
    return np.frombuffer(memory, np.uint8, a.nbytes).view(a.dtype).reshape(a.shape)
