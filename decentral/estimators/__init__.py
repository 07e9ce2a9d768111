"""How an agent estimates the gradient of its local loss: full, sgd, saga, svrg, l-svrg.

An estimator is a frozen dataclass of its parameters with three parts, always in this order:

    init(problem, x)                     -> memory, arrays that belong to the state of a run (None: no memory)
    begin(problem, memory, x, draws)     start of a round
    estimate(problem, memory, x, t, draws) -> (n, d) gradient estimates at local step t of the round

Each returns the component gradients it evaluated per agent as well. An `Oracle` binds an estimator to a problem and to
the keyed draws of a run; algorithms see the oracle alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from decentral.errors import ConfigError, unknown
from decentral.problems.base import Problem
from decentral.random import Key, Purpose, sample_batches
from decentral.state import Agents, Array, Samples

Evaluations = Any  # int, or (n,) array of component gradients


@dataclass
class Memory:
    """What an estimator keeps between steps.

    table (S, ...) coefficients of past gradients;  mean (n, d) their combined mean (1/m_i) Σ_h T_h
    point (n, d) the snapshot, where coefficients are too large for a table;  mean is then ∇f_i(point)
    """

    table: Samples | None = None
    mean: Agents | None = None
    point: Agents | None = None


class Estimator(Protocol):
    """See the module's docstring."""

    name: ClassVar[str]

    def init(self, problem: Problem, x: Agents) -> tuple[Memory | None, Evaluations]: ...
    def begin(self, problem: Problem, memory: Any, x: Agents, key: Key) -> Evaluations: ...
    def estimate(self, problem: Problem, memory: Any, x: Agents, t: int, key: Key) -> tuple[Agents, Evaluations]: ...
    def cost(self, sizes: float, local_steps: int, small_coefficients: bool = True) -> float: ...


def _check_batch(batch: int) -> None:
    if batch < 1:
        raise ConfigError(f"estimator.batch = {batch}: give a whole number from 1 to the samples of the smallest agent")


@dataclass(frozen=True)
class Full:
    """∇f_i(x): all m_i components."""

    name: ClassVar[str] = "full"

    def init(self, problem: Problem, x: Agents) -> tuple[None, Evaluations]:
        return None, 0

    def begin(self, problem: Problem, memory: None, x: Agents, key: Key) -> Evaluations:
        return 0

    def estimate(self, problem: Problem, memory: None, x: Agents, t: int, key: Key) -> tuple[Agents, Evaluations]:
        return problem.estimate(x), problem.sizes

    def cost(self, sizes: float, local_steps: int, small_coefficients: bool = True) -> float:
        """Component gradients a round for an agent of `sizes` samples."""
        return sizes * local_steps


@dataclass(frozen=True)
class SGD:
    """(1/|B|) Σ_{h∈B} ∇f_ih(x), B drawn uniformly without replacement. Leaves a noise floor at constant steps."""

    batch: int = 1
    name: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        _check_batch(self.batch)

    def init(self, problem: Problem, x: Agents) -> tuple[None, Evaluations]:
        return None, 0

    def begin(self, problem: Problem, memory: None, x: Agents, key: Key) -> Evaluations:
        return 0

    def estimate(self, problem: Problem, memory: None, x: Agents, t: int, key: Key) -> tuple[Agents, Evaluations]:
        return problem.estimate(x, sample_batches(key, problem.sizes, self.batch)), self.batch

    def cost(self, sizes: float, local_steps: int, small_coefficients: bool = True) -> float:
        return self.batch * local_steps


@dataclass(frozen=True)
class SAGA:
    """(1/|B|) Σ_{h∈B} (∇φ_h(x) − T_h) + (1/m_i) Σ_h T_h + ∇r(x), then T_h ← ∇φ_h(x) for h in B.

    The table holds coefficients (one number a sample for a linear model); the regularizer, known exactly, is not in it.
    reset : refill the whole table at the start of every round (LT-ADMM-VR of arXiv 2501.13516); m_i evaluations a
    round, and the first batch of the round is then in the table.

    Defazio, Bach, Lacoste-Julien. SAGA. NeurIPS 2014.
    """

    batch: int = 1
    reset: bool = False
    name: ClassVar[str] = "saga"

    def __post_init__(self) -> None:
        _check_batch(self.batch)

    def init(self, problem: Problem, x: Agents) -> tuple[Memory, Evaluations]:
        table = problem.coefficients(x)
        memory = Memory(table=table, mean=problem.combine(table) / problem.counts(x))
        return memory, 0 if self.reset else problem.sizes  # a reset table is filled by `begin`

    def begin(self, problem: Problem, memory: Memory, x: Agents, key: Key) -> Evaluations:
        if not self.reset:
            return 0
        memory.table = problem.coefficients(x)
        memory.mean = problem.combine(memory.table)
        memory.mean /= problem.counts(x)
        return problem.sizes

    def estimate(self, problem: Problem, memory: Memory, x: Agents, t: int, key: Key) -> tuple[Agents, Evaluations]:
        if self.reset and t == 0:
            assert memory.mean is not None
            return memory.mean + problem.regularizer(x), 0  # x is where the table was filled
        index = sample_batches(key, problem.sizes, self.batch)
        return problem.estimate(x, index, memory.table, memory.mean, renew=True), self.batch

    def cost(self, sizes: float, local_steps: int, small_coefficients: bool = True) -> float:
        return sizes + (local_steps - 1) * self.batch if self.reset else local_steps * self.batch


@dataclass(frozen=True)
class SVRG:
    """(1/|B|) Σ_{h∈B} (∇φ_h(x) − ∇φ_h(w)) + (1/m_i) Σ_h ∇φ_h(w) + ∇r(x), the snapshot w = x every `every` rounds.

    Johnson, Zhang. NeurIPS 2013. The coefficients at w are kept: 1 evaluation a sample and step, not 2. Where they are large
    (`Problem.small_coefficients`), w is kept, and both gradients are made.
    """

    batch: int = 1
    every: int = 1
    name: ClassVar[str] = "svrg"

    def __post_init__(self) -> None:
        _check_batch(self.batch)
        if self.every < 1:
            raise ConfigError(f"estimator.every = {self.every}: give a whole number of rounds, 1 or more")

    def init(self, problem: Problem, x: Agents) -> tuple[Memory, Evaluations]:
        if problem.small_coefficients:
            memory = Memory(table=problem.coefficients(x), mean=np.zeros_like(x))
        else:
            memory = Memory(mean=np.zeros_like(x), point=x.copy())
        self._snapshot(problem, memory, x, np.ones(problem.n, bool))
        return memory, 0  # `begin` of round 0 takes it again and counts it

    def _snapshot(self, problem: Problem, memory: Memory, x: Agents, who: Array) -> None:
        """Take the snapshot of the agents in the mask `who` (n,)."""
        assert memory.mean is not None
        mine = problem.give(who[:, None])
        if memory.point is not None:
            np.copyto(memory.point, x, where=mine)
            np.copyto(memory.mean, problem.estimate(x), where=mine)
            return
        assert memory.table is not None
        table = problem.coefficients(x)
        mean = problem.combine(table) / problem.counts(x)
        in_agent = np.repeat(who, problem.sizes).reshape(-1, *[1] * (table.ndim - 1))
        np.copyto(memory.table, table, where=problem.give(in_agent))
        np.copyto(memory.mean, mean, where=mine)

    def begin(self, problem: Problem, memory: Memory, x: Agents, key: Key) -> Evaluations:
        if key.round % self.every:
            return 0
        self._snapshot(problem, memory, x, np.ones(problem.n, bool))
        return problem.sizes

    def estimate(self, problem: Problem, memory: Memory, x: Agents, t: int, key: Key) -> tuple[Agents, Evaluations]:
        index = sample_batches(key, problem.sizes, self.batch)
        if memory.point is None:
            return problem.estimate(x, index, memory.table, memory.mean), self.batch
        g = problem.estimate(x, index)
        g -= problem.estimate(memory.point, index)
        g += memory.mean
        return g, 2 * self.batch

    def cost(self, sizes: float, local_steps: int, small_coefficients: bool = True) -> float:
        return sizes / self.every + local_steps * self.batch * (1 if small_coefficients else 2)


@dataclass(frozen=True)
class LooplessSVRG(SVRG):
    """SVRG whose snapshot each agent renews with `probability` at the start of a round (0: batch/m of the agent).

    Kovalev, Horváth, Richtárik. Don't jump through hoops and remove those loops. ALT 2020.
    """

    probability: float = 0.0
    name: ClassVar[str] = "l-svrg"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.probability <= 1:
            raise ConfigError(f"estimator.probability = {self.probability}: give a number from 0 (batch/m) to 1")

    def begin(self, problem: Problem, memory: Memory, x: Agents, key: Key) -> Evaluations:
        p = self.probability or self.batch / problem.sizes
        coin = Key(key.seed, Purpose.COIN, key.round, key.ids).uniform(1)[:, 0]
        who = (coin < p) | (key.round == 0)
        if who.any():
            self._snapshot(problem, memory, x, who)
        return np.where(who, problem.sizes, 0)

    def cost(self, sizes: float, local_steps: int, small_coefficients: bool = True) -> float:
        return sizes * (self.probability or self.batch / sizes) + local_steps * self.batch * (1 if small_coefficients else 2)


ESTIMATORS: dict[str, type[Estimator]] = {e.name: e for e in (Full, SGD, SAGA, SVRG, LooplessSVRG)}


def build(spec: dict[str, Any]) -> Estimator:
    """An estimator from its table in a configuration, e.g. {"name": "saga", "batch": 8, "reset": true}.

    Raises ConfigError for an unknown name or parameter.
    """
    from decentral.parameters import construct

    spec = dict(spec)
    name = spec.pop("name", "full")
    if name not in ESTIMATORS:
        raise ConfigError(unknown("estimator", name, ESTIMATORS, "decentral list estimators"))
    built: Estimator = construct(ESTIMATORS[name], spec, "algorithm.estimator", name)
    return built


class Oracle:
    """Local gradients of the own agents as an algorithm sees them.

    evaluations (n,) counts the component gradients that each agent has evaluated.
    """

    def __init__(self, problem: Problem, estimator: Estimator, agents: Array, seed: int = 0):
        self.problem, self.estimator, self.agents, self.seed = problem, estimator, agents, seed
        self.evaluations = np.zeros(problem.n, np.int64)
        if isinstance(estimator, SAGA):
            problem.refuse_table()
        smallest = int(problem.sizes.min()) if problem.n else 0
        batch = getattr(estimator, "batch", 1)
        if batch > smallest:
            agent = int(agents[int(np.argmin(problem.sizes))])
            raise ConfigError(f"estimator.batch = {batch} but agent {agent} has {smallest} samples: give at most {smallest}")

    def init(self, x: Agents) -> Memory | None:
        """The estimator's memory at the start point."""
        memory, evaluations = self.estimator.init(self.problem, x)
        self.evaluations += evaluations
        return memory

    def begin(self, memory: Memory | None, x: Agents, k: int) -> None:
        """Start of round k; call it once a round, before the first gradient."""
        self.evaluations += self.estimator.begin(self.problem, memory, x, Key(self.seed, Purpose.BATCH, k, self.agents))

    def __call__(self, memory: Memory | None, x: Agents, k: int, t: int = 0) -> Agents:
        """(n, d) gradient estimates at x, local step t of round k; a new array."""
        key = Key(self.seed, Purpose.BATCH, k, self.agents, t)
        g, evaluations = self.estimator.estimate(self.problem, memory, x, t, key)
        self.evaluations += evaluations
        return g


__all__ = ["ESTIMATORS", "SAGA", "SGD", "SVRG", "Estimator", "Full", "LooplessSVRG", "Memory", "Oracle", "build"]
