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

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from operator import attrgetter, methodcaller
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from decentral import kernels
from decentral.errors import ConfigError, NonFiniteError, TransportError
from decentral.message import Deferred, Message, Place
from decentral.random import Key, Purpose
from decentral.state import Agents, Arcs, Array, Known, blend

if TYPE_CHECKING:
    from decentral.compressors import Compressor
    from decentral.compressors.base import Part
    from decentral.device import Device
    from decentral.graph import Graph, MixingMatrix

Then = Callable[[Known], Agents]
form_of, _decoded = attrgetter("form"), methodcaller("decode")
HEADER = 16
"""Bytes that frame one message between two neighbors in one exchange; counted in `wire_bytes`."""
STREAMS = 16
"""Variables of a method whose draws are kept apart."""
MOST_MESSAGES = 2 * STREAMS
"""Messages that one exchange takes."""
FEW = 256
"""Bytes of a column of all known rows up to which `mix` serves them on a CPU, where a tile of columns must stay in the cache."""
PIECE = 1 << 20
"""Bytes of a long row, about, that are encoded, sent and decoded at a time."""


class Meters(NamedTuple):
    """What the own agents have sent: see the attributes of `Neighborhood`."""

    wire_bytes: int = 0
    ideal_bits: float = 0.0
    vectors: int = 0
    begun: int = 0
    sent: int = 0
    clipped: Any = 0


class Form:
    """What is known of exchanges whose messages have the same kinds, compressors, widths, types and streams.

    count : exchanges so far;  wire_bytes, ideal_bits : of one, by the own agents;  sent : bytes of one to other processes
    vectors : messages of one;  compressors : kept, so that their ids, and the form, stay theirs
    under_way : one was begun and not finished;  exchange : what the transport has made for it
    swap : (messages, count) to the messages that came, or None where they are late: the same in one call, where the transport can
    """

    __slots__ = ("compressors", "count", "exchange", "ideal_bits", "sent", "swap", "under_way", "vectors", "wire_bytes")

    def __init__(self, messages: tuple[Message, ...], arcs: int):
        self.count, self.sent, self.vectors = 0, 0, len(messages)
        # a row per arc, also where neighbors get the same one
        self.wire_bytes = arcs * (HEADER + sum(m.row_bytes for m in messages))
        self.ideal_bits = arcs * sum(m.ideal_bits for m in messages)
        self.compressors = [m.compressor for m in messages]
        self.under_way, self.exchange, self.swap = False, None, None  # type: bool, Any, Any


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
        device  where the rows lie, and with them tail, head, ptr, degree and weights; None: all on the CPU
        wire_bytes  bytes sent by the own agents so far, one framed message per arc and exchange
        ideal_bits  the same as the papers count them
        remarks     what the user should know of the transport when the run is over, sentences
        vectors     rows that an agent exchanged with each neighbor so far, the same on all processes
        begun       exchanges so far
        saturated   entries of own messages that a compressor clipped so far; who reads it waits for a device that counts
    """

    rank = 0
    ranks = 1
    transport = "none"
    """How messages move, in words."""
    trouble = ""
    """What is wrong with the transport, a sentence with the remedy; empty where nothing is."""

    def __init__(self, graph: Graph, mixing: MixingMatrix, own: Array, seed: int = 0, dtype: Any = np.float64):
        own = np.sort(np.asarray(own, dtype=np.int64))
        counts = graph.ptr[own + 1] - graph.ptr[own]
        self.graph, self.seed, self.dtype = graph, seed, np.dtype(dtype)
        self.agents = own
        self.n = len(own)
        self.ptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        self.m = int(self.ptr[-1])
        self.arcs = np.arange(self.m, dtype=np.int64) + np.repeat(graph.ptr[own] - self.ptr[:-1], counts)
        self.tail = np.repeat(np.arange(self.n, dtype=np.int64), counts)
        heads = graph.head[self.arcs]
        halo = np.zeros(graph.n_agents, bool)
        halo[heads], halo[own] = True, False
        self.known = np.concatenate((own, np.flatnonzero(halo)))
        self.g = len(self.known) - self.n
        order = np.argsort(self.known)
        self.head = order[np.searchsorted(self.known, heads, sorter=order)]
        self.degree = counts.astype(self.dtype)[:, None]
        self.weights = np.ascontiguousarray(mixing.weights[self.arcs], dtype=self.dtype)
        self.mixing = mixing
        self.device: Device | None = None
        self._empty: Callable[..., Array] = np.empty
        self._agent_ids, self._arc_ids = self.agents, self.arcs  # for keys
        self._before = Meters()  # what was counted and not by the forms
        self._clipped: Any = 0  # on a device once it counts
        self.remarks: list[str] = []
        self._forms: dict[tuple[Any, ...], Form] = {}
        self._compressors: dict[Compressor, Compressor] = {}  # of those that are equal, the first

    # --- where rows lie ----------------------------------------------------------------------------------------

    def to_device(self, device: Device) -> None:
        """From now on rows lie on a device."""
        self.device, self._empty = device, device.empty
        self.tail, self.head, self.ptr = device.give(self.tail), device.give(self.head), device.give(self.ptr)
        self.degree, self.weights = device.give(self.degree), device.give(self.weights)
        self._agent_ids, self._arc_ids = device.give(self.agents), device.give(self.arcs)

    def give(self, rows: Array) -> Array:
        """Rows of the CPU where the verbs want them."""
        return rows if self.device is None else self.device.give(rows)

    def take(self, rows: Array) -> Array:
        """Rows on the CPU; the same array where they lie there. Waits for a device, and raises what it has noted so far."""
        if self.device is None or isinstance(rows, np.ndarray):
            return rows
        return self._fetch(rows)[0]

    def _fetch(self, *arrays: Array) -> list[Array]:
        """Arrays of the device on the CPU. Raises NonFiniteError, TransportError: see `Device.fetch`."""
        assert self.device is not None
        with self._naming():
            return self.device.fetch(*arrays)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Says which agents' rows a device refused."""
        assert self.device is not None
        try:
            yield
        except NonFiniteError as error:
            # n rows are agents, m are arcs; where these are as many, arc a leaves agent a
            kind = "agents" if self.device.refused_of == self.n else "arcs"
            raise self._diverged(kind, error, self.device.round) from None

    # --- local verbs -------------------------------------------------------------------------------------------

    def own(self, x: Known) -> Agents:
        """(n, d) view of the own rows of known rows."""
        return x[: self.n]

    def zeros_known(self, x: Agents) -> Known:
        """Known rows of zeros, as wide as x."""
        return np.zeros_like(x, order="C", shape=(self.n + self.g, x.shape[1]))

    def zeros_arcs(self, x: Agents) -> Arcs:
        """Arc rows of zeros, as wide as x."""
        return np.zeros_like(x, order="C", shape=(self.m, x.shape[1]))

    def spread(self, x: Agents) -> Arcs:
        """(m, d): x_i on each arc i→j."""
        return np.take(x, self.tail, axis=0)

    def heads(self, x: Known) -> Arcs:
        """(m, d): x_j on each arc i→j."""
        return np.take(x, self.head, axis=0)

    def blend(self, a: float, y: Arcs, b: float, w: Arcs, c: float, x: Known, out: Arcs) -> Arcs:
        """(m, d): a y_ij + b w_ij + c x_j on each arc i→j, into `out`, which may be y or w; in one pass."""
        return blend(a, y, b, w, c, x, self.head, out=out)

    def total(self, z: Arcs) -> Agents:
        """(n, d): Σ_j z_ij, summed in arc order (the same bits whatever the layout)."""
        out = self._empty((self.n, z.shape[1]), z.dtype)
        on = kernels.c if self.device is None else self.device
        if on is not None:
            on.total(z if z.flags.c_contiguous else z.copy(), self.ptr, out)
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
        out = self._empty((self.n, x.shape[1]), x.dtype)
        on = kernels.c if self.device is None else self.device
        if on is not None:
            on.disagreement(x if x.flags.c_contiguous else x.copy(), self.ptr, self.head, weights, out)
            return out
        out[...] = 0
        for agents, arcs in self._slots:
            term = x[: self.n][agents] - x[self.head[arcs]]
            out[agents] += term if weights is None else weights[arcs][:, None] * term
        return out

    @cached_property
    def _slots(self) -> list[tuple[Any, Any]]:
        """The r-th arc of every agent that has one, for r = 0, 1, …: a sum over them is a sum in arc order."""
        plan: list[tuple[Any, Any]] = []
        counts = np.diff(self.ptr)
        for slot in range(int(counts.max(initial=0))):
            agents = np.flatnonzero(counts > slot)
            plan.append((agents if len(agents) < self.n else slice(None), self.ptr[agents] + slot))
        return plan

    # --- messages ----------------------------------------------------------------------------------------------

    def to_neighbors(self, compressor: Compressor, v: Agents, k: int, stream: int = 0, minus: Known | None = None) -> Message:
        """One compressed row per own agent, the same for all its neighbors (-> N_i : C(v_i)).

        Leave v and `minus` as they are until it is sent: rows of 64 KiB and more, all together, may be encoded only then, and
        on the CPU NumPy refuses to write to them.
        stream : 0 to 15, which of the variables of a method it is: each has draws of its own
        minus : known rows u of a reference; what is sent is then the difference, C(v_i − u_i)
        """
        return self._encode("agents", compressor, v, k, stream, Purpose.AGENT_MESSAGE, self._agent_ids, minus)

    def along_arcs(
        self, compressor: Compressor, v: Arcs, k: int, stream: int = 0, minus: Arcs | None = None, step: float | None = None
    ) -> Message:
        """One compressed row per own arc, for the neighbor at its head alone (-> j : C(v_ij), or C(v_ij − u_ij)); see `to_neighbors`.

        step : the reference `minus` moves too, by what is sent: u ← u + step q, before the exchange ends; the `estimate` of the
            message is then û = u + q, (m, d). Nothing else in the exchange may be made of u.
        """
        message = self._encode("arcs", compressor, v, k, stream, Purpose.ARC_MESSAGE, self._arc_ids, minus)
        if step is not None and minus is not None and not (isinstance(message, Deferred) and message.feed(minus, step)):
            message.estimate = message.advance(minus, step)
        return message

    def _encode(
        self, kind: str, compressor: Compressor, v: Array, k: int, stream: int, purpose: int, ids: Array, minus: Array | None
    ) -> Message:
        u = minus if minus is None or kind == "arcs" else self.own(minus)
        if not 0 <= stream < STREAMS:
            raise ConfigError(f"stream = {stream}: give a whole number from 0 to {STREAMS - 1}")
        key = Key(self.seed, purpose + 16 * stream, k, ids)
        if self.device is not None:
            self.device.round = k
        if not compressor.relative:
            self._clipped = self._clipped + compressor.saturated(v if u is None else v - u)
        place = self._place(kind, compressor, v, stream)
        if self._defers(compressor, v, minus):
            size = compressor.nbytes(v.shape[1], v.dtype)
            payload = self._empty((len(v), size), np.uint8) if place is None else place.rows

            def named(first: int, work: Callable[..., Any], *args: Any) -> Any:
                try:
                    return work(*args)
                except NonFiniteError as error:
                    raise self._diverged(kind, NonFiniteError([first + r for r in error.rows]), k, v, u) from None

            def some(first: int, last: int) -> tuple[Any, ...]:
                rows = slice(first, last)
                return v[rows], u if u is None else u[rows], Key(key.seed, key.purpose, k, ids[rows]), payload[rows]

            def encode(first: int, last: int, part: Part | None) -> None:
                x, minus, key, to = some(first, last)
                named(first, compressor.encode_into, x, key, to, minus, part)

            def feedback(first: int, last: int, part: Part | None, step: float, estimate: Array) -> bool:
                x, minus, key, to = some(first, last)
                return bool(named(first, compressor.feedback, x, minus, key, to, step, estimate, part))

            parts = compressor.cut(v.shape[1], v.dtype, PIECE) if self.device is None else []
            message: Message = Deferred(
                kind, payload, compressor, v.shape[1], v.dtype, k, stream, encode, parts, minus, feedback, v
            )
        else:
            try:
                if place is not None:
                    compressor.encode_into(v, key, payload := place.rows, u)
                else:
                    payload = compressor.encode(v, key) if u is None else compressor.encode_difference(v, u, key)
            except NonFiniteError as error:
                raise self._diverged(kind, error, k, v, u) from None
            message = Message(kind, payload, compressor, v.shape[1], v.dtype, k, stream)
        if place is not None:
            place.lend(message)
        return message

    def _place(self, kind: str, compressor: Compressor, v: Array, stream: int) -> Place | None:
        """Memory from which the message of v can be sent without a copy; None where there is none."""
        return None

    def _defers(self, compressor: Compressor, v: Array, minus: Array | None) -> bool:
        """Is v encoded when it is sent, so that what is encoded travels while the rest is, or the reference advances in the same pass?"""
        return False

    def _diverged(
        self, kind: str, error: NonFiniteError, k: int, v: Array | None = None, u: Array | None = None
    ) -> NonFiniteError:
        """Who would send what: C(v), or C(v − u)."""
        agents = self.agents[error.rows] if kind == "agents" else np.unique(self.graph.tail[self.arcs[error.rows]])
        who = ", ".join(str(int(i)) for i in agents[:5])
        count = ""
        if isinstance(v, np.ndarray):
            with np.errstate(invalid="ignore"):
                rows = v[error.rows] if u is None else v[error.rows] - u[error.rows]
            count = f" ({np.count_nonzero(~np.isfinite(rows)):,} of {rows.size:,})"
        sentence = f"round {k}: agent {who} would send NaN or infinite entries{count}: the method diverged; try a smaller step_size"
        return type(error)(error.rows, sentence)

    def exchange(
        self, *messages: Message, onto: Array | tuple[Array, ...] | None = None, step: float = 1.0, then: Then | None = None
    ) -> Any:
        """Send messages to the neighbors and return theirs, decoded; one message moves per neighboring rank.

        An agent message returns known rows (own rows included, as decoded); an arc message returns arc rows, z_ji in
        the place of i→j. One array for one message, else a tuple in the order of the messages; not to be written to.

        onto : a reference u for each message, known or arc rows. Then û = u + q comes back in place of q, and the
        reference moves, u ← u + step q; with step = 1 both are one array. See `Message.advance`.
        then : `disagreement` or `laplacian`: of the known rows that would come back, its sums (n, d) come back, in new arrays; where
        a kernel serves the compressor, in the same pass in which they are decoded, and without an array of them
        After an error (NaN in a row to be sent, say) a neighborhood is of no use any more.
        COLLECTIVE between neighboring ranks.
        """
        if (received := self._swap(messages)) is not None:
            return self._results(received, onto, step, then)
        if onto is not None:
            self._feed(messages, onto if isinstance(onto, tuple) else (onto,), step, then)
        return self.finish(self._begin(messages), onto, step, then)

    def _swap(self, messages: tuple[Message, ...]) -> list[Message] | None:
        """What comes for small messages, where the transport has a shorter way; None: nothing was done."""
        return None

    def _feed(self, messages: tuple[Message, ...], references: tuple[Array, ...], step: float, then: Then | None) -> None:
        """Own rows of a reference whose difference is still to be encoded advance in that pass, where nothing else is made of them."""
        for message, u in zip(messages, references, strict=True):
            if message.kind != "agents" or not isinstance(message, Deferred):
                continue
            most = FEW // message.dtype.itemsize if self.device is None else self.device.most_mixed(message.dtype)
            if then is not None and self.n + self.g <= most and self._mixes(message, step):
                continue
            others = [a for other in messages if other is not message and isinstance(other, Deferred) for a in other.made_of]
            others += [a for other, a in zip(messages, references, strict=True) if other is not message]
            if not any(a is not None and np.may_share_memory(u, a) for a in others):
                message.feed(u, step)

    def _mixes(self, message: Message, step: float) -> bool:
        """Do own rows better advance in the pass that sums what came, where a kernel does that?"""
        return True

    def start(self, *messages: Message) -> Any:
        """Begin an exchange; hand the result to `finish`. Work may be done in between.

        Raises TransportError where one of the same form (kinds, compressors, widths, streams) was begun and not finished.
        """
        started = self._begin(messages)
        for message in messages:
            message.make()  # what is sent may change from here on
        return started

    def _begin(self, messages: tuple[Message, ...]) -> Any:
        form = self._forms.get(tuple(map(form_of, messages))) or self._form(messages)
        if form.under_way:
            what = " and ".join(f"{m.kind} rows, d = {m.d}, {m.compressor}" for m in messages)
            raise TransportError(f"an exchange of {what} was started while one like it was not finished")
        form.under_way = True
        form.count += 1
        return form, self._start(messages, form)

    def _form(self, messages: tuple[Message, ...]) -> Form:
        """Of an exchange whose form is new, or whose compressors only equal those of one that is known."""
        if len(messages) > MOST_MESSAGES:
            raise TransportError(f"{len(messages)} messages in one exchange: at most {MOST_MESSAGES} go together")
        for message in messages:
            with suppress(TypeError):  # a compressor without a hash is equal to itself alone
                message.use(self._compressors.setdefault(message.compressor, message.compressor))
        key = tuple(map(form_of, messages))
        if key not in self._forms:
            self._forms[key] = Form(messages, self.m)
        return self._forms[key]

    def finish(
        self, started: Any, onto: Array | tuple[Array, ...] | None = None, step: float = 1.0, then: Then | None = None
    ) -> Any:
        """Complete an exchange that `start` began; see `exchange`."""
        form, pending = started
        try:
            found = self._results(self._finish(pending), onto, step, then)
            self._end(pending)
        except BaseException:
            self._failed()
            raise
        form.under_way = False
        return found

    def _results(self, received: list[Message], onto: Array | tuple[Array, ...] | None, step: float, then: Then | None) -> Any:
        """What `finish` returns of the messages that came."""
        if onto is None and then is None:
            found = tuple(map(_decoded, received))
        else:
            references = (None,) * len(received) if onto is None else onto if isinstance(onto, tuple) else (onto,)
            found = tuple([self._read(m, u, step, then) for m, u in zip(received, references, strict=True)])
        return found[0] if len(found) == 1 else found

    def _read(self, message: Message, u: Array | None, step: float, then: Then | None) -> Array:
        """The same of one of them."""
        if then in (self.disagreement, self.laplacian) and message.kind == "agents":
            sums = self.ptr, self.head, self.weights if then == self.disagreement else None
            if (found := message.mix(u, step, sums)) is not None:
                return found
        rows = message.decode() if u is None else message.advance(u, step)
        return rows if then is None else then(rows)

    def _start(self, messages: tuple[Message, ...], form: Form) -> Any:
        """Send messages of this form."""
        raise NotImplementedError

    def _finish(self, pending: Any) -> list[Message]:
        """The messages that came, with known rows for an agent message, arc rows for an arc message."""
        raise NotImplementedError

    def _end(self, pending: Any) -> None:
        """What came has been decoded."""

    def _failed(self) -> None:
        """An exchange ended with an error."""

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
        return self.meters().sent

    @property
    def wire_bytes(self) -> int:
        return self.meters().wire_bytes

    @property
    def ideal_bits(self) -> float:
        return self.meters().ideal_bits

    @property
    def vectors(self) -> int:
        return self.meters().vectors

    @property
    def begun(self) -> int:
        return self.meters().begun

    @property
    def saturated(self) -> int:
        return self._clipped if isinstance(self._clipped, int) else int(self.take(self._clipped))

    def meters(self) -> Meters:
        """What was counted so far; `put_back` makes as if nothing had been sent since."""
        wire_bytes, ideal_bits, vectors, begun, sent, _ = self._before
        for form in self._forms.values():
            wire_bytes += form.count * form.wire_bytes
            ideal_bits += form.count * form.ideal_bits
            vectors += form.count * form.vectors
            begun += form.count
            sent += form.count * form.sent
        return Meters(wire_bytes, ideal_bits, vectors, begun, sent, self._clipped)

    def put_back(self, meters: Meters) -> None:
        """Set the meters to what `meters` returned, or to others."""
        now = self.meters()
        self._before = Meters(*(b + to - at for b, to, at in zip(self._before[:-1], meters, now, strict=False)))
        self._clipped = meters.clipped

    def forget(self, compressor: Compressor) -> None:
        """Release what was made for the messages of a compressor that will send no more."""
        counted = self.meters()
        self._forms = {key: form for key, form in self._forms.items() if compressor not in form.compressors}
        self.put_back(counted)
        self._compressors = {c: c for c in self._compressors if c != compressor}

    def close(self) -> None:
        """Release what the transport holds. COLLECTIVE."""
