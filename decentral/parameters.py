"""Typed construction of a component from its table in a configuration."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, TypeVar

from decentral.errors import ConfigError, unknown

T = TypeVar("T")


def construct(kind: type[T], values: dict[str, Any], where: str) -> T:
    """An instance of the dataclass `kind` with checked field names and types.

    where : how the configuration calls this table, for the sentence of an error
    Raises ConfigError for an unknown key (with the nearest known one) or a value of the wrong type.
    """
    import msgspec

    known = [f.name for f in dataclasses.fields(kind) if f.init]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(unknown(f"key in [{where}]", key, known) if known else f'[{where}] takes no "{key}"')
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(sentence(error, where)) from None


def sentence(error: Exception, where: str = "") -> str:
    """A validation error in words: which key of which table, what was expected."""
    text = str(error)
    match = re.match(r"(.*?)(?: - at `\$\.?(.*)`)?$", text, re.DOTALL)
    message, path = (match.group(1), match.group(2) or "") if match else (text, "")
    missing = re.match(r"Object missing required field `(.*)`", message)
    full = ".".join(p for p in (where, path) if p)
    if missing:
        return f"[{full}] needs {missing.group(1)}" if full else f"the configuration needs {missing.group(1)}"
    return f"{full}: {message[0].lower()}{message[1:]}" if full else message
