"""Libraries that only pictures and pages need, imported when a picture or a page is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from decentral.errors import ConfigError


def need(module: str, purpose: str) -> Any:
    """Import `module`; ConfigError that says how to install it where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = module.partition(".")[0]
        raise ConfigError(
            f"{purpose} needs {missing}, which cannot be imported here ({error}). "
            "Install it: pip install 'decentral[report]'"
        ) from error
