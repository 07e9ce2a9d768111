"""The compiled sparse and sign kernels against NumPy: the same bytes on whatever row."""

import mmap
import sys

import numpy as np
import pytest

from decentral import kernels
from decentral.compressors import NormSign, ScaledSign, TopK, TopKQuantize
from decentral.compressors.places import Places
from decentral.compressors.sparse import largest, scatter, write_largest
from decentral.errors import NonFiniteError
from decentral.random import Key, Purpose

pytestmark = pytest.mark.skipif(kernels.sparse is None, reason=kernels.why)
WIDTHS = [1, 2, 7, 31, 32, 33, 100, 1023, 1024, 1025, 1536, 4097, 20_000]
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def sampled(d):
    """Places that the kernel looks at before it guesses a threshold, for rows above 1024."""
    groups = min(d // 512, 4096)
    part, g = d // groups, np.arange(groups, dtype=np.int64)
    return (g * part + (g * 2654435761 % 2**32 >> 8) % (part - 7))[:, None] + np.arange(8)


def rows_of(d, dtype, seed=0):
    """Rows that each defeat some shortcut."""
    rng = np.random.default_rng((seed, d))
    normal, real = rng.standard_normal(d), np.finfo(dtype)
    seen = np.zeros(d, bool)
    if d > 1024:
        seen[sampled(d)] = True
    rows = [
        normal,
        np.exp(4 * normal),
        rng.standard_cauchy(d),
        np.where(rng.random(d) < 0.005, normal, 0),  # what error feedback leaves behind
        np.where(rng.random(d) < 0.2, normal, -0.0),
        np.zeros(d),
        np.full(d, -0.7),
        rng.integers(-4, 5, d),
        rng.integers(0, 2, d) * 2.0 - 1,
        np.sort(np.abs(normal)),
        -np.sort(-np.abs(normal)),
        normal * real.smallest_subnormal * 50,
        rng.random(d) * real.max,
        1 + rng.random(d) * 1e-4,
        np.where(seen, 100 + normal, normal),  # the sample sees the largest alone,
        np.where(seen, normal * 1e-9, normal),  # the smallest alone,
        np.where(seen, 1.0, normal),  # what is not there otherwise,
        np.where(seen, normal, rng.integers(-2, 3, d)),
        np.where(seen, 0.0, 3 + rng.random(d) * 1e-3),
    ]
    return np.array(rows).astype(dtype)


def kept_by_sorting(row, k):
    return np.sort(np.argsort(-np.abs(row), kind="stable")[:k])


def some_k(d):
    return sorted({1, 2, d // 1000, d // 100, d // 10, d // 3, d - 1, d} & set(range(1, d + 1)))


def encoded(v, k):
    code = Places(v.shape[1], k)
    payload = np.empty((len(v), k * v.itemsize + code.nbytes), np.uint8)
    write_largest(v, None, code, payload)
    return payload


@DTYPES
@pytest.mark.parametrize("d", WIDTHS)
def test_the_k_largest(d, dtype):
    """Ties to the smallest place, in order, values as they are (the sign of 0 too): by sorting, and by the NumPy text."""
    v = rows_of(d, dtype)
    for k in some_k(d):
        payload, code = encoded(v, k), Places(d, k)
        places = code.unpack(payload[:, k * v.itemsize :])
        assert (places == largest(v, k)).all()
        for row, at, bytes_ in zip(v, places, payload, strict=True):
            assert (at == kept_by_sorting(row, k)).all()
            assert bytes_[: k * v.itemsize].tobytes() == row[at].tobytes()


def test_the_k_largest_of_a_long_row():
    """Long enough for a sample of many groups, with a k-th magnitude that has lower and upper guesses."""
    v = rows_of(300_000, np.float32)
    for k in (300, 3000, 30_000, 200_000):
        assert encoded(v, k).tobytes() == by_numpy(v, k).tobytes()


def by_numpy(v, k):
    at = largest(v, k)
    values = np.take_along_axis(v, at, axis=1)
    return np.concatenate((values.view(np.uint8), Places(v.shape[1], k).pack(at)), axis=1)


@pytest.mark.parametrize("k", [300, 1500])
def test_the_k_largest_of_2_to_the_31_entries(k):
    """Zeros but for the last ones, in memory that is not there: k of those, found in the end; or all, and the first zeros."""
    d, start = 2**31 + 1029, 2**31
    unreserved = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
    memory = mmap.mmap(-1, 4 * d, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | unreserved)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)  # a thousand times fewer pages of zeros
    v = np.frombuffer(memory, np.float32).reshape(1, d)
    v[0, start:] = np.random.default_rng(0).standard_normal(1029)
    payload, code = encoded(v, k), Places(d, k)
    at = np.concatenate((np.arange(max(0, k - 1029)), start + largest(v[:, start:], min(k, 1029))[0]))
    assert (code.unpack(payload[:, 4 * k :])[0] == at).all()
    assert payload[0, : 4 * k].tobytes() == v[0, at].tobytes()


def test_any_row():
    """Mixtures of distributions, ties and zeros, drawn from a fixed seed."""
    rng = np.random.default_rng(77)
    for _ in range(400):
        d = int(np.exp(rng.uniform(0, np.log(6000))))
        k, dtype = int(rng.integers(1, d + 1)), (np.float32, np.float64)[rng.integers(2)]
        if rng.random() < 0.5:
            k = max(1, k // 50)
        parts = [rng.standard_normal(d) * 10.0 ** rng.integers(-30, 30), rng.integers(-3, 4, d), np.zeros(d)]
        lengths = rng.integers(1, 300)
        which = np.repeat(rng.integers(0, 3, d // lengths + 1), lengths)[:d]
        v = np.choose(which, parts)[None].astype(dtype)
        assert encoded(v, k).tobytes() == by_numpy(v, k).tobytes()


@DTYPES
@pytest.mark.parametrize("d", [1, 40, 1024, 3000])
@pytest.mark.parametrize("poison", [np.nan, -np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(d, dtype, poison):
    everywhere = np.full(d, poison, dtype)
    for at in {0, 1, d // 2, d - 1} & set(range(d)):
        v = rows_of(d, dtype)[[0, 3, 5, 6, 9, 14, 15]]
        v[::2, at] = poison
        v = np.vstack((v, everywhere))
        for k in some_k(d):
            with pytest.raises(NonFiniteError) as caught:
                encoded(v, k)
            assert caught.value.rows == [0, 2, 4, 6, 7]
    if d == 3000:  # more of them than are kept, seen by the sample or not
        for hidden in (True, False):
            v = np.ones((1, d), dtype)
            v[0, np.setdiff1d(np.arange(d), sampled(d)) if hidden else sampled(d).ravel()] = poison
            with pytest.raises(NonFiniteError):
                encoded(v, 5)


@DTYPES
def test_values_may_go_elsewhere(dtype):
    v = rows_of(1536, dtype)
    code, values = Places(1536, 90), np.empty((len(v), 90), dtype)
    payload = np.full((len(v), 11 + code.nbytes), 7, np.uint8)
    write_largest(v, None, code, payload, values)
    together = encoded(v, 90)
    assert (payload[:, :11] == 7).all() and (payload[:, 11:] == together[:, 90 * v.itemsize :]).all()
    assert values.tobytes() == together[:, : 90 * v.itemsize].tobytes()


@DTYPES
@pytest.mark.parametrize("d", [1, 40, 1025, 5000])
@pytest.mark.parametrize("compressor", [TopK(fraction=0.1), TopKQuantize(fraction=0.1), NormSign(), ScaledSign()])
def test_a_difference_is_encoded_as_if_it_had_been_taken(compressor, d, dtype):
    v = rows_of(d, dtype)
    v = v[np.abs(v).max(axis=1) < 2.0**120]
    key = Key(1, Purpose.TEST, 0, np.arange(len(v)))
    for u in (np.zeros_like(v), v[::-1] * dtype(0.9)):  # the rows as they are, and others
        before = v.tobytes(), u.tobytes()
        assert compressor.encode_difference(v, u, key).tobytes() == compressor.encode(v - u, key).tobytes()
        assert before == (v.tobytes(), u.tobytes())
    u[2, d // 2] = np.inf
    with pytest.raises(NonFiniteError) as caught:
        compressor.encode_difference(v, u, key)
    assert caught.value.rows == [2]


@DTYPES
@pytest.mark.parametrize("d, k", [(1, 1), (9, 4), (9, 9), (5000, 3), (5000, 700)])
@pytest.mark.parametrize("step", [None, 1.0, 0.1])
def test_scatter(d, k, dtype, step, monkeypatch):
    rng = np.random.default_rng(d)
    places = np.sort(np.array([rng.permutation(d)[:k] for _ in range(4)]), axis=1)
    values, start = rng.standard_normal((4, k)).astype(dtype), rng.standard_normal((4, d)).astype(dtype)
    out = scatter(places, values, start.copy(), step)
    monkeypatch.setattr(kernels, "sparse", None)
    assert out.tobytes() == scatter(places, values, start.copy(), step).tobytes()


def test_sorted_places():
    places = np.array([np.random.default_rng(i).permutation(1000)[:130] for i in range(5)])
    expected = np.sort(places, axis=1)
    kernels.sparse.sort_places(places, 1000)
    assert (places == expected).all()


@DTYPES
@pytest.mark.parametrize("compressor", [NormSign(), ScaledSign()])
@pytest.mark.parametrize("d", [*WIDTHS, 7 * 1024 + 5])
def test_signs(compressor, d, dtype, monkeypatch):
    v = rows_of(d, dtype)
    v = v[np.abs(v).max(axis=1) < 2.0**120]
    payload = compressor.encode(v, None)
    decoded = compressor.decode(payload, d, dtype)
    monkeypatch.setattr(kernels, "sparse", None)
    assert compressor.encode(v, None).tobytes() == payload.tobytes()
    assert compressor.decode(payload, d, dtype).tobytes() == decoded.tobytes()


@DTYPES
@pytest.mark.parametrize("compressor", [NormSign(), ScaledSign()])
def test_signs_of_rows_without_a_scale_are_refused(compressor, dtype, monkeypatch):
    v = np.ones((4, 2000), dtype)
    v[1, 1999], v[3] = np.nan, np.finfo(dtype).max
    for _ in range(2):
        with pytest.raises(NonFiniteError) as caught:
            compressor.encode(v, None)
        assert caught.value.rows == [1, 3]
        monkeypatch.setattr(kernels, "sparse", None)


def wrong_calls():
    v, payload, places = np.ones((2, 9)), np.zeros((2, 18), np.uint8), np.array([[1, 3], [0, 8]])
    return {
        "k": ("top_k", v, None, payload, 16, 10, -1, None),
        "low": ("top_k", v, None, payload, 16, 2, 40, None),
        "bytes": ("top_k", v, None, payload, 15, 2, -1, None),
        "start": ("top_k", v, None, payload, 16, 1, -1, None),
        "values": ("top_k", v, None, payload, 16, 2, -1, np.zeros((2, 3))),
        "type of values": ("top_k", v, None, payload, 16, 2, -1, np.zeros((2, 2), np.float32)),
        "rows": ("top_k", v[:1].copy(), None, payload, 16, 2, -1, None),
        "minus": ("top_k", v, v[:, 1:].copy(), payload, 16, 2, -1, None),
        "type of minus": ("sign_encode", v, v.astype(np.float32), payload[:, :6].copy(), True),
        "far": ("pack_places", places, 2**32, 31, payload),
        "not rising": ("pack_places", places[:, ::-1].copy(), 9, -1, payload[:, :2].copy()),
        "beyond": ("pack_places", places + 1, 9, -1, payload[:, :2].copy()),
        "stream": ("unpack_places", payload, 9, -1, places),
        "scattered": ("scatter", places + 1, np.zeros((2, 2)), v, None),
        "negative": ("scatter", places - 1, np.zeros((2, 2)), v, None),
        "shape": ("scatter", places, np.zeros((2, 3)), v, None),
        "twice": ("sort_places", np.array([[1, 1]]), 9),
        "far places": ("sort_places", np.array([[1, 9]]), 9),
        "bytes of signs": ("sign_encode", v, None, payload, True),
        "bytes to signs": ("sign_decode", payload, v),
    }


@pytest.mark.parametrize("case", wrong_calls())
def test_a_wrong_call_is_refused(case):
    name, *args = wrong_calls()[case]
    with pytest.raises(ValueError):
        getattr(kernels.sparse, name)(*args)
