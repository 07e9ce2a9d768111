"""The quantizer's wire to the byte, from both sets of inner loops, and its definition."""

import itertools

import numpy as np
import pytest

from decentral import kernels
from decentral.compressors import QSGD, Quantize
from decentral.compressors.base import LARGEST_SCALE, SMALLEST_SCALE, tree_sum
from decentral.errors import NonFiniteError

TAILS = [1, 5, 31, 32, 33, 100, 512, 1000, 1023, 1024, 1025, 3000]


def rows_of(d, dtype):
    """Rows with a zero block, tiny, huge, subnormal and ordinary entries, halves of levels and negative zeros."""
    rng = np.random.default_rng(d)
    v = rng.standard_normal((7, d))
    v[0, : d // 2] = 0
    v[1] *= 1e-30
    v[2] *= 2.0**120
    v[3] = rng.integers(-5, 6, d) * 1e-42
    v[4] = rng.standard_cauchy(d)
    v[5] = np.round(v[5] * 2) / 2
    v[6] = -0.0
    return v.astype(dtype)


@pytest.mark.skipif(kernels.c is None, reason=kernels.why)
@pytest.mark.parametrize("rounding", ["dithered", "nearest"])
@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize("bits", range(1, 17))
def test_backends_agree_to_the_byte(monkeypatch, dtype, key_of, bits, norm, rounding):
    for d in TAILS if rounding == "dithered" else (33, 1025):
        v = rows_of(d, dtype)
        for symbols in ("packed", "paper"):
            for block in (None, 0, 96, 1024):
                q = Quantize(bits, norm, block, symbols, rounding)
                payload = q.encode(v, key_of(7))
                decoded = q.decode(payload, d, dtype)
                with monkeypatch.context() as m:
                    m.setattr(kernels, "c", None)
                    np.testing.assert_array_equal(q.encode(v, key_of(7)), payload, err_msg=str((q, d)))
                    assert q.decode(payload, d, dtype).tobytes() == decoded.tobytes()


@pytest.mark.skipif(kernels.c is None, reason=kernels.why)
@pytest.mark.parametrize("rounding", ["dithered", "nearest"])
@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize("bits", range(1, 17))
def test_error_feedback_in_one_pass_is_the_composition(dtype, key_of, bits, norm, rounding):
    """Bytes, û and u to the bit, against NumPy on what is decoded; no byte elsewhere is written."""
    for d in TAILS if rounding == "dithered" else (33, 3000):
        x, key = rows_of(d, dtype), key_of(7)
        u = np.roll(x, 1, axis=0) / 2
        for symbols, block in itertools.product(("packed", "paper"), (None, 0, 96, 1024, 1536)):
            q = Quantize(bits, norm, block, symbols, rounding)
            expected = q.encode(x - u, key)
            c = q.decode(expected, d, dtype)
            for step in (1.0, 0.3, -2.0):
                payload, (moved, out, kept) = np.empty_like(expected), np.stack((u, x, x))
                assert q.feedback(kept, moved, key, payload, step, out)
                assert payload.tobytes() == expected.tobytes(), (q, d)
                assert moved.tobytes() == (u + dtype(step) * c).tobytes(), (q, d)
                assert out.tobytes() == (x if step == 1 else u + c).tobytes(), (q, d)
                assert kept.tobytes() == x.tobytes()


@pytest.mark.parametrize("block", [None, 0, 96])
@pytest.mark.parametrize("norm", ["inf", "2"])
def test_error_feedback_names_rows_that_are_not_finite(backend, dtype, key_of, norm, block):
    x, u = rows_of(3000, dtype)[2:5], np.zeros((3, 3000), dtype)
    x[1, 2999] = np.nan
    q = Quantize(4, norm, block)
    payload = np.zeros((3, q.nbytes(3000, dtype)), np.uint8)
    if backend == "numpy":
        assert not q.feedback(x, u, key_of(3), payload, 1.0, u) and not u.any()
        return
    with pytest.raises(NonFiniteError) as caught:
        q.feedback(x, u, key_of(3), payload, 1.0, u)
    assert caught.value.rows == [1] and u[0].any() and u[2].any()
    assert block != 0 or not u[1].any()


@pytest.mark.skipif(kernels.c is None, reason=kernels.why)
def test_error_feedback_leaves_rows_that_overlap_to_others(dtype, key_of):
    rows, q = np.ones((3, 2000), dtype), Quantize(4)
    payload = np.empty((2, q.nbytes(2000, dtype)), np.uint8)
    for x, u in ((rows[:2], rows[:2]), (rows[:2], rows[1:]), (rows[:, ::2][:2], np.ones((2, 1000), dtype))):
        assert not q.feedback(x, u, key_of(2), payload, 1.0, u)
    assert (rows == 1).all()


@pytest.mark.parametrize("d", TAILS)
@pytest.mark.parametrize("bits", range(1, 17))
def test_b_bits_are_b_bits(dtype, bits, d):
    for block in (None, 0, 32):
        scales = -(-d // (block or (512 if block is None and d > 512 else d)))
        assert Quantize(bits, block=block).nbytes(d, dtype) == 4 * scales + -(-d * bits // 8)
        assert Quantize(bits, block=block).ideal_bits(d, dtype) == 32 * scales + d * bits
        paper = Quantize(bits, block=block, symbols="paper")
        assert paper.nbytes(d, dtype) == 4 * scales + -(-d * (bits + 1) // 8)
        assert paper.ideal_bits(d, dtype) == 32 * scales + d * (bits + 1)


def test_sizes_that_are_quoted():
    assert Quantize(2).nbytes(100, np.float64) == 29
    assert Quantize(8).nbytes(123, np.float64) == 127
    assert QSGD(16).nbytes(100, np.float64) == 4 + -(-100 * 6 // 8)  # 33 symbols
    assert QSGD(16).ideal_bits(100, np.float64) == 32 + 100 * (1 + 5)


def test_wire_layout(backend, key_of):
    """Codes found again by the words of the documentation, bit by bit."""
    d, bits = 2100, 5
    v = np.random.default_rng(0).standard_normal((1, d))
    q = Quantize(bits, block=0)
    payload = q.encode(v, key_of(1))[0]
    s = payload[:4].view("<f4")[0]
    L = 2 ** (bits - 1) - 1
    u = (key_of(1).halves(d)[0] + 0.5) / 65536
    codes = np.clip(np.floor(v[0] * (L / np.float64(s)) + u), -L, L).astype(int) + L
    assert s >= np.abs(v).max() > np.nextafter(s, np.float32(0))
    for e in range(2048):
        tile, row, lane = e // 1024, e % 1024 // 32, e % 32
        words = payload[4 + tile * 128 * bits :][: 128 * bits].view("<u4").reshape(bits, 32)
        column = sum(int(w) << 32 * j for j, w in enumerate(words[:, lane]))
        assert column >> row * bits & (1 << bits) - 1 == codes[e]
    stream = int.from_bytes(payload[4 + 256 * bits :].tobytes(), "little")
    for e in range(2048, d):
        assert stream >> (e - 2048) * bits & (1 << bits) - 1 == codes[e]
    np.testing.assert_array_equal(q.decode(payload[None], d, np.float64)[0], (codes - L) * (np.float64(s) / L))


@pytest.mark.parametrize("quantizer", [Quantize(4), Quantize(5, norm="2"), Quantize(4, symbols="paper"), QSGD(5)])
def test_codes_beyond_the_grid_are_its_last_level(backend, dtype, key_of, quantizer):
    d = 1100  # a tile and a bit stream
    payload = quantizer.encode(np.ones((1, d), dtype), key_of(1))
    scales = 4 * quantizer.grid(d).scales
    payload[:, scales:] = 255
    decoded = quantizer.decode(payload, d, dtype)
    np.testing.assert_array_equal(decoded, np.repeat(payload[:, :scales].view("<f4"), quantizer.grid(d).block, axis=1)[:, :d])


@pytest.mark.parametrize("symbols", ["packed", "paper"])
@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_an_entry_goes_to_one_of_the_two_levels_around_it(backend, dtype, key_of, bits, norm, symbols):
    v = rows_of(1100, dtype)[:5]
    q = Quantize(bits, norm, symbols=symbols)
    c = q.decode(q.encode(v, key_of(5)), 1100, dtype)
    blocks = np.pad(v.astype(np.float64), ((0, 0), (0, 3 * 512 - 1100))).reshape(5, 3, 512)
    s = np.abs(blocks).max(axis=2) if norm == "inf" else np.sqrt((blocks**2).sum(axis=2))
    step = np.repeat(np.maximum(s, SMALLEST_SCALE * (s > 0)) * 2 / q.top, 512, axis=1)[:, :1100]
    assert (np.abs(c.astype(np.float64) - v) <= step * (1 + 1e-5)).all()
    assert (c[0, :512] == 0).all()


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_nearest_is_nearest(backend, dtype, key_of, norm):
    v = rows_of(300, dtype)[[4]]
    q = Quantize(6, norm, rounding="nearest")
    c = q.decode(q.encode(v, key_of(1)), 300, dtype)
    s = np.abs(v).max() if norm == "inf" else np.linalg.norm(v.astype(np.float64))
    assert np.abs(c - v).max() <= s / (2 * 31) * (1 + 1e-5)


def test_scales_stay_in_their_range(backend, dtype, key_of):
    q = Quantize(16)
    limit = float(LARGEST_SCALE)
    c = q.decode(q.encode(np.array([[limit, -limit, 0]], dtype), key_of(1)), 3, dtype)
    np.testing.assert_array_equal(c, [[limit, -limit, 0]])
    with pytest.raises(NonFiniteError, match=r"\[1\]"):
        q.encode(np.array([[1, 1, 1], [limit * 1.01, 0, 0]], dtype), key_of(2))
    with pytest.raises(NonFiniteError, match=r"\[0\]"):
        Quantize(4, norm="2").encode(np.full((1, 3), limit, dtype), key_of(1))
    tiny = np.full((1000, 3), 2.0**-130, dtype)  # far below the smallest scale: zero or one level, right on average
    c = q.decode(q.encode(tiny, key_of(1000)), 3, dtype)
    assert np.isin(c, (0, SMALLEST_SCALE / np.array(32767, dtype))).all()


def test_float64_beyond_float32_is_refused(backend, key_of):
    with pytest.raises(NonFiniteError):
        Quantize(8).encode(np.array([[1e200, 1.0]]), key_of(1))


@pytest.mark.parametrize("n", [1, 31, 32, 33, 1023, 1024, 1025, 3000, 7000])
def test_tree_sum(n):
    """The order of the documentation, written out."""
    x = np.random.default_rng(n).random((2, n))
    for row, total in zip(x, tree_sum(x), strict=True):
        tiles = []
        for t in range(0, n, 1024):
            lanes = [0.0] * 32
            for e, value in enumerate(row[t : t + 1024]):
                lanes[e % 32] += value
            while len(lanes) > 1:
                lanes = [a + b for a, b in zip(lanes[: len(lanes) // 2], lanes[len(lanes) // 2 :], strict=True)]
            tiles.append(lanes[0])
        while len(tiles) > 1:
            tiles = [sum(tiles[i : i + 2]) for i in range(0, len(tiles), 2)]
        assert total == tiles[0]
    np.testing.assert_allclose(tree_sum(x), x.sum(axis=1))
