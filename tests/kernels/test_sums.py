"""The compiled sums against a Python loop: the same bits over a neighborhood, to rounding for linear models."""

import numpy as np
import pytest

from decentral import kernels

pytestmark = pytest.mark.skipif(kernels.c is None, reason=kernels.why)
PTR = np.array([0, 3, 3, 4, 9])  # one agent has no arc
HEAD = np.array([1, 2, 4, 0, 0, 1, 2, 4, 4])
WIDTHS = [1, 3, 7, 8, 9, 100, 513, 1025]


def rows(count, d, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal((count, d)).astype(dtype)


def same_bits(a, b):
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", WIDTHS)
def test_total_in_arc_order(d, dtype):
    z, out = rows(9, d, dtype), np.full((4, d), np.nan, dtype)
    kernels.c.total(z, PTR, out)
    expected = np.zeros((4, d), dtype)
    for i in range(4):
        for number, a in enumerate(range(PTR[i], PTR[i + 1])):
            expected[i] = z[a] if number == 0 else expected[i] + z[a]
    assert same_bits(out, expected)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", WIDTHS)
def test_disagreement_in_arc_order(d, dtype, weighted):
    x, out = rows(5, d, dtype), np.full((4, d), np.nan, dtype)
    w = np.random.default_rng(1).random(9).astype(dtype)
    kernels.c.disagreement(x, PTR, HEAD, w if weighted else None, out)
    expected = np.zeros((4, d), dtype)
    for i in range(4):
        for a in range(PTR[i], PTR[i + 1]):
            expected[i] += w[a] * (x[i] - x[HEAD[a]]) if weighted else x[i] - x[HEAD[a]]
    assert same_bits(out, expected)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 1e-5)])
@pytest.mark.parametrize("d", WIDTHS)
def test_linear_models(d, dtype, tolerance):
    X, x, coef = rows(9, d, dtype), rows(4, d, dtype, 1), rows(1, 9, dtype, 2)[0]
    margins, sums = np.full(9, np.nan, dtype), np.full((4, d), np.nan, dtype)
    kernels.c.glm_margins(X, PTR, x, margins)
    kernels.c.glm_combine(X, PTR, coef, sums)
    for i in range(4):
        part = slice(PTR[i], PTR[i + 1])
        A = X[part].astype(np.float64)
        np.testing.assert_allclose(margins[part], A @ x[i], rtol=tolerance, atol=tolerance * np.sqrt(d))
        np.testing.assert_allclose(sums[i], coef[part] @ A, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("B", [1, 4, 6])
@pytest.mark.parametrize("d", WIDTHS)
def test_a_batch_is_its_samples_to_the_bit(d, B, dtype):
    ptr = np.array([0, 5, 6, 20])
    X, x = rows(20, d, dtype), rows(3, d, dtype, 1)
    index = np.random.default_rng(3).integers(0, np.diff(ptr)[:, None], (3, B))
    everything, batch, sums = np.empty(20, dtype), np.empty((3, B), dtype), np.empty((3, d), dtype)
    kernels.c.glm_margins(X, ptr, x, everything)
    kernels.c.glm_margins_batch(X, ptr, index, x, batch)
    assert same_bits(batch, everything[ptr[:-1, None] + index])
    kernels.c.glm_combine_batch(X, ptr, index, batch, sums)
    expected = np.zeros_like(sums)
    for i in range(3):
        for h in range(B):
            expected[i] += batch[i, h] * X[ptr[i] + index[i, h]]
    assert same_bits(sums, expected)


@pytest.mark.parametrize("d", [5, 100])
def test_agents_alone_give_the_bits_that_they_give_together(d):
    ptr = np.array([0, 5, 6, 20])
    X, x, coef = rows(20, d, np.float64), rows(3, d, np.float64, 1), np.random.default_rng(2).random(20)
    margins, sums = np.empty(20), np.empty((3, d))
    kernels.c.glm_margins(X, ptr, x, margins)
    kernels.c.glm_combine(X, ptr, coef, sums)
    for i in range(3):
        part = slice(ptr[i], ptr[i + 1])
        alone, g = np.empty(part.stop - part.start), np.empty((1, d))
        kernels.c.glm_margins(X[part].copy(), np.array([0, len(alone)]), x[i : i + 1], alone)
        kernels.c.glm_combine(X[part].copy(), np.array([0, len(alone)]), coef[part], g)
        assert same_bits(alone, margins[part]) and same_bits(g[0], sums[i])


def wrong_calls():
    z, out, x = np.zeros((9, 3)), np.zeros((4, 3)), np.zeros((5, 3))
    c, index = np.zeros(9), np.zeros((4, 2), np.int64)
    return {
        "columns": ("total", z[:, :2].copy(), PTR, out),
        "not contiguous": ("total", np.zeros((9, 6))[:, ::2], PTR, out),
        "dtype": ("total", z.astype(np.float32), PTR, out),
        "integers": ("total", z.astype(np.int64), PTR, out),
        "ptr too long": ("total", z, np.append(PTR, 9), out),
        "ptr beyond": ("total", z, PTR * 2, out),
        "ptr falls": ("total", z, np.array([0, 5, 3, 4, 9]), out),
        "ptr of int32": ("total", z, PTR.astype(np.int32), out),
        "head beyond": ("disagreement", x, PTR, HEAD + 1, None, out),
        "head negative": ("disagreement", x, PTR, HEAD - 1, None, out),
        "weights": ("disagreement", x, PTR, HEAD, c[:8].copy(), out),
        "read-only": ("total", z, PTR, np.frombuffer(bytes(96)).reshape(4, 3)),
        "samples": ("glm_margins", z, PTR, out, c[:8].copy()),
        "index beyond": ("glm_margins_batch", z, PTR, index + 3, out, np.zeros((4, 2))),
        "index of an agent without samples": ("glm_margins_batch", z, PTR, index, out, np.zeros((4, 2))),
        "rounds": ("words", 0, 1 << 32, 0, np.arange(2), np.zeros((2, 4), np.uint32)),
        "ids": ("words", 0, 0, 0, np.array([-1, 0]), np.zeros((2, 4), np.uint32)),
        "batch": ("sample_batches", 0, 0, 0, np.arange(2), np.array([3, 2]), np.zeros((2, 3), np.int64)),
        "payload": ("quantize_encode", 0, 0, 0, np.arange(4), out, np.zeros((4, 6), np.uint8), 254, 8, 3, False, True),
        "grid": ("quantize_encode", 0, 0, 0, np.arange(4), out, np.zeros((4, 7), np.uint8), 256, 8, 3, False, True),
        "block": ("quantize_decode", np.zeros((4, 11), np.uint8), out, 254, 8, 2, 1.0),
    }


@pytest.mark.parametrize("case", wrong_calls())
def test_a_wrong_call_is_refused(case):
    name, *args = wrong_calls()[case]
    with pytest.raises((ValueError, BufferError)):
        getattr(kernels.c, name)(*args)


def test_a_wrong_number_of_arguments_is_refused():
    with pytest.raises(TypeError, match="arguments"):
        kernels.c.total(np.zeros((1, 1)))
