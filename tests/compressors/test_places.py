"""The code of places: what it says, how long it is, and that nothing else decodes."""

from itertools import combinations
from math import lgamma, log

import numpy as np
import pytest

from decentral import kernels
from decentral.compressors.places import BITMAP, Places
from decentral.errors import TransportError

FAR = [2**31 - 1, 2**31 + 5, 2**32 - 1, 2**32 + 7, 2**40]


def some(d, k, rows, seed=0):
    """(rows, k) increasing places below d, the ends of the range among them."""
    rng = np.random.default_rng((seed, d, k))
    out = [np.arange(k), np.arange(d - k, d)]
    while len(out) < rows:
        picks = rng.permutation(d)[:k] if d < 10**6 else np.unique(rng.integers(0, d, 4 * k + 8))
        out.append(np.sort(rng.permutation(picks)[:k]))
    return np.array(out, dtype=np.int64)


def test_wire_by_hand(backend):
    code = Places(64, 3)
    assert code.low == 4 and code.nbytes == 3  # 3·4 + 3 + 63 // 16 - 1 = 17 bits
    low, high = 5 | 1 << 4 | 15 << 8, 1 << 0 | 1 << 2  # of 5, 17 and 63; high parts 0, 1 and 3, the last bit is not sent
    assert code.pack(np.array([[5, 17, 63]])).tobytes() == (low | high << 12).to_bytes(3, "little")
    assert Places(16, 3).low == BITMAP
    assert Places(16, 3).pack(np.array([[0, 9, 15]])).tolist() == [[1, 2 | 128]]
    assert Places(1, 1).nbytes == 0 and Places(1, 1).unpack(np.empty((2, 0), np.uint8)).tolist() == [[0], [0]]


@pytest.mark.parametrize("d", range(1, 11))
def test_every_set_comes_back(backend, d):
    for k in range(1, d + 1):
        places, code = np.array(list(combinations(range(d), k))), Places(d, k)
        stream = code.pack(places)
        assert stream.shape == (len(places), code.nbytes) and (code.unpack(stream) == places).all()
        assert len({row.tobytes() for row in stream}) == len(places)


@pytest.mark.parametrize("d, k", [(100, 10), (1000, 1), (1000, 249), (1000, 250), (1000, 251), (1000, 999), (40_000, 3000)])
def test_places_come_back(backend, d, k):
    places = some(d, k, 20)
    assert (Places(d, k).unpack(Places(d, k).pack(places)) == places).all()


@pytest.mark.parametrize("d", FAR)
@pytest.mark.parametrize("k", [1, 2, 77])
def test_places_beyond_two_to_the_31(backend, d, k):
    places = some(d, k, 9)
    assert (Places(d, k).unpack(Places(d, k).pack(places)) == places).all()


def sizes():
    """(d, k) small, long and far."""
    yield from ((d, k) for d in (1, 2, 3, 8, 33, 64, 65, 127, 200) for k in {1, 2, d // 5, d // 2, d - 1, d} if 0 < k <= d)
    yield from ((d, k) for d in (5000, *FAR[:3]) for k in (1, 3, 64, 1200))


@pytest.mark.skipif(kernels.sparse is None, reason=kernels.why)
@pytest.mark.parametrize("d, k", list(sizes()))
def test_backends_agree(d, k, monkeypatch, use_numpy):
    """On the bytes of places, and on what arbitrary bytes say."""
    code, places = Places(d, k), some(d, k, 12)
    stream = code.pack(places)
    rng = np.random.default_rng(d)
    streams = [stream, *rng.integers(0, 256, (10, 1, code.nbytes), dtype=np.uint8)]
    for _ in range(30 if code.nbytes else 0):
        flipped = stream[rng.integers(len(stream)), None].copy()
        flipped[0, rng.integers(code.nbytes)] ^= np.uint8(1 << rng.integers(8))
        streams.append(flipped)
    verdicts = [verdict(code, s) for s in streams]
    with monkeypatch.context() as m:
        use_numpy(m)
        assert code.pack(places).tobytes() == stream.tobytes()
        assert verdicts == [verdict(code, s) for s in streams]
    for read in verdicts:
        if read is not None:
            assert all(row == sorted(set(row)) and 0 <= row[0] and row[-1] < d for row in read)


def verdict(code, stream):
    """What is read, or None where it is refused."""
    try:
        return code.unpack(stream).tolist()
    except TransportError:
        return None


def test_no_other_code_is_shorter():
    for d in range(1, 200):
        for k in range(1, d + 1):
            code = Places(d, k)
            assert code.nbytes <= min(-(-k * (d - 1).bit_length() // 8), -(-d // 8), 4 * k)
    for d in (10**5, 10**6, 10**7):
        for k in (d // 1000, d // 100, d // 10):
            assert Places(d, k).nbytes < min(2 * k, d / 8)  # gaps of 16 bits, without counting escapes; a bitmap


def test_gaps_of_16_bits_are_longer_for_places_at_random():
    """Gaps are geometric with mean d/k; every 65535 entries without a place cost 16 bits."""
    k = 1000
    shorter_by = {}
    for gap in [*np.geomspace(8, 1e6, 200), 16_384]:
        longer = (1 - 1 / gap) ** 65535
        shorter_by[gap] = 16 / (1 - longer) - 8 * Places(round(gap * k), k).nbytes / k
    assert min(shorter_by, key=shorter_by.get) == 16_384 and 0.25 < shorter_by[16_384] < 0.35


def test_overhead_with_float32_values():
    """Against log2 of binomial(d, k): 1.2 to 1.5 % at 0.1, 1 and 10 %, 2.1 % at worst below 0.9 d, for k = d/4."""
    for d in (10**5, 10**6, 10**8):
        assert all(overhead(d, round(share * d)) < 1.0154 for share in (0.001, 0.01, 0.1))
        assert max(overhead(d, round(share * d)) for share in np.geomspace(20 / d, 0.9, 300)) < 1.0215


def overhead(d, k):
    least = (lgamma(d + 1) - lgamma(k + 1) - lgamma(d - k + 1)) / log(2)
    return (32 * k + 8 * Places(d, k).nbytes) / (32 * k + least)
