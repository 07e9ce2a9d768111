"""The b-bit quantizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from decentral.compressors.base import one_of, whole
from decentral.compressors.grid import Grid, OnGrid, block_of, check_block, grid_of, variance


@dataclass(frozen=True)
class Quantize(OnGrid):
    """b-bit quantizer, one float32 scale a block.

    bits : b from 1 to 16;  symbols : "packed" (b bits) or "paper" (2^b + 1 symbols, b + 1 bits); see `grid`
    norm : scale by the largest magnitude "inf" or the 2-norm "2"
    block : entries under one scale, a multiple of 32; 0 the whole row; omitted, 512 where d > 512 and else the whole row
    rounding : "dithered" (unbiased) or "nearest" (biased)
    Raises ConfigError for other values.

    Alistarh et al. QSGD. NeurIPS 2017; Liu, Li, Wang, Tang, Yan. LEAD. ICLR 2021 (inf-norm, blocks of 512).
    """

    bits: int = 8
    norm: Literal["inf", "2"] = "inf"
    block: int | None = None
    symbols: Literal["packed", "paper"] = "packed"
    rounding: Literal["dithered", "nearest"] = "dithered"
    name: ClassVar[str] = "quantize"

    def __post_init__(self) -> None:
        whole("bits", self.bits, 1, 16)
        check_block(self.block)
        one_of("norm", self.norm, ("inf", "2"))
        one_of("symbols", self.symbols, ("packed", "paper"))
        one_of("rounding", self.rounding, ("dithered", "nearest"))

    @property
    def top(self) -> int:
        """2L, the largest code."""
        return 1 << self.bits if self.symbols == "paper" else max(1, (1 << self.bits) - 2)

    def grid(self, d: int) -> Grid:
        width = self.bits + (self.symbols == "paper")
        return grid_of(self.top, width, self.norm == "2", self.rounding == "dithered", d, block_of(self.block, d))

    def ideal_bits(self, d: int, dtype: Any) -> float:
        """w d + 32 a scale."""
        grid = self.grid(d)
        return grid.width * d + 32 * grid.scales

    def omega(self, d: int) -> float | None:
        return variance(self.top, min(d, block_of(self.block, d))) if self.rounding == "dithered" else None

    def delta(self, d: int) -> float | None:
        n, squared = min(d, block_of(self.block, d)), self.top**2  # 4L²
        if self.rounding == "dithered":
            return None if (omega := variance(self.top, n)) >= 1 else 1 - omega
        if self.top == 1:
            return None
        if self.norm == "inf":
            return squared / (squared + n - 1)
        return 1 - n / squared if squared > n else None
