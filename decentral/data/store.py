"""The cache: one folder per set, X.npy and labels.npy, uncompressed so that all processes of a machine map one copy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from decentral.data.dataset import Raw
from decentral.data.registry import RECIPES
from decentral.errors import DataError
from decentral.state import Array


class UnreachableError(DataError):
    """A download that cannot be made here and now."""


def root() -> Path:
    """``$DECENTRAL_DATA``, else ``$XDG_CACHE_HOME/decentral``, else ``~/.cache/decentral``."""
    if chosen := os.environ.get("DECENTRAL_DATA"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "decentral"


def folder_of(name: str) -> Path:
    """Where the set `name` is or will be; the digest in it makes another content another folder."""
    return root() / f"{name}-{RECIPES[name].digest[:8]}"


def read(name: str) -> Raw | None:
    """The set from the cache, X memory-mapped; None where it is absent, cut short, or of another shape."""
    folder, recipe = folder_of(name), RECIPES[name]
    try:
        X = np.asarray(np.load(folder / "X.npy", mmap_mode="r", allow_pickle=False))
        labels = np.load(folder / "labels.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if X.shape != (recipe.rows, recipe.features) or X.dtype != np.float64 or labels.shape != (recipe.rows,):
        return None
    return Raw(X, labels, regression=recipe.classes == 0)


def obtain(name: str, say: Callable[[str], None]) -> Raw:
    """The set from the cache, or from its archive or scikit-learn and then into the cache.

    Raises UnreachableError where a download is impossible, DataError for wrong content or a cache that is not writable.
    """
    raw = read(name)
    if raw is None:
        import tempfile

        from decentral.data.decoders import decode

        folder = folder_of(name)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as workplace:
                X, labels = decode(name, Path(workplace), say)
                _keep(name, Path(workplace), X / RECIPES[name].unit, labels)
        except OSError as error:
            reason = error.strerror or str(error)
            raise DataError(
                f"cannot write the data cache {folder}: {reason}. Set DECENTRAL_DATA to a folder"
            ) from error
        say(f"{name}: {X.shape[0]} rows, {X.shape[1]} features, kept in {folder}")
        raw = read(name)
        if raw is None:
            raise DataError(f"{folder} cannot be read back: remove it and try again")
    return raw


def _keep(name: str, workplace: Path, X: Array, labels: Array) -> None:
    """Put the arrays into the cache in one step: whoever reads sees all or nothing, and of two writers the first wins."""
    new, folder = workplace / "new", folder_of(name)
    new.mkdir()
    np.save(new / "X.npy", X)
    np.save(new / "labels.npy", labels)
    if folder.exists() and read(name) is None:  # damaged
        os.replace(folder, workplace / "damaged")
    try:
        os.replace(new, folder)
    except OSError:
        if not folder.is_dir():
            raise
