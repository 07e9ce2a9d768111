"""What is sent: packed rows, and how to read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decentral.state import Array

if TYPE_CHECKING:
    from decentral.compressors import Compressor


class Message:
    """Compressed rows of one variable in one round; both ends use what `decode` gives.

    kind : "agents", one row for all neighbors of an agent, or "arcs", one row for the agent at the head
    payload : (rows, row_bytes) uint8, the bytes that travel
    d, dtype : width and type of the decoded rows
    """

    __slots__ = ("_decoded", "compressor", "d", "dtype", "kind", "payload", "round")

    def __init__(self, kind: str, payload: Array, compressor: Compressor, d: int, dtype: Any, round: int = 0):
        self.kind, self.payload, self.compressor = kind, payload, compressor
        self.d, self.dtype, self.round = d, dtype, round
        self._decoded: Array | None = None

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
