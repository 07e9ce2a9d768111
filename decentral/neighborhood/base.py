"""The neighborhood of a block of agents: the verbs by which every algorithm is written.

    agents (rows)             arcs (rows), sorted by (tail, head)
    x: (n, d)                 z: (m, d)                z[a] is z_ij  where arc a = i→j and i is mine
      x_0                       z_01   z_02
      x_1        spread →       z_10   z_13            spread(x)[i→j]    = x_i     copy to my arcs
      …          ← total        z_20   …               total(z)[i]       = Σ_j z_ij over my neighbors
                                                       exchange(z)[i→j]  = z_ji    what j sent me, in its place
                                                       heads(x)[i→j]     = x_j     a known row, seen on each arc

A process *knows* n + g rows: its own n agents and the g halo agents elsewhere that it hears (g = 0 in process). An
exchanged agent message comes back as known rows, own rows first, so a replica of what neighbors hold is an array of
known rows, and the disagreement Σ_j w_ij (x_i − x_j) is a function of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from decentral import kernels
from decentral.errors import NonFiniteError
from decentral.message import Message
from decentral.random import Key, Purpose
from decentral.state import Agents, Arcs, Array, Known

if TYPE_CHECKING:
    from decentral.compressors import Compressor
    from decentral.graph import Graph, MixingMatrix

HEADER = 16
"""Bytes that frame one message between two neighbors in one exchange; counted in `wire_bytes`."""


class Neighborhood:
    """The block of agents `own` of a graph, and its verbs; subclasses move the messages.

    Attributes
        agents  (n,)  global ids of the own agents
        known   (n + g,)  global ids of the known rows
        arcs    (m,)  global ids of the arcs that leave the own agents
        tail, head (m,)  row of an arc's tail among the own, of its head among the known rows
        ptr     (n + 1,)  arcs of own row r are ptr[r] : ptr[r + 1]
        degree  (n, 1)  number of neighbors
        weights (m,)  mixing weights w_ij
        wire_bytes  bytes sent by the own agents so far, one framed message per arc and exchange
        ideal_bits  the same as the papers count them
    """

    rank = 0
    ranks = 1

    def __init__(self, graph: Graph, mixing: MixingMatrix, own: Array, seed: int = 0, dtype: Any = np.float64):
        own = np.unique(np.asarray(own, dtype=np.int64))
        counts = graph.ptr[own + 1] - graph.ptr[own]
        self.graph, self.seed, self.dtype = graph, seed, np.dtype(dtype)
        self.agents = own
        self.n = len(own)
        self.ptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        self.m = int(self.ptr[-1])
        self.arcs = np.arange(self.m, dtype=np.int64) + np.repeat(graph.ptr[own] - self.ptr[:-1], counts)
        self.tail = np.repeat(np.arange(self.n, dtype=np.int64), counts)
        heads = graph.head[self.arcs]
        self.known = np.concatenate((own, np.setdiff1d(heads, own)))
        self.g = len(self.known) - self.n
        order = np.argsort(self.known)
        self.head = order[np.searchsorted(self.known, heads, sorter=order)]
        self.degree = counts.astype(self.dtype)[:, None]
        self.weights = np.ascontiguousarray(mixing.weights[self.arcs], dtype=self.dtype)
        self.mixing = mixing
        self._slots = self._plan_slots(counts)
        self.wire_bytes = 0
        self.ideal_bits = 0.0

    # --- local verbs -------------------------------------------------------------------------------------------

    def own(self, x: Known) -> Agents:
        """(n, d) view of the own rows of known rows."""
        return x[: self.n]

    def zeros_known(self, x: Agents) -> Known:
        """Known rows of zeros, as wide as x."""
        return np.zeros((self.n + self.g, x.shape[1]), x.dtype)

    def zeros_arcs(self, x: Agents) -> Arcs:
        """Arc rows of zeros, as wide as x."""
        return np.zeros((self.m, x.shape[1]), x.dtype)

    def spread(self, x: Agents) -> Arcs:
        """(m, d): x_i on each arc i→j."""
        return np.take(x, self.tail, axis=0)

    def heads(self, x: Known) -> Arcs:
        """(m, d): x_j on each arc i→j."""
        return np.take(x, self.head, axis=0)

    def total(self, z: Arcs) -> Agents:
        """(n, d): Σ_j z_ij, summed in arc order (the same bits whatever the layout)."""
        out = np.empty((self.n, z.shape[1]), z.dtype)
        if kernels.c is not None:
            kernels.c.total(np.ascontiguousarray(z), self.ptr, out)
            return out
        out[...] = 0
        for slot, (agents, arcs) in enumerate(self._slots):
            if slot == 0:
                out[agents] = z[arcs]
            else:
                out[agents] += z[arcs]
        return out

    def disagreement(self, x: Known) -> Agents:
        """(n, d): Σ_j w_ij (x_i − x_j) with the mixing weights, in difference form and arc order; (I − W) x."""
        return self._differences(x, self.weights)

    def laplacian(self, x: Known) -> Agents:
        """(n, d): Σ_j (x_i − x_j); Lap x."""
        return self._differences(x, None)

    def _differences(self, x: Known, weights: Array | None) -> Agents:
        out = np.zeros((self.n, x.shape[1]), x.dtype)
        if kernels.c is not None:
            kernels.c.disagreement(np.ascontiguousarray(x), self.ptr, self.head, weights, out)
            return out
        for agents, arcs in self._slots:
            term = x[: self.n][agents] - x[self.head[arcs]]
            out[agents] += term if weights is None else weights[arcs][:, None] * term
        return out

    def _plan_slots(self, counts: Array) -> list[tuple[Any, Any]]:
        """The r-th arc of every agent that has one, for r = 0, 1, …: a sum over them is a sum in arc order."""
        plan: list[tuple[Any, Any]] = []
        for slot in range(int(counts.max(initial=0))):
            agents = np.flatnonzero(counts > slot)
            plan.append((agents if len(agents) < self.n else slice(None), self.ptr[agents] + slot))
        return plan

    # --- messages ----------------------------------------------------------------------------------------------

    def to_neighbors(self, compressor: Compressor, v: Agents, k: int, stream: int = 0) -> Message:
        """One compressed row per own agent, the same for all its neighbors (-> N_i : q)."""
        return self._encode("agents", compressor, v, k, stream, Purpose.AGENT_MESSAGE, self.agents)

    def along_arcs(self, compressor: Compressor, v: Arcs, k: int, stream: int = 0) -> Message:
        """One compressed row per own arc, for the neighbor at its head alone (-> j : q)."""
        return self._encode("arcs", compressor, v, k, stream, Purpose.ARC_MESSAGE, self.arcs)

    def _encode(self, kind: str, compressor: Compressor, v: Array, k: int, stream: int, purpose: int, ids: Array) -> Message:
        try:
            payload = compressor.encode(v, Key(self.seed, purpose + 16 * stream, k, ids))
        except NonFiniteError as error:
            rows = error.rows if kind == "agents" else np.unique(self.tail[error.rows])
            agents = ", ".join(str(int(i)) for i in self.agents[rows][:5])
            sentence = f"round {k}: agent {agents} would send NaN or infinite entries: the method diverged; try a smaller step_size"
            raise type(error)(error.rows, sentence) from None
        return Message(kind, payload, compressor, v.shape[1], v.dtype, k)

    def exchange(self, *messages: Message) -> Any:
        """Send messages to the neighbors and return theirs, decoded; one message moves per neighboring rank.

        An agent message returns known rows (own rows included, as decoded); an arc message returns arc rows, z_ji in
        the place of i→j. One array for one message, else a tuple in the order of the messages.
        COLLECTIVE between neighboring ranks.
        """
        return self.finish(self.start(*messages))

    def start(self, *messages: Message) -> Any:
        """Begin an exchange; hand the result to `finish`. Work may be done in between."""
        self.wire_bytes += HEADER * self.m
        for message in messages:
            self.wire_bytes += self.m * message.row_bytes  # a row per arc, also where neighbors get the same one
            self.ideal_bits += self.m * message.ideal_bits
        return self._start(messages)

    def finish(self, pending: Any) -> Any:
        """Complete an exchange that `start` began; see `exchange`."""
        received = self._finish(pending)
        return received[0] if len(received) == 1 else tuple(received)

    def _start(self, messages: tuple[Message, ...]) -> Any:
        raise NotImplementedError

    def _finish(self, pending: Any) -> list[Array]:
        raise NotImplementedError

    # --- above the line: uncounted, never fed back to an algorithm ------------------------------------------------

    def sum(self, values: Array) -> Array:
        """Σ over processes. COLLECTIVE over all ranks; for metrics and set-up alone, not counted."""
        raise NotImplementedError

    def max(self, values: Array) -> Array:
        """Maximum over processes. COLLECTIVE; for metrics and set-up alone."""
        raise NotImplementedError

    def collect(self, kind: str, rows: Array, sizes: Array | None = None) -> Array | None:
        """All rows in global order on rank 0 (None elsewhere): the layout-free form of an array. COLLECTIVE.

        kind is "agents", "known" (halo rows are dropped: their owners have them), "arcs" or "samples" (with `sizes`
        (n,), the samples of each own agent).
        """
        raise NotImplementedError

    def transport_bytes(self) -> int:
        """Bytes that this process really sent to other processes."""
        return 0

    def close(self) -> None:
        """Release what the transport holds. COLLECTIVE."""
