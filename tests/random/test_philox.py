"""Draws are the published generator, and a function of where they are used."""

import numpy as np
import pytest

from decentral import kernels
from decentral.random import Key, Purpose, philox4x32

PUBLISHED = [  # counter, key, output: the known-answer tests of Random123
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.fixture(params=["c", "numpy"])
def backend(request, monkeypatch):
    """Both sets of inner loops."""
    if request.param == "c" and kernels.c is None:
        pytest.skip(kernels.why)
    if request.param == "numpy":
        monkeypatch.setattr(kernels, "c", None)
    return request.param


@pytest.mark.parametrize("counter, key, expected", PUBLISHED)
def test_published_vectors(counter, key, expected):
    assert tuple(int(w) for w in philox4x32(*map(np.asarray, counter), *key)) == expected


def test_counter_and_key_words_are_where_the_contract_says(backend):
    seed = 0x299F31D0_A4093822
    key = Key(seed, purpose=0x03, round=0x13198A2E, ids=np.array([0x85A308D3]), step=0x707344)
    low, high = 0xA4093822, 0x299F31D0
    expected = [int(w) for w in philox4x32(*map(np.asarray, (3, 0x85A308D3, 0x13198A2E, 0x03707344)), low, high)]
    assert key.words(16)[0, 12:].tolist() == expected


def test_words_of_large_index_do_not_repeat():
    words = philox4x32(np.arange(2**32 - 3, 2**32, dtype=np.uint64), *map(np.asarray, (1, 2, 3)), 4, 5)
    assert len({int(w) for w in words[0]}) == 3


@pytest.mark.parametrize("count", [1, 3, 4, 5, 127, 128, 129, 255, 256, 257, 1000, 3001])
def test_halves_are_the_words_in_tile_order(backend, count):
    key = Key(5, Purpose.TEST, 9, np.array([3, 2**32 - 1]), 7)
    blocks = key.words(4 * 128 * (count // 1024 + 1)).reshape(2, -1, 4)
    halves = key.halves(count)
    assert halves.dtype == np.uint16 and halves.shape == (2, count)
    for e in range(0, count, 1 if count < 300 else 37):
        tile, row, lane = e // 1024, e % 1024 // 32, e % 32
        word = blocks[:, tile * 128 + (row >> 3) * 32 + lane, (row & 7) >> 1]
        assert (halves[:, e] == (word >> np.uint32(16 * (row & 1)) & np.uint32(0xFFFF))).all()


def test_uniform(backend):
    key = Key(5, Purpose.TEST, 9, np.arange(3))
    u = key.uniform(20_000)
    assert u.dtype == np.float64 and u.min() >= 0 and u.max() < 1
    assert (u == key.words(20_000) / 2**32).all()
    assert abs(u.mean() - 0.5) * np.sqrt(12 * u.size) < 6  # fails by chance 2e-9


def test_a_row_is_its_own_whatever_rows_are_beside_it(backend):
    ids = np.array([7, 1, 4000, 2])
    together = Key(11, Purpose.TEST, 3, ids)
    for row, one in enumerate(ids):
        alone = Key(11, Purpose.TEST, 3, np.array([one]))
        assert (together.words(77)[row] == alone.words(77)[0]).all()
        assert (together.halves(77)[row] == alone.halves(77)[0]).all()
        assert (together.words(7)[row] == alone.words(77)[0, :7]).all()


@pytest.mark.parametrize("change", ["seed", "high seed", "purpose", "stream", "round", "step", "id"])
def test_every_part_of_a_key_changes_the_draw(backend, change):
    parts = {"seed": 1, "purpose": Purpose.AGENT_MESSAGE, "round": 1, "ids": np.array([1]), "step": 1}
    other = dict(parts)
    match change:
        case "high seed":
            other["seed"] = 1 + (1 << 40)
        case "stream":
            other["purpose"] = Purpose.AGENT_MESSAGE + 16
        case "id":
            other["ids"] = np.array([2])
        case _:
            other[change] = parts[change] + 1
    assert (Key(**parts).words(8) != Key(**other).words(8)).all()  # one word agrees by chance: 2e-9


@pytest.mark.parametrize("wrong", [{"purpose": 256}, {"step": 1 << 24}, {"round": 1 << 32}, {"round": -1}])
def test_parts_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match="bits"):
        Key(**{"seed": 0, "purpose": 1, "round": 0, "ids": np.arange(1), **wrong})


def test_negative_seed_is_a_seed(backend):
    assert (Key(-1, 1, 0, np.arange(1)).words(4) == Key(2**64 - 1, 1, 0, np.arange(1)).words(4)).all()
