"""The quantizer with an absolute step: what holds in its range, what happens beyond it, what is counted."""

import numpy as np
import pytest

from decentral.compressors import Absolute
from decentral.errors import TransportError


def both(compressor, v, key):
    return compressor.decode(compressor.encode(v, key), v.shape[1], v.dtype)


def ulp(dtype):
    return float(np.finfo(dtype).eps)


@pytest.mark.parametrize("step", [1.0, 0.3, 1e-6])
@pytest.mark.parametrize("bits", [1, 2, 3, 8, 16])
def test_the_error_in_the_range_is_half_a_step(dtype, key_of, bits, step):
    c = Absolute(bits, step)
    v = (np.random.default_rng(bits).uniform(-1, 1, (20, 1100)) * c.reach).astype(dtype)
    error = np.abs(both(c, v, key_of(20)).astype(np.float64) - v)
    assert error.max() <= step / 2 + 4 * ulp(dtype) * c.reach
    assert error.max() > 0.49 * step  # and no better: the bound is met
    assert c.saturated(v[np.abs(v).max(axis=1) < c.reach]) == 0


@pytest.mark.parametrize("rounding", ["nearest", "dithered"])
@pytest.mark.parametrize("bits", [1, 2, 8, 16])
def test_entries_beyond_the_range_go_to_the_last_level_and_are_counted(dtype, key_of, bits, rounding):
    c = Absolute(bits, 0.5, rounding)
    last = (2 ** (bits - 1) - 1 if bits > 1 else 0.5) * 0.5
    huge = float(np.finfo(dtype).max)
    v = np.array([[c.reach * 1.01, -c.reach * 1.01, 1e9, -1e30, huge, -huge, 0, c.reach * 0.99]], dtype)
    np.testing.assert_array_equal(both(c, v, key_of(1))[0, :6], np.array([last, -last] * 3, dtype))
    assert c.saturated(v) == 6 and c.saturated(np.zeros((3, 4), dtype)) == 0


def test_levels_are_multiples_of_the_step_and_one_bit_is_the_sign(dtype, key_of):
    v = np.array([[-9, -2.6, -1.4, -0.4, 0, 0.4, 1.6, 9]], dtype)
    np.testing.assert_array_equal(both(Absolute(3), v, key_of(1)), np.array([[-3, -3, -1, 0, 0, 0, 2, 3]], dtype))
    np.testing.assert_array_equal(both(Absolute(1, 2.0), v, key_of(1)), np.array([[-1] * 4 + [1] * 4], dtype))


def test_the_error_does_not_shrink_with_the_signal(key_of):
    """Why it is not `relative`: C(2v) = 2C(v) and C(0) = 0 fail."""
    v = np.full((1, 4), 0.3)
    assert not Absolute.relative and Absolute().omega(4) is None and Absolute().delta(4) is None
    assert (both(Absolute(8), v, key_of(1)) == 0).all() and (both(Absolute(8), 2 * v, key_of(1)) == 1).all()
    assert (both(Absolute(8), 0 * v, key_of(1)) == 0).all() and (both(Absolute(1), 0 * v, key_of(1)) == 0.5).all()


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_dither_is_unbiased_in_the_range(key_of, bits):
    c = Absolute(bits, 0.25, "dithered")
    v = np.linspace(-c.reach, c.reach, 41)
    draws = both(c, np.broadcast_to(v, (4000, 41)).copy(), key_of(4000))
    assert np.abs(draws - v).max() < 0.25 * (1 + 1e-12)
    assert (np.abs(draws.mean(axis=0) - v) <= 6 * 0.125 / np.sqrt(4000) + 1e-5).all()  # fails by chance below 1e-6


@pytest.mark.parametrize("d", [1, 5, 33, 100, 1024, 1025, 3000])
@pytest.mark.parametrize("bits", range(1, 17))
def test_b_bits_are_b_bits_and_no_scale_is_sent(dtype, key_of, bits, d):
    c = Absolute(bits)
    assert c.nbytes(d, dtype) == -(-d * bits // 8) and c.ideal_bits(d, dtype) == bits * d
    levels = np.arange(d) % (c.top + 1) - c.top / 2
    v = levels[None].astype(dtype)
    payload = c.encode(v, key_of(1))
    assert payload.shape == (1, c.nbytes(d, dtype))
    np.testing.assert_array_equal(c.decode(payload, d, dtype), v)  # every code there and back


def test_a_code_that_no_encoder_writes_is_refused(dtype):
    for bits in range(2, 17):
        c = Absolute(bits)
        with pytest.raises(TransportError, match="code is out of range"):
            c.decode(np.full((1, c.nbytes(40, dtype)), 255, np.uint8), 40, dtype)
    assert (Absolute(1).decode(np.full((1, 5), 255, np.uint8), 40, dtype) == 0.5).all()
