"""Which code runs the inner loops: the compiled extensions where they were built, NumPy otherwise.

Both give the same bits for draws, compressors and neighborhood sums, and the same gradients to rounding. Set
``DECENTRAL_KERNELS=numpy`` to use NumPy although the extensions are there.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

c: Any = None
why = ""
"""`c` is the module ``decentral.kernels._dense`` or None; `why` says why it is None."""

if os.environ.get("DECENTRAL_KERNELS", "c") == "numpy":
    why = "DECENTRAL_KERNELS=numpy"
else:
    try:
        c = import_module("decentral.kernels._dense")
    except ImportError as error:  # no compiler at installation
        why = f"the compiled kernels are not installed ({error})"
