"""What the rows of an array belong to.

A process owns a block of agents and the arcs that leave them. Every array of a state has rows of one kind, written as
its type; checkpoints, layout changes and tests read the kind and never guess it.

    Agents    (n, d)      one row per own agent, by global id
    Known     (n + g, d)  own agents, then the g halo agents: those elsewhere that this process hears, by global id
    Arcs      (m, d)      one row per arc i→j that leaves an own agent, by (tail, head)
    Samples   (S, ...)    one row per data sample of the own agents, agent after agent
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from decentral import kernels

Array = NDArray[Any]
Agents = Annotated[Array, "agents"]
Known = Annotated[Array, "known"]
Arcs = Annotated[Array, "arcs"]
Samples = Annotated[Array, "samples"]


def rows(state: Any, prefix: str = "") -> Iterator[tuple[str, str, Array]]:
    """The arrays of a state dataclass, nested ones included: (dotted name, kind, array)."""
    hints = get_type_hints(type(state), include_extras=True)
    for field in dataclasses.fields(state):
        value = getattr(state, field.name)
        if dataclasses.is_dataclass(value):
            yield from rows(value, f"{prefix}{field.name}.")
        elif value is not None:
            yield f"{prefix}{field.name}", _kind(hints[field.name]), value


def _kind(hint: Any) -> str:
    for option in (hint, *getattr(hint, "__args__", ())):
        for mark in getattr(option, "__metadata__", ()):
            if isinstance(mark, str):
                return mark
    raise TypeError(f"a state field must be Agents, Known, Arcs or Samples, not {hint}")


def blend(
    a: float, y: Array, b: float, w: Array, c: float = 0.0, x: Array | None = None, at: Array | None = None, *, out: Array | None = None
) -> Array:
    """(a y + b w) + c x[at], row by row and in one pass: each product and sum is rounded once, with or without a kernel.

    y, w : (rows, d);  x : (rows, d), or (any, d) with the row numbers `at` (rows,)
    out : (rows, d) for the result, which may be y or w, or x where there is no `at`; a new array where it is not given
    """
    if kernels.c is not None and (kernels.device is None or isinstance(y, np.ndarray)):
        out = np.empty_like(y) if out is None else out
        kernels.c.blend(a, y, b, w, c, x, at, out)
        return out
    result = a * y
    result += b * w
    if x is not None:
        result += c * (x if at is None else x[at])
    if out is None:
        return result
    out[...] = result
    return out


def nbytes(state: Any) -> int:
    """Bytes of all arrays of a state."""
    return sum(int(a.nbytes) for _, _, a in rows(state))
