"""Neighborhoods for tests and studies: one loses messages by a given rule, one writes down who sent what, one is slow."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from decentral.message import Message
from decentral.neighborhood.base import HEADER, Form
from decentral.neighborhood.in_process import InProcess
from decentral.random import Key, Purpose
from decentral.state import Array


class Lossy(InProcess):
    """Loses the payloads that a rule marks: what was lost arrives as C(0), and only there.

    lost : function of the round and the (m,) arc ids i→j, returns the (m,) mask of arcs that lose their payload

    So that one neighbor can miss what another receives, each arc has a halo row of its own here (g = m).
    """

    def __init__(self, *args: Any, lost: Callable[[int, Array], Array], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.lost = lost
        self.known = np.concatenate((self.agents, self.known[self.head]))
        self.g = self.m
        self.head = self.n + np.arange(self.m, dtype=np.int64)

    def _finish(self, pending: tuple[Message, ...]) -> list[Message]:
        received = super()._finish(pending)
        for index, message in enumerate(pending):
            mask = np.asarray(self.lost(message.round, self.arcs))[self.graph.reverse]  # at i→j: was j→i lost?
            rows = received[index].payload
            if message.kind == "agents":
                rows = np.concatenate((rows, rows[self.graph.head]))
                received[index] = message.received(rows)
                rows = rows[self.n :]
            zeros, key = np.zeros((1, message.d), message.dtype), Key(0, Purpose.TEST, 0, np.zeros(1, np.int64))
            rows[mask] = message.compressor.encode(zeros, key)
        return received


class Traced(InProcess):
    """Writes a readable line for every exchange and arc into `lines`: round, arc, kinds and bytes."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.lines: list[str] = []

    def _start(self, messages: tuple[Message, ...], form: Form) -> Any:
        what = " + ".join(f"{m.kind}:{m.compressor.name}({m.row_bytes} B)" for m in messages)
        for i, j in zip(self.graph.tail, self.graph.head, strict=True):
            self.lines.append(f"round {messages[0].round}: {i}→{j} {what}")
        return super()._start(messages, form)


class Emulated(InProcess):
    """A network of a given speed: an exchange ends when its messages would have arrived.

    latency : seconds of a message;  bandwidth : bytes a second from an agent, one message after the other; None: no limit
    """

    def __init__(self, *args: Any, latency: float = 0.0, bandwidth: float | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.latency, self.bandwidth = latency, bandwidth

    def _start(self, messages: tuple[Message, ...], form: Form) -> Any:
        most = float(self.degree.max())
        sent = most * (HEADER + sum(m.row_bytes for m in messages))
        wait = most * self.latency + (sent / self.bandwidth if self.bandwidth else 0.0)
        return time.perf_counter() + wait, super()._start(messages, form)

    def _finish(self, pending: Any) -> list[Message]:
        arrival, started = pending
        while (left := arrival - time.perf_counter()) > 0:
            if left > 2e-4:  # sleep is no finer
                time.sleep(left - 1e-4)
        return super()._finish(started)
