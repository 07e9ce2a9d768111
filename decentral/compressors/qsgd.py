"""QSGD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from decentral.compressors.base import whole
from decentral.compressors.grid import Grid, OnGrid, block_of, check_block, grid_of, variance


@dataclass(frozen=True)
class QSGD(OnGrid):
    """QSGD: `levels` levels a side of the 2-norm, 2 levels + 1 symbols in ceil(log2(2 levels + 1)) bits each.

    contracted : divide by 1 + ω, which makes it biased and contractive with δ = 1/(1 + ω)
    block : as in `Quantize`, but omitted means the whole row, as in the paper
    Raises ConfigError for other values.

    Alistarh, Grubic, Li, Tomioka, Vojnović. QSGD. NeurIPS 2017, section 3.1; the contracted form is that of
    Koloskova, Stich, Jaggi. Decentralized stochastic optimization and gossip algorithms. ICML 2019.
    """

    levels: int = 16
    contracted: bool = False
    block: int = 0
    name: ClassVar[str] = "qsgd"

    def __post_init__(self) -> None:
        whole("levels", self.levels, 1, 1 << 15)
        check_block(self.block)

    def grid(self, d: int) -> Grid:
        top = 2 * self.levels
        return grid_of(top, top.bit_length(), True, True, d, block_of(self.block, d))

    def ideal_bits(self, d: int, dtype: Any) -> float:
        """32 a scale, and a sign and a level an entry."""
        return 32 * self.grid(d).scales + d * (1 + self.levels.bit_length())

    def gain(self, d: int) -> float:
        return 1 / (1 + self._variance(d)) if self.contracted else 1.0

    def _variance(self, d: int) -> float:
        return variance(2 * self.levels, min(d, block_of(self.block, d)))

    def omega(self, d: int) -> float | None:
        return None if self.contracted else self._variance(d)

    def delta(self, d: int) -> float | None:
        omega = self._variance(d)
        if self.contracted:
            return 1 / (1 + omega)
        return 1 - omega if omega < 1 else None
