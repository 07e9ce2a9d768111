"""Which code runs the inner loops: the compiled extensions where they were built, NumPy otherwise.

Both give the same bits for draws, compressors and neighborhood sums, and the same gradients to rounding. Set
``DECENTRAL_KERNELS=numpy`` to use NumPy although the extensions are there; "c" is the default, another value a ConfigError.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import numpy as np

from decentral.errors import ConfigError, nearest

c: Any = None
sparse: Any = None
wire: Any = None
why = ""
"""The modules ``_dense`` (as `c`), ``_sparse`` and ``_wire`` of this package, or None for each; `why` says why."""
device: Any = None
"""The `Device` of the run: the functions of `c` and `sparse` for arrays there, and the way to it; None on the CPU."""

_asked = os.environ.get("DECENTRAL_KERNELS") or "c"
if _asked not in ("c", "numpy"):
    raise ConfigError(f'DECENTRAL_KERNELS = "{_asked}": give numpy or c{nearest(_asked, ("numpy", "c"))}')
if _asked == "numpy":
    why = "DECENTRAL_KERNELS=numpy"
else:
    try:
        c, sparse, wire = (import_module(f"decentral.kernels._{name}") for name in ("dense", "sparse", "wire"))
    except ImportError as error:  # no compiler at installation
        why = f"the compiled kernels are not installed ({error})"


def in_words() -> str:
    """`compiled`, or `numpy` and why."""
    return "compiled" if c is not None else f"numpy ({why})"


MOST_THREADS = 64
threads = 1
"""Threads that the compiled kernels may use: see `use_threads`."""


def use_threads(count: int) -> None:
    """From now on the compiled kernels use up to `count` threads where rows are so long that it pays; NumPy's code uses one.

    The bits are the same with any number. Raises ValueError where it is not from 1 to MOST_THREADS.
    """
    global threads
    if c is None:
        return
    c.use_threads(count)
    sparse.use_threads(count)
    threads = count


def device_of(v: Any) -> Any:
    """The `Device` where v lies; None on the CPU."""
    return None if isinstance(v, np.ndarray) else device


def of(v: Any) -> Any:
    """(what stands for `c` where v lies, or None for NumPy code; what makes new arrays there)."""
    return (c, np.empty) if device is None or isinstance(v, np.ndarray) else (device, device.empty)


def sparse_of(v: Any) -> Any:
    """The same of `sparse`."""
    return (sparse, np.empty) if device is None or isinstance(v, np.ndarray) else (device, device.empty)
