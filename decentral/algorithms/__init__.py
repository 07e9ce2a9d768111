"""The methods, one file per paper. `load` finds one by name or by the path of a user's own class."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from decentral.errors import ConfigError, unknown

_WHERE = {
    "lt-admm-cc": "lt_admm_cc:LTADMMCC",
    "lt-admm": "lt_admm:LTADMM",
    "lead": "lead:LEAD",
    "cedas": "cedas:CEDAS",
    "cold": "cold:COLD",
    "dyna-cold": "cold:DynaCOLD",
    "dpdc": "dpdc:DPDC",
    "dpdc2": "dpdc:DPDC2",
    "dpdc3": "dpdc:DPDC3",
    "choco-sgd": "choco_sgd:ChocoSGD",
    "beer": "beer:BEER",
    "deepsqueeze": "deep_squeeze:DeepSqueeze",
    "d-psgd": "d_psgd:DPSGD",
    "atc": "d_psgd:ATC",
    "extra": "extra:EXTRA",
    "exact-diffusion": "exact_diffusion:ExactDiffusion",
    "nids": "exact_diffusion:NIDS",
    "diging": "tracking:DIGing",
    "atc-tracking": "tracking:ATCTracking",
    "proxskip": "prox_skip:ProxSkip",
}
NAMES = tuple(_WHERE)


def load(name: str) -> Any:
    """The class of a method: a registered name, "package.module:Class", or "path/to/file.py:Class".

    Raises ConfigError when it is not there.
    """
    if name in _WHERE:
        module, attribute = _WHERE[name].split(":")
        return getattr(importlib.import_module(f"decentral.algorithms.{module}"), attribute)
    if ":" not in name.lstrip(":"):
        raise ConfigError(unknown("algorithm", name, NAMES, "decentral list algorithms; your own: \"file.py:Class\""))
    from decentral.parameters import own_module

    module, attribute = name.rsplit(":", 1)
    found = own_module(module, f'algorithm.name = "{name}"')
    if not hasattr(found, attribute):
        classes = [n for n, v in vars(found).items() if isinstance(v, type)]
        raise ConfigError(unknown(f"class in {module}", attribute, classes))
    method = getattr(found, attribute)
    if not dataclasses.is_dataclass(method):
        raise ConfigError(f'algorithm.name = "{name}": {attribute} is no dataclass: its fields are its configuration')
    return method


def build(table: dict[str, Any]) -> Any:
    """A method from its table in a configuration; `compressor` is built, `estimator` must have been taken out.

    Raises ConfigError for an unknown method or parameter, or a compressor given to a method that sends plain vectors.
    """
    from decentral.compressors import build as build_compressor
    from decentral.parameters import construct

    table = dict(table)
    method = load(table.pop("name", "lt-admm-cc"))
    compressor = table.pop("compressor", None)
    built = construct(method, table, "algorithm", getattr(method, "name", method.__name__))
    if compressor is None:
        return built
    if "compressor" not in {f.name for f in dataclasses.fields(built)}:
        names = ", ".join(n for n in NAMES if "compressor" in {f.name for f in dataclasses.fields(load(n))})
        raise ConfigError(f"{method.label} sends uncompressed vectors; algorithm.compressor is for: {names}")
    return dataclasses.replace(built, compressor=build_compressor(compressor))


__all__ = ["NAMES", "build", "load"]
