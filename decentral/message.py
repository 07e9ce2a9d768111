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
    estimate : û = u + q, of a message that was made with a `step`; see `Neighborhood.along_arcs`
    """

    __slots__ = (
        *("__weakref__", "_decoded", "compressor", "d", "dtype", "estimate", "form", "kind"),
        *("lent", "payload", "round", "stream"),
    )
    estimate: Array
    fed: bool = False
    """Have its own rows of a reference, or will they, advanced when it has been sent? See `Deferred.feed`."""

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

    def spend(self) -> Array | None:
        """û, with the own rows alone, where it is fed, and it no longer is; else None."""
        return None

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
    minus : the reference of which the difference is sent, (rows and perhaps more, d)
    feedback(first, last, part, step, estimate) : encodes as `encode` does and advances these rows of `minus` in one pass, with
        û to `estimate`; or returns False and does nothing
    of : what is encoded; on the CPU it and `minus` cannot be written to until they have been
    """

    __slots__ = ("_encode", "_estimate", "_feedback", "_held", "_memory", "_part", "_row", "_step", "made_of", "parts")

    def __init__(
        self, kind: str, payload: Array, compressor: Compressor, d: int, dtype: Any, round: int, stream: int,
        encode: Callable[[int, int, Part | None], None], parts: list[Part], minus: Array | None = None,
        feedback: Callable[[int, int, Part | None, float, Array], bool] = lambda *args: False, of: Array | None = None,
    ):  # fmt: skip
        self._encode, self.parts, self._feedback = encode, parts, feedback
        self.made_of = of, minus
        self._row = self._part = 0  # what comes next
        self._step: float | None = None  # of `feed`
        self._estimate: Array | None = None
        self._held = [*_hold(of), *_hold(minus)]
        super().__init__(kind, payload, compressor, d, dtype, round, stream)

    def __del__(self) -> None:
        self._release()

    def _release(self) -> None:
        """What is encoded may be written to again."""
        held, self._held = self._held, []
        if held:
            _let_go(held)

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
        if row is None and self._row == self._part == 0:
            self._work(0, len(self._memory), None)
            self._row = len(self._memory)
        if row is None:
            row, part = len(self._memory) - 1, len(self.parts) - 1
        while self.parts and (self._row, self._part) <= (row, part):
            self._work(self._row, self._row + 1, self.parts[self._part])
            self._part += 1
            if self._part == len(self.parts):
                self._row, self._part = self._row + 1, 0
        if self._row <= row and not self.parts:
            self._work(self._row, row + 1, None)
            self._row = row + 1
        if self._row == len(self._memory):
            self._release()
        return self._memory

    def _work(self, first: int, last: int, part: Part | None) -> None:
        """Encode, and advance the reference where it is to."""
        if self._step is None:
            self._encode(first, last, part)
            return
        self._release()
        u, out, rows = self.made_of[1], self._estimate, slice(first, last)
        assert u is not None and out is not None
        if not self._feedback(first, last, part, self._step, out[rows]):
            self._encode(first, last, part)
            self.compressor.advance_into(self._memory[rows], u[rows], self._step, out[rows], part)

    def feed(self, u: Array, step: float) -> bool:
        """From now on u advances as the message is encoded, where a kernel does both in one pass: `advance` for its rows alone.

        False, and nothing is changed, where u is not the reference of which the difference is sent, or something is encoded already.
        """
        if self._step is not None or not self._row == self._part == 0 or not _same(u, self.made_of[1]):
            return False
        self._step, self._estimate = step, u if step == 1 else np.empty_like(u)
        return True

    @property
    def estimate(self) -> Array:  # type: ignore[override]
        assert self._estimate is not None
        self.make()
        return self._estimate

    @property
    def fed(self) -> bool:  # type: ignore[override]
        return self._step is not None and self.kind == "agents"

    def spend(self) -> Array | None:
        estimate = self.estimate if self.fed else None
        self._step = None
        return estimate

    def advance(self, u: Array, step: float = 1.0) -> Array:
        self.feed(u, step)
        if self._step != step or not _same(u, self.made_of[1]):
            return super().advance(u, step)
        estimate, self._step = self.estimate, None
        return estimate

    def mix(self, u: Array | None, step: float, sums: Sums) -> Array | None:
        return None if self.fed else super().mix(u, step, sums)

    def received(self, payload: Array) -> Message:
        own = len(self._memory)
        return Scattered(self, len(payload), [(own, payload[own:], None)]) if self.fed else super().received(payload)


_holds: dict[int, list[Any]] = {}
"""Arrays of which messages are to be encoded, by their ids: [array, how many messages]. NumPy refuses to write to them."""


def _hold(a: Array | None) -> list[Array]:
    """From now on NumPy refuses to write to `a`, and to what it is a view of if that is held: what is to be let go."""
    if not isinstance(a, np.ndarray):
        return []
    if a.flags.writeable:
        _holds[id(a)] = [a, 0]
        a.flags.writeable = False
    held = [_holds[id(b)] for b in (a, a.base) if id(b) in _holds]
    for hold in held:
        hold[1] += 1
    return [hold[0] for hold in held]


def _let_go(arrays: list[Array]) -> None:
    """What no other message holds may be written to again: before its views, which else could not be."""
    for a in arrays:
        _holds[id(a)][1] -= 1
    for key, (a, messages) in sorted(_holds.items(), key=lambda item: item[1][0].base is not None):
        if not messages:
            with suppress(ValueError):  # a view of what another message holds
                a.flags.writeable = True
                del _holds[key]


def _lock(rows: Array) -> None:
    """What was decoded may be a view of the payload, and is what others see: on the CPU NumPy refuses to write to it."""
    if isinstance(rows, np.ndarray):
        rows.flags.writeable = False


def _same(a: Array, b: Array | None) -> bool:
    """Is b the array a, or on the CPU another view of the same entries?"""
    if a is b or not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return a is b
    return (a.ctypes.data, a.shape, a.strides, a.dtype) == (b.ctypes.data, b.shape, b.strides, b.dtype)


class Scattered(Message):
    """A message that came back with its rows in several places, and perhaps one after the other.

    rows : how many;  blocks : (row, payload of the rows from there on, part of them or None), all of all rows once
    here : all of it is here, in whole rows
    ready : where what was sent was fed, û with the own rows; the blocks are the others
    """

    __slots__ = ("blocks", "here", "ready", "rows")

    def __init__(self, of: Message, rows: int, blocks: Iterable[tuple[int, Array, Part | None]], here: bool = False):
        super().__init__(of.kind, np.empty((0, of.row_bytes), np.uint8), of.compressor, of.d, of.dtype, of.round, of.stream)
        self.rows, self.blocks, self.here, self.ready = rows, blocks, here, of.spend()

    def decode(self) -> Array:
        if self._decoded is None:
            self._decoded = np.empty((self.rows, self.d), self.dtype)
            for row, payload, part in self.blocks:
                self.compressor.decode_into(payload, self._decoded[row : row + len(payload)], part)
            _lock(self._decoded)
        return self._decoded

    def advance(self, u: Array, step: float = 1.0) -> Array:
        estimate = self.ready if self.ready is not None else u if step == 1 else np.empty_like(u)
        for row, payload, part in self.blocks:
            rows = slice(row, row + len(payload))
            self.compressor.advance_into(payload, u[rows], step, estimate[rows], part)
        return estimate

    def mix(self, u: Array | None, step: float, sums: Sums) -> Array | None:
        if not self.here or self.ready is not None:
            return None
        self.blocks = list(self.blocks)
        blocks = tuple([(row, payload) for row, payload, _ in self.blocks])
        return self.compressor.mix(blocks, self.d, self.dtype, u, step, sums)
