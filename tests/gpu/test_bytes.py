"""The GPU's messages, to the byte: gpu.py against the NumPy code of the same functions, on a device and emulated."""

import copy
import itertools
import math
import mmap
import sys

import numpy as np
import pytest

from decentral import kernels
from decentral.compressors import QSGD, Absolute, NormSign, Quantize, ScaledSign
from decentral.compressors.base import LARGEST_SCALE, SMALLEST_SCALE, pack
from decentral.compressors.grid import grid_of, pack_tiles
from decentral.compressors.places import places_of
from decentral.errors import NonFiniteError, TransportError
from decentral.kernels import gpu
from decentral.random import Key, Purpose, philox4x32, sample_batches

WIDTHS = [1, 5, 31, 32, 33, 100, 1023, 1024, 1025, 2100]
IDS = np.array([5, 0, 70000, 3, 2**32 - 1])
KEY = Key(seed=0xDEADBEEF12345678, purpose=Purpose.ARC_MESSAGE, round=70000, ids=IDS, step=9)


@pytest.fixture(autouse=True)
def oracle(monkeypatch):
    """What everything is compared with: the NumPy code."""
    monkeypatch.setattr(kernels, "c", None)
    monkeypatch.setattr(kernels, "sparse", None)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


def rows_of(d, dtype, seed=0):
    """Five rows: with blocks of zeros, around the smallest scale, huge, subnormal with negative zeros, halves of levels."""
    v = np.random.default_rng((d, seed)).standard_normal((5, d))
    v[0, : d // 2] = 0
    v[1] *= 2.0**-112
    v[2] *= 2.0**120
    v[3] = np.where(np.arange(d) % 3, np.round(v[3] * 5) * (1e-42 if dtype is np.float32 else 1e-170), -0.0)
    v[4] = np.round(v[4] * 2) / 2
    return v.astype(dtype)


def decoded(grid, payload, dtype, gain=1.0):
    out = np.empty((len(payload), grid.d), dtype)
    grid.decode(payload, out, gain)
    return out


def parameters(grid):
    return grid.top, grid.width, grid.block


def encoding(grid):
    return *parameters(grid), grid.two_norm, grid.dithered


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def guarded(device, shape, dtype):
    """An array on the device with 64 bytes on both sides, and a function that tells whether these were kept."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    whole = device.give(np.full(count + 128, 0xA5, np.uint8))
    kept = lambda: (device.take(whole)[[*range(64), *range(-64, 0)]] == 0xA5).all()  # noqa: E731
    return whole[64:-64].view(dtype).reshape(shape), kept


# --- draws ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4, 255, 256, 257, 1000, 5000])
def test_draws(device, count):
    words, kept_words = guarded(device, (5, count), np.uint32)
    halves, kept_halves = guarded(device, (5, count), np.uint16)
    gpu.words(*KEY.constants, device.give(KEY.ids), words)
    gpu.halves(*KEY.constants, device.give(KEY.ids), halves)
    assert same_bits(device.take(words), KEY.words(count)) and kept_words()
    assert same_bits(device.take(halves), KEY.halves(count)) and kept_halves()


@pytest.mark.parametrize(
    "d, k", [(1, 1), (2, 1), (5, 3), (32, 32), (33, 1), (100, 10), (100, 99), (1025, 500), (3000, 2999), (20000, 2000), (9000, 8999)]
)
def test_places_that_are_drawn(device, d, k):
    """Floyd's steps at once are Floyd's steps one after the other; where k is large most draws were taken before."""
    expected = np.sort(sample_batches(KEY, np.full(5, d), k), axis=1)
    places, kept = guarded(device, (5, k), np.int64)
    gpu.sample_places(*KEY.constants, device.give(KEY.ids), d, places)
    np.testing.assert_array_equal(device.take(places), expected)
    assert kept()


def test_places_that_are_drawn_from_few(device):
    """Of 100 keys, for every k and d up to 7: chains of own places of many forms."""
    key = Key(3, Purpose.TEST, 0, np.arange(100))
    for d in range(1, 8):
        for k in range(1, d + 1):
            places = device.give(np.zeros((100, k), np.int64))
            gpu.sample_places(*key.constants, device.give(key.ids), d, places)
            np.testing.assert_array_equal(device.take(places), np.sort(sample_batches(key, np.full(100, d), k), axis=1))


# --- the quantizer -------------------------------------------------------------------------------------------------------


def settings(bits, norm):
    """Widths of rows with each sort of block: whole rows, inside tiles, across tiles, longer than tiles; in turn also
    packed and paper, dithered and nearest."""
    turns = itertools.cycle(itertools.product(("packed", "paper"), ("dithered", "nearest", "dithered")))
    inside, across = [(1, None), (33, 32), (100, 0), (1024, None), (1025, 32), (2100, 512)], [(2100, 0), (2100, 96), (3100, 1536)]
    for d, block in inside + across:
        symbols, rounding = next(turns)
        yield d, Quantize(bits, norm, block, symbols, rounding)


@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize("bits", range(1, 17))
def test_quantizer(device, dtype, bits, norm):
    for d, q in settings(bits, norm):
        grid, v = q.grid(d), rows_of(d, dtype)
        expected = q.encode(v, KEY)
        payload, kept = guarded(device, expected.shape, np.uint8)
        bad = gpu.quantize_encode(*KEY.constants, device.give(KEY.ids), device.give(v), None, payload, *encoding(grid))
        np.testing.assert_array_equal(device.take(payload), expected, err_msg=str((d, q)))
        assert bad is None and kept()
        out, kept = guarded(device, v.shape, dtype)
        assert gpu.quantize_decode(payload, out, *parameters(grid), 0.25)
        assert same_bits(device.take(out), decoded(grid, expected, dtype, 0.25)) and kept()


@pytest.mark.parametrize("d", WIDTHS)
def test_every_tail(device, dtype, d):
    for bits, rows in ((1, 5), (3, 2), (7, 1), (16, 5)):
        q, key = Quantize(bits, symbols="paper"), Key(1, 2, 3, np.arange(rows))
        v, grid = rows_of(d, dtype)[-rows:], q.grid(d)
        expected = q.encode(v, key)
        payload, kept = guarded(device, expected.shape, np.uint8)
        gpu.quantize_encode(*key.constants, device.give(key.ids), device.give(v), None, payload, *encoding(grid))
        np.testing.assert_array_equal(device.take(payload), expected)
        assert kept()


def test_an_entry_at_the_scale_stays_at_the_top(device, dtype):
    """With 16 bits and float32, L + u may round up to L + 1."""
    v, key = np.tile(np.array([[1, -1, 0.75]], dtype), (1, 5000)), Key(1, 2, 3, np.arange(1))
    for symbols in ("packed", "paper"):
        q = Quantize(16, symbols=symbols, block=0)
        grid, expected = q.grid(15000), q.encode(v, key)
        u = (key.halves(15000).astype(dtype) + dtype(0.5)) * dtype(2.0**-16)
        assert dtype is np.float64 or (np.floor(v * dtype(grid.top / 2) + u) > grid.top / 2).any()
        payload = device.give(np.empty_like(expected))
        gpu.quantize_encode(*key.constants, device.give(key.ids), device.give(v), None, payload, *encoding(grid))
        np.testing.assert_array_equal(device.take(payload), expected)


@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize("d, block", [(9000, 0), (20000, 0), (30000, 12800), (280000, 0)])
def test_scales_of_several_parts(device, dtype, d, block, norm):
    q, key = Quantize(8, norm, block), Key(1, 2, 3, np.arange(1))
    v = np.random.default_rng(d).standard_cauchy((1, d)).astype(dtype)
    v[0, -1] = 2 * np.abs(v).max()  # in the last of 35 parts, which another warp reads
    expected = q.encode(v, key)
    payload = device.give(np.empty_like(expected))
    gpu.quantize_encode(*key.constants, device.give(key.ids), device.give(v), None, payload, *encoding(q.grid(d)))
    np.testing.assert_array_equal(device.take(payload), expected)


def fragile_rows(d, large, small, dtype):
    """Zeros, one large entry and two small ones: a small one alone is lost in a sum with the large one, two together are
    not, and the scale, which is rounded up, shows it. So the order of the sum decides."""
    rng, rows = np.random.default_rng(d), 12
    v = np.zeros((rows, d), dtype)
    for row in v:
        row[rng.choice(d, 3, replace=False)] = large, small, small
        row[0 if rng.random() < 0.5 else -1] *= -1
    return v


@pytest.mark.parametrize("d, block", [(64, 0), (1024, 0), (1000, 512), (4096, 0), (20000, 0), (3000, 1536), (17000, 16384)])
def test_squares_are_summed_in_the_order_of_the_specification(device, dtype, d, block):
    v, q, key = fragile_rows(d, 3, 2.0**-25, dtype), Quantize(2, "2", block), Key(1, 2, 3, np.arange(12))
    expected = q.encode(v, key)
    scales = expected[:, :4].copy().view(np.float32)
    assert block or (3 in scales and np.nextafter(np.float32(3), np.float32(4)) in scales)
    payload = device.give(np.empty_like(expected))
    gpu.quantize_encode(*key.constants, device.give(key.ids), device.give(v), None, payload, *encoding(q.grid(d)))
    np.testing.assert_array_equal(device.take(payload), expected)


@pytest.mark.parametrize("d", [64, 1024, 4096, 32768])
def test_magnitudes_are_summed_in_the_order_of_the_specification(device, dtype, d):
    v = fragile_rows(d, 1, 2.0**-53, dtype)
    expected = ScaledSign().encode(v, KEY)
    assert len(np.unique(expected[:, :4].copy().view(np.float32))) == 2
    payload = device.give(np.empty_like(expected))
    assert gpu.sign_encode(device.give(v), None, payload, True) is None
    np.testing.assert_array_equal(device.take(payload), expected)


@pytest.mark.parametrize("d, block", [(1, 0), (100, 0), (1024, 64), (2100, 96), (2100, None), (3000, 0)])
@pytest.mark.parametrize("norm", ["inf", "2"])
def test_error_feedback_in_one_pass_is_the_composition(device, dtype, d, block, norm):
    x, u = rows_of(d, dtype, 1), rows_of(d, dtype, 2)
    x[2], u[2] = x[2] / 2, u[2] / 2  # their difference is in range
    for bits, eta in ((2, 1.0), (7, -0.3)):
        q = Quantize(bits, norm, block)
        grid, ids = q.grid(d), device.give(KEY.ids)
        expected = q.encode(x - u, KEY)
        c = q.decode(expected, d, dtype)
        estimate, moved = u + c, u + dtype(eta) * c

        payload = device.give(np.zeros_like(expected))
        assert gpu.quantize_encode(*KEY.constants, ids, device.give(x), device.give(u), payload, *encoding(grid)) is None
        assert same_bits(device.take(payload), expected)

        reference, out = device.give(u), device.give(np.zeros_like(u))
        assert gpu.quantize_advance(payload, reference, out, *parameters(grid), 1.0, eta)
        assert same_bits(device.take(reference), moved) and same_bits(device.take(out), estimate)

        for wanted in (True, False):
            payload, reference = device.give(np.zeros_like(expected)), device.give(u)
            out, kept = guarded(device, u.shape, dtype)
            to = out if wanted else None
            call = *KEY.constants, ids, device.give(x), reference, to, payload, *encoding(grid), eta
            assert gpu.quantize_feedback(*call) is None
            assert same_bits(device.take(payload), expected) and same_bits(device.take(reference), moved)
            assert kept() and (not wanted or same_bits(device.take(out), estimate))


@pytest.mark.parametrize("reference, eta", [(False, 1.0), (True, 1.0), (True, -0.3)])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("d, block", [(1, 0), (100, 0), (1024, 0), (2100, 96), (2100, None)])
def test_received_messages_are_mixed_in_one_pass(device, dtype, d, block, weighted, reference, eta):
    for q, gain in ((Quantize(7, block=block), 1.0), (QSGD(5, contracted=True), 0.625)):
        grid, rng = q.grid(d), np.random.default_rng(d)
        payload, start = q.encode(rows_of(d, dtype), KEY), rng.standard_normal((5, d)).astype(dtype)
        c = decoded(grid, payload, dtype, gain)
        estimate, moved = (start + c, start + dtype(eta) * c) if reference else (c, start)
        ptr, head = np.array([0, 3, 3, 7]), np.array([4, 0, 1, 2, 2, 0, 3])
        weights = rng.random(7).astype(dtype) if weighted else None
        expected = np.zeros((3, d), dtype)
        for i in range(3):
            for a in range(ptr[i], ptr[i + 1]):
                term = estimate[i] - estimate[head[a]]
                expected[i] += weights[a] * term if weighted else term
        (out, kept), u = guarded(device, expected.shape, dtype), device.give(start)
        sums = device.give(ptr), device.give(head), device.give(weights) if weighted else None
        assert gpu.quantize_mix(device.give(payload), u if reference else None, *sums, out, *parameters(grid), gain, eta)
        assert kept() and same_bits(device.take(out), expected) and same_bits(device.take(u), moved)


@pytest.mark.parametrize("rows", [1, 9, 60, 128, 129, 256, 257])
def test_as_many_rows_are_mixed_as_fit(device, dtype, rows):
    """They share less of a tile the more they are; beyond that it is refused."""
    q, d = Quantize(7), 1100
    rng, key = np.random.default_rng(rows), Key(1, Purpose.TEST, 0, np.arange(rows))
    v = rng.standard_normal((rows, d)).astype(dtype)
    payload = q.encode(v, key)
    c, out = decoded(q.grid(d), payload, dtype), device.give(np.zeros((rows, d), dtype))
    sums = device.give(np.arange(rows + 1)), device.give(np.arange(rows) - 1 + rows * (np.arange(rows) == 0)), None
    call = device.give(payload), None, *sums, out, *parameters(q.grid(d)), 1.0, 1.0
    if rows > gpu.most_mixed(dtype):
        with pytest.raises(ValueError, match="rows"):
            gpu.quantize_mix(*call)
    else:
        assert gpu.quantize_mix(*call) and same_bits(device.take(out), c - np.roll(c, 1, axis=0))


@pytest.mark.parametrize("block", [0, 32])
@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize("d", [3, 1025, 9000])
def test_rows_without_a_scale_are_refused(device, dtype, d, norm, block):
    limit = float(LARGEST_SCALE)
    v = np.ones((5, d), dtype)
    v[0, -1], v[2, d // 2], v[3, 0] = np.nan, limit * 1.01, -np.inf
    v[4, :2] = limit  # alone it fits; the 2-norm of two does not
    q = Quantize(8, norm, block)
    with pytest.raises(NonFiniteError) as error:
        q.encode(v, KEY)
    payload = device.give(np.zeros((5, q.nbytes(d, dtype)), np.uint8))
    call = *KEY.constants, device.give(KEY.ids), device.give(v), None, payload, *encoding(q.grid(d))
    refused = gpu.quantize_encode(*call)
    assert refused == list(error.value.rows) == ([0, 2, 3, 4] if norm == "2" else [0, 2, 3])
    bad = device.give(np.zeros(5, np.int32))
    assert gpu.quantize_encode(*call, bad=bad) is None
    assert np.flatnonzero(device.take(bad)).tolist() == refused


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, float(LARGEST_SCALE) * 2, float(SMALLEST_SCALE) / 2])
def test_a_damaged_scale_is_seen(device, dtype, scale):
    q = Quantize(4, block=32)
    payload = q.encode(rows_of(2100, dtype), KEY)
    payload[3, 4 * 65 :][:4] = np.frombuffer(np.float32(scale).tobytes(), np.uint8)
    payload, out = device.give(payload), device.give(np.zeros((5, 2100), dtype))
    grid, bad = parameters(q.grid(2100)), device.give(np.zeros(5, np.int32))
    assert gpu.quantize_decode(payload, out, *grid, 1.0) is False
    assert gpu.quantize_decode(payload, out, *grid, 1.0, bad=bad) is None
    assert device.take(bad).tolist() == [0, 0, 0, 1, 0]
    assert gpu.quantize_advance(payload, out, None, *grid, 1.0, 1.0) is False
    sums = device.give(np.zeros(6, np.int64)), device.give(np.zeros(0, np.int64)), None
    for u in (out, None):
        assert gpu.quantize_mix(payload, u, *sums, device.give(np.zeros((5, 2100), dtype)), *grid, 1.0, 1.0) is False


def test_any_bytes_decode_as_on_the_cpu(device, dtype):
    """Codes above the top are the top."""
    for d, bits in ((77, 3), (1024, 4), (1500, 8), (1500, 1)):
        grid = Quantize(bits, block=0).grid(d)
        payload = np.random.default_rng(d).integers(0, 256, (5, grid.nbytes), dtype=np.uint8)
        payload[:, :4] = np.frombuffer(np.float32(1.5).tobytes(), np.uint8)
        out = device.give(np.zeros((5, d), dtype))
        assert gpu.quantize_decode(device.give(payload), out, *parameters(grid), 1.0)
        assert same_bits(device.take(out), decoded(grid, payload, dtype))


# --- the absolute quantizer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 17))
def test_absolute_quantizer(device, dtype, bits):
    """Steps for which entries lie on the halves of a step, in the range and beyond it, and those for which all or none are 0."""
    for d, rounding in zip(WIDTHS, itertools.cycle(("dithered", "nearest", "dithered")), strict=False):
        for step in (0.5, 3 * 2.0**-bits, 1e-30, 1e30):
            c, v = Absolute(bits, step, rounding), rows_of(d, dtype)
            expected = c.encode(v, KEY)
            payload, kept = guarded(device, expected.shape, np.uint8)
            grid = c.top, bits, step, rounding == "dithered"
            assert gpu.absolute_encode(*KEY.constants, device.give(KEY.ids), device.give(v), payload, *grid) is None
            np.testing.assert_array_equal(device.take(payload), expected, err_msg=str((d, c)))
            out, kept_out = guarded(device, v.shape, dtype)
            assert gpu.absolute_decode(payload, out, *grid[:3])
            assert same_bits(device.take(out), c.decode(expected, d, dtype))
            assert kept() and kept_out()


@pytest.mark.parametrize("d", [40, 1500])
def test_absolute_refuses_what_the_cpu_refuses(device, dtype, d):
    c, v = Absolute(5), np.ones((5, d), dtype)
    v[1, d - 1], v[3, 0] = np.nan, -np.inf
    payload, grid = device.give(np.zeros((5, c.nbytes(d, dtype)), np.uint8)), (c.top, 5, 1.0)
    assert gpu.absolute_encode(*KEY.constants, device.give(KEY.ids), device.give(v), payload, *grid, False) == [1, 3]
    damaged = c.encode(np.ones((5, d), dtype), KEY)
    damaged[2, -5:] = 0xFF  # five codes of 31, the last level is 30
    out, bad = device.give(np.zeros((5, d), dtype)), device.give(np.zeros(5, np.int32))
    assert gpu.absolute_decode(device.give(damaged), out, *grid) is False
    assert gpu.absolute_decode(device.give(damaged), out, *grid, bad=bad) is None
    assert device.take(bad).tolist() == [0, 0, 1, 0, 0]


# --- signs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressor", [NormSign(), ScaledSign()], ids=["norm-sign", "scaled-sign"])
@pytest.mark.parametrize("d", [*WIDTHS, 9000, 20000])
def test_signs(device, dtype, compressor, d):
    v = rows_of(d, dtype)
    expected = compressor.encode(v, KEY)
    payload, kept = guarded(device, expected.shape, np.uint8)
    assert gpu.sign_encode(device.give(v), None, payload, isinstance(compressor, ScaledSign)) is None
    np.testing.assert_array_equal(device.take(payload), expected)
    out, kept_out = guarded(device, v.shape, dtype)
    assert gpu.sign_decode(payload, out)
    assert same_bits(device.take(out), compressor.decode(expected, d, dtype))
    assert kept() and kept_out()
    u = rows_of(d, dtype, 1) / 2
    assert gpu.sign_encode(device.give(v), device.give(u), payload, isinstance(compressor, ScaledSign)) is None
    np.testing.assert_array_equal(device.take(payload), compressor.encode(v - u, KEY))
    v[1, d - 1], v[3, 0] = np.nan, np.inf
    assert gpu.sign_encode(device.give(v), None, payload, isinstance(compressor, ScaledSign)) == [1, 3]


# --- top-k ---------------------------------------------------------------------------------------------------------------


def largest(v, k):
    """Places of the k largest magnitudes, by a stable sort."""
    return np.sort(np.argsort(-np.abs(v), axis=1, kind="stable")[:, :k], axis=1)


@pytest.fixture
def states(monkeypatch):
    """What became of each search of a row."""
    seen, launch = [], gpu._launch

    def watch(name, blocks, *args, **options):
        launch(name, blocks, *args, **options)
        if name == "top_k_scan" and args[-1] == 1:
            seen.extend(gpu.cupy().asnumpy(args[0])[:, 2].tolist())

    monkeypatch.setattr(gpu, "_launch", watch)
    return seen


SEARCHING, SETTLED, REREAD = range(3)


def check_top_k(device, v, k):
    """The payload, the values apart, and back."""
    d, size = v.shape[1], k * v.dtype.itemsize
    code, at = places_of(d, k), largest(v, k)
    expected = fill(at, np.take_along_axis(v, at, axis=1), d)
    payload, kept = guarded(device, (len(v), size + code.nbytes), np.uint8)
    assert gpu.top_k(device.give(v), None, payload, size, k, code.low, None) is None
    found = device.take(payload).copy()
    np.testing.assert_array_equal(found[:, size:], code.pack(at))
    values = np.ascontiguousarray(found[:, :size]).view(v.dtype)
    assert same_bits(values, np.take_along_axis(v, at, axis=1)) and kept()

    places, kept = guarded(device, (len(v), k), np.int64)
    assert gpu.unpack_places(device.give(found[:, size:].copy()), d, code.low, places)
    np.testing.assert_array_equal(device.take(places), at)
    out = device.give(np.full(v.shape, np.nan, v.dtype))
    gpu.scatter(places, device.give(values), out, None)
    assert same_bits(device.take(out), expected) and kept()


def check_top_k_of_a_difference(device, v, k):
    """The payload holds the places alone."""
    d = v.shape[1]
    u, code = rows_of(d, v.dtype.type, 4)[: len(v)], places_of(d, k)
    at = largest(v - u, k)
    payload, values = device.give(np.zeros((len(v), code.nbytes), np.uint8)), device.give(np.zeros((len(v), k), v.dtype))
    assert gpu.top_k(device.give(v), device.give(u), payload, 0, k, code.low, values) is None
    np.testing.assert_array_equal(device.take(payload), code.pack(at))
    assert same_bits(device.take(values), np.take_along_axis(v - u, at, axis=1))


def fill(places, values, d):
    out = np.zeros((len(values), d), values.dtype)
    np.put_along_axis(out, places, values, axis=1)
    return out


@pytest.mark.parametrize("d", [1, 5, 32, 33, 1023, 1025, 2100, 8192])
def test_top_k_of_short_rows(device, dtype, states, d):
    for k in {1, d}:
        check_top_k(device, rows_of(d, dtype)[2:4], k)
    check_top_k(device, rows_of(d, dtype), (d + 1) // 2)
    check_top_k_of_a_difference(device, rows_of(d, dtype)[2:4], (d + 1) // 2)
    check_top_k(device, np.sign(rows_of(d, dtype))[[0, 3]], (d + 1) // 2)  # ties and zeros
    assert set(states) == {SETTLED}


LONG = 20000


def long_rows(dtype):
    rng = np.random.default_rng(1)
    normal = rng.standard_normal(LONG)
    clustered = normal.copy()
    clustered[5000:6500] += 10  # more than the slots of its tiles
    missed, seen = normal.copy(), normal.copy()
    sampled = np.zeros(LONG, bool)
    sampled[np.arange(8192) * (LONG // 8192)] = True
    missed[sampled] *= 0.01  # the sample sees nothing large: a threshold that almost all pass
    seen[~sampled] *= 0.01  # it sees all that is large: too high a threshold for a large k
    return {
        "normal": (normal, SEARCHING),
        "clustered": (clustered, SEARCHING),
        "missed": (missed, SEARCHING),
        "seen": (seen, REREAD),
        "constant": (np.full(LONG, -0.7), SETTLED),
        "zeros": (np.zeros(LONG), SETTLED),
        "mostly zeros": (normal * (rng.random(LONG) < 0.005), SETTLED),
        "ties": (np.round(normal), None),
        "lognormal": (np.exp(4 * normal), SEARCHING),
        "subnormal": (np.round(normal * 9) * 1e-44, None),
        "one spike": (np.where(np.arange(LONG) == LONG - 1, -3.0, 0.0), None),
    }


@pytest.mark.parametrize("name", long_rows(np.float64))
def test_top_k_of_long_rows(device, dtype, states, name):
    row, state = long_rows(dtype)[name]
    v = row.astype(dtype)[None]
    for k in (200, 15000) if name == "seen" else (1, 200, LONG) if name == "ties" else (200, 2000):
        del states[:]
        check_top_k(device, v, k)
        if state is not None and k == (15000 if name == "seen" else 200):
            assert states == [state]
    if name in ("normal", "seen"):  # the first searches among slots, the second among rows
        check_top_k_of_a_difference(device, v, 2000 if name == "normal" else 15000)


def test_top_k_of_rows_in_different_states(device, dtype, states):
    v = np.stack([row for row, _ in long_rows(dtype).values()]).astype(dtype)
    check_top_k(device, v, 9000)
    assert set(states) == {SEARCHING, SETTLED, REREAD}
    v[1, 77], v[4, -1] = np.nan, np.inf
    code, values = places_of(LONG, 5), device.give(np.zeros((len(v), 5), dtype))
    payload = device.give(np.zeros((len(v), 3 + code.nbytes), np.uint8))
    assert gpu.top_k(device.give(v), None, payload, 3, 5, code.low, values) == [1, 4]
    np.testing.assert_array_equal(device.take(payload)[2, 3:], code.pack(largest(v[[2]], 5))[0])


LAST, FIT, PAUSE = 3, 4, 64  # columns of a search; the last one is the pause


def rows_that_change(dtype, d, calls):
    """Rows (10, d) of each call, whose next thresholds are told by the last ones in different ways."""
    rng = np.random.default_rng(d)
    slow, shrinking = rng.standard_normal((2, d))
    for i in range(calls):
        slow = 0.97 * slow + 0.05 * rng.standard_normal(d)
        fresh = rng.standard_normal(d)
        v = np.stack(
            [
                slow,
                shrinking * 0.5**i,
                shrinking * 0.8**i,
                fresh * (0 if i in (3, 4) else 1),  # collapses to zeros
                np.full(d, 1.5 - i / 8) if i >= 3 else fresh,  # becomes constant
                fresh * (1e6 if i >= 4 else 1),
                fresh * (1e-6 if i >= 4 else 1),
                np.where((np.arange(d) == 77) & (i == 3), np.nan, fresh),
                np.full(d, np.nan) if i in (3, 4) else fresh,
                np.full(d, np.nan) if i == 1 else fresh,
            ]
        )
        yield v.astype(dtype)


def with_search(device, v, u, k, search):
    """Values and code of top-k as bytes, and the bad rows, which have none."""
    code, values = places_of(v.shape[1], k), device.give(np.zeros((len(v), k), v.dtype))
    payload = device.give(np.zeros((len(v), code.nbytes), np.uint8))
    bad = gpu.top_k(device.give(v), u, payload, 0, k, code.low, values, search)
    return np.concatenate((device.take(values).view(np.uint8), device.take(payload)), axis=1), bad or []


def by_numpy(v, k):
    at = largest(v, k)
    return np.concatenate((np.take_along_axis(v, at, axis=1).view(np.uint8), places_of(v.shape[1], k).pack(at)), axis=1)


def threshold(v, k):
    return np.sort(np.abs(v))[:, -k].view(np.uint32 if v.dtype == np.float32 else np.uint64).astype(np.int64)


@pytest.fixture
def guesses(monkeypatch):
    """Of each call the rows whose threshold was guessed, and the searches with which the filter began."""
    seen, launch = [], gpu._launch

    def watch(name, blocks, *args, **options):
        launch(name, blocks, *args, **options)
        if name.startswith("top_k_sample"):
            search = gpu.cupy().asnumpy(args[2])
            seen.append((np.flatnonzero(search[:, -1] == PAUSE).tolist(), search.copy()))

    monkeypatch.setattr(gpu, "_launch", watch)
    return seen


def test_thresholds_of_the_last_call_change_no_byte(device, dtype, states, guesses):
    d, k = 9000, 300
    search = device.give(np.zeros((10, gpu.SEARCH), np.int64))
    for v in rows_that_change(dtype, d, calls=8):
        bytes_, bad = with_search(device, v, None, k, search)
        assert bad == np.flatnonzero(~np.isfinite(v).all(axis=1)).tolist()
        good = np.setdiff1d(np.arange(10), bad)
        np.testing.assert_array_equal(bytes_[good], by_numpy(v[good], k))
        np.testing.assert_array_equal(device.take(search)[good, 0], threshold(v[good], k))
    assert [rows for rows, _ in guesses] == [
        *([], []),  # two thresholds make a guess
        *([0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),  # the last fails for 3, and lets too much pass of 4 and 8
        [0, 1, 2, 5, 6, 7, 9],  # and this one for 5 and 6
        *([0, 1, 2, 7, 9], [0, 1, 2, 7, 9], [0, 1, 2, 7, 9]),
    ]


def test_a_guess_follows_the_last_thresholds(device, dtype, guesses):
    """Part of what they lead to; where it fails, the row is sampled for a while."""
    d, k = 9000, 300
    rng = np.random.default_rng(0)
    v, search = rng.standard_normal((1, d)).astype(dtype), device.give(np.zeros((1, gpu.SEARCH), np.int64))
    factors = [1, 0.95, 0.9, 0.91, *[1e-3] * (PAUSE + 3)]
    t = [threshold(dtype(f) * v, k).view(dtype)[0] for f in factors]
    for f in factors:
        assert (with_search(device, dtype(f) * v, None, k, search)[0] == by_numpy(dtype(f) * v, k)).all()
    for i, (rows, begun) in enumerate(guesses):
        guessed = 2 <= i <= 4 or i > 4 + PAUSE  # the fifth of them, i = 4, passes nothing
        assert rows == ([0] if guessed else []), i
        if guessed:
            found, part = begun[0, :1].view(dtype)[0], 1 - 2.0 ** -(3 + begun[0, FIT])
            np.testing.assert_allclose(found, part * t[i - 1] * min(1, t[i - 1] / t[i - 2]), rtol=1e-6)


def test_a_guess_moves_nearer_where_much_passes(device, dtype, guesses):
    """And away where little does: with 400 entries between 0.875 and 0.9375 of the threshold, in turns."""
    v, search = np.full((1, 9000), 0.01, dtype), device.give(np.zeros((1, gpu.SEARCH), np.int64))
    v[0, :300], v[0, 300:700] = 1 + np.arange(300) / 300, 0.9
    v = np.random.default_rng(0).permuted(v, axis=1)
    for _ in range(7):
        assert (with_search(device, v, None, 300, search)[0] == by_numpy(v, 300)).all()
    assert [begun[0, FIT] for _, begun in guesses] == [0, 0, 0, 1, 0, 1, 0]
    assert [len(rows) for rows, _ in guesses] == [0, 0, 1, 1, 1, 1, 1]


def test_a_search_of_other_rows_changes_no_byte(device, dtype):
    """Of another k, of a difference, of short rows, and numbers that no call leaves."""
    d, rng = 9000, np.random.default_rng(0)
    v, u = rng.standard_normal((4, d)).astype(dtype), rng.standard_normal((4, d)).astype(dtype)
    search = device.give(np.zeros((4, gpu.SEARCH), np.int64))
    for _ in range(3):
        short = np.ascontiguousarray(v[:, :8192])
        assert (with_search(device, short, None, 60, search)[0] == by_numpy(short, 60)).all()
    for k, minus in ((20, None), (20, u), (2000, None), (20, None), (8990, u), (8990, None), (20, u)):
        found, _ = with_search(device, v, None if minus is None else device.give(minus), k, search)
        assert (found == by_numpy(v if minus is None else v - minus, k)).all()
    for trial in range(6):
        search = rng.integers(-(2**63), 2**63, (4, gpu.SEARCH)) >> rng.integers(0, 63, (4, gpu.SEARCH))
        search[:, FIT:] = trial - 2, trial % 2 * 64
        for _ in range(2):
            assert (with_search(device, v, None, 300, search := device.give(search))[0] == by_numpy(v, 300)).all()


# --- places --------------------------------------------------------------------------------------------------------------


FEW, MANY = [(1, 1), (2, 1), (33, 33), (100, 10), (2**34, 1), (2**34, 20)], [(1000, 700), (40000, 9000), (2**34, 300)]


@pytest.mark.parametrize("d, k", FEW + MANY)
def test_places(device, d, k):
    rng, code = np.random.default_rng(k), places_of(d, k)
    draws = (rng.choice(d, k, replace=False) if d < 10**6 else np.unique(rng.integers(0, d, 9 * k))[:k] for _ in range(3))
    at = np.sort(np.stack(list(draws)))
    at[0], at[1, -1] = np.arange(d - k, d), d - 1
    expected, low = code.pack(at), code.low
    stream, kept = guarded(device, expected.shape, np.uint8)
    gpu.pack_places(device.give(at), d, low, stream)
    np.testing.assert_array_equal(device.take(stream), expected)
    places, kept_places = guarded(device, at.shape, np.int64)
    assert gpu.unpack_places(stream, d, low, places)
    np.testing.assert_array_equal(device.take(places), at)
    assert kept() and kept_places()


@pytest.mark.parametrize("d, k", [(33, 30), (100, 10), (5000, 40)])
def test_bytes_that_are_no_places_are_seen(device, d, k):
    """As the NumPy code sees them, row by row, for random bits that are sometimes places and mostly not."""
    rng, code = np.random.default_rng(d), places_of(d, k)
    rows = code.pack(np.tile(np.arange(d - k, d), (40, 1)))
    for row in rows[1:]:
        row[rng.integers(code.nbytes)] ^= 1 << rng.integers(8)
    for row in rows[30:]:
        row[:] = rng.integers(0, 256, code.nbytes)
    bad = device.give(np.zeros(40, np.int32))
    places = device.give(np.zeros((40, k), np.int64))
    assert gpu.unpack_places(device.give(rows), d, code.low, places, bad=bad) is None
    for i, marked in enumerate(device.take(bad)):
        try:
            expected = code.unpack(rows[[i]])[0]
        except TransportError:
            assert marked
        else:
            assert not marked
            np.testing.assert_array_equal(device.take(places)[i], expected)


def test_scatter_adds(device, dtype):
    u, at = rows_of(100, dtype, 3), np.tile(np.arange(3, 100, 7), (5, 1))
    values, expected = rows_of(14, dtype), u.copy()
    np.put_along_axis(expected, at, np.take_along_axis(u, at, axis=1) + dtype(0.3) * values, axis=1)
    out = device.give(u)
    gpu.scatter(device.give(at), device.give(values), out, 0.3)
    assert same_bits(device.take(out), expected)


# --- sums ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 7, 100, 513])
def test_sums_in_arc_order(device, dtype, d):
    rng, ptr, head = np.random.default_rng(d), np.array([0, 3, 3, 4, 9]), np.array([1, 2, 4, 0, 0, 1, 2, 4, 4])
    z, x, w = (rng.standard_normal(shape).astype(dtype) for shape in ((9, d), (5, d), 9))
    sums, differences, plain = np.zeros((3, 4, d), dtype)
    for i in range(4):
        for a in range(ptr[i], ptr[i + 1]):
            sums[i] += z[a]
            differences[i] += w[a] * (x[i] - x[head[a]])
            plain[i] += x[i] - x[head[a]]
    out = device.give(np.full((4, d), np.nan, dtype))
    gpu.total(device.give(z), device.give(ptr), out)
    assert same_bits(device.take(out), sums)
    graph = device.give(x), device.give(ptr), device.give(head)
    gpu.disagreement(*graph, device.give(w), out)
    assert same_bits(device.take(out), differences)
    gpu.disagreement(*graph, None, out)
    assert same_bits(device.take(out), plain)
    assert gpu.all_finite(out)


# --- what only the emulator can be asked ---------------------------------------------------------------------------------


def huge(count, dtype):
    """Zeros that take no memory until they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    flags |= getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
    return np.frombuffer(mmap.mmap(-1, count * np.dtype(dtype).itemsize, flags=flags), dtype)


def test_places_beyond_2_to_the_31(emulator, emulate, monkeypatch):
    """The last two tiles of a row of 2^31 + 1029 entries: index arithmetic in 64 bits, and the draws of these places."""
    emulate(emulator)
    d, bits = 2**31 + 1029, 4
    start, blocks = 2**31, -(-d // 8192)
    monkeypatch.setattr(emulator, "first_block", blocks - 1)
    v, tail = huge(d, np.float32).reshape(1, d), np.random.default_rng(0).standard_normal(1029).astype(np.float32)
    v[0, start:] = tail
    grid = grid_of(14, bits, False, True, d, 512)
    payload, key = huge(grid.nbytes, np.uint8).reshape(1, -1), Key(7, Purpose.TEST, 11, np.array([13]))
    assert gpu.quantize_encode(*key.constants, key.ids, v, None, payload, *encoding(grid)) is None

    index = np.arange(start // 8, start // 8 + 160, dtype=np.uint64)
    words = np.stack(philox4x32(index, np.uint64(13), np.uint64(11), np.uint64(Purpose.TEST << 24), 7, 0), axis=-1)
    halves = np.stack((words & 0xFFFF, words >> 16), axis=-1).reshape(-1, 32, 8).swapaxes(1, 2).reshape(-1)[:1029]
    parts = [slice(0, 512), slice(512, 1024), slice(1024, 1029)]
    s = np.concatenate([np.full(p.stop - p.start, np.abs(tail[p]).max()) for p in parts])
    u = (halves.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-16)
    codes = (np.floor(tail * (np.float32(7) / s) + u) + 7).astype(np.uint32)[None]
    at = 4 * grid.scales + start // 2
    assert same_bits(payload[0, 4 * (grid.scales - 3) : 4 * grid.scales].view(np.float32), s[[0, 512, 1024]])
    np.testing.assert_array_equal(payload[0, at:], np.concatenate((pack_tiles(codes[:, :1024], bits), pack(codes[:, 1024:], bits)), 1)[0])
    assert not payload[0, : 4 * (grid.scales - 3)][-4096:].any() and not payload[0, at - 4096 : at].any()

    out = huge(d, np.float32).reshape(1, d)
    assert gpu.quantize_decode(payload, out, *parameters(grid), 1.0)
    q = (codes[0].astype(np.float32) - 7) * (s / np.float32(7))
    assert same_bits(out[0, start:], q)
    both, replicas, sums = huge(2 * grid.nbytes, np.uint8).reshape(2, -1), *huge(4 * d, np.float32).reshape(2, 2, d)
    for part in (slice(4 * (grid.scales - 3), 4 * grid.scales), slice(at, None)):
        both[1, part] = payload[0, part]
    monkeypatch.setattr(emulator, "first_block", start // 1024)
    assert gpu.quantize_mix(both, replicas, np.arange(3), np.array([1, 0]), None, sums, *parameters(grid), 1.0, 0.5)
    assert same_bits(sums[:, start:], np.stack([0 - q, q + 0])) and same_bits(replicas[1, start:], q / 2)
    assert not replicas[0, start:].any()
    fixed, real = huge(-(-d * bits // 8), np.uint8).reshape(1, -1), np.float32
    monkeypatch.setattr(emulator, "first_block", start * bits // 32 // 256)
    assert gpu.absolute_encode(*key.constants, key.ids, v, fixed, 14, bits, 0.25, True) is None
    codes = np.clip(np.floor(tail / real(0.25) + u) + 7, 0, 14).astype(np.uint32)[None]
    packed = np.concatenate((pack_tiles(codes[:, :1024], bits), pack(codes[:, 1024:], bits)), 1)[0]
    np.testing.assert_array_equal(fixed[0, start // 2 :], packed)
    monkeypatch.setattr(emulator, "first_block", start // 256)
    assert gpu.absolute_decode(fixed, out, 14, bits, 0.25)
    assert same_bits(out[0, start:], (codes[0].astype(real) - 7) * real(0.25))
    monkeypatch.setattr(emulator, "first_block", blocks - 1)
    signs = huge(4 + -(-d // 8), np.uint8).reshape(1, -1)
    gpu.sign_encode(v, None, signs, False)
    np.testing.assert_array_equal(signs[0, 4 + start // 8 :], np.packbits(tail >= 0, bitorder="little"))
    assert not signs[0, 4 + start // 8 - 1024 : 4 + start // 8].any()


@pytest.mark.parametrize("case", ["rows", "slots", "difference", "reread"])
def test_top_k_beyond_2_to_the_32(emulator, emulate, monkeypatch, states, case):
    """Of a row of 3 2^31 + 1029 entries the first block and the last of each kernel, as if no other tiles had large entries.

    Tiles that their slots do not hold, slots whose number is beyond 2^32, a difference, and a threshold that is too high.
    """
    emulate(emulator)
    d, k, start = 3 * 2**31 + 1029, 300, 3 * 2**31
    plan, launch = gpu._sample_plan, gpu._launch
    monkeypatch.setattr(emulator, "empty", lambda shape, dtype: huge(math.prod(np.atleast_1d(shape)), dtype).reshape(shape))
    monkeypatch.setattr(gpu, "_sample_plan", lambda d, k: (plan(d, k)[0], gpu.TILE if case in ("slots", "reread") else plan(d, k)[1]))

    def two_blocks(name, blocks, *args, **options):
        if name.startswith("top_k_digits"):  # as many blocks as have a tile for each warp
            blocks, args = -(-d // 8192), (*args[:9], np.int64(-(-d // 8192)), *args[10:])
        for block in {0, blocks - 1}:
            monkeypatch.setattr(emulator, "first_block", block)
            launch(name, block + 1, *args, **options)

    monkeypatch.setattr(gpu, "_launch", two_blocks)
    rng, v, u = np.random.default_rng(0), huge(d, np.float32).reshape(1, d), huge(d, np.float32).reshape(1, d)
    v[0, start:], u[0, start:] = rng.standard_normal((2, 1029))
    v[0, 5], u[0, 5] = 9, 1
    minus, seen = u if case == "difference" else None, np.append(5, np.arange(start, d))
    expected = v[:, seen] if minus is None else v[:, seen] - u[:, seen]
    at, search = largest(expected, k), np.zeros((1, gpu.SEARCH), np.int64)
    if case == "reread":
        search[0, [0, LAST]] = np.float32(1e9).view(np.int32)
    code, values = places_of(d, k), np.zeros((1, k), np.float32)
    payload = np.zeros((1, code.nbytes), np.uint8)
    assert gpu.top_k(v, minus, payload, 0, k, code.low, values, search) is None
    assert same_bits(values, np.take_along_axis(expected, at, axis=1)) and same_bits(payload, code.pack(seen[at]))
    assert states == [REREAD if case == "reread" else SEARCHING]

    places, bitmap = np.zeros((1, k), np.int64), huge(-(-d // 8), np.uint8).reshape(1, -1)
    assert gpu.unpack_places(payload, d, code.low, places)
    np.testing.assert_array_equal(places, seen[at])
    gpu.pack_places(places, d, -1, bitmap)
    bits = np.zeros(1032, np.uint8)
    bits[at[0, 1:] - 1] = 1
    assert bitmap[0, 0] == 1 << 5 and not bitmap[0, 1:4096].any()
    np.testing.assert_array_equal(bitmap[0, start // 8 :], np.packbits(bits, bitorder="little"))
    places[:] = 0
    assert gpu.unpack_places(bitmap, d, -1, places)
    np.testing.assert_array_equal(places, seen[at])


def test_rand_k_beyond_2_to_the_31(emulator, emulate, monkeypatch):
    """The places drawn of a row that long, as a bitmap, are those of the CPU; the test above reads such bitmaps."""
    emulate(emulator)
    d, k, bitmaps = 3 * 2**30 + 1029, 300, []
    monkeypatch.setattr(emulator, "zeros", lambda shape, dtype: huge(math.prod(np.atleast_1d(shape)), dtype).reshape(shape))
    monkeypatch.setattr(gpu, "_unpack_places", lambda bits, *rest: bitmaps.append(bits[0]))
    key = Key(7, Purpose.TEST, 11, np.array([13]))
    gpu.sample_places(*key.constants, key.ids, d, np.zeros((1, k), np.int64))
    (used,) = np.nonzero(bitmaps[0])
    row, bit = np.nonzero(np.unpackbits(bitmaps[0][used, None], axis=1, bitorder="little"))
    np.testing.assert_array_equal(8 * used[row] + bit, np.sort(sample_batches(key, np.array([d]), k)[0]))


def test_the_order_of_threads_does_not_matter(emulator, emulate, dtype):
    """What threads leave for each other in shared memory is read after a barrier only."""
    v = np.stack([long_rows(dtype)[name][0] for name in ("normal", "seen", "ties")]).astype(dtype)
    q, key = Quantize(8, "2", 12800), Key(1, 2, 3, np.arange(len(v)))
    found = []
    for backward in (False, True):
        emulate(emulator, backward)
        payload, signs = np.zeros((len(v), q.nbytes(LONG, dtype)), np.uint8), np.zeros((len(v), 4 + LONG // 8), np.uint8)
        code = places_of(LONG, 9000)
        sparse, places = np.zeros((len(v), code.nbytes), np.uint8), np.zeros((len(v), 9000), np.int64)
        values = np.zeros((len(v), 9000), dtype)
        gpu.quantize_encode(*key.constants, key.ids, v, None, payload, *encoding(q.grid(LONG)))
        gpu.sign_encode(v, None, signs, True)
        gpu.top_k(v, None, sparse, 0, 9000, code.low, values)
        gpu.unpack_places(sparse, LONG, code.low, places)
        drawn, fixed = np.zeros((len(v), 9000), np.int64), np.zeros((len(v), 3 * LONG // 8), np.uint8)
        gpu.sample_places(*key.constants, key.ids, LONG, drawn)
        gpu.absolute_encode(*key.constants, key.ids, v, fixed, 6, 3, 0.3, True)
        found.append([a.tobytes() for a in (payload, signs, sparse, values, places, drawn, fixed)])
    assert found[0] == found[1]


def test_a_call_of_the_compiled_functions_is_a_call_of_these(emulator, emulate):
    """The same arguments in the same order, the same results and the same bits in every array."""
    dense, sparse = (pytest.importorskip(f"decentral.kernels._{name}") for name in ("dense", "sparse"))
    emulate(emulator)
    d, k, rng = 1500, 70, np.random.default_rng(0)
    q, code = Quantize(7, "2", 96), places_of(d, k)
    grid, key = q.grid(d), (*KEY.constants, KEY.ids)
    v, u, out, at = rows_of(d, np.float32), rows_of(d, np.float32, 1), np.zeros((5, d), np.float32), largest(rows_of(d, float), k)
    payload, places = q.encode(v, KEY), code.pack(at)
    ptr, head, w = np.array([0, 2, 2, 5]), np.array([4, 1, 2, 0, 3]), rng.random(5).astype(np.float32)
    signs, chosen = ScaledSign().encode(v, KEY), np.zeros((5, 4 * k + code.nbytes), np.uint8)
    calls = [
        (dense, "words", *key, np.zeros((5, 99), np.uint32)),
        (dense, "halves", *key, np.zeros((5, 99), np.uint16)),
        (dense, "all_finite", v),
        (dense, "quantize_encode", *key, v, None, np.zeros_like(payload), *encoding(grid)),
        (dense, "quantize_encode", *key, v, u, np.zeros_like(payload), *encoding(grid)),
        (dense, "quantize_decode", payload, out, *parameters(grid), 0.5),
        (dense, "quantize_advance", payload, u, out, *parameters(grid), 1.0, 0.3),
        (dense, "quantize_advance", payload, u, None, *parameters(grid), 0.5, 1.0),
        (dense, "total", v, ptr, out[:3].copy()),
        (dense, "disagreement", v, ptr, head, w, out[:3].copy()),
        (dense, "disagreement", v, ptr, head, None, out[:3].copy()),
        (sparse, "sign_encode", v, None, np.zeros_like(signs), True),
        (sparse, "sign_encode", v, u, np.zeros_like(signs), False),
        (sparse, "sign_decode", signs, out),
        (sparse, "top_k", v, None, chosen, 4 * k, k, code.low, None),
        (sparse, "top_k", v, u, chosen, 4 * k, k, code.low, np.zeros((5, k), np.float32)),
        (sparse, "pack_places", at, d, code.low, np.zeros_like(places)),
        (sparse, "unpack_places", places, d, code.low, np.zeros_like(at)),
        (sparse, "scatter", at, v[:, :k].copy(), out, None),
        (sparse, "scatter", at, v[:, :k].copy(), u, 0.3),
    ]
    for module, name, *arguments in calls:
        one, other = copy.deepcopy(arguments), copy.deepcopy(arguments)
        assert getattr(module, name)(*one) == getattr(gpu, name)(*other), name
        for a, b in zip(one, other, strict=True):
            assert not isinstance(a, np.ndarray) or same_bits(a, b), name


@pytest.mark.parametrize("wrong", ["rows", "type", "strides", "payload", "block", "top", "out", "weights", "codes", "k"])
def test_a_wrong_call_is_refused(emulator, emulate, wrong):
    emulate(emulator)
    q = Quantize(4)
    v, u, payload = rows_of(100, np.float32), rows_of(100, np.float32), np.zeros((5, q.nbytes(100, np.float32)), np.uint8)
    grid, key = encoding(q.grid(100)), (*KEY.constants, KEY.ids)
    calls = {
        "rows": lambda: gpu.quantize_encode(*key, v[:4], None, payload, *grid),
        "type": lambda: gpu.quantize_encode(*key, v, u.astype(np.float64), payload, *grid),
        "strides": lambda: gpu.quantize_encode(*key, np.zeros((5, 200), np.float32)[:, ::2], None, payload, *grid),
        "payload": lambda: gpu.quantize_encode(*key, v, None, payload[:, :-1].copy(), *grid),
        "block": lambda: gpu.quantize_decode(payload, v, 14, 4, 33, 1.0),
        "top": lambda: gpu.quantize_decode(payload, v, 16, 4, 100, 1.0),
        "out": lambda: gpu.sign_decode(payload, v),
        "codes": lambda: gpu.absolute_decode(payload, v, 14, 4, 1.0),
        "k": lambda: gpu.sample_places(*key, 2, np.zeros((5, 3), np.int64)),
        "weights": lambda: gpu.disagreement(v, np.arange(6), np.arange(5), np.ones(4, np.float32), u),
    }
    with pytest.raises(ValueError):
        calls[wrong]()
