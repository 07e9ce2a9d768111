"""One bit an entry: its sign, and one float32 scale a row.

A row is the scale, then ceil(d/8) bytes of signs, lowest bit first. The sign of 0 is + (a bit has no third value), but a
row of zeros has scale 0 and decodes to zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from decentral import kernels
from decentral.compressors.base import Compressor, damaged, expect, read_scales, scales_above, stream_bytes, tree_sum
from decentral.errors import NonFiniteError
from decentral.random import Key
from decentral.state import Array


class Sign(Compressor):
    """scale(v) · sign(v)."""

    mean: ClassVar[bool]
    """Is the scale the mean magnitude, or half the largest?"""

    def magnitudes(self, v: Array) -> Array:
        """(rows,) float64 scales."""
        raise NotImplementedError

    def encode(self, v: Array, key: Key) -> Array:
        return self._encode(v, None)

    def encode_difference(self, x: Array, u: Array, key: Key) -> Array:
        return self._encode(x, u)

    def _encode(self, v: Array, minus: Array | None) -> Array:
        """Payload of v, or of v − minus."""
        on, empty = kernels.sparse_of(v)
        if on is not None:
            payload: Array = empty((len(v), self.nbytes(v.shape[1], v.dtype)), np.uint8)
            u = minus if minus is None or minus.flags.c_contiguous else minus.copy()
            if (bad := on.sign_encode(v if v.flags.c_contiguous else v.copy(), u, payload, self.mean)) is not None:
                raise NonFiniteError(bad)
            return payload
        if minus is not None:
            v = v - minus
        scales = scales_above(self.magnitudes(v))[:, None].astype("<f4").view(np.uint8)
        return np.concatenate((scales, np.packbits(v >= 0, axis=1, bitorder="little")), axis=1)

    def decode(self, payload: Array, d: int, dtype: Any) -> Array:
        expect(payload, self.nbytes(d, dtype))
        on, empty = kernels.sparse_of(payload)
        if on is not None:
            out: Array = empty((len(payload), d), dtype)
            if not on.sign_decode(payload if payload.flags.c_contiguous else payload.copy(), out):
                raise damaged("a scale is out of range")
            return out
        scales = read_scales(payload, 1).astype(dtype)
        positive = np.unpackbits(payload[:, 4:], axis=1, count=d, bitorder="little")
        return np.where(positive, scales, -scales)

    def nbytes(self, d: int, dtype: Any) -> int:
        return 4 + stream_bytes(d, 1)

    def ideal_bits(self, d: int, dtype: Any) -> float:
        return 32 + d

    def omega(self, d: int) -> None:
        return None

    def delta(self, d: int) -> float | None:
        return None


@dataclass(frozen=True)
class NormSign(Sign):
    """(‖v‖_∞/2) sign(v). Biased, and not contractive as it stands (an error may be d/4 times ‖v‖²).

    Divided by r = d/2 it is: ‖C(v)/r − v‖² ≤ ‖v‖² − ‖v‖_∞²/d; methods that use it have a gain for that.

    Yi, Zhang, Yang, Chai, Johansson. Communication compression for decentralized nonconvex optimization. 2022.
    """

    name: ClassVar[str] = "norm-sign"
    mean: ClassVar[bool] = False

    def magnitudes(self, v: Array) -> Array:
        return np.abs(v).max(axis=1) / np.float64(2)


@dataclass(frozen=True)
class ScaledSign(Sign):
    """(‖v‖₁/d) sign(v), ‖C(v) − v‖² = ‖v‖² − ‖v‖₁²/d; δ = 1/d in the worst case, 2/π for a long Gaussian v.

    Karimireddy, Rebjock, Stich, Jaggi. Error feedback fixes SignSGD. ICML 2019, section 3.
    """

    name: ClassVar[str] = "scaled-sign"
    mean: ClassVar[bool] = True

    def magnitudes(self, v: Array) -> Array:
        with np.errstate(over="ignore"):
            return tree_sum(np.abs(v)) / v.shape[1]

    def delta(self, d: int) -> float:
        return 1 / d
