"""The whole network in one process: messages are decoded where they were encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from decentral.message import Deferred, Message
from decentral.neighborhood.base import Form, Neighborhood
from decentral.state import Array

if TYPE_CHECKING:
    from decentral.compressors import Compressor
    from decentral.device import Device
    from decentral.graph import Graph, MixingMatrix

LARGE = 1 << 16
"""Bytes of rows, all together, from which a difference is encoded when it is sent: for less a pass is not worth the wait."""
LONG = 1 << 24
"""And from which it is not worth an array û of them, if a later pass needs no û."""


class InProcess(Neighborhood):
    """All agents of a graph as the rows of one block. Same bits as any distribution over ranks."""

    def __init__(self, graph: Graph, mixing: MixingMatrix, seed: int = 0, dtype: Any = np.float64):
        super().__init__(graph, mixing, np.arange(graph.n_agents), seed, dtype)
        self._reverse = graph.reverse

    def to_device(self, device: Device) -> None:
        super().to_device(device)
        self._reverse = device.give(self._reverse)

    def _defers(self, compressor: Compressor, v: Array, minus: Array | None) -> bool:
        return minus is not None and (self.device is not None or v.nbytes >= LARGE)  # a kernel may encode and advance in one pass

    def _mixes(self, message: Message, step: float) -> bool:
        return step != 1 and self.n * message.d * message.dtype.itemsize >= LONG

    def _start(self, messages: tuple[Message, ...], form: Form) -> Any:
        for message in messages:
            message.make()  # before what it is made of moves
        return messages

    def _finish(self, pending: tuple[Message, ...]) -> list[Message]:
        return [self._received(m) for m in pending]

    def _received(self, message: Message) -> Message:
        if message.kind == "arcs":
            return message.received(np.take(message.payload, self._reverse, axis=0))
        return message if isinstance(message, Deferred) else message.received(message.payload)

    def sum(self, values: Array) -> Array:
        return values

    def max(self, values: Array) -> Array:
        return values

    def collect(self, kind: str, rows: Array, sizes: Array | None = None) -> Array:
        return self.take(rows)
