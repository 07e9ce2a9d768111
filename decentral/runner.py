"""The loop of a run: set up, rounds, records, checkpoints, and how a run ends.

    experiment = decentral.load("config.toml")
    outcome = decentral.run(experiment)              # one process, or this rank of an MPI launcher's

Under MPI the same text runs on every rank. Graph, weights and step sizes are computed on rank 0 and sent as arrays, so
that all ranks have the same bits; rank 0 writes the run folder. An error that all ranks see is raised on all of them; a
rank that is alone in its trouble says so in one sentence, notes it in run.json and ends the others.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from decentral import compressors, kernels
from decentral.algorithms.facts import Facts
from decentral.assembly import Data, build_graph, build_mixing, describe, random_quadratic
from decentral.errors import ConfigError, DecentralError, DivergedError
from decentral.estimators import Oracle
from decentral.experiment import Experiment, QuadraticLoss
from decentral.graph import Graph, MixingMatrix
from decentral.kernels.cores import kernel_threads
from decentral.metrics import Metrics, Row, reached
from decentral.neighborhood import Meters, Neighborhood, place
from decentral.problems import Problem
from decentral.ranks import Ranks, version
from decentral.recorder import (
    DONE,
    Checkpoint,
    Recorder,
    bibtex,
    checkpoint_path,
    now,
    read_record,
    references,
    write_record,
)
from decentral.state import Array, rows

if TYPE_CHECKING:
    from decentral.device import Device

BEAT = 0.1
"""Seconds between two looks at signals."""
FLUSH = 2.0
"""Seconds between two writings of the trace, about."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What launch/mpirun.sh sets to 1, before NumPy loads its BLAS."""


# --- a run ----------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """How a run ended.

    status "finished", "target" (reached), "diverged" or "interrupted";  rounds that count;  row : last row of the trace
    x (N, d) : final iterates by agent id, on rank 0;  record : run.json;  again : it was there already, nothing ran
    """

    folder: Path
    status: str
    why: str | None = None
    rounds: int = 0
    row: Row = field(default_factory=dict)
    x: Array | None = None
    record: dict[str, Any] = field(default_factory=dict)
    again: bool = False
    signal: int = 0

    @property
    def exit_status(self) -> int:
        """0 finished or target reached, 1 diverged, 128 + signal interrupted (130 Ctrl-C, 143 SIGTERM)."""
        return {"diverged": 1, "failed": 1, "interrupted": 128 + self.signal}.get(self.status, 0)


class Watch(Protocol):
    """What a run tells while it goes; all of it on rank 0."""

    def say(self, sentence: str) -> None:
        """Something worth knowing: a download, a warning."""
        ...

    def start(self, record: dict[str, Any], first: int, rounds: int) -> None:
        """Set up, and `record` is what run.json says; round `first` comes next."""
        ...

    def progress(self, k: int, row: Row) -> None:
        """k rounds are done; `row` is the last evaluated row of the trace, empty at first."""
        ...

    def stop(self) -> None:
        """The run is over, however it ended."""
        ...


class Silent:
    """A watch that tells nothing."""

    def say(self, sentence: str) -> None:
        pass

    def start(self, record: dict[str, Any], first: int, rounds: int) -> None:
        pass

    def progress(self, k: int, row: Row) -> None:
        pass

    def stop(self) -> None:
        pass


def run(
    experiment: Experiment, *, force: bool = False, resume: bool = False, watch: Watch | None = None,
    ranks: Ranks | None = None,
) -> Outcome:  # fmt: skip
    """Run an experiment, or say that it was run. COLLECTIVE under MPI.

    force : run again although the folder holds a finished run;  resume : continue from its checkpoint
    Raises a DecentralError on every rank alike; under MPI a rank that fails by itself ends all ranks with status 1.
    """
    ranks = ranks or Ranks.start()
    failed: str | None = None
    threads = kernel_threads(experiment.transport.threads, ranks)
    with single_threaded(), threads, Interrupts() as interrupts, np.errstate(over="ignore", invalid="ignore"):
        job = Job(experiment, ranks, interrupts, watch or Silent())
        try:
            return job.run(force, resume)
        except BaseException as error:
            if isinstance(error, DivergedError):
                status, why = "diverged", str(error)
            else:
                status, why = "failed", str(error) or type(error).__name__
            if job.began:
                if ranks.size == 1:
                    return job.end_by(status, why, error)
                _note(experiment.folder, status, why)
            elif ranks.size == 1 or isinstance(error, DecentralError):
                raise
            if not isinstance(error, DecentralError):
                sys.excepthook(type(error), error, error.__traceback__)
            failed = f"decentral: rank {ranks.rank}: {why}"
    from decentral.neighborhood import mpi

    mpi.abort(failed or "decentral: failed")
    raise SystemExit(1)


class Job:
    """One run on one rank."""

    def __init__(self, experiment: Experiment, ranks: Ranks, interrupts: Interrupts, watch: Watch):
        self.experiment, self.ranks, self.interrupts, self.watch = experiment, ranks, interrupts, watch
        self.began = False  # from here on a rank may fail alone
        self.recorder: Recorder | None = None
        self.last: Row = {}
        self.k, self.seconds = 0, 0.0

    def run(self, force: bool, resume: bool) -> Outcome:
        e, ranks = self.experiment, self.ranks
        plan = ranks.share(lambda: self._plan(force, resume))
        if "done" in plan:
            return Outcome(e.folder, plan["done"], plan["why"], plan["rounds"], {}, None, plan["record"], again=True)
        graph = Graph(plan["agents"], plan["tail"], plan["head"], plan["name"])
        weights = MixingMatrix(graph, plan["weights"], plan["mixing"])
        placement = place(graph.n_agents, ranks.size, e.transport.placement, e.seed)
        checkpoint = ranks.together(lambda: Checkpoint.load(checkpoint_path(e.folder))) if plan["resume"] else None
        data = self.prepare(graph, weights, placement, checkpoint)
        f_star = self._f_star()
        hosts = ranks.hosts()

        def opened() -> dict[str, Any]:
            record = self._record(graph, weights, placement, data, f_star) | {"hosts": hosts}
            self.recorder = Recorder(e.folder, e.table(), record, checkpoint.round if checkpoint else None, e.metrics)
            return {}

        ranks.share(opened)
        self.began = True
        if self.recorder:
            self.watch.start(self.recorder.record, checkpoint.round if checkpoint else 0, e.rounds)
        self.metrics = Metrics(self.problem, self.hood, e.metrics, f_star, e.time.t_g, e.time.t_c)
        self._begin(checkpoint)
        outcome = self._loop()
        self.hood.close()
        return outcome

    def prepare(
        self, graph: Graph, weights: MixingMatrix, placement: Array, checkpoint: Checkpoint | None = None
    ) -> Data | None:
        """Neighborhood, problem, tuned algorithm and oracle of this rank; returns the data set. COLLECTIVE."""
        e, ranks = self.experiment, self.ranks
        self.hood = ranks.neighborhood(graph, weights, placement, e)
        self.device = self._device()
        if self.device is not None:
            self.hood.to_device(self.device)
        if self.hood.trouble:
            self.watch.say(f"warning: {self.hood.trouble}")
        data, self.problem = self._data(graph.n_agents)
        self._check_problem()
        self.losses = self.problem if self.device is None else self.problem.to_device(self.device)
        self._tune(graph, weights, checkpoint)
        self.oracle = ranks.together(lambda: Oracle(self.losses, self.estimator, self.hood.agents, e.seed))
        return data

    # --- set-up ---

    def _plan(self, force: bool, resume: bool) -> dict[str, Any]:
        """On rank 0: whether to run at all, and on which graph."""
        e = self.experiment
        record = read_record(e.folder)
        status = record.get("status") if record else None
        # data that could not be had then, and that a fallback stood for, may be there now
        same = record is not None and e.data.get("name") in (None, (record.get("data") or {}).get("name"))
        if record and status in DONE and same and not force:
            return {"done": status, "why": record.get("why"), "rounds": record.get("rounds_run", 0), "record": record}
        waiting = record is not None and checkpoint_path(e.folder).exists()
        if waiting and not resume and not force:
            raise ConfigError(f"{e.folder} was stopped before its end: continue with --resume, or start over with --force")
        if resume and not waiting:
            self.watch.say(f"nothing to resume in {e.folder}: starting at round 0")
        graph = build_graph(e)
        place(graph.n_agents, self.ranks.size, e.transport.placement, e.seed)
        weights = build_mixing(e, graph)
        return {
            "agents": graph.n_agents, "tail": graph.tail, "head": graph.head, "name": graph.name,
            "weights": weights.weights, "mixing": weights.name, "resume": waiting and resume,
        }  # fmt: skip

    def _data(self, agents: int) -> tuple[Data | None, Problem]:
        """The data set and the losses on it; rank 0 fetches what is missing, then the others read it."""
        e, ranks = self.experiment, self.ranks
        loss = e.problem
        if isinstance(loss, QuadraticLoss):
            return None, ranks.together(lambda: random_quadratic(loss, e.seed, self.hood.agents, e.dtype))
        mine: list[Data] = []

        def first() -> dict[str, Any]:
            mine.append(Data.load(e, agents, self.watch.say))
            return {}

        def load() -> tuple[Data, Problem]:
            data = mine[0] if mine else Data.load(e, agents, _silent)
            return data, data.problem(e, self.hood.agents)

        ranks.share(first)
        return ranks.together(load)

    def _check_problem(self) -> None:
        """Raise ConfigError where ranks would start at different points, or a metric is not to be had. COLLECTIVE."""
        from zlib import crc32

        e, p = self.experiment, self.problem
        if p.start is not None:
            digest = float(crc32(p.start.tobytes()))
            if self.hood.max(np.array([digest, -digest])).sum():
                raise ConfigError(f"{describe(e)}: ranks start at different points: let the model draw from torch alone, which is seeded")
        if "error_rate" in e.metrics and not p.classes:
            raise ConfigError(f'metric "error_rate" needs a problem with classes, softmax or torch; this is {describe(e)}')

    def _device(self) -> Device | None:
        """The GPU of this rank where the configuration asks for one. COLLECTIVE."""
        if self.experiment.device == "cpu":
            return None
        from decentral import device

        local = self.ranks.local_rank()
        return self.ranks.together(lambda: device.choose(self.experiment.device, local))

    def _tune(self, graph: Graph, weights: MixingMatrix, checkpoint: Checkpoint | None) -> None:
        """The algorithm with numbers in the place of "auto", chosen on rank 0, or as the checkpoint has them."""
        e, hood = self.experiment, self.hood
        self.algorithm, self.estimator = e.method()
        smooth, convex, single = self.problem.constants()
        high = hood.max(np.array([smooth.max(), -convex.min(), single.max()], np.float64))
        samples = hood.sum(np.array([float(self.problem.sizes.sum())]))
        self.L, self.mu = float(high[0]), float(-high[1])

        def facts_of() -> dict[str, Any]:
            l_l, l_u = graph.laplacian_extremes
            return {
                "L": self.L, "mu": self.mu, "L_max": float(high[2]), "d": self.problem.d,
                "samples": float(samples[0]) / graph.n_agents, "agents": graph.n_agents, "edges": graph.n_arcs // 2,
                "degree_max": int(graph.degree.max()), "l_l": l_l, "l_u": l_u, "lambda_2": weights.lambda_2,
                "lambda_min": weights.lambda_min, "estimator": self.estimator.name,
                "batch": int(getattr(self.estimator, "batch", 1)),
            }  # fmt: skip

        facts = Facts(**self.ranks.share(facts_of))
        chosen = checkpoint.parameters.get("compressor") if checkpoint else None
        if chosen is None and getattr(getattr(self.algorithm, "compressor", None), "name", None) == "auto":
            chosen = self._choose(facts)
        if chosen is not None:
            self.algorithm = dataclasses.replace(self.algorithm, compressor=compressors.build(chosen))

        def tune() -> dict[str, Any]:
            if (compressor := getattr(self.algorithm, "compressor", None)) is not None:
                compressor.nbytes(self.problem.d, e.dtype)  # refuses what does not fit a row, before there is a folder
            tuned = self.algorithm.tuned(facts)
            fields = {f.name: getattr(tuned, f.name) for f in dataclasses.fields(tuned) if f.init}
            plain = {k: v for k, v in fields.items() if isinstance(v, int | float | str | bool) or v is None}
            return {"parameters": plain, "warnings": list(tuned.check(facts))}

        found = self.ranks.share(tune)
        self.parameters, self.warnings = found["parameters"], found["warnings"]
        if checkpoint:
            self.parameters |= {k: v for k, v in checkpoint.parameters.items() if k != "compressor"}
        self.algorithm = dataclasses.replace(self.algorithm, **self.parameters)
        if chosen is not None:
            self.parameters["compressor"] = chosen
        if self.ranks.rank == 0:
            for warning in self.warnings:
                self.watch.say(f"warning: {warning}")

    def _choose(self, facts: Facts) -> dict[str, Any]:
        """The table of the compressor that "auto" stands for, by measurement. COLLECTIVE."""
        from decentral.compressors import auto

        method, hood = self.algorithm, self.hood
        oracle = Oracle(self.losses, self.estimator, hood.agents, self.experiment.seed)
        say = self.watch.say if self.ranks.rank == 0 else lambda sentence: None
        tables, methods, left_out = method.compressor.candidates(method, facts)
        for sentence in left_out:
            say(f"compressor auto: {sentence}")
        if len(tables) == 1:
            say("compressor auto: identity <- chosen, as nothing else is left")
            return dict(tables[0])
        most, start = self.experiment.rounds, hood.give(self.start())
        found, reason = auto.predict(tables, methods, hood, oracle, method.compressor, facts, most, start, self.problem.evaluate)
        if reason:
            say(f"compressor auto: {reason}; 8 bits are taken to need as many rounds as none")
        best = self.ranks.share(lambda: auto.choose(found).table)
        for prediction in found:
            say(f"compressor auto: {prediction}" + (" <- chosen" if prediction.table == best else ""))
        return best

    def _f_star(self) -> float | None:
        if "gap" not in self.experiment.metrics or not self.problem.convex:
            return None
        from decentral.problems.reference import optimum

        return float(optimum(self.problem, self.hood)[1])

    def _record(
        self, graph: Graph, weights: MixingMatrix, placement: Array, data: Data | None, f_star: float | None
    ) -> dict[str, Any]:
        """What run.json says before round 0."""
        e, algorithm = self.experiment, self.algorithm
        floor = getattr(algorithm, "floor", None)
        if floor is None and self.estimator.name == "sgd":
            floor = "minibatch gradients without variance reduction leave a noise floor at constant steps"
        mean = data.owner.size / graph.n_agents if data else 1.0
        known = references()
        steps = int(getattr(algorithm, "local_steps", 1))
        keys = [*getattr(algorithm, "cite", ()), *([self.estimator.name] if self.estimator.name in known else [])]
        return {
            "status": "running", "why": None, "name": e.name, "digest": e.digest,
            "algorithm": getattr(algorithm, "name", type(algorithm).__name__),
            "label": getattr(algorithm, "label", type(algorithm).__name__),
            "versions": {"decentral": version(), "python": sys.version.split()[0], "numpy": np.__version__}
            | ({"torch": sys.modules["torch"].__version__} if e.problem.name == "torch" else {}),
            "kernels": kernels.in_words(), "threads": kernels.threads,
            "executor": "mpi" if self.ranks.comm else "in-process", "ranks": self.ranks.size,
            "mpi_library": self.ranks.library(), "transport": self.hood.transport, "hosts": [],
            "placement": [np.flatnonzero(placement == r).tolist() for r in range(self.ranks.size)],
            "device": "cpu" if self.device is None else str(self.device), "git": commit(), "start": now(), "end": None, "seconds": 0.0,
            "command": command(), "graph": graph.facts(weights),
            "problem": {
                "name": e.problem.name, "d": self.problem.d, "L": _known(self.L), "mu": _known(self.mu), "f_star": f_star,
                "description": describe(e),
            },
            "data": data.facts() if data else {
                "name": "generated", "rows": graph.n_agents, "split": "one quadratic each",
                "agents": [{"agent": i, "samples": 1, "classes": {}} for i in range(graph.n_agents)],
            },
            "parameters": e.algorithm | self.parameters,
            "cost": {
                "gradients_per_round": self.estimator.cost(mean, steps, self.problem.small_coefficients),
                "exchanges_per_round": getattr(algorithm, "vectors", 1), "bytes_per_arc_per_round": None,
                "t_g": e.time.t_g, "t_c": e.time.t_c,
            },
            "exact": floor is None, "floor_reason": floor, "cite": bibtex(k for k in keys if k in known),
            "notes": list(data.dataset.notes) if data else [], "target": e.target or None, "rounds": e.rounds,
            "transport_bytes": 0, "saturated": 0, "warnings": self.warnings,
        }  # fmt: skip

    # --- state ---

    def start(self) -> Array:
        """(n, d) where the own agents start."""
        x0 = np.zeros((self.hood.n, self.problem.d), self.experiment.dtype)
        if self.experiment.x0 == "model":
            x0[...] = self.problem.start
        return x0

    def _begin(self, checkpoint: Checkpoint | None) -> None:
        """The state at round 0, or at the checkpoint."""
        hood = self.hood
        self.state = self.algorithm.init(hood.give(self.start()), hood, self.oracle)
        if checkpoint is None:
            self.metrics.take(0, hood.take(self.state.x), self.oracle.evaluations, 0.0)
            return
        restore(self.state, checkpoint, hood)
        self.k, self.seconds = checkpoint.round, checkpoint.seconds
        self.oracle.evaluations[...] = checkpoint.evaluations[hood.agents]
        c = checkpoint
        totals = (c.wire_bytes, c.ideal_bits, c.vectors, 0, c.transport_bytes, c.saturated)
        hood.put_back(Meters(*totals) if hood.rank == 0 else Meters(vectors=c.vectors))  # one rank carries the totals on

    def checkpoint(self) -> None:
        """Write the state, in global order. COLLECTIVE."""
        hood = self.hood
        totals = self._totals()
        kinds, arrays = {}, {}
        for name, kind, array in rows(self.state):
            kinds[name] = kind
            whole = hood.collect(kind, array, self.problem.sizes)
            if whole is not None:
                arrays[name] = whole
        evaluations = hood.collect("agents", self.oracle.evaluations)
        sizes = hood.collect("agents", np.asarray(self.problem.sizes, np.int64))
        if self.recorder and evaluations is not None and sizes is not None:
            facts = (self.k, self.seconds, int(totals[0]), float(totals[1]), int(totals[2]))
            rows_of = (kinds, arrays, evaluations, sizes)
            self.recorder.checkpoint(Checkpoint(*facts, self.parameters, *rows_of, int(totals[3]), hood.vectors))

    def _totals(self) -> Array:
        """(4,) wire bytes, ideal bits, bytes between processes and clipped entries, of all ranks. COLLECTIVE."""
        hood = self.hood
        return hood.sum(np.array([hood.wire_bytes, hood.ideal_bits, hood.transport_bytes(), hood.saturated], np.float64))

    # --- the loop ---

    def _loop(self) -> Outcome:
        e, clock = self.experiment, time.perf_counter
        every, saves, rounds = e.record.every, e.record.checkpoint, e.rounds
        beat, beat_from = self.k + 1, (self.k, self.seconds)
        ended = self._flush() if self.metrics.full else None
        if ended:
            return ended
        flushed = since = clock()
        while self.k < rounds:
            self.state = self.algorithm.round(self.state, self.k, self.hood, self.oracle)
            self.k += 1
            k = self.k
            recorded = k % every == 0 or k == rounds
            saving = bool(saves) and k % saves == 0 and k < rounds
            if not (recorded or saving or k >= beat):
                continue
            x = self.hood.take(self.state.x) if recorded else None  # the rounds of a device are over when it is here
            self.seconds += clock() - since
            if x is not None:
                self.metrics.take(k, x, self.oracle.evaluations, self.seconds)
            due = stop = False
            if k >= beat:
                pace = (self.seconds - beat_from[1]) / (k - beat_from[0])
                found = self.hood.max(np.array([self.interrupts.signal, pace, float(clock() - flushed > FLUSH)]))
                stop, due = int(found[0]) > 0, found[2] > 0
                beat, beat_from = k + int(np.clip(BEAT / max(found[1], 1e-9), 1, 10_000)), (k, self.seconds)
                if self.ranks.rank == 0:
                    self.watch.progress(k, self.last)
            if self.metrics.full or due or saving or stop or k == rounds:
                ended = self._flush()
                flushed = clock()
                if ended:
                    return ended
            if stop or saving:
                self.checkpoint()
            if stop:
                number = int(found[0])
                why = f"stopped by {signal.Signals(number).name} after round {k}"
                return self._end("interrupted", why, None, k, number)
            since = clock()
        return self._flush() or self._end("finished", None, self._collect(self.state.x), self.k)

    def _flush(self) -> Outcome | None:
        """Evaluate and write the waiting rows; the outcome where one of them ends the run. COLLECTIVE."""
        found = self.metrics.flush()
        for i, row in enumerate(found):
            if not all(np.isfinite(v) for v in row.values()):
                self._write(found[:i])
                why = f"round {row['round']}: the iterates are no longer finite: the method diverged; try a smaller step_size"
                return self._end("diverged", why, None, int(row["round"]))
            if reached(row, self.experiment.target):
                self._write(found[: i + 1])
                x = self.metrics.snapshot(i).astype(self.experiment.dtype)
                return self._end("target", None, self._collect(x), int(row["round"]))
        self._write(found)
        return None

    def _write(self, found: list[Row]) -> None:
        self.last = found[-1] if found else self.last
        if self.recorder:
            self.recorder.rows(found)

    def _collect(self, x: Array) -> Array | None:
        return self.hood.collect("agents", x)

    def _end(self, status: str, why: str | None, x: Array | None, rounds: int, number: int = 0) -> Outcome:
        """Write the outcome. COLLECTIVE."""
        totals = self._totals()
        record: dict[str, Any] = {}
        if self.recorder:
            if status != "interrupted":
                checkpoint_path(self.experiment.folder).unlink(missing_ok=True)
            record = self.recorder.record
            cost = record["cost"]
            arcs = self.hood.graph.n_arcs
            if self.k and arcs:
                each = {"exchanges_per_round": self.hood.vectors, "bytes_per_arc_per_round": float(totals[0]) / arcs}
                cost = {**cost, **{name: spent / self.k for name, spent in each.items()}}
            remarks = _clipped(int(totals[3])) + self.hood.remarks
            for sentence in remarks:
                self.watch.say(f"warning: {sentence}")
            self.recorder.finish(
                status, why, x, rounds_run=rounds, seconds=self.last.get("seconds", self.seconds), cost=cost,
                transport_bytes=int(totals[2]), saturated=int(totals[3]), warnings=self.warnings + remarks,
            )  # fmt: skip
        return Outcome(self.experiment.folder, status, why, rounds, self.last, x, record, signal=number)

    def end_by(self, status: str, why: str, error: BaseException) -> Outcome:
        """In one process, after an error in a round: keep what was recorded; a divergence is an outcome, the rest raises."""
        if status == "diverged":
            return self._flush() or self._end(status, why, None, self.k)
        if self.recorder:
            self.recorder.close()
        _note(self.experiment.folder, status, why)
        raise error


def _known(constant: float) -> float | None:
    """None for NaN, which JSON has not."""
    return None if np.isnan(constant) else constant


def _clipped(entries: int) -> list[str]:
    """The sentence for a run whose quantizer clipped entries."""
    if not entries:
        return []
    return [
        f"{entries} entries of messages were beyond the range of the quantizer and were clipped: if the error stopped "
        "shrinking, the scale decays too fast; give a scale_decay nearer to 1, a larger scale, or more bits"
    ]


def restore(state: Any, checkpoint: Checkpoint, hood: Neighborhood) -> None:
    """Put a checkpoint's rows into a state of this layout; halo rows come from their owners' rows."""
    ends = np.cumsum(checkpoint.sizes)
    starts = ends - checkpoint.sizes
    own_samples = [np.arange(starts[i], ends[i]) for i in hood.agents]
    index = {
        "agents": hood.agents,
        "known": hood.known,
        "arcs": hood.arcs,
        "samples": np.concatenate([*own_samples, np.empty(0, np.int64)]).astype(np.int64),
    }
    for name, kind in checkpoint.kinds.items():
        *path, last = name.split(".")
        owner = state
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, hood.give(np.ascontiguousarray(checkpoint.arrays[name][index[kind]])))


# --- the surroundings of a run ---------------------------------------------------------------------------------------


class Interrupts:
    """SIGINT and SIGTERM become a number that the loop reads; a second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread: whoever owns it handles signals
            pass
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def __exit__(self, *exc: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)


@contextmanager
def single_threaded() -> Iterator[None]:
    """One BLAS thread: the same bits in every layout, and no oversubscription between ranks."""
    if all(os.environ.get(name) == "1" for name in THREADS):
        yield
        return
    from threadpoolctl import threadpool_limits  # 6 ms a rank

    with threadpool_limits(1, user_api="blas"):
        yield


def _note(folder: Path, status: str, why: str) -> None:
    """The last word of a run that cannot end in order."""
    record = read_record(folder)
    if record:
        record |= {"status": status, "why": why, "end": now()}
        with suppress(OSError):  # the sentence on stderr remains
            write_record(folder, record)


def _silent(sentence: str) -> None:
    pass


def constants(problem: dict[str, Any]) -> str:
    """The problem of a run.json in a line: description, d, and L and mu where they are known."""
    known = "".join(f", {name} = {problem[name]:.3g}" for name in ("L", "mu") if problem[name] is not None)
    return f"{problem['description']}; d = {problem['d']}{known}"


def command() -> str:
    """What started this process, to be pasted into a shell."""
    start = Path(sys.argv[0])
    if not start.name:  # somebody types in Python
        return ""
    ours = start.name == "decentral" or start == Path(__file__).with_name("__main__.py")
    return shlex.join(["decentral", *sys.argv[1:]] if ours else sys.argv)


def commit() -> str | None:
    """The git commit of the installation, where it lies in a repository; read from its files, as git takes 10 ms to start."""
    git = Path(__file__).resolve().parent.parent / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="ascii").strip()
        name = head.removeprefix("ref: ")
        if name != head and (git / name).exists():
            head = (git / name).read_text(encoding="ascii").strip()
        elif name != head:
            packed = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
            head = next((line.split()[0] for line in packed if line.endswith(f" {name}")), "")
    except (OSError, UnicodeDecodeError):  # no repository, or a linked one
        return None
    return head[:12] or None
