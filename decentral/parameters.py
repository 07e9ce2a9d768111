"""Typed construction of a component from its table in a configuration."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import tomllib
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from decentral.errors import ConfigError, DecentralError, import_failure, nearest, unknown

T = TypeVar("T")


def named(value: Any, where: str) -> dict[str, Any]:
    """The table of a component, a new one: its name is short for a table with a name. ConfigError for what is neither."""
    table = {"name": value} if isinstance(value, str) else value
    if not isinstance(table, dict):
        raise ConfigError(f"{where} = {json.dumps(value, default=str)}: give a name or a table")
    if not isinstance(table.get("name", ""), str):
        raise ConfigError(f"{where}.name = {json.dumps(table['name'], default=str)}: give a string")
    return dict(table)


def construct(kind: type[T], values: dict[str, Any], where: str, name: str = "") -> T:
    """An instance of `kind`, a dataclass or Struct, with checked field names and types.

    where, name : how the configuration calls this table, and what it chose by `name`, for the sentence of an error
    Raises ConfigError for an unknown key (with the nearest known one) or a value of the wrong type.
    """
    import msgspec

    known = getattr(kind, "__struct_fields__", None) or [f.name for f in dataclasses.fields(kind) if f.init]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            table = f"[{where}]" + (f" of {name}" if name else "")
            sentence = unknown(f"key in {table}", key, known) if known else f'{table} takes no "{key}"'
            if "params" in known and "did you mean" not in sentence:
                sentence += f". A parameter of what it names stands deeper: {where}.params.{key}"
            raise ConfigError(sentence)
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(_sentence(error, kind, values, where)) from None


def _sentence(error: Exception, kind: type[Any], values: dict[str, Any], where: str) -> str:
    """msgspec's error in words: which key of which table, what was given, what is allowed, the nearest guess."""
    if missing := re.match(r"Object missing required field `(\w+)`", str(error)):
        return f"{f'[{where}]' if where else 'the configuration'} needs {missing[1]}"
    place = re.search(r"at `\$\.(\w+)", str(error))
    if place is None:  # none is known
        return f"{where}: {error}"
    key, given, hint = place[1], values[place[1]], get_type_hints(kind)[place[1]]
    if isinstance(given, dict) and get_origin(hint) is dict:  # the entry of a table, and not all of it
        hint = get_args(hint)[1]
        inner = next(name for name, value in given.items() if not _fits(value, hint))
        key, given = f"{key}.{inner}", given[inner]
    text = json.dumps(given, ensure_ascii=False, default=str)
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{where}{'.' if where else ''}{key} = {shown}: give {_words(hint)}{_guess(given, hint)}"


def _words(hint: Any) -> str:
    """What a type allows: `a number or "auto"`."""
    arguments = get_args(hint)
    match get_origin(hint) or hint:
        case origin if origin in (Union, UnionType):
            return " or ".join(_words(option) for option in arguments if option is not NoneType)
        case origin if origin is Literal:
            return ("one of " if len(arguments) > 1 else "") + ", ".join(json.dumps(option) for option in arguments)
        case origin if origin is list:
            return "a list" + "".join(f" of {_words(entry).removeprefix('a ')}s" for entry in arguments)
        case origin if origin is dict or dataclasses.is_dataclass(origin):
            return "a table"
    return {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}.get(hint, str(hint))


def _guess(given: Any, hint: Any) -> str:
    """What was meant: a word that is allowed, a number or truth value without quotes, or a word with them."""
    words = [word for option in (hint, *get_args(hint)) if get_origin(option) is Literal for word in get_args(option)]
    if not isinstance(given, str):
        return f' (did you mean "{given}", with quotes?)' if str(given) in words else ""
    with suppress(tomllib.TOMLDecodeError):
        bare = given.strip().lower()
        if _fits(tomllib.loads(f"value = {bare}")["value"], hint):
            return f" (did you mean {bare}?)"
    return nearest(given, words)


def _fits(value: Any, hint: Any) -> bool:
    import msgspec

    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return False
    return True


def own_module(module: str, what: str) -> Any:
    """The module "package.module", or that of a file "path/to/file.py" of the user. ConfigError, which begins with `what`."""
    from importlib.util import module_from_spec, spec_from_file_location

    try:
        if not module.endswith(".py"):
            return import_module(module)
        if not Path(module).is_file():
            raise ConfigError(f"{what}: there is no file {module}")
        spec = spec_from_file_location(f"own {Path(module).stem}", module)
        assert spec is not None and spec.loader is not None  # it ends with .py
        found = module_from_spec(spec)
        sys.modules[found.__name__] = found  # dataclasses look it up
        spec.loader.exec_module(found)
        return found
    except DecentralError:
        raise
    except Exception as error:  # of whatever kind someone else's file raises
        raise ConfigError(f"{what}: cannot import {module} ({import_failure(error, module)})") from None
