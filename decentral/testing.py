"""Does a method keep the contract? For people who write their own.

    from decentral.testing import check_algorithm
    check_algorithm("my_method.py:MyMethod")         # a class, an instance, or a name; ContractError lists what is broken

The same text must give the same bits on any layout of agents over processes; `Block` and `on_blocks` run it on several
blocks in threads of one process, so that this can be tested without MPI.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from decentral.assembly import random_quadratic
from decentral.errors import DecentralError, DivergedError
from decentral.estimators import Full, Oracle
from decentral.experiment import QuadraticLoss
from decentral.graph import Graph, MixingMatrix, mixing
from decentral.message import Message
from decentral.neighborhood import InProcess, Neighborhood
from decentral.neighborhood.base import Form
from decentral.problems import Problem
from decentral.random import Key, Purpose
from decentral.recorder import Checkpoint
from decentral.runner import restore
from decentral.state import Array, rows

if TYPE_CHECKING:
    from decentral.algorithms.facts import Facts

T = TypeVar("T")
KINDS = ("agents", "known", "arcs", "samples")


class ContractError(AssertionError):
    """The rules that a method breaks, a sentence each, in `broken`."""

    def __init__(self, name: str, broken: Sequence[str]):
        self.broken = list(broken)
        super().__init__(f"{name} breaks {len(self.broken)} rule(s):\n" + "\n".join(f"  - {text}" for text in broken))


# --- several blocks in one process ------------------------------------------------------------------------------------


class Board:
    """Where the blocks of one process leave what the others read."""

    def __init__(self, blocks: int):
        self.barrier = threading.Barrier(blocks, timeout=60)
        self.posts: list[Any] = [None] * blocks

    def exchange(self, rank: int, post: Any) -> list[Any]:
        """The posts of all blocks, in their order. COLLECTIVE."""
        self.posts[rank] = post
        self.barrier.wait()
        found = list(self.posts)
        self.barrier.wait()
        return found


class Block(Neighborhood):
    """The agents of one block; messages go through a `Board`."""

    def __init__(self, graph: Graph, weights: MixingMatrix, placement: Array, rank: int, board: Board, seed: int, dtype: Any):
        super().__init__(graph, weights, np.flatnonzero(placement == rank), seed, dtype)
        self.rank, self.ranks, self.board = rank, int(placement.max()) + 1, board

    def _defers(self, compressor: Any, v: Array, minus: Array | None) -> bool:
        return True  # so that it shows when a method changes what it is about to send

    def _start(self, messages: tuple[Message, ...], form: Form) -> Any:
        return messages, [m.payload for m in messages]

    def _finish(self, pending: Any) -> list[Message]:
        messages, payloads = pending
        posts = self.board.exchange(self.rank, (self.agents, self.arcs, payloads))
        received = []
        for index, message in enumerate(messages):
            agents = message.kind == "agents"
            whole = np.zeros((self.graph.n_agents if agents else self.graph.n_arcs, message.row_bytes), np.uint8)
            for own, arcs, payloads in posts:
                whole[own if agents else arcs] = payloads[index]
            wanted = self.known if agents else self.graph.reverse[self.arcs]
            received.append(message.received(whole[wanted]))
        return received

    def sum(self, values: Array) -> Array:
        return np.sum(self.board.exchange(self.rank, values), axis=0)

    def max(self, values: Array) -> Array:
        return np.max(self.board.exchange(self.rank, values), axis=0)

    def collect(self, kind: str, rows: Array, sizes: Array | None = None) -> Array | None:
        ids = self.arcs if kind == "arcs" else self.agents
        if kind == "samples":
            ids = np.repeat(self.agents, np.asarray(sizes))
        posts = self.board.exchange(self.rank, (ids, self.own(rows) if kind == "known" else rows))
        if self.rank:
            return None
        order = np.argsort(np.concatenate([post[0] for post in posts]), kind="stable")
        return np.concatenate([post[1] for post in posts])[order]


def on_blocks(
    work: Callable[[Neighborhood], T], graph: Graph, placement: Sequence[int] | Array, *, seed: int = 0,
    dtype: Any = np.float64, weights: MixingMatrix | None = None,
) -> list[T]:  # fmt: skip
    """`work(hood)` on every block of a placement, each in a thread; the results in the order of the blocks."""
    where = np.asarray(placement)
    blocks = int(where.max()) + 1
    weights = weights or mixing(graph)
    board = Board(blocks)
    hoods = [Block(graph, weights, where, rank, board, seed, dtype) for rank in range(blocks)]
    results: list[Any] = [None] * blocks
    failures: list[BaseException] = []

    def one(rank: int) -> None:
        try:
            results[rank] = work(hoods[rank])
        except BaseException as error:
            if not isinstance(error, threading.BrokenBarrierError):
                failures.append(error)
            board.barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(blocks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


# --- a small job --------------------------------------------------------------------------------------------------------


class Case:
    """Six agents on a small irregular graph, a random quadratic each: every answer is known, and a run takes no time."""

    def __init__(self, dtype: str = "float64", d: int = 4, seed: int = 3, order: Sequence[int] = range(6)):
        edges = np.array([(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 5), (0, 2), (2, 5)])
        place = np.argsort(order)  # agent i of the unpermuted case is agent place[i]
        u, v = place[edges].T
        self.graph = Graph(6, np.concatenate((u, v)), np.concatenate((v, u)), "six")
        self.weights = mixing(self.graph)
        self.seed, self.dtype, self.order = seed, dtype, np.asarray(order)
        self.table = QuadraticLoss(d=d, L=1.0, mu=0.25)
        self.x0 = np.asarray(Key(seed, Purpose.TEST, 0, self.order).uniform(d), dtype)

    def problem(self, own: Array) -> Problem:
        return random_quadratic(self.table, self.seed, self.order[own], self.dtype)

    def facts(self) -> Facts:
        from decentral.algorithms.facts import Facts

        smooth, convex, single = self.problem(np.arange(6)).constants()
        l_l, l_u = self.graph.laplacian_extremes
        return Facts(
            L=float(smooth.max()), mu=float(convex.min()), L_max=float(single.max()), d=self.table.d, samples=1.0, agents=6,
            edges=self.graph.n_arcs // 2, degree_max=int(self.graph.degree.max()), l_l=l_l, l_u=l_u,
            lambda_2=self.weights.lambda_2, lambda_min=self.weights.lambda_min,
        )  # fmt: skip

    def start(self, algorithm: Any, hood: Neighborhood) -> tuple[Oracle, Any]:
        """The oracle, and the state at x0."""
        oracle = Oracle(self.problem(hood.agents), Full(), hood.agents, self.seed)
        return oracle, algorithm.init(self.x0[hood.agents].copy(), hood, oracle)

    def run(self, algorithm: Any, hood: Neighborhood, count: int) -> Any:
        """The state after `count` rounds."""
        oracle, state = self.start(algorithm, hood)
        for k in range(count):
            state = algorithm.round(state, k, hood, oracle)
        return state

    def alone(self) -> InProcess:
        return InProcess(self.graph, self.weights, self.seed, self.dtype)

    def grad_norm_sq(self, x: Array) -> float:
        total = self.problem(np.arange(6)).evaluate(x.mean(axis=0, keepdims=True).astype(np.float64))[1] / 6
        return float((total**2).sum())


def check_algorithm(algorithm: Any, *, rounds: int = 12, converges_in: int = 400, **parameters: Any) -> None:
    """Raise ContractError unless the method keeps the contract of `decentral.algorithms.base`.

    algorithm : a class, an instance, a registered name, "package.module:Class" or "file.py:Class"
    rounds : of the checks for equal bits;  converges_in : rounds after which ‖∇F(x̄)‖² must be a tenth of that at x0
    parameters : of the class, e.g. step_size=0.1; a compressor may be given as its table
    """
    method = _method(algorithm, parameters)
    name = getattr(method, "name", type(method).__name__)
    broken = [text for name_of in ("tuned", "init", "round") if not callable(getattr(method, name_of, None)) for text in
              [f"it has no method {name_of}"]]  # fmt: skip
    if not dataclasses.is_dataclass(method):
        broken.append("it is no dataclass: its fields are its configuration")
    for attribute in ("name", "label", "vectors", "floor", "cite"):
        if not hasattr(method, attribute):
            broken.append(f"it has no class attribute {attribute}")
    if not broken:
        case = Case()
        method = method.tuned(case.facts())
        for rule in (_state, _same_again, _layouts, _resumes, _names, _single_precision, _progress):
            try:
                broken += rule(method, case, converges_in if rule is _progress else rounds)
            except (DecentralError, ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                hint = ": does it change what it is sending?" if "read-only" in str(error) else ""  # see `Deferred`
                broken.append(f"{(rule.__doc__ or '').strip()} It raised {type(error).__name__}: {error}{hint}")
    if broken:
        raise ContractError(str(name), broken)


def _method(algorithm: Any, parameters: dict[str, Any]) -> Any:
    from decentral import algorithms

    if isinstance(algorithm, str):
        return algorithms.build({"name": algorithm, **parameters})
    if isinstance(parameters.get("compressor"), dict):
        from decentral.compressors import build

        parameters["compressor"] = build(parameters["compressor"])
    if isinstance(algorithm, type):
        return algorithm(**parameters)
    return dataclasses.replace(algorithm, **parameters) if parameters else algorithm


def _arrays(state: Any) -> dict[str, Array]:
    return {name: array for name, _, array in rows(state)}


def _differing(a: Any, b: Any) -> list[str]:
    one, other = _arrays(a), _arrays(b)
    return sorted(name for name in one.keys() | other.keys() if name not in one or name not in other
                  or not np.array_equal(one[name], other[name]))  # fmt: skip


def _state(method: Any, case: Case, count: int) -> list[str]:
    """The state is a dataclass whose arrays say what their rows are."""
    hood = case.alone()
    oracle, state = case.start(method, hood)
    if not dataclasses.is_dataclass(state):
        return ["the state is no dataclass"]
    if not hasattr(state, "x") or state.x.shape != case.x0.shape:
        return ["state.x is not the (n, d) iterate"]
    for k in range(count):
        state = method.round(state, k, hood, oracle)
    broken = []
    sizes = {"agents": hood.n, "known": hood.n + hood.g, "arcs": hood.m, "samples": hood.n}
    for name, kind, array in rows(state):
        if kind not in KINDS:
            broken.append(f'state.{name} has rows of kind "{kind}"; known: {", ".join(KINDS)}')
        elif len(array) != sizes[kind]:
            broken.append(f"state.{name} is declared {kind}, {sizes[kind]} rows here, and has {len(array)}")
        if not np.isfinite(array).all():
            broken.append(f"state.{name} holds NaN or infinity after {count} rounds")
    if hood.wire_bytes <= 0:
        broken.append("no byte was sent: neighbors must be reached through the neighborhood")
    if not oracle.evaluations.all():
        broken.append("no gradient was counted: gradients must come from the oracle")
    other = Case(seed=case.seed)
    other.x0 = case.x0 + 1
    moved = other.run(method, other.alone(), 1)
    if np.array_equal(moved.x, case.run(method, case.alone(), 1).x):
        broken.append("the start point makes no difference: init must start at the x it is given")
    return broken


def _same_again(method: Any, case: Case, count: int) -> list[str]:
    """Two runs give the same bits: draws come from keys, and nothing is kept outside the state."""
    differing = _differing(case.run(method, case.alone(), count), case.run(method, case.alone(), count))
    if not differing:
        return []
    return [f"a second run gives other bits in state.{', '.join(differing)}: draw through the neighborhood and the oracle"]


def _layouts(method: Any, case: Case, count: int) -> list[str]:
    """Every layout gives the same bits."""
    whole = case.run(method, case.alone(), count)
    broken = []
    for placement in ([0, 0, 0, 1, 1, 1], [2, 0, 1, 1, 0, 2], [3, 1, 4, 0, 5, 2]):

        def work(hood: Neighborhood) -> dict[str, tuple[Array, Array]]:
            state = case.run(method, hood, count)
            ids = {"agents": hood.agents, "known": hood.known, "arcs": hood.arcs, "samples": hood.agents}
            return {name: (ids[kind], array) for name, kind, array in rows(state)}

        for block in on_blocks(work, case.graph, placement, seed=case.seed, dtype=case.dtype, weights=case.weights):
            for name, (ids, array) in block.items():
                if not np.array_equal(_arrays(whole)[name][ids], array):
                    text = f"state.{name} has other bits on {max(placement) + 1} blocks than in one"
                    text += ": does it look at rows of other agents, or change what it is sending?"
                    if text not in broken:
                        broken.append(text)
    return broken


def _resumes(method: Any, case: Case, count: int) -> list[str]:
    """A state taken out and put back continues with the same bits."""
    hood = case.alone()
    straight = case.run(method, hood, 2 * count)
    half = case.run(method, case.alone(), count)
    kinds = {name: kind for name, kind, _ in rows(half)}
    arrays = {name: array.copy() for name, array in _arrays(half).items()}
    saved = Checkpoint(count, 0.0, 0, 0.0, 0, {}, kinds, arrays, sizes=np.ones(6, np.int64))
    fresh = case.alone()
    oracle, state = case.start(method, fresh)
    restore(state, saved, fresh)
    for k in range(count, 2 * count):
        state = method.round(state, k, fresh, oracle)
    differing = _differing(straight, state)
    if not differing:
        return []
    return [f"after a restart from its arrays state.{', '.join(differing)} differs: something is kept outside the state"]


def _names(method: Any, case: Case, count: int) -> list[str]:
    """Other names for the agents give the same numbers (tested without random compression)."""
    compressor = getattr(method, "compressor", None)
    if compressor is not None and compressor.name != "identity":
        return []
    order = [3, 0, 5, 1, 4, 2]
    other = Case(seed=case.seed, order=order)
    a = case.run(method, case.alone(), count).x[order]
    b = other.run(method, other.alone(), count).x
    if np.allclose(a, b, rtol=1e-9, atol=1e-9 * max(1.0, float(np.abs(a).max()))):
        return []
    return ["the result depends on how the agents are numbered"]


def _single_precision(method: Any, case: Case, count: int) -> list[str]:
    """float32 stays float32."""
    single = Case("float32", seed=case.seed)
    state = single.run(method, single.alone(), 1)
    return [f"state.{name} is {array.dtype} in a float32 run" for name, array in _arrays(state).items()
            if array.dtype.kind == "f" and array.dtype != np.float32]  # fmt: skip


def _progress(method: Any, case: Case, count: int) -> list[str]:
    """The gradient of F at the average iterate shrinks."""
    before = case.grad_norm_sq(case.x0)
    try:
        after = case.grad_norm_sq(case.run(method, case.alone(), count).x)
    except DivergedError:
        after = float("inf")
    if after <= 0.1 * before:
        return []
    return [f"‖∇F(x̄)‖² went from {before:.2e} to {after:.2e} in {count} rounds on the easiest problem"]
