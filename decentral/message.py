"""What is sent: packed rows, and how to read them."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from decentral.state import Array

if TYPE_CHECKING:
    from decentral.compressors import Compressor


class Message:
    """Compressed rows of one variable in one round; both ends use what `decode` gives.

    kind : "agents", one row for all neighbors of an agent, or "arcs", one row for the agent at the head
    payload : (rows, row_bytes) uint8, the bytes that travel; who `lent` the memory may ask for it back, see `keep`
    d, dtype : width and type of the decoded rows
    """

    __slots__ = ("__weakref__", "_decoded", "compressor", "d", "dtype", "kind", "lent", "payload", "round")

    def __init__(self, kind: str, payload: Array, compressor: Compressor, d: int, dtype: Any, round: int = 0):
        self.kind, self.payload, self.compressor = kind, payload, compressor
        self.d, self.dtype, self.round = d, dtype, round
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
    def form(self) -> tuple[Any, ...]:
        """What makes the bytes of one message be laid out as those of another; valid while its compressor lives."""
        return self.kind, id(self.compressor), self.d, self.dtype

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
            self.keep()  # what comes back may be a view
            self._decoded = self.compressor.decode(self.payload, self.d, self.dtype)
        return self._decoded

    def advance(self, u: Array, step: float = 1.0) -> Array:
        """Error feedback: returns û = u + q, with q what `decode` gives, and moves the reference u ← u + step q in place.

        u : (rows, d);  with step = 1 the result is u itself
        """
        return self.compressor.advance(self.payload, u, step)

    def received(self, payload: Array) -> Message:
        """The message that came back: the rows of others, in the same form."""
        return Message(self.kind, payload, self.compressor, self.d, self.dtype, self.round)


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


class Scattered(Message):
    """A message that came back with its rows in several places, on the CPU.

    blocks : (row, payload of the rows from there on), all rows once
    """

    __slots__ = ("blocks",)

    def __init__(self, of: Message, blocks: list[tuple[int, Array]]):
        super().__init__(of.kind, blocks[0][1], of.compressor, of.d, of.dtype, of.round)
        self.blocks = blocks

    def decode(self) -> Array:
        out = np.empty((sum(len(payload) for _, payload in self.blocks), self.d), self.dtype)
        for row, payload in self.blocks:
            self.compressor.decode_into(payload, out[row : row + len(payload)])
        return out

    def advance(self, u: Array, step: float = 1.0) -> Array:
        estimate = u if step == 1 else np.empty_like(u)
        for row, payload in self.blocks:
            rows = slice(row, row + len(payload))
            found = self.compressor.advance(payload, u[rows], step)
            if step != 1:
                estimate[rows] = found
        return estimate
