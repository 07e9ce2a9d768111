"""Neighborhoods for tests and studies: one that loses messages by a given rule, one that writes down who sent what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from decentral.message import Message
from decentral.neighborhood.in_process import InProcess
from decentral.state import Array


class Lossy(InProcess):
    """Loses the payloads that a rule marks: what was lost arrives as zeros, and only there.

    lost : function of the round and the (m,) arc ids i→j, returns the (m,) mask of arcs that lose their payload

    So that one neighbor can miss what another receives, each arc has a halo row of its own here (g = m).
    """

    def __init__(self, *args: Any, lost: Callable[[int, Array], Array], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.lost = lost
        self.known = np.concatenate((self.agents, self.known[self.head]))
        self.g = self.m
        self.head = self.n + np.arange(self.m, dtype=np.int64)

    def _finish(self, pending: tuple[Message, ...]) -> list[Array]:
        received = super()._finish(pending)
        for index, message in enumerate(pending):
            mask = np.asarray(self.lost(message.round, self.arcs))[self.graph.reverse]  # at i→j: was j→i lost?
            rows = received[index]
            if message.kind == "agents":
                rows = received[index] = np.concatenate((rows, rows[self.graph.head]))
                rows[self.n :][mask] = 0
            else:
                rows[mask] = 0
        return received


class Traced(InProcess):
    """Writes a readable line for every exchange and arc into `lines`: round, arc, kinds and bytes."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.lines: list[str] = []

    def _start(self, messages: tuple[Message, ...]) -> Any:
        what = " + ".join(f"{m.kind}:{m.compressor.name}({m.row_bytes} B)" for m in messages)
        for i, j in zip(self.graph.tail, self.graph.head, strict=True):
            self.lines.append(f"round {messages[0].round}: {i}→{j} {what}")
        return super()._start(messages)
