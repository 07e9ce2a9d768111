"""The same bytes with one, two and three threads: rows so long, or so many, that the kernels start them."""

from functools import lru_cache

import numpy as np
import pytest

from decentral import kernels
from decentral.compressors import Identity, Quantize, TopK
from decentral.errors import ConfigError, DecentralError, NonFiniteError
from decentral.kernels.cores import kernel_threads
from decentral.random import Key
from decentral.ranks import Ranks

pytestmark = pytest.mark.skipif(kernels.c is None, reason=kernels.why)
SHAPES = [(1, 3_200_001), (40, 85_013), (8, 400_007), (33_000, 97)]
"""Entries enough for three threads, also to decode; tiles and blocks that are not full."""


@lru_cache(maxsize=2)
def rows(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=dtype)


def key_of(count):
    return Key(5, 3, 1, np.arange(count))


def with_threads(body):
    """What `body` returns, a tuple of arrays, is the same to the bit with 1, 2 and 3 threads; returned."""
    found = []
    try:
        for count in (1, 2, 3):
            kernels.use_threads(count)
            found.append(body())
    finally:
        kernels.use_threads(1)
    for other in found[1:]:
        assert [a.tobytes() == b.tobytes() for a, b in zip(other, found[0], strict=True)] == [True] * len(other)
    return found[0]


@pytest.mark.parametrize("block, dtype", [(b, np.float32) for b in (None, 0, 96, 1056, 1 << 20)] + [(0, np.float64)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_quantizer(shape, block, dtype):
    x, u = rows(shape, dtype), rows(shape, dtype, 1)
    q = Quantize(bits=4 if dtype is np.float32 else 3, norm="inf" if block == 96 else "2", block=block)

    def body():
        plain, payload, moved, jumped = q.encode(x, key_of(len(x))), q.encode_difference(x, u, key_of(len(x))), u.copy(), u.copy()
        q.advance(payload, jumped, 1.0)
        return plain, payload, q.decode(payload, shape[1], dtype), q.advance(payload, moved, 0.3), moved, jumped

    def one_pass():
        (sent, again), moved, jumped, out = np.empty((2, *payload.shape), np.uint8), u.copy(), u.copy(), np.empty_like(u)
        assert q.feedback(x, moved, key_of(len(x)), sent, 0.3, out) and q.feedback(x, jumped, key_of(len(x)), again, 1.0, jumped)
        assert again.tobytes() == sent.tobytes()
        return sent, out, moved, jumped

    _, payload, decoded, *advanced = with_threads(body)
    assert payload.any() and decoded.any()
    for a, b in zip(with_threads(one_pass), (payload, *advanced), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("block", [None, 0])
def test_a_long_row_has_the_bytes_of_numpy(block, monkeypatch):
    x, q = rows((1, 600_001), np.float32), Quantize(bits=4, norm="2", block=block)
    (payload,) = with_threads(lambda: (q.encode(x, key_of(1)),))
    monkeypatch.setattr(kernels, "c", None)
    assert q.encode(x, key_of(1)).tobytes() == payload.tobytes()


@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize("block", [None, 0])
@pytest.mark.parametrize("shape", [(5, 700_001), (5, 90_001)], ids=str)
def test_rows_that_are_not_finite_are_named(shape, block, norm):
    x = rows(shape, np.float32).copy()
    x[1, 17], x[3, -1] = np.nan, np.inf

    def body():
        with pytest.raises(NonFiniteError) as caught:
            Quantize(bits=4, norm=norm, block=block).encode(x, key_of(5))
        return (np.array(caught.value.rows),)

    assert with_threads(body)[0].tolist() == [1, 3]


def test_a_scale_out_of_range_is_found():
    x, q = rows((2, 1_600_000), np.float32), Quantize(bits=4)
    payload = q.encode(x, key_of(2))
    payload[1, 4 * 3000 : 4 * 3001].view(np.float32)[...] = np.nan

    def body():
        with pytest.raises(DecentralError, match="a scale is out of range"):
            q.decode(payload, x.shape[1], np.float32)
        return ()

    with_threads(body)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [97, 1_055_013])
def test_sums_over_a_neighborhood(d, dtype):
    n = 33_000 if d == 97 else 3
    ring = np.arange(n)
    head = np.stack((ring - 1, ring + 1), axis=1).reshape(-1) % n
    ptr = np.arange(0, 2 * n + 1, 2)
    ptr[1] = 0  # the first agent has no neighbor
    x, z, w = rows((n, d), dtype), rows((2 * n, d), dtype, 1), np.random.default_rng(2).random(2 * n).astype(dtype)

    def body():
        outs = [np.full((n, d), np.nan, dtype) for _ in range(4)]
        kernels.c.total(z, ptr, outs[0])
        kernels.c.disagreement(x, ptr, head, w, outs[1])
        kernels.c.disagreement(x, ptr, head, None, outs[2])
        kernels.c.blend(0.3, x, -0.7, outs[1], 1.1, z, head[:n], outs[3])
        return outs

    assert all(np.isfinite(out).all() for out in with_threads(body))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [True, False])
def test_columns_are_summed_together_where_rows_are_far_apart(weighted, dtype):
    """The same bits as in narrow stretches of columns, which go row by row; the last agent has no neighbor."""
    n, d = 6, 4 * 2**20 // np.dtype(dtype).itemsize + 1029
    head = np.array([j for i in range(n - 1) for j in range(n) if j != i])
    ptr = np.append(np.arange(n) * (n - 1), len(head))
    x, w = rows((n, d), dtype), np.random.default_rng(2).random(len(head)).astype(dtype) if weighted else None

    def body():
        out = np.full((n, d), np.nan, dtype)
        kernels.c.disagreement(x, ptr, head, w, out)
        return (out,)

    (found,) = with_threads(body)
    for a in range(0, d, 150_000):
        part = np.ascontiguousarray(x[:, a : a + 150_000])
        expected = np.full_like(part, np.nan)
        kernels.c.disagreement(part, ptr, head, w, expected)
        assert found[:, a : a + 150_000].tobytes() == expected.tobytes()


@pytest.mark.parametrize("d", [600, 20_001])
def test_columns_of_many_shorter_rows(d):
    """Rows too short for a part each: threads share their columns."""
    n = 2_000_000 // d
    others = np.arange(1, n) if d > 10_000 else np.arange(n - 31, n)
    head = (np.arange(n)[:, None] + others).reshape(-1) % n
    ptr, w = np.arange(n + 1) * len(others), np.random.default_rng(2).random(len(head)).astype(np.float32)
    x, payload = rows((n, d), np.float32), Identity().encode(rows((n, d), np.float32), key_of(n))

    def body():
        out = np.full((n, d), np.nan, np.float32)
        kernels.c.disagreement(x, ptr, head, w, out)
        mixed = Identity().mix(((0, payload[:20]),), d, np.float32, None, 1.0, (np.array([0, 399]), np.arange(399) % 20, None))
        return (out,) if mixed is None else (out, mixed)

    found = with_threads(body)
    expected = np.zeros(d)
    for a in range(ptr[3], ptr[4]):
        expected += w[a] * (x[3].astype(float) - x[head[a]])
    np.testing.assert_allclose(found[0][3], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("part", [0.0002, 0.01, 0.1])
@pytest.mark.parametrize("what", ["alike", "half", "rising", "tied"])
def test_the_largest_entries(what, part, dtype):
    """Also where they lie in one half, or at the end, so that the room of one thread does not hold them; or all are one."""
    x, d = rows((1, 3_200_001), dtype).copy(), 3_200_001
    if what == "half":
        x[0, : d // 2] = 0
    if what == "rising":
        x *= np.linspace(0, 1, d, dtype=dtype) ** 20
    if what == "tied":
        x = np.sign(x)
    top, k = TopK(k=int(part * d)), int(part * d)
    payload, difference = with_threads(lambda: (top.encode(x, key_of(1)), top.encode_difference(x, x / 2, key_of(1))))
    for bytes_, v in ((payload, x), (difference, x - x / 2)):
        kept = np.flatnonzero(top.decode(bytes_, d, dtype))
        assert len(kept) == k
        assert np.abs(v[0, kept]).min() >= np.partition(np.abs(v[0]), d - k)[d - k]


def test_a_run_chooses_the_number(monkeypatch):
    monkeypatch.delenv("DECENTRAL_THREADS", raising=False)
    for asked, variable, expected in ((3, "", {3}), (3, "2", {2}), (0, "", set(range(1, 17))), (2, "0", set(range(1, 17)))):
        monkeypatch.setenv("DECENTRAL_THREADS", variable)
        with kernel_threads(asked, Ranks()):
            assert kernels.threads in expected
        assert kernels.threads == 1
    for asked, variable in ((65, ""), (1, "many"), (1, "-1")):
        monkeypatch.setenv("DECENTRAL_THREADS", variable)
        with pytest.raises(ConfigError, match="threads a rank, at most 64"), kernel_threads(asked, Ranks()):
            pass


@pytest.mark.parametrize("count", [0, -1, kernels.MOST_THREADS + 1])
def test_a_wrong_number_is_refused(count):
    with pytest.raises(ValueError, match="threads"):
        kernels.use_threads(count)
    assert kernels.threads == 1


@pytest.mark.parametrize("compressor", [Identity(), Quantize(bits=4), Quantize(bits=3, block=0), Quantize(bits=5, block=96)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_received_rows_that_are_mixed_as_they_are_decoded(compressor, dtype):
    """Three rows of which one is own, in two places; the plain composition."""
    d = 1_200_001
    x, reference = rows((3, d), dtype), rows((3, d), dtype, 1)
    ptr, head, weights = np.array([0, 2]), np.array([2, 1]), np.array([0.3, 0.45], dtype)
    payload = compressor.encode(x, key_of(3))
    blocks = ((2, payload[2:].copy()), (0, payload[:2]))
    for step in (None, 1.0, 0.3):

        def body(step=step):
            u = None if step is None else reference.copy()
            out = compressor.mix(blocks, d, dtype, u, step or 1.0, (ptr, head, weights))
            return (out,) if u is None else (out, u)

        out, *moved = with_threads(body)
        u = reference.copy()
        known = compressor.decode(payload, d, dtype) if step is None else compressor.advance(payload, u, step)
        expected = np.empty((1, d), dtype)
        kernels.c.disagreement(known, ptr, head, weights, expected)
        assert out.tobytes() == expected.tobytes() and (not moved or moved[0].tobytes() == u.tobytes())


def test_mixed_rows_must_come_once_and_fit():
    payload, sums = np.zeros((2, 80), np.uint8), (np.array([0, 1]), np.array([1]), None)
    for blocks, sentence in (
        (((0, payload), (1, payload)), "does not fit"), (((0, payload[:1]), (0, payload[:1])), "comes twice"),
        (((0, payload[:, ::2].copy()),), "bytes of a row"), (((1, payload),), "does not fit"), ((payload,), "a block needs"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            kernels.c.mix(blocks, 2, None, *sums, np.zeros((1, 10)), 0, 0, 0, 1.0, 1.0)
    with pytest.raises(ValueError, match="head"):
        kernels.c.mix(((0, payload),), 2, None, sums[0], np.array([2]), None, np.zeros((1, 10)), 0, 0, 0, 1.0, 1.0)
    shifted = np.zeros(161, np.uint8)[1:].reshape(2, 80)
    assert kernels.c.mix(((0, shifted),), 2, None, *sums, np.zeros((1, 10)), 0, 0, 0, 1.0, 1.0) is None  # not aligned
