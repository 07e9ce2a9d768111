"""Top-k keeps the k largest, rand-k any k, signs are signs: what the names say."""

import numpy as np
import pytest

from decentral.compressors import Identity, NormSign, RandK, ScaledSign, TopK, TopKQuantize
from decentral.errors import TransportError


def both(compressor, v, key):
    return compressor.decode(compressor.encode(v, key), v.shape[1], v.dtype)


def kept_by_sorting(row, k):
    """Places of the k largest magnitudes, ties to the smallest place, by a stable sort."""
    return sorted(np.argsort(-np.abs(row), kind="stable")[:k].tolist())


@pytest.mark.parametrize("d", [1, 2, 17, 100, 257])
def test_top_k_keeps_the_k_largest_ties_to_the_smallest_place(vectors, key_of, d):
    rng = np.random.default_rng(d)
    v = np.concatenate((vectors(d), rng.integers(-2, 3, (5, d)).astype(vectors(d).dtype), np.zeros((1, d))))
    v = v.astype(vectors(d).dtype)
    for k in sorted({1, 2, d // 2, d - 1, d} & set(range(1, d + 1))):
        c = both(TopK(k=k), v, key_of(len(v)))
        for row, out in zip(v, c, strict=True):
            expected = np.zeros_like(row)
            places = kept_by_sorting(row, k)
            expected[places] = row[places]
            assert (out == expected).all()
            lost, all_of_it = (float(np.linalg.norm(x.astype(np.float64))) for x in (out - row, row))
            assert lost**2 <= (1 - k / d) * all_of_it**2 * (1 + 1e-12)


def test_top_k_wire(backend, key_of):
    v = np.array([[0.0, -5.0, 1.0, 5.0, 0.0]])
    payload = TopK(k=2).encode(v, key_of(1))
    assert payload[0, :16].view("<f8").tolist() == [-5, 5]
    assert payload[0, 16:].tolist() == [1 << 1 | 1 << 3]  # a bitmap
    assert TopK(k=2).nbytes(5, np.float64) == 17 and TopK(k=2).ideal_bits(5, np.float64) == 2 * (32 + 3)
    assert TopK(fraction=0.1).nbytes(10**6, np.float32) == 465_625


def test_places_that_no_encoder_writes_are_refused(backend, key_of):
    good = TopK(k=2).encode(np.array([[0.0, -5.0, 1.0, 5.0, 0.0]]), key_of(1))
    for places in (0, 1 << 3, 1 | 1 << 2 | 1 << 4):
        bad = good.copy()
        bad[0, 16] = places
        with pytest.raises(TransportError, match="places"):
            TopK(k=2).decode(bad, 5, np.float64)


@pytest.mark.parametrize("spec", [TopK(k=7), TopKQuantize(k=7), RandK(k=7), RandK(k=2)])
@pytest.mark.parametrize("step", [1.0, 0.3])
def test_error_feedback_moves_the_places_alone(backend, dtype, key_of, spec, step):
    rng = np.random.default_rng(0)
    x, u = rng.standard_normal((2, 5, 60)).astype(dtype)
    payload = spec.encode(x, key_of(5))
    q, moved = spec.decode(payload, 60, dtype), u.copy()
    estimate = spec.advance(payload, moved, step)
    assert (estimate == u + q).all() and (moved == (u + q if step == 1 else u + step * q)).all()
    assert (estimate is moved) == (step == 1)
    apart = np.asfortranarray(u)
    assert (spec.advance(payload, apart, step) == estimate).all() and (apart == moved).all()


@pytest.mark.parametrize("d, k", [(1, 1), (5, 2), (20, 5), (1000, 300)])
def test_rand_k_keeps_k_entries_scaled_by_d_over_k(backend, dtype, key_of, d, k):
    v = (np.random.default_rng(d).standard_normal((50, d)) + 10).astype(dtype)
    plain, scaled = both(RandK(k=k, contracted=True), v, key_of(50)), both(RandK(k=k), v, key_of(50))
    kept = plain != 0
    assert (kept.sum(axis=1) == k).all() and (plain[kept] == v[kept]).all()
    np.testing.assert_array_equal(scaled, plain * dtype(d / k))
    if k < d:
        assert len({row.tobytes() for row in kept}) > 1


def test_rand_k_draws_every_entry_equally_often(key_of):
    kept = both(RandK(k=3, contracted=True), np.ones((20_000, 12)), key_of(20_000)).sum(axis=0)
    z = (kept - 5000) / np.sqrt(20_000 * 0.25 * 0.75)
    assert np.abs(z).max() < 6  # fails by chance 2e-8


def test_rand_k_sends_the_places_only_where_they_are_short():
    assert RandK(k=5).nbytes(20, np.float64) == 40 + 3  # a bitmap
    assert RandK(k=2).nbytes(1000, np.float32) == 8 + 3
    assert RandK(k=7).nbytes(40, np.float32) == 28 + 4  # five bytes of places: drawn again from four
    assert RandK(k=1).nbytes(20, np.float64) == 8 + 1
    assert RandK(fraction=0.01).nbytes(10**6, np.float32) == 4 + 4 * 10_000
    assert RandK(k=5).ideal_bits(20, np.float64) == 5 * (32 + 5)
    assert RandK(k=500).ideal_bits(10_000, np.float64) == 500 * 32 + 64


def test_fraction_keeps_at_least_one():
    assert TopK(fraction=0.001).kept(10) == 1 and TopK(fraction=0.1).kept(25) == 2 and TopK(fraction=1.0).kept(7) == 7


def test_signs(dtype, key_of):
    v = np.array([[3.0, -1.0, 0.0, -0.0, -4.0]], dtype)
    np.testing.assert_array_equal(both(NormSign(), v, key_of(1)), np.array([[2, -2, 2, 2, -2]], dtype))
    signs = np.array([[1, -1, 1, 1, -1]], dtype)
    np.testing.assert_array_equal(np.sign(both(ScaledSign(), v, key_of(1))), signs)
    np.testing.assert_allclose(np.abs(both(ScaledSign(), v, key_of(1))), 8 / 5, rtol=1e-6)
    assert NormSign().nbytes(5, dtype) == 5 and ScaledSign().nbytes(17, dtype) == 7
    assert NormSign().ideal_bits(5, dtype) == 37


def test_errors_of_signs_are_those_of_the_papers(vectors, key_of):
    v = vectors(40)[:7].astype(np.float64)
    squared, one, largest = (v**2).sum(axis=1), np.abs(v).sum(axis=1), np.abs(v).max(axis=1)
    error = ((both(ScaledSign(), v, key_of(7)) - v) ** 2).sum(axis=1)
    np.testing.assert_allclose(error, squared - one**2 / 40, rtol=1e-5, atol=1e-6 * squared.max())
    error = ((both(NormSign(), v, key_of(7)) / 20 - v) ** 2).sum(axis=1)
    assert (error <= (squared - largest**2 / 40) * (1 + 1e-6)).all()


def test_top_k_quantize_is_the_quantizer_of_the_survivors(backend, vectors, key_of):
    v = vectors(100)
    q = TopKQuantize(fraction=0.25)
    c, top = both(q, v, key_of(len(v))), both(TopK(k=25), v, key_of(len(v)))
    for out, row in zip(c, top, strict=True):
        assert (row[out != 0] != 0).all()
        np.testing.assert_allclose(out, row, atol=np.abs(row).max() / 127 * (1 + 1e-5))
    assert q.nbytes(100, v.dtype) == 4 + 25 + -(-(25 * 2 + 25 + 24 - 1) // 8)  # Elias-Fano with two low bits
    assert q.ideal_bits(100, v.dtype) == 32 + 25 * 8 + 25 * 7


def test_identity_is_exact(vectors, key_of):
    v = vectors(100)
    payload = Identity().encode(v, key_of(len(v)))
    assert payload.tobytes() == v.tobytes() and Identity().decode(payload, 100, v.dtype).tobytes() == v.tobytes()
    assert Identity().ideal_bits(100, np.float64) == 6400 and Identity().ideal_bits(100, np.float32) == 3200
