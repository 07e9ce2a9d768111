"""Generalized linear models: the loss of a sample is a function of one product, φ_h(x) = φ(a_h·x, b_h).

    least-squares          φ(t, b) = (t − b)²/2
    logistic               φ(t, b) = log(1 + exp(−b t)),  b = ±1
    nonconvex-logistic     the same with r(x) = λ Σ_k x_k²/(1 + x_k²) in place of r(x) = (λ/2)‖x‖²
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from decentral import kernels
from decentral.errors import ProblemError
from decentral.problems.base import Problem, largest_eigenvalue, samples_of
from decentral.state import Agents, Array, Samples

if TYPE_CHECKING:
    from decentral.device import Device

CHUNK = 1 << 22
"""Numbers in a temporary of `evaluate`."""


@dataclass(eq=False)
class LinearModel(Problem):
    """Samples X (S, d) and targets y (S,) of the own agents, concatenated; `ptr` (n + 1,) bounds each agent's.

    Raises ProblemError for an agent without samples.
    """

    X: Array
    y: Samples
    ptr: Array
    l2: float = 0.0
    name: ClassVar[str] = ""
    convex: ClassVar[bool] = True
    arrays: ClassVar[tuple[str, ...]] = ("X", "y")
    n: int = field(init=False)
    d: int = field(init=False)
    sizes: Array = field(init=False)

    def __post_init__(self) -> None:
        self.X, self.y = np.ascontiguousarray(self.X), np.ascontiguousarray(self.y, dtype=self.X.dtype)
        self.n, self.d = len(self.ptr) - 1, self.X.shape[1]
        self.sizes = np.diff(self.ptr)
        if (self.sizes == 0).any():
            raise ProblemError(f"own agent {int(np.argmin(self.sizes))} has no samples: use fewer agents or another split")
        self._stacked: Array | None = None  # on a device: X (n, samples, d), where all agents have as many
        in_kernels = {Logistic.derivative: True, LeastSquares.derivative: False}
        self._logistic = in_kernels.get(type(self).derivative)  # None where φ' is another and stays in NumPy

    def to_device(self, device: Device) -> LinearModel:
        there: LinearModel = super().to_device(device)
        there._logistic = None
        if (self.sizes == self.sizes[0]).all():  # else a call for each agent, as there is no kernel
            there._stacked = there.X.reshape(self.n, -1, self.d)
        return there

    # φ(t, b), φ'(t, b), φ''(t, b) and sup φ''
    def loss(self, t: Array, b: Array) -> Array:
        raise NotImplementedError

    def derivative(self, t: Array, b: Array) -> Array:
        raise NotImplementedError

    def curvature(self, t: Array, b: Array) -> Array:
        raise NotImplementedError

    largest_curvature: ClassVar[float] = 1.0

    def coefficients(self, x: Agents, index: Array | None = None) -> Array:
        if index is None:
            t, y = self._margins(x), self.y
        else:
            rows = samples_of(self.ptr, index)
            y = self.y[rows]
            if kernels.c is not None and self.device is None:
                t = np.empty(index.shape, x.dtype)
                kernels.c.glm_margins_batch(self.X, self.ptr, index, x, t)
            else:
                t = np.matmul(self.X[rows], x[:, :, None])[:, :, 0]
        if kernels.c is not None and self._logistic is not None:
            kernels.c.glm_slopes(t.reshape(-1), y.reshape(-1), self._logistic)
            return t
        return self.derivative(t, y)

    def estimate(
        self, x: Agents, index: Array | None = None, table: Array | None = None, mean: Agents | None = None, renew: bool = False
    ) -> Agents:
        if kernels.c is None or self._logistic is None:
            return super().estimate(x, index, table, mean, renew)
        g = np.empty((self.n, self.d), self.X.dtype)
        ridge = type(self).regularizer is LinearModel.regularizer
        what = (np.ascontiguousarray(x), self.y, self._logistic, self.l2 if ridge else 0.0, table, mean, renew)
        kernels.c.glm_estimate(self.X, self.ptr, index, *what, g)
        if not ridge:
            g += self.regularizer(x)
        return g

    def combine(self, coefficients: Array, index: Array | None = None) -> Agents:
        out = self.empty((self.n, self.d), self.X.dtype)
        if kernels.c is not None and self.device is None:
            if index is None:
                kernels.c.glm_combine(self.X, self.ptr, coefficients, out)
            else:
                kernels.c.glm_combine_batch(self.X, self.ptr, index, coefficients, out)
        elif index is not None:
            return np.matmul(coefficients[:, None, :], self.X[samples_of(self.ptr, index)])[:, 0]
        elif self._stacked is not None:
            return np.matmul(coefficients.reshape(self.n, 1, -1), self._stacked)[:, 0]
        else:
            for row, samples in enumerate(self.slices()):
                np.matmul(coefficients[samples], self.X[samples], out=out[row])
        return out

    def _margins(self, x: Agents) -> Samples:
        out = self.empty((len(self.X),), x.dtype)
        if kernels.c is not None and self.device is None:
            kernels.c.glm_margins(self.X, self.ptr, np.ascontiguousarray(x), out)
        elif self._stacked is not None:
            return np.matmul(self._stacked, x[:, :, None]).reshape(-1)
        else:
            for row, samples in enumerate(self.slices()):
                np.matmul(self.X[samples], x[row], out=out[samples])
        return out

    def regularizer(self, x: Agents) -> Agents | float:
        return self.l2 * x if self.l2 else 0.0

    def penalty(self, points: Array) -> Array:
        return 0.5 * self.l2 * np.einsum("kd,kd->k", points, points)

    def _sample_weights(self) -> Samples:
        return np.repeat(1.0 / self.sizes, self.sizes).astype(self.X.dtype)

    def evaluate(self, points: Array) -> tuple[Array, Array]:
        weights = self._sample_weights()
        losses = self.n * self.penalty(points)
        gradients = np.zeros_like(points) + self.n * self.regularizer(points)
        step = max(1, CHUNK // max(1, len(points)))
        for a in range(0, len(self.X), step):
            part = slice(a, a + step)
            X, b, w = self.X[part], self.y[part, None], weights[part, None]
            t = X @ points.T
            losses = losses + (w * self.loss(t, b)).sum(axis=0)
            gradients += (w * self.derivative(t, b)).T @ X
        return losses, gradients

    def hessian(self, point: Array) -> Array:
        w = self._sample_weights() * self.curvature(self.X @ point, self.y)
        return self.X.T @ (w[:, None] * self.X) + self.n * self.penalty_hessian(point)

    def penalty_hessian(self, point: Array) -> Array:
        return self.l2 * np.eye(self.d, dtype=self.X.dtype)

    def constants(self) -> tuple[Array, Array, Array]:
        grams = [self._gram(s) for s in self.slices()]
        smooth = np.array([self.largest_curvature * largest_eigenvalue(g) for g in grams]) + self.l2
        each = np.einsum("sd,sd->s", self.X, self.X)
        single = np.maximum.reduceat(each, self.ptr[:-1]) * self.largest_curvature + self.l2
        return smooth, np.full(self.n, self.l2), single

    def _gram(self, samples: slice) -> Array:
        X = self.X[samples]
        return (X.T @ X if X.shape[0] >= self.d else X @ X.T) / len(X)


def sigmoid_of_minus(t: Array) -> Array:
    """1/(1 + exp(t)), without overflow warnings; exp(t) = inf gives the right 0."""
    with np.errstate(over="ignore"):
        out = np.exp(t)
    out += 1
    return np.divide(1.0, out, out=out)


class Logistic(LinearModel):
    """l2-regularized logistic regression; y in {−1, +1}."""

    name: ClassVar[str] = "logistic"
    largest_curvature: ClassVar[float] = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (np.abs(self.y) == 1).all():
            found = ", ".join(f"{v:g}" for v in np.unique(self.y)[:5])
            raise ProblemError(f"{self.name} needs labels -1 and +1, the data has {found}: use problem.name = \"softmax\" for classes")

    def loss(self, t: Array, b: Array) -> Array:
        return np.logaddexp(0.0, -b * t)

    def derivative(self, t: Array, b: Array) -> Array:
        out = sigmoid_of_minus(b * t)
        out *= b
        return np.negative(out, out=out)

    def curvature(self, t: Array, b: Array) -> Array:
        s = sigmoid_of_minus(b * t)
        return s * (1 - s)


class NonconvexLogistic(Logistic):
    """Logistic loss with the nonconvex regularizer λ Σ_k x_k²/(1 + x_k²); `l2` is λ."""

    name: ClassVar[str] = "nonconvex-logistic"
    convex: ClassVar[bool] = False

    def regularizer(self, x: Agents) -> Agents | float:
        return self.l2 * 2 * x / (1 + x * x) ** 2

    def penalty(self, points: Array) -> Array:
        return self.l2 * (points**2 / (1 + points**2)).sum(axis=1)

    def penalty_hessian(self, point: Array) -> Array:
        return self.l2 * np.diag((2 - 6 * point**2) / (1 + point**2) ** 3)

    def constants(self) -> tuple[Array, Array, Array]:
        smooth, _, single = super().constants()  # |r''| ≤ 2λ; the base class added λ
        return smooth + self.l2, np.zeros(self.n), single + self.l2


class LeastSquares(LinearModel):
    """Linear regression, (a·x − b)²/2 + (l2/2)‖x‖²."""

    name: ClassVar[str] = "least-squares"

    def loss(self, t: Array, b: Array) -> Array:
        return 0.5 * (t - b) ** 2

    def derivative(self, t: Array, b: Array) -> Array:
        return t - b

    def curvature(self, t: Array, b: Array) -> Array:
        return np.ones_like(t)

    def constants(self) -> tuple[Array, Array, Array]:
        smooth, _, single = super().constants()
        low = [np.linalg.eigvalsh(self._gram(s))[0] if s.stop - s.start >= self.d else 0.0 for s in self.slices()]
        return smooth, np.maximum(np.array(low), 0.0) + self.l2, single


