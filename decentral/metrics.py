"""What is measured above the line: global quantities of the iterate, with their own uncounted communication.

    grad_norm_sq  ‖∇F(x̄)‖²       consensus  (1/N) Σ_i ‖x_i − x̄‖²       gap  F(x̄) − F*       loss  F(x̄)
    error_rate    (1/N) Σ_i (share of the samples of agent i that x̄ misclassifies)

Snapshots of the iterate are collected and evaluated together, because a pass over the data for many points costs hardly
more than one for a single point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from decentral.problems.base import Problem
from decentral.state import Agents, Array

if TYPE_CHECKING:
    from decentral.neighborhood import Neighborhood

BUFFER = 4 << 20
"""Bytes of snapshots that one process keeps."""
MOST = 32
"""Snapshots that one process keeps."""

Row = dict[str, float]


class Metrics:
    """Rows of the trace from snapshots.

    names : the metrics to compute
    f_star : F*, or None where the gap is not known
    t_g, t_c : the modelled time of a component gradient and of an exchange of one vector
    """

    def __init__(
        self, problem: Problem, hood: Neighborhood, names: Sequence[str], f_star: float | None,
        t_g: float = 0.1, t_c: float = 1.0,
    ):  # fmt: skip
        self.problem, self.hood, self.names, self.f_star = problem, hood, names, f_star
        self.t_g, self.t_c = t_g, t_c
        agents = hood.graph.n_agents
        # of all agents, not of the own: every layout evaluates, and ends, at the same rounds
        self.capacity = int(np.clip(BUFFER // max(1, agents * problem.d * 8), 1, MOST))
        self._count = 0
        # one large snapshot is looked at where it lies, and the caller flushes before the next round
        self._x = np.empty((self.capacity, hood.n, problem.d)) if self.capacity > 1 else None
        self._latest: Agents = np.empty((hood.n, 0))
        self._counters = np.zeros((self.capacity, 3))  # evaluations, wire bytes, ideal bits of the own agents
        self._clock: list[tuple[int, int, float]] = []  # rounds, vectors exchanged, seconds

    @property
    def full(self) -> bool:
        return self._count == self.capacity

    def take(self, k: int, x: Agents, evaluations: Array, seconds: float) -> None:
        """Remember the iterate after k rounds; `flush` before the next round when this makes it full."""
        if self._x is None:
            self._latest = x
        else:
            self._x[self._count] = x
        self._counters[self._count] = evaluations.sum(), self.hood.wire_bytes, self.hood.ideal_bits
        self._clock.append((k, self.hood.vectors, seconds))
        self._count += 1

    def snapshot(self, index: int) -> Agents:
        """The iterate behind row `index` of the last flush."""
        return self._latest if self._x is None else self._x[index]

    def flush(self) -> list[Row]:
        """The rows of the snapshots taken since the last flush, the same on all ranks. COLLECTIVE."""
        count, self._count = self._count, 0
        clock, self._clock = self._clock, []
        if not count:
            return []
        agents = self.hood.graph.n_agents
        x = self._latest[None] if self._x is None else self._x[:count]
        first = self.hood.sum(np.concatenate((x.sum(axis=1, dtype=np.float64), self._counters[:count]), axis=1))
        mean, counters = first[:, :-3] / agents, first[:, -3:]
        wanted = set(self.names)
        second = np.zeros((count, 3 + self.problem.d))
        if "consensus" in wanted:
            for i in range(self.hood.n) if self._x is None else [slice(None)]:  # large rows one by one
                apart = (x[:, i] - (mean if self._x is None else mean[:, None])).reshape(count, -1)
                second[:, 0] += np.einsum("kd,kd->k", apart, apart)
        if wanted & {"grad_norm_sq", "gap", "loss"}:
            second[:, 1], second[:, 3:] = self.problem.evaluate(mean)
        if "error_rate" in wanted:
            second[:, 2] = self.problem.error_rate(mean)
        total = self.hood.sum(second) / agents
        columns = {
            "grad_norm_sq": np.einsum("kd,kd->k", total[:, 3:], total[:, 3:]),
            "consensus": total[:, 0],
            "loss": total[:, 1],
            "error_rate": total[:, 2],
        }
        if self.f_star is not None:
            columns["gap"] = total[:, 1] - self.f_star
        rows: list[Row] = []
        for i, (k, vectors, seconds) in enumerate(clock):
            gradients = float(counters[i, 0]) / agents
            row: Row = {
                "round": k,
                "gradients": gradients,
                "wire_bytes": int(counters[i, 1]),
                "ideal_bits": float(counters[i, 2]),
                "vectors": vectors,
                "modelled_seconds": gradients * self.t_g + vectors * self.t_c,
                "seconds": seconds,
            }
            row |= {name: float(values[i]) for name, values in columns.items() if name in wanted}
            rows.append(row)
        return rows


def reached(row: Row, target: dict[str, float]) -> bool:
    """Whether a row meets every level of the target; an empty target is never met."""
    return bool(target) and all(row.get(name, np.inf) <= level for name, level in target.items())
