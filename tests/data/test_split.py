"""Splits: sizes, determinism, heterogeneity, and what a process gets of them."""

from __future__ import annotations

import numpy as np
import pytest

from decentral.data import Dataset, partition, split, summary
from decentral.errors import DataError


def made(rows: int = 1000, classes: int = 4, group: object = None, owner: object = None) -> Dataset:
    """Row r has the features (r, r²) and class r mod `classes`."""
    r = np.arange(rows, dtype=np.float64)
    y = r.astype(np.int64) % classes
    return Dataset(
        np.stack([r, r * r], axis=1),
        2.0 * y - 1.0 if classes == 2 else y,
        "made",
        "here",
        classes=tuple(range(classes)),
        group=None if group is None else np.asarray(group),
        owner=None if owner is None else np.asarray(owner),
    )


GROUPS = np.arange(1000) // 37


@pytest.mark.parametrize("name", ["iid", "sorted", "dirichlet", "group"])
@pytest.mark.parametrize("agents", [1, 2, 7, 27])
def test_every_row_has_an_owner_and_every_agent_a_row(name: str, agents: int) -> None:
    dataset = made(group=GROUPS)
    owner = split(dataset, agents, 3, name)
    assert owner.shape == (1000,) and owner.dtype == np.int64
    assert set(owner) == set(range(agents))
    assert np.array_equal(owner, split(dataset, agents, 3, name))
    if agents > 1 and name != "sorted":
        assert not np.array_equal(owner, split(dataset, agents, 4, name))
    if name in ("iid", "sorted"):
        assert np.ptp(np.bincount(owner)) <= 1


def test_the_same_numbers_everywhere() -> None:
    """Pinned: a split must not change with the machine or the version."""
    dataset = made(40)
    assert "".join(map(str, split(dataset, 4, 7, "iid"))) == IID
    assert "".join(map(str, split(dataset, 4, 7, "dirichlet", alpha=0.5))) == DIRICHLET


IID = "1233003101003323020112202220101331123123"
DIRICHLET = "2333103221123333031222322232211231123132"


def test_iid_mixes_the_classes() -> None:
    owner = split(made(40000, 4), 4, 1, "iid")
    shares = np.array([[int(n) for n in row["classes"].values()] for row in summary(made(40000, 4), owner)]) / 10000
    assert abs(shares - 0.25).max() < 0.02  # over five standard deviations of 0.0038, and the key is fixed


def test_sorted_gives_contiguous_blocks_of_labels_in_row_order() -> None:
    dataset = made(12, 3)
    owner = split(dataset, 4, 0, "sorted")
    assert owner[np.argsort(dataset.y, kind="stable")].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_dirichlet_concentrates_with_small_alpha() -> None:
    dataset = made(20000, 10)
    largest = []
    for alpha in (0.01, 0.3, 1000.0):
        owner = split(dataset, 10, 5, "dirichlet", alpha=alpha)
        table = np.array([list(row["classes"].values()) for row in summary(dataset, owner)])
        largest.append((table.max(axis=0) / table.sum(axis=0)).mean())  # a class's largest share at one agent
    assert largest[0] > 0.8 > largest[1] > 0.25 > largest[2] > 0.1


def test_dirichlet_repairs_empty_agents() -> None:
    dataset = made(60, 2)
    for seed in range(20):
        sizes = np.bincount(split(dataset, 30, seed, "dirichlet", alpha=0.001), minlength=30)
        assert sizes.min() >= 1 and sizes.sum() == 60
        sizes = np.bincount(split(dataset, 6, seed, "dirichlet", alpha=0.01, min_samples=10), minlength=6)
        assert sizes.tolist() == [10] * 6


def test_groups_stay_whole() -> None:
    dataset = made(group=[f"site {g}" for g in GROUPS])
    owner = split(dataset, 5, 2, "group")
    assert all(len(set(owner[g == GROUPS])) == 1 for g in range(28))
    assert np.ptp([len(set(GROUPS[owner == i])) for i in range(5)]) == 1  # 28 groups dealt to 5


def test_the_owner_in_the_data_wins() -> None:
    dataset = made(6, 2, owner=[2, 2, 0, 0, 1, 1])
    assert split(dataset, 3, 0, "dirichlet") is dataset.owner
    for agents in (2, 4):
        with pytest.raises(DataError, match=rf"graph.agents = {agents}"):
            split(dataset, agents, 0)
    with pytest.raises(DataError, match="2 agents up to number 5"):
        split(made(6, 2, owner=[0, 0, 0, 5, 5, 5]), 6, 0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "idd"}, 'unknown split "idd".*did you mean "iid"'),
        ({"name": "dirichlet", "alhpa": 1.0}, 'unknown parameter of split "dirichlet" "alhpa".*did you mean "alpha"'),
        ({"name": "iid", "alpha": 1.0}, 'unknown parameter of split "iid" "alpha"'),
        ({"name": "dirichlet", "alpha": 0}, "split.alpha = 0"),
        ({"name": "dirichlet", "alpha": float("nan")}, "split.alpha = nan"),
        ({"name": "dirichlet", "min_samples": 251}, "whole number from 1 to 250"),
        ({"name": "group"}, "has none"),
        ({"agents": 1001}, "1000 rows for 1001 agents"),
        ({"agents": 0}, "at least one"),
    ],
)
def test_bad_requests(arguments: dict, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        split(made(), **{"agents": 4, "seed": 0, **arguments})


def test_fewer_groups_than_agents_and_regression() -> None:
    with pytest.raises(DataError, match="28 groups for 29 agents"):
        split(made(group=GROUPS), 29, 0, "group")
    numbers = Dataset(np.eye(5), np.array([3.0, 1.0, 2.0, 5.0, 4.0]), "numbers", "here")
    with pytest.raises(DataError, match="regression"):
        split(numbers, 2, 0, "dirichlet")
    assert split(numbers, 5, 0, "sorted").tolist() == [2, 0, 1, 4, 3]
    assert summary(numbers, np.array([0, 0, 1, 1, 1])) == [
        {"agent": 0, "samples": 2, "classes": {}},
        {"agent": 1, "samples": 3, "classes": {}},
    ]


def test_summary_names_the_classes() -> None:
    dataset = made(6, 2)
    assert summary(dataset, np.array([0, 0, 1, 1, 1, 0])) == [
        {"agent": 0, "samples": 3, "classes": {"0": 1, "1": 2}},
        {"agent": 1, "samples": 3, "classes": {"0": 2, "1": 1}},
    ]


def test_partition_groups_rows_by_agent_in_the_order_given() -> None:
    dataset = made(500)
    owner = split(dataset, 9, 1, "dirichlet", alpha=0.5)
    own = [7, 0, 3]
    X, y, ptr = partition(dataset, owner, own)
    assert X.flags.c_contiguous and X.dtype == np.float64 and X.flags.writeable and ptr.dtype == np.int64
    assert len(ptr) == 4 and ptr[-1] == len(X) == len(y)
    for k, agent in enumerate(own):
        rows = np.flatnonzero(owner == agent)
        assert np.array_equal(X[ptr[k] : ptr[k + 1], 0], rows)
        assert np.array_equal(y[ptr[k] : ptr[k + 1]], dataset.y[rows])


def test_partition_of_all_agents_has_all_rows() -> None:
    dataset = made(100)
    X, _, ptr = partition(dataset, split(dataset, 8, 0), np.arange(8))
    assert sorted(X[:, 0]) == list(range(100)) and ptr.tolist() == [0, 13, 26, 39, 52, 64, 76, 88, 100]
