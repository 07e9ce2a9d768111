"""What is sent: packed rows, and how to read them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from decentral.state import Array

if TYPE_CHECKING:
    from decentral.compressors import Compressor
    from decentral.compressors.base import Part, Sums


class Message:
    """Compressed rows of one variable in one round; both ends use what `decode` gives.

    kind : "agents", one row for all neighbors of an agent, or "arcs", one row for the agent at the head
    payload : (rows, row_bytes) uint8, the bytes that travel; who `lent` the memory may ask for it back, see `keep`
    d, dtype : width and type of the decoded rows
    round, stream : when it was made, and which of the variables it is of
    form : what makes the bytes of one message be laid out as those of another; valid while its compressor lives
    """

    __slots__ = ("__weakref__", "_decoded", "compressor", "d", "dtype", "form", "kind", "lent", "payload", "round", "stream")

    def __init__(
        self, kind: str, payload: Array, compressor: Compressor, d: int, dtype: Any, round: int = 0, stream: int = 0
    ):
        self.kind, self.payload, self.compressor = kind, payload, compressor
        self.d, self.dtype, self.round, self.stream = d, dtype, round, stream
        self.form: tuple[Any, ...] = kind, id(compressor), d, dtype, stream
        self._decoded: Array | None = None
        self.lent = False

    def keep(self) -> None:
        """From now on the payload is in memory of its own."""
        if self.lent:
            self.payload, self.lent = self.payload.copy(), False

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on the wire."""
        return int(self.payload.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return int(self.payload.nbytes)

    @property
    def ideal_bits(self) -> float:
        """Bits of one row as papers count them."""
        return self.compressor.ideal_bits(self.d, self.dtype)

    def decode(self) -> Array:
        """(rows, d) what every receiver reads; the same array at each call, not to be written to."""
        if self._decoded is None:
            if self.lent:
                self.keep()  # what comes back may be a view
            self._decoded = self.compressor.decode(self.payload, self.d, self.dtype)
            _lock(self._decoded)
        return self._decoded

    def advance(self, u: Array, step: float = 1.0) -> Array:
        """Error feedback: returns û = u + q, with q what `decode` gives, and moves the reference u ← u + step q in place.

        u : (rows, d);  with step = 1 the result is u itself
        """
        return self.compressor.advance(self.payload, u, step)

    def mix(self, u: Array | None, step: float, sums: Sums) -> Array | None:
        """The disagreement of received rows, made as they are decoded, where a kernel does that; see `Compressor.mix`."""
        return self.compressor.mix(((0, self.payload),), self.d, self.dtype, u, step, sums)

    def reuse(self, sent: Message) -> None:
        """What comes next to the same memory belongs to another message that was sent."""
        self.round, self._decoded = sent.round, None

    def use(self, compressor: Compressor) -> None:
        """Its compressor is now this one, which is equal."""
        self.compressor = compressor
        self.form = self.kind, id(compressor), self.d, self.dtype, self.stream

    def make(self, row: int | None = None, part: int = 0) -> Array:
        """The payload, in which this row, or its part of that number, and all before it are ready; without a row, all."""
        return self.payload

    def received(self, payload: Array) -> Message:
        """The message that came back: the rows of others, in the same form."""
        return Message(self.kind, payload, self.compressor, self.d, self.dtype, self.round, self.stream)


class Place:
    """Memory that is lent to the payload of one message after the other: rows (rows, row_bytes) uint8."""

    def __init__(self, rows: Array):
        self.rows = rows
        self._holder: weakref.ref[Message] | None = None

    def lend(self, message: Message) -> None:
        """The payload of this message is now these rows."""
        self._holder, message.lent = weakref.ref(message), True

    def clear(self) -> None:
        """The rows will be written: whoever has them as a payload keeps a copy."""
        message = self._holder() if self._holder is not None else None
        if message is not None:
            message.keep()
        self._holder = None


class Deferred(Message):
    """A message that is encoded when it is sent or looked at, so that what is encoded first can be on its way meanwhile.

    payload : memory for it;  encode(first, last, part) : writes rows first..last − 1 there, or a part of row `first`
    parts : of every row, in their order; none where rows are encoded at once
    minus : the reference of which the difference is sent;  feedback(step) : encodes all and advances it in one pass, or
        returns None and does nothing
    of : what is encoded; on the CPU it and `minus` cannot be written to until they have been
    """

    __slots__ = ("_encode", "_feedback", "_held", "_memory", "_minus", "_part", "_row", "parts")

    def __init__(
        self, kind: str, payload: Array, compressor: Compressor, d: int, dtype: Any, round: int, stream: int,
        encode: Callable[[int, int, Part | None], None], parts: list[Part],
        minus: Array | None = None, feedback: Callable[[float], Array | None] = lambda step: None, of: Array | None = None,
    ):  # fmt: skip
        self._encode, self.parts, self._minus, self._feedback = encode, parts, minus, feedback
        self._row = self._part = 0  # what comes next
        self._held = [a for a in (of, minus) if isinstance(a, np.ndarray) and a.flags.writeable]
        for array in self._held:
            array.flags.writeable = False
        super().__init__(kind, payload, compressor, d, dtype, round, stream)

    def __del__(self) -> None:
        self._release()

    def _release(self) -> None:
        """What is encoded may be written to again."""
        while self._held:
            with suppress(ValueError):  # a view, and what it shows is still held by another message
                self._held.pop().flags.writeable = True

    @property
    def payload(self) -> Array:  # type: ignore[override]
        return self.make()

    @payload.setter
    def payload(self, memory: Array) -> None:
        self._memory = memory

    @property
    def row_bytes(self) -> int:
        return int(self._memory.shape[1])

    def make(self, row: int | None = None, part: int = 0) -> Array:
        if row is None:
            row, part = len(self._memory) - 1, len(self.parts) - 1
        while self.parts and (self._row, self._part) <= (row, part):
            self._encode(self._row, self._row + 1, self.parts[self._part])
            self._part += 1
            if self._part == len(self.parts):
                self._row, self._part = self._row + 1, 0
        if self._row <= row and not self.parts:
            self._encode(self._row, row + 1, None)
            self._row = row + 1
        if self._row == len(self._memory):
            self._release()
        return self._memory

    def mix(self, u: Array | None, step: float, sums: Sums) -> Array | None:
        return None  # to encode and advance in one pass saves more

    def advance(self, u: Array, step: float = 1.0) -> Array:
        self._release()
        if self._row == self._part == 0 and _same(u, self._minus) and (estimate := self._feedback(step)) is not None:
            self._row = len(self._memory)
            return u if step == 1 else estimate
        return super().advance(u, step)


def _lock(rows: Array) -> None:
    """What was decoded may be a view of the payload, and is what others see: on the CPU NumPy refuses to write to it."""
    if isinstance(rows, np.ndarray):
        rows.flags.writeable = False


def _same(a: Array, b: Array | None) -> bool:
    """Is b the array a, or on the CPU another view of the same entries?"""
    return a is b or (isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.__array_interface__ == b.__array_interface__)


class Scattered(Message):
    """A message that came back with its rows in several places, on the CPU, and perhaps one after the other.

    rows : how many;  blocks : (row, payload of the rows from there on, part of them or None), all of all rows once
    here : all of it is here, in whole rows
    """

    __slots__ = ("blocks", "here", "rows")

    def __init__(self, of: Message, rows: int, blocks: Iterable[tuple[int, Array, Part | None]], here: bool = False):
        super().__init__(of.kind, np.empty((0, of.row_bytes), np.uint8), of.compressor, of.d, of.dtype, of.round, of.stream)
        self.rows, self.blocks, self.here = rows, blocks, here

    def decode(self) -> Array:
        out = np.empty((self.rows, self.d), self.dtype)
        for row, payload, part in self.blocks:
            self.compressor.decode_into(payload, out[row : row + len(payload)], part)
        _lock(out)
        return out

    def advance(self, u: Array, step: float = 1.0) -> Array:
        estimate = u if step == 1 else np.empty_like(u)
        for row, payload, part in self.blocks:
            rows = slice(row, row + len(payload))
            self.compressor.advance_into(payload, u[rows], step, estimate[rows], part)
        return estimate

    def mix(self, u: Array | None, step: float, sums: Sums) -> Array | None:
        if not self.here:
            return None
        self.blocks = list(self.blocks)
        blocks = tuple([(row, payload) for row, payload, _ in self.blocks])
        return self.compressor.mix(blocks, self.d, self.dtype, u, step, sums)
