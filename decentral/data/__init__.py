"""Data sets: named ones that are fetched once and kept, synthetic ones, the user's own file; and splits over agents.

dataset = load("a9a")                                       # X (rows, features), y (rows,)
owner = split(dataset, agents=8, seed=7, name="sorted")     # (rows,) agent of each row
X, y, ptr = partition(dataset, owner, own_agents=[3])       # what one process needs
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from decentral.data.dataset import SCALES, Dataset, prepare
from decentral.data.registry import RECIPES
from decentral.data.split import SPLITS, partition, split, summary
from decentral.data.store import UnreachableError, folder_of, obtain, read, root
from decentral.errors import DataError, unknown

__all__ = [
    "SCALES",
    "SPLITS",
    "Dataset",
    "Listing",
    "available",
    "fetch",
    "load",
    "partition",
    "root",
    "split",
    "summary",
]

SEE = "decentral data"
COMMON = ("classes", "rows", "scale", "intercept")
OWN = {"synthetic": ("features", "samples", "shift"), "file": ("path", "label", "group", "regression")}


def _silent(_: str) -> None:
    pass


def load(
    name: str,
    *,
    seed: int = 0,
    agents: int | None = None,
    fallback: str | None = None,
    say: Callable[[str], None] = _silent,
    **parameters: Any,
) -> Dataset:
    """A data set by name; see `available`. Not collective: where the cache may be empty, let one process go first.

    All sets take `classes` (labels to keep), `rows` (a subset drawn with `seed`), `scale` (see SCALES) and `intercept`
    (append a column of ones). "synthetic" needs `agents` and takes features, samples, shift; "file" needs path and
    takes label, group, regression. Where a download is impossible and `fallback` names another set, that one comes,
    with its own defaults, and `notes` says so. `say` hears of progress. Raises DataError.
    """
    if name not in RECIPES and name not in OWN:
        raise DataError(unknown("data", name, [*RECIPES, *OWN], SEE))
    if fallback is not None and fallback not in RECIPES:
        raise DataError(unknown("data.fallback", fallback, RECIPES, SEE))
    own = OWN.get(name, ())
    for parameter in parameters:
        if parameter not in (*own, *COMMON):
            raise DataError(unknown(f'parameter of data "{name}"', parameter, (*own, *COMMON)))
    given = {key: value for key, value in parameters.items() if key in own}
    common = {key: value for key, value in parameters.items() if key in COMMON}
    resolved = dict(parameters)
    if name == "synthetic":
        from decentral.data.synthetic import synthetic

        if agents is None:
            raise DataError('data "synthetic" makes samples for each agent: say how many agents there are')
        raw, source = synthetic(agents, seed, **given), "generated: Gaussian features around a mean of each agent's own"
        resolved["agents"] = agents
    elif name == "file":
        from decentral.data.files import read_file

        if "path" not in given:
            raise DataError('data "file" needs data.path, the file to read')
        raw, source = read_file(**given), f"file {Path(given['path']).name}"
        resolved["path"] = str(given["path"])
    else:
        try:
            raw = obtain(name, say)
        except UnreachableError as error:
            if fallback is None:
                place = folder_of(name)
                raise DataError(f'data "{name}": {error}; or copy {place} from a machine that has it') from error
            note = f'data "{name}" is not here and {error}; using "{fallback}" instead'
            say(note)
            dataset = load(fallback, seed=seed, agents=agents, say=say)
            return replace(dataset, notes=(note, *dataset.notes))
        source = RECIPES[name].source
        common.setdefault("scale", RECIPES[name].scale)
    resolved.update(common, seed=seed)
    return Dataset(name=name, source=source, parameters=resolved, **prepare(raw, seed=seed, **common))


class Listing(NamedTuple):
    """One line of `available`; rows, features and classes are None where they are the user's choice."""

    name: str
    rows: int | None
    features: int | None
    classes: int | None
    origin: str
    cached: bool
    source: str


def available() -> list[Listing]:
    """All data sets, in the order in which to show them."""
    listings = []
    for name, recipe in RECIPES.items():
        archive = recipe.archive
        origin = f"{archive.package} {archive.version}, {archive.megabytes} MB" if archive else "scikit-learn"
        cached = read(name) is not None
        listings.append(Listing(name, recipe.rows, recipe.features, recipe.classes, origin, cached, recipe.source))
    listings.append(Listing("synthetic", None, None, 2, "generated", True, "features, samples, shift"))
    listings.append(Listing("file", None, None, None, "path", True, ".npz, .csv or LibSVM text"))
    return listings


def fetch(name: str, say: Callable[[str], None] = _silent) -> Path:
    """Bring a named set into the cache, and return its folder there. Raises DataError."""
    if name not in RECIPES:
        raise DataError(unknown("data set to fetch", name, RECIPES, SEE))
    obtain(name, say)
    return folder_of(name)
