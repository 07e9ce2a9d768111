"""Which code runs the inner loops: the compiled extension where it was built, NumPy otherwise.

Both give the same bits for draws, compressors and neighborhood sums, and the same gradients to rounding. Set
``DECENTRAL_KERNELS=numpy`` to use NumPy although the extension is there.
"""

from __future__ import annotations

import os
from typing import Any

c: Any = None
why = ""
"""`c` is the module ``decentral._kernels`` or None; `why` says why it is None."""

if os.environ.get("DECENTRAL_KERNELS", "c") == "numpy":
    why = "DECENTRAL_KERNELS=numpy"
else:
    try:
        from decentral import _kernels as c  # type: ignore[no-redef,attr-defined]
    except ImportError as error:  # no compiler at installation
        why = f"the compiled kernels are not installed ({error})"
