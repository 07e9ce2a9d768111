"""Which agent owns which row: a deterministic function of the seed, and its summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from decentral.errors import DataError, unknown
from decentral.random import Key, Purpose
from decentral.state import Array

if TYPE_CHECKING:
    from decentral.data.dataset import Dataset


def _words(seed: int, count: int, stream: int) -> Array:
    """(count,) uint64 random words; streams are independent of each other."""
    halves = Key(seed, Purpose.SPLIT, 0, np.zeros(1, np.int64), stream).words(2 * count)[0].astype(np.uint64)
    return halves[0::2] | halves[1::2] << np.uint64(32)


def permutation(seed: int, count: int, stream: int = 0) -> Array:
    """(count,) random permutation of 0..count-1: the order of 64-bit random words."""
    return np.argsort(_words(seed, count, stream), kind="stable")


def _blocks(rows: int, agents: int) -> Array:
    """(rows,) non-decreasing owners; sizes differ by at most one, the first agents have the larger ones."""
    return np.repeat(np.arange(agents), [len(part) for part in np.array_split(np.arange(rows), agents)])


def iid(dataset: Dataset, agents: int, seed: int) -> Array:
    """Rows dealt at random; sizes differ by at most one."""
    return _assigned(permutation(seed, len(dataset.y)), _blocks(len(dataset.y), agents))


def by_label(dataset: Dataset, agents: int, seed: int) -> Array:
    """Rows sorted by label and cut into blocks of equal size up to one. Does not depend on the seed."""
    return _assigned(np.argsort(dataset.y, kind="stable"), _blocks(len(dataset.y), agents))


def dirichlet(dataset: Dataset, agents: int, seed: int, alpha: float = 0.3, min_samples: int = 1) -> Array:
    """Of each class, agents get shares drawn from Dirichlet(alpha, ..., alpha); small alpha is heterogeneous.

    An agent with fewer than `min_samples` rows then takes what it lacks from the agent that has most. Hsu, Qi, Brown,
    Measuring the effects of non-identical data distribution, 2019, arXiv 1909.06335 (shares by class as in FedML).
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 1e-3 <= alpha <= 1e6:
        raise DataError(f"split.alpha = {alpha!r}: give a number from 0.001 to 1000000")
    most = len(dataset.y) // agents
    if isinstance(min_samples, bool) or not isinstance(min_samples, int) or not 1 <= min_samples <= most:
        raise DataError(f"split.min_samples = {min_samples!r}: give a whole number from 1 to {most}")
    if not dataset.classes:
        raise DataError('split "dirichlet" deals by class, and this data has regression targets: use "iid" or "sorted"')
    owner = np.empty(len(dataset.y), np.int64)
    order = permutation(seed, len(owner))
    draw = np.random.Generator(np.random.Philox(key=_words(seed, 2, stream=2)))
    for value in np.unique(dataset.y):
        rows = order[dataset.y[order] == value]
        ends = np.rint(np.cumsum(draw.dirichlet(np.full(agents, float(alpha)))) * len(rows)).astype(np.int64)
        ends[-1] = len(rows)
        owner[rows] = np.repeat(np.arange(agents), np.diff(ends, prepend=0))
    sizes = np.bincount(owner, minlength=agents)
    while sizes.min() < min_samples:
        poor, rich = int(sizes.argmin()), int(sizes.argmax())
        moved = order[owner[order] == rich][: min(min_samples - sizes[poor], sizes[rich] - min_samples)]
        owner[moved] = poor
        sizes = np.bincount(owner, minlength=agents)
    return owner


def by_group(dataset: Dataset, agents: int, seed: int) -> Array:
    """Whole groups shuffled and dealt to the agents in turn. Raises DataError with fewer groups than agents."""
    if dataset.group is None:
        raise DataError(
            f'split "group" needs a group for each row, and data "{dataset.name}" has none: name its column'
        )
    found, inverse = np.unique(dataset.group, return_inverse=True)
    if len(found) < agents:
        raise DataError(f"{len(found)} groups for {agents} agents: give at most {len(found)} agents")
    return _assigned(permutation(seed, len(found)), np.arange(len(found)) % agents)[inverse.ravel()]


def _assigned(order: Array, owners: Array) -> Array:
    owner = np.empty(len(order), np.int64)
    owner[order] = owners
    return owner


SPLITS: dict[str, Callable[..., Array]] = {
    "iid": iid,
    "sorted": by_label,
    "dirichlet": dirichlet,
    "group": by_group,
}
PARAMETERS = {"dirichlet": ("alpha", "min_samples")}


def split(dataset: Dataset, agents: int, seed: int, name: str = "iid", **parameters: Any) -> Array:
    """(rows,) int64 owner of each row; every agent owns at least one. The data's own `owner` wins where it has one.

    Names: iid, sorted, dirichlet (alpha, min_samples), group. Raises DataError.
    """
    if name not in SPLITS:
        raise DataError(unknown("split", name, SPLITS))
    for parameter in parameters:
        if parameter not in PARAMETERS.get(name, ()):
            raise DataError(unknown(f'parameter of split "{name}"', parameter, PARAMETERS.get(name, ())))
    if agents < 1:
        raise DataError(f"{agents} agents: give at least one")
    if dataset.owner is not None:
        sizes = np.bincount(dataset.owner)
        if len(sizes) != agents or not sizes.all():
            raise DataError(
                f'data "{dataset.name}" says the agent of each row, {np.count_nonzero(sizes)} agents up to number '
                f"{len(sizes) - 1}: that needs 0 to {agents - 1} each, for graph.agents = {agents}"
            )
        return dataset.owner
    if agents > len(dataset.y):
        raise DataError(f"{len(dataset.y)} rows for {agents} agents: give at most one agent per row")
    return SPLITS[name](dataset, agents, seed, **parameters)


def summary(dataset: Dataset, owner: Array) -> list[dict[str, Any]]:
    """Of each agent: agent, samples, and the samples of each class by its name (classes is empty for regression)."""
    agents = int(owner.max()) + 1
    names = [str(label) for label in dataset.classes]
    if not names:
        return [{"agent": i, "samples": int(n), "classes": {}} for i, n in enumerate(np.bincount(owner))]
    table = np.bincount(owner * len(names) + dataset.indices(), minlength=agents * len(names)).reshape(agents, -1)
    return [
        {"agent": i, "samples": int(row.sum()), "classes": dict(zip(names, row.tolist(), strict=True))}
        for i, row in enumerate(table)
    ]


def partition(dataset: Dataset, owner: Array, own_agents: Sequence[int] | Array) -> tuple[Array, Array, Array]:
    """X (S, features) and y (S,) of the own agents, agent after agent in the order given, and ptr (n + 1,).

    The rows of an agent keep their order. The arrays are copies, so nothing else of X need stay in memory.
    """
    own = np.asarray(own_agents, dtype=np.int64)
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=int(own.max(initial=-1)) + 1))
    parts = [order[ends[i - 1] if i else 0 : ends[i]] for i in own]
    rows = np.concatenate([*parts, np.empty(0, np.int64)])
    return dataset.X[rows], dataset.y[rows], np.cumsum([0, *map(len, parts)])
