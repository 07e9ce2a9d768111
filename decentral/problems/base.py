"""What a local loss must offer, for all own agents at once.

    F(x) = (1/N) Σ_i f_i(x),    f_i(x) = (1/m_i) Σ_h f_ih(x),    f_ih(x) = φ_h(x) + r(x)

The rows of a problem are the own agents, its samples lie agent after agent (`ptr`). A *coefficient* is what one sample
needs to rebuild its gradient: ∇φ_h(x) = combine(coefficient). For a generalized linear model it is one number, so a
table of past gradients costs m numbers, not m·d.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from decentral.errors import ProblemError
from decentral.state import Agents, Array

if TYPE_CHECKING:
    from decentral.device import Device


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
    device: Device | None = None
    """Where the samples and `ptr` lie, and the arguments and results of the methods up to `regularizer`; None: on the CPU."""
    arrays: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that `to_device` moves, the data first; none where a problem has no form for a device."""
    small_coefficients: ClassVar[bool] = True
    """Is a coefficient small enough that SVRG keeps one a sample? If not, it keeps the snapshot and evaluates there again."""
    start: Array | None = None
    """(d,) where all agents start, the same on all ranks; None: at zero."""
    classes: int = 0
    """Classes that `error_rate` knows; 0: it knows none."""

    def to_device(self, device: Device) -> Any:
        """A copy that lies on a device."""
        there = copy(self)
        there.device, there.empty = device, device.empty
        for name in (*self.arrays, "ptr"):
            setattr(there, name, device.give(getattr(self, name)))
        there._counts = device.give(self.counts(getattr(self, self.arrays[0])))
        return there

    _counts: Array | None = None
    empty: Callable[..., Array] = staticmethod(np.empty)
    """What makes a new array where the samples lie."""

    def counts(self, x: Array) -> Array:
        """(n, 1): samples of each agent, in the type of x and where x lies."""
        return self.sizes[:, None].astype(x.dtype) if self._counts is None else self._counts

    def give(self, a: Array) -> Array:
        """An array of the CPU where the samples lie."""
        return a if self.device is None else self.device.give(a)

    def slices(self) -> list[slice]:
        """The samples of each agent."""
        ends = np.cumsum(self.sizes).tolist()
        return [slice(end - size, end) for end, size in zip(ends, self.sizes.tolist(), strict=True)]

    def coefficients(self, x: Agents, index: Array | None = None) -> Array:
        """Coefficients of ∇φ_h(x_i): for all samples (S, ...), or for the batch `index` (n, B) of local samples (n, B, ...)."""
        ...

    def combine(self, coefficients: Array, index: Array | None = None) -> Agents:
        """(n, d): Σ_h ∇φ_h from coefficients of all samples, or of the batch `index`. A sum, not a mean."""
        ...

    def estimate(
        self, x: Agents, index: Array | None = None, table: Array | None = None, mean: Agents | None = None, renew: bool = False
    ) -> Agents:
        """(n, d): (1/|B|) Σ_{h∈B} (∇φ_h(x_i) − T_h) + mean_i + ∇r(x_i), all gradient estimators in one.

        index : (n, B) the batch B of each agent, without repetitions, on the CPU; omitted, all its samples
        table : (S, ...) coefficients T;  mean : (n, d) the mean of all T_h;  either may be missing, and is then zero
        renew : afterwards T_h ← ∇φ_h(x_i) for h in B, with the mean that belongs to it, in place
        This text is the definition; a problem may do the same in one pass over its samples.
        """
        if index is not None:
            index = self.give(index)
        sizes = self.counts(x)
        new = self.coefficients(x, index)
        at = slice(None) if index is None else samples_of(self.ptr, index)
        change = self.combine(new if table is None else new - table[at], index)
        g = change / (sizes if index is None else index.shape[1])
        if mean is not None:
            g += mean
        g += self.regularizer(x)
        if renew:
            assert table is not None and mean is not None
            table[at] = new
            mean += change / sizes
        return g

    def regularizer(self, x: Agents) -> Agents | float:
        """(n, d): ∇r(x_i), or 0.0 where there is none."""
        ...

    def evaluate(self, points: Array) -> tuple[Array, Array]:
        """Σ over own agents of f_i and of ∇f_i at common points (K, d): (K,) and (K, d). For metrics."""
        ...

    def error_rate(self, points: Array) -> Array:
        """(K,): Σ over own agents of the share of their samples that a common point (K, d) misclassifies. For metrics."""
        raise ProblemError(f'problem "{self.name}" has no classes')

    def refuse_table(self) -> None:
        """Raise ProblemError where coefficients of all samples are too many to be kept."""
        return

    def hessian(self, point: Array) -> Array:
        """(d, d): Σ over own agents of ∇²f_i at one point (d,). For the reference solver."""
        ...

    def constants(self) -> tuple[Array, Array, Array]:
        """(n,) smoothness L_i of f_i, (n,) strong convexity μ_i, (n,) largest smoothness of a single f_ih; NaN: unknown."""
        ...


def gradient(problem: Problem, x: Agents) -> Agents:
    """(n, d): full local gradients ∇f_i(x_i)."""
    return problem.estimate(x)


def samples_of(ptr: Array, index: Array) -> Array:
    """(n, B) rows in the concatenated samples for local sample numbers `index`."""
    return ptr[:-1, None] + index


def largest_eigenvalue(gram: Array) -> float:
    """Largest eigenvalue of a symmetric positive semidefinite matrix."""
    return float(np.linalg.eigvalsh(gram)[-1]) if len(gram) else 0.0


