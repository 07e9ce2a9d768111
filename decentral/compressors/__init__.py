"""Compressors by name: identity, quantize, qsgd, rand-k, top-k, top-k-quantize, norm-sign, scaled-sign, absolute."""

from __future__ import annotations

from typing import Any

from decentral.compressors.absolute import Absolute
from decentral.compressors.auto import Auto
from decentral.compressors.base import Compressor
from decentral.compressors.identity import Identity
from decentral.compressors.qsgd import QSGD
from decentral.compressors.quantize import Quantize
from decentral.compressors.sign import NormSign, ScaledSign
from decentral.compressors.sparse import RandK, TopK, TopKQuantize
from decentral.errors import ConfigError, unknown

COMPRESSORS: dict[str, type[Compressor]] = {
    c.name: c for c in (Identity, Quantize, QSGD, RandK, TopK, TopKQuantize, NormSign, ScaledSign, Absolute)
}


def build(spec: dict[str, Any] | str) -> Any:
    """A compressor from its table in a configuration, e.g. {"name": "quantize", "bits": 8, "norm": "inf"}, or its name.

    "auto" gives an `Auto`, which the runner replaces by what it measures to be best.

    Raises ConfigError for an unknown name or parameter, or a value that is not allowed.
    """
    from decentral.parameters import construct

    spec = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = spec.pop("name", "identity")
    if name == Auto.name:
        return construct(Auto, spec, "algorithm.compressor", name)
    if name not in COMPRESSORS:
        raise ConfigError(unknown("compressor", name, [*COMPRESSORS, Auto.name], "decentral list compressors"))
    if isinstance(inner := spec.get("quantize"), dict):
        construct(Quantize, inner, "algorithm.compressor.quantize")
    return construct(COMPRESSORS[name], spec, "algorithm.compressor", name)


__all__ = [
    "COMPRESSORS",
    "QSGD",
    "Absolute",
    "Auto",
    "Compressor",
    "Identity",
    "NormSign",
    "Quantize",
    "RandK",
    "ScaledSign",
    "TopK",
    "TopKQuantize",
    "build",
]
