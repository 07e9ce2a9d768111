"""Quadratics f_i(x) = x·Q_i x/2 − c_i·x, one sample each: the problem whose every answer is a formula."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from decentral.errors import ProblemError
from decentral.problems.base import Problem
from decentral.state import Agents, Array


@dataclass(eq=False)
class Quadratic(Problem):
    """Q (n, d, d) symmetric, c (n, d) for the own agents. The coefficient of the only sample is the gradient itself."""

    Q: Array
    c: Array
    name: ClassVar[str] = "quadratic"
    convex: ClassVar[bool] = True
    arrays: ClassVar[tuple[str, ...]] = ("Q", "c")
    n: int = field(init=False)
    d: int = field(init=False)
    sizes: Array = field(init=False)
    ptr: Array = field(init=False)

    def __post_init__(self) -> None:
        if self.Q.ndim != 3 or self.Q.shape[1:] != (self.c.shape[1],) * 2 or len(self.Q) != len(self.c):
            raise ProblemError(f"a quadratic needs Q (n, d, d) and c (n, d), not {self.Q.shape} and {self.c.shape}")
        self.n, self.d = self.c.shape
        self.sizes, self.ptr = np.ones(self.n, np.int64), np.arange(self.n + 1)

    def coefficients(self, x: Agents, index: Array | None = None) -> Array:
        g = np.matmul(self.Q, x[:, :, None])[:, :, 0] - self.c
        return g if index is None else np.repeat(g[:, None], index.shape[1], axis=1)

    def combine(self, coefficients: Array, index: Array | None = None) -> Agents:
        return coefficients.copy() if index is None else coefficients.sum(axis=1)

    def regularizer(self, x: Agents) -> float:
        return 0.0

    def evaluate(self, points: Array) -> tuple[Array, Array]:
        Q, c = self.Q.sum(axis=0), self.c.sum(axis=0)
        g = points @ Q
        return 0.5 * np.einsum("kd,kd->k", g, points) - points @ c, g - c

    def hessian(self, point: Array) -> Array:
        return np.asarray(self.Q.sum(axis=0))

    def constants(self) -> tuple[Array, Array, Array]:
        eigenvalues = np.linalg.eigvalsh(self.Q)
        return eigenvalues[:, -1], np.maximum(eigenvalues[:, 0], 0.0), eigenvalues[:, -1]
