"""Compressors by name: identity, quantize, qsgd, rand-k, top-k, top-k-quantize, norm-sign, scaled-sign, absolute."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from decentral.compressors.base import Compressor
from decentral.errors import ConfigError, unknown

if TYPE_CHECKING:
    from decentral.compressors.absolute import Absolute
    from decentral.compressors.auto import Auto
    from decentral.compressors.identity import Identity
    from decentral.compressors.qsgd import QSGD
    from decentral.compressors.quantize import Quantize
    from decentral.compressors.sign import NormSign, ScaledSign
    from decentral.compressors.sparse import RandK, TopK, TopKQuantize

_WHERE = {
    "identity": "identity:Identity",
    "quantize": "quantize:Quantize",
    "qsgd": "qsgd:QSGD",
    "rand-k": "sparse:RandK",
    "top-k": "sparse:TopK",
    "top-k-quantize": "sparse:TopKQuantize",
    "norm-sign": "sign:NormSign",
    "scaled-sign": "sign:ScaledSign",
    "absolute": "absolute:Absolute",
    "auto": "auto:Auto",
}
NAMES = tuple(_WHERE)


def load(name: str) -> Any:
    """The class of a compressor; "auto" gives `Auto`. ConfigError for an unknown name."""
    if name not in _WHERE:
        raise ConfigError(unknown("compressor", name, NAMES, "decentral list compressors"))
    module, attribute = _WHERE[name].split(":")
    return getattr(import_module(f"decentral.compressors.{module}"), attribute)


def __getattr__(name: str) -> Any:
    """Import on first use, as a run uses one of them: `from decentral.compressors import Quantize`."""
    for known, where in _WHERE.items():
        if where.endswith(f":{name}"):
            return load(known)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def build(spec: dict[str, Any] | str) -> Any:
    """A compressor from its table in a configuration, e.g. {"name": "quantize", "bits": 8, "norm": "inf"}, or its name.

    "auto" gives an `Auto`, which the runner replaces by what it measures to be best.

    Raises ConfigError for an unknown name or parameter, or a value that is not allowed.
    """
    from decentral.parameters import construct, named

    spec = named(spec, "algorithm.compressor")
    if spec and "name" not in spec:
        raise ConfigError(f'algorithm.compressor has {", ".join(spec)} and no name: say which, e.g. name = "quantize"')
    name = spec.pop("name", "identity")
    if isinstance(inner := spec.get("quantize"), dict):  # a resolved configuration says its name as well
        spec["quantize"] = {k: v for k, v in inner.items() if (k, v) != ("name", "quantize")}
        here, inside = "algorithm.compressor.", "algorithm.compressor.quantize"
        try:
            construct(load("quantize"), spec["quantize"], inside)
        except ConfigError as error:  # of a value that Quantize refuses, it says where it mostly stands
            raise ConfigError(str(error) if inside in str(error) else str(error).replace(here, f"{inside}.")) from None
    return construct(load(name), spec, "algorithm.compressor", name)


__all__ = [
    "NAMES",
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
    "load",
]
