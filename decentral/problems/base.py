"""What a local loss must offer, for all own agents at once.

    F(x) = (1/N) Σ_i f_i(x),    f_i(x) = (1/m_i) Σ_h f_ih(x),    f_ih(x) = φ_h(x) + r(x)

The rows of a problem are the own agents, its samples lie agent after agent (`ptr`). A *coefficient* is what one sample
needs to rebuild its gradient: ∇φ_h(x) = combine(coefficient). For a generalized linear model it is one number, so a
table of past gradients costs m numbers, not m·d.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np

from decentral.state import Agents, Array, Samples


class Problem(Protocol):
    """Local losses of the n own agents. All methods work on all rows; none communicates."""

    name: ClassVar[str]
    convex: ClassVar[bool]
    d: int
    n: int
    sizes: Array
    """(n,) samples of each agent."""
    ptr: Array
    """(n + 1,) samples of agent row r are ptr[r] : ptr[r + 1]."""

    def coefficients(self, x: Agents, index: Array | None = None) -> Array:
        """Coefficients of ∇φ_h(x_i): for all samples (S, ...), or for the batch `index` (n, B) of local samples (n, B, ...)."""
        ...

    def combine(self, coefficients: Array, index: Array | None = None) -> Agents:
        """(n, d): Σ_h ∇φ_h from coefficients of all samples, or of the batch `index`. A sum, not a mean."""
        ...

    def regularizer(self, x: Agents) -> Agents | float:
        """(n, d): ∇r(x_i), or 0.0 where there is none."""
        ...

    def evaluate(self, points: Array) -> tuple[Array, Array]:
        """Σ over own agents of f_i and of ∇f_i at common points (K, d): (K,) and (K, d). For metrics."""
        ...

    def hessian(self, point: Array) -> Array:
        """(d, d): Σ over own agents of ∇²f_i at one point (d,). For the reference solver."""
        ...

    def constants(self) -> tuple[Array, Array, Array]:
        """(n,) smoothness L_i of f_i, (n,) strong convexity μ_i, (n,) largest smoothness of a single f_ih."""
        ...


def gradient(problem: Problem, x: Agents) -> Agents:
    """(n, d): full local gradients ∇f_i(x_i)."""
    return mean_gradient(problem, problem.combine(problem.coefficients(x)), x)


def mean_gradient(problem: Problem, sums: Agents, x: Agents) -> Agents:
    """(n, d): sums / m_i + ∇r(x_i); overwrites `sums`."""
    sums /= problem.sizes[:, None].astype(sums.dtype)
    sums += problem.regularizer(x)
    return sums


def samples_of(ptr: Array, index: Array) -> Array:
    """(n, B) rows in the concatenated samples for local sample numbers `index`."""
    return ptr[:-1, None] + index


def table_rows(coefficients: Samples, ptr: Array, index: Array) -> Array:
    """(n, B, ...) entries of a sample table at the batch `index`."""
    return coefficients[samples_of(ptr, index)]


def largest_eigenvalue(gram: Array) -> float:
    """Largest eigenvalue of a symmetric positive semidefinite matrix."""
    return float(np.linalg.eigvalsh(gram)[-1]) if len(gram) else 0.0


