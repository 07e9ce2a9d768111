"""The constants that a compressor states, ω and δ, and unbiasedness, by averaging over draws."""

import numpy as np
import pytest

from decentral.compressors import QSGD, NormSign, Quantize, RandK, ScaledSign, TopK, TopKQuantize

DRAWS = 1500
WIDTHS = [1, 2, 40, 300]


def draws(compressor, v, key_of):
    """(DRAWS, d) independent decoded copies of v (d,)."""
    rows = np.broadcast_to(v, (DRAWS, len(v))).copy()
    return compressor.decode(compressor.encode(rows, key_of(DRAWS)), len(v), v.dtype).astype(np.float64)


@pytest.mark.parametrize("d", WIDTHS)
def test_unbiased_where_it_says_so(compressor, vectors, key_of, d):
    if not compressor.unbiased:
        pytest.skip("biased")
    for v in vectors(d):
        c = draws(compressor, v, key_of)
        bias = np.abs(c.mean(axis=0) - v)
        jump = largest_error(compressor, v.astype(np.float64))
        noise = 6 * c.std(axis=0) / np.sqrt(DRAWS) + 36 * jump / DRAWS  # Bernstein: fails by chance below 1e-6
        rounding = 2.0**-17 * jump + 1e-6 * np.abs(v)  # u has 16 bits, scales have 24
        assert (bias <= noise + rounding).all()


def largest_error(compressor, v):
    """(d,) bound on the error of an entry: the entry d/k times, or the distance between two levels."""
    if isinstance(compressor, RandK):
        return np.abs(v) * len(v) / compressor.kept(len(v))
    grid = getattr(compressor, "grid", None)
    return np.full(len(v), 0.0 if grid is None else np.linalg.norm(v) * 2 / grid(len(v)).top)


@pytest.mark.parametrize("d", WIDTHS)
def test_variance_is_at_most_omega(compressor, vectors, key_of, d):
    omega = compressor.omega(d)
    if omega is None:
        pytest.skip("biased")
    for v in vectors(d):
        error = ((draws(compressor, v, key_of) - v.astype(np.float64)) ** 2).sum(axis=1)
        squared = float(np.linalg.norm(v.astype(np.float64)) ** 2)
        assert error.mean() <= (omega * (1 + 1e-6) + 1e-9) * squared + 6 * error.std() / np.sqrt(DRAWS)


@pytest.mark.parametrize("d", WIDTHS)
def test_contraction_is_at_least_delta(compressor, vectors, key_of, d):
    delta = compressor.delta(d)
    if delta is None:
        pytest.skip("none stated")
    assert 0 < delta <= 1
    for v in vectors(d):
        error = ((draws(compressor, v, key_of) - v.astype(np.float64)) ** 2).sum(axis=1)
        squared = float(np.linalg.norm(v.astype(np.float64)) ** 2)
        assert error.mean() <= (1 - delta + 1e-6) * squared + 6 * error.std() / np.sqrt(DRAWS)


@pytest.mark.parametrize("d, k", [(20, 5), (100, 10)])
def test_variance_of_rand_k_is_exactly_omega(key_of, d, k):
    v = np.ones(d)
    for compressor, expected in ((RandK(k=k), d / k - 1), (RandK(k=k, contracted=True), 1 - k / d)):
        error = ((draws(compressor, v, key_of) - v) ** 2).sum(axis=1)
        np.testing.assert_allclose(error, expected * d)  # for equal entries every draw costs the same


def test_the_constants_are_those_of_the_literature():
    assert Quantize(8, symbols="paper", block=0).omega(5) == 5 / 4**8
    assert Quantize(2, symbols="paper", block=0).omega(512) == min(512 / 4**2, np.sqrt(512) / 2)
    assert Quantize(8).omega(10_000) == Quantize(8).omega(512) == 512 / (4 * 127**2)
    assert Quantize(1).omega(100) == 99 and Quantize(1).delta(100) is None
    assert QSGD(16).omega(100) == 100 / (4 * 16**2)
    assert QSGD(1, contracted=True).delta(100) == pytest.approx(1 / (1 + QSGD(1).omega(100)))
    assert RandK(fraction=0.25).omega(20) == 3 and RandK(fraction=0.25).delta(20) is None
    assert RandK(fraction=0.25, contracted=True).delta(20) == TopK(k=5).delta(20) == 0.25
    assert ScaledSign().delta(10) == 0.1 and NormSign().delta(10) is None
    assert TopKQuantize(k=10).delta(20) == pytest.approx((1 - Quantize(8).omega(10)) / 2)
    assert [c.unbiased for c in (Quantize(), Quantize(rounding="nearest"), TopK(k=1), QSGD(contracted=True))] == [
        True,
        False,
        False,
        False,
    ]


def test_dither_variance_near_its_bound(key_of):
    d, L = 400, 127
    v = np.full(d, 10.5 / L)
    v[0] = 1
    error = ((draws(Quantize(8), v, key_of) - v) ** 2).sum(axis=1).mean()
    assert error == pytest.approx((d - 1) / (4 * L**2), rel=0.02)


@pytest.mark.parametrize("norm, about", [("inf", 0.45), ("2", 8.0)])
def test_variance_at_two_bits_is_that_of_dither(key_of, norm, about):
    """Each entry costs f(1 - f) steps squared, f its place between two levels; the infinity norm is worth its name."""
    v = np.random.default_rng(0).standard_normal((2000, 512))
    q = Quantize(2, norm=norm, symbols="paper", block=0)
    c = q.decode(q.encode(v, key_of(2000)), 512, v.dtype)
    squared = (v**2).sum(axis=1, keepdims=True)
    step = (np.abs(v).max(axis=1, keepdims=True) if norm == "inf" else np.sqrt(squared)) / 2
    f = np.abs(v) / step % 1
    expected = (f * (1 - f) * step**2 / squared).sum(axis=1).mean()
    assert ((c - v) ** 2 / squared).sum(axis=1).mean() == pytest.approx(expected, rel=0.01)
    assert expected == pytest.approx(about, rel=0.05)
