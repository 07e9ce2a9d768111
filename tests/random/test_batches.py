"""Batches without replacement."""

import numpy as np
import pytest

from decentral import kernels
from decentral.errors import ProblemError
from decentral.random import Key, Purpose, sample_batches


@pytest.fixture(params=["c", "numpy"], autouse=True)
def backend(request, monkeypatch):
    """Both sets of inner loops."""
    if request.param == "c" and kernels.c is None:
        pytest.skip(kernels.why)
    if request.param == "numpy":
        monkeypatch.setattr(kernels, "c", None)


def key(rows, round=0, seed=3):
    return Key(seed, Purpose.BATCH, round, np.arange(rows))


@pytest.mark.parametrize("sizes, batch", [((5, 9, 100), 1), ((5, 9, 100), 5), ((64, 65, 3000), 64), ((65, 70, 3000), 65)])
def test_distinct_and_in_range(sizes, batch):
    picks = sample_batches(key(len(sizes)), np.array(sizes), batch)
    assert picks.shape == (len(sizes), batch) and picks.dtype == np.int64
    for row, size in zip(picks, sizes, strict=True):
        assert len(set(row.tolist())) == batch and row.min() >= 0 and row.max() < size


def test_all_subsets_are_equally_likely():
    rows, counts = 20_000, {}
    for row in np.sort(sample_batches(key(rows), np.full(rows, 5), 2), axis=1).tolist():
        counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    assert len(counts) == 10
    chi2 = sum((c - rows / 10) ** 2 / (rows / 10) for c in counts.values())
    assert chi2 < 50  # nine degrees of freedom: fails by chance 1e-7


def test_same_bits_from_both_backends(monkeypatch):
    k, sizes = key(6, round=8), np.array([70, 71, 100, 1000, 10**6, 581_012])
    for batch in (1, 8, 64, 65, 70):
        here = sample_batches(k, sizes, batch)
        with monkeypatch.context() as m:
            m.setattr(kernels, "c", None)
            assert (here == sample_batches(k, sizes, batch)).all()


def test_an_agent_draws_the_same_wherever_it_is():
    sizes = np.array([10, 20, 30, 40])
    together = sample_batches(key(4), sizes, 6)
    for i in range(4):
        alone = sample_batches(Key(3, Purpose.BATCH, 0, np.array([i])), sizes[i : i + 1], 6)
        assert (alone[0] == together[i]).all()


def test_too_large_a_batch_names_the_agent():
    with pytest.raises(ProblemError, match="agent 9.*at most 4"):
        sample_batches(Key(0, Purpose.BATCH, 0, np.array([2, 9])), np.array([10, 4]), 5)
