"""Softmax regression: φ_h(W) = −log softmax(W a_h)[class h], x = W flattened row by row (classes, features)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from decentral.errors import ProblemError
from decentral.problems.base import Problem, largest_eigenvalue, samples_of
from decentral.state import Agents, Array, Samples

if TYPE_CHECKING:
    from decentral.device import Device


@dataclass(eq=False)
class Softmax(Problem):
    """Samples X (S, p), integer classes y (S,) in 0..classes−1, ptr (n + 1,); d = classes · p. Coefficients: (S, classes)."""

    X: Array
    y: Samples
    ptr: Array
    classes: int = 0
    l2: float = 0.0
    name: ClassVar[str] = "softmax"
    convex: ClassVar[bool] = True
    arrays: ClassVar[tuple[str, ...]] = ("X",)
    n: int = field(init=False)
    d: int = field(init=False)
    sizes: Array = field(init=False)

    def __post_init__(self) -> None:
        self.y = self.y.astype(np.int64)
        if len(self.y) and not 0 <= self.y.min() <= self.y.max() < self.classes:
            raise ProblemError(f"softmax needs classes 0 to {self.classes - 1}, the data has {self.y.min()} to {self.y.max()}")
        self.n, self.d = len(self.ptr) - 1, self.classes * self.X.shape[1]
        self.sizes = np.diff(self.ptr)
        self._one_hot: Array | None = None  # on a device: y as rows (S, classes) of zeros and a one
        self._stacked: Array | None = None  # on a device: X (n, samples, p), where all agents have as many
        if (self.sizes == 0).any():
            raise ProblemError(f"own agent {int(np.argmin(self.sizes))} has no samples: use fewer agents or another split")

    def to_device(self, device: Device) -> Softmax:
        there: Softmax = super().to_device(device)
        there._one_hot = device.give(np.eye(self.classes, dtype=self.X.dtype)[self.y])
        if (self.sizes == self.sizes[0]).all():  # else a call for each agent, as there is no kernel
            there._stacked = there.X.reshape(self.n, -1, self.X.shape[1])
        return there

    def _matrix(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.classes, self.X.shape[1])

    def _error(self, t: Array, at: Any = slice(None)) -> Array:
        """softmax(t) − one-hot(y), in place; t (..., classes) of the samples `at`."""
        t -= t.max(axis=-1, keepdims=True)
        np.exp(t, out=t)
        t /= t.sum(axis=-1, keepdims=True)
        if self._one_hot is not None:
            t -= self._one_hot[at]
            return t
        y = self.y[at]
        np.put_along_axis(t, y[..., None], np.take_along_axis(t, y[..., None], -1) - 1, -1)
        return t

    def coefficients(self, x: Agents, index: Array | None = None) -> Array:
        W = self._matrix(x)
        if index is not None:
            rows = samples_of(self.ptr, index)
            return self._error(np.matmul(self.X[rows], W.transpose(0, 2, 1)), rows)
        if self._stacked is not None:
            return self._error(np.matmul(self._stacked, W.transpose(0, 2, 1)).reshape(-1, self.classes))
        t = self.empty((len(self.X), self.classes), x.dtype)
        for row, part in enumerate(self.slices()):
            np.matmul(self.X[part], W[row].T, out=t[part])
        return self._error(t)

    def combine(self, coefficients: Array, index: Array | None = None) -> Agents:
        if index is not None:
            rows = samples_of(self.ptr, index)
            return np.matmul(coefficients.transpose(0, 2, 1), self.X[rows]).reshape(self.n, self.d)
        if self._stacked is not None:
            errors = coefficients.reshape(self.n, -1, self.classes).transpose(0, 2, 1)
            return np.matmul(errors, self._stacked).reshape(self.n, self.d)
        out = self.empty((self.n, self.d), self.X.dtype)
        for row, part in enumerate(self.slices()):
            np.matmul(coefficients[part].T, self.X[part], out=self._matrix(out[row]))
        return out

    def regularizer(self, x: Agents) -> Agents | float:
        return self.l2 * x if self.l2 else 0.0

    def evaluate(self, points: Array) -> tuple[Array, Array]:
        weights = np.repeat(1.0 / self.sizes, self.sizes)
        losses = 0.5 * self.n * self.l2 * np.einsum("kd,kd->k", points, points)
        gradients = self.n * self.l2 * points
        for k, W in enumerate(self._matrix(points)):
            t = self.X @ W.T
            t -= t.max(axis=1, keepdims=True)
            losses[k] += weights @ (np.log(np.exp(t).sum(axis=1)) - t[np.arange(len(t)), self.y])
            gradients[k] += (((weights[:, None] * self._error(t)).T) @ self.X).ravel()
        return losses, gradients

    def error_rate(self, points: Array) -> Array:
        weights = np.repeat(1.0 / self.sizes, self.sizes)
        return np.array([weights @ ((self.X @ W.T).argmax(axis=1) != self.y) for W in self._matrix(points)])

    def hessian(self, point: Array) -> Array:
        p = self.X.shape[1]
        weights = np.repeat(1.0 / self.sizes, self.sizes)
        prob = self._error(self.X @ self._matrix(point).T)
        prob[np.arange(len(prob)), self.y] += 1
        H = np.empty((self.classes, p, self.classes, p))
        for a in range(self.classes):
            for b in range(self.classes):
                w = weights * prob[:, a] * ((a == b) - prob[:, b])
                H[a, :, b, :] = self.X.T @ (w[:, None] * self.X)
        return H.reshape(self.d, self.d) + self.n * self.l2 * np.eye(self.d)

    def constants(self) -> tuple[Array, Array, Array]:
        # the Hessian of log-sum-exp is at most 1/2 in norm
        grams = [self.X[a:b].T @ self.X[a:b] / (b - a) for a, b in zip(self.ptr[:-1], self.ptr[1:], strict=True)]
        smooth = np.array([0.5 * largest_eigenvalue(g) for g in grams]) + self.l2
        each = 0.5 * np.einsum("sd,sd->s", self.X, self.X)
        return smooth, np.full(self.n, self.l2), np.maximum.reduceat(each, self.ptr[:-1]) + self.l2
