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


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", WIDTHS)
def test_blend_rounds_every_product_and_sum_once(d, dtype):
    y, w, x = rows(9, d, dtype), rows(9, d, dtype, 1), rows(5, d, dtype, 2)
    a, b, c = (dtype(v) for v in (0.3, -0.7, 1.1))
    expected = (a * y + b * w) + c * x[HEAD]
    for out in (np.full_like(y, np.nan), y.copy(), w.copy()):
        first, second = (out if np.array_equal(out, v) else v for v in (y, w))
        kernels.c.blend(0.3, first, -0.7, second, 1.1, x, HEAD, out)
        assert same_bits(out, expected)
    kernels.c.blend(0.3, y, -0.7, w, 0.0, None, None, out)
    assert same_bits(out, a * y + b * w)
    x = rows(9, d, dtype, 2)
    expected = (a * y + b * w) + c * x
    kernels.c.blend(0.3, y, -0.7, w, 1.1, x, None, x)
    assert same_bits(x, expected)


def test_the_slope_of_the_logistic_loss():
    """Within 4 units in the last place of φ'(t, b) = −b/(1 + exp(b t)); NaN stays NaN, nothing overflows."""
    t = np.concatenate((np.linspace(-40, 40, 100_001), [0.0, -0.0, 700, -700, 1e300, -1e300, np.inf, -np.inf, np.nan]))
    for b in (1.0, -1.0):
        out = t.copy()
        kernels.c.glm_slopes(out, np.full_like(t, b), True)
        with np.errstate(over="ignore"):
            exact = -b / (1 + np.exp(b * t.astype(np.longdouble)))
        assert np.isnan(out[-1]) and (np.abs(out[:-1] - exact[:-1]) <= 4 * 2.0**-52 * np.abs(exact[:-1]) + 1e-307).all()


@pytest.mark.parametrize("logistic", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", [1, 3, 9, 100, 1025])
def test_an_estimate_is_its_parts_to_the_bit(d, dtype, logistic):
    """Against the compiled parts: products, slopes, sums; over all samples, over a batch, with a table, renewed or not."""
    sizes = np.array([5, 40, 700])
    ptr = np.concatenate(([0], np.cumsum(sizes)))
    X, x, mean = rows(745, d, dtype), rows(3, d, dtype, 1), rows(3, d, dtype, 2)
    y, table = np.where(rows(1, 745, dtype, 3)[0] > 0, dtype(1), dtype(-1)), rows(1, 745, dtype, 4)[0]
    batch = np.array([[4, 0, 1, 3, 2], [9, 39, 8, 0, 17], [699, 5, 6, 7, 300]])
    l2 = 0.125  # a power of two: exact in both types
    for index in (None, batch):
        at = slice(None) if index is None else ptr[:-1, None] + index
        new = np.empty(745 if index is None else (3, 5), dtype)
        name = "glm_margins" if index is None else "glm_margins_batch"
        getattr(kernels.c, name)(X, ptr, *([] if index is None else [index]), x, new)
        kernels.c.glm_slopes(new.reshape(-1), y[at].reshape(-1), logistic)
        for T, renew in ((None, False), (table, False), (table, True)):
            change = np.empty((3, d), dtype)
            coef = new if T is None else new - T[at]
            name = "glm_combine" if index is None else "glm_combine_batch"
            getattr(kernels.c, name)(X, ptr, *([] if index is None else [index]), coef, change)
            g = change / (sizes[:, None].astype(dtype) if index is None else dtype(5))
            g = (g if T is None else g + mean) + dtype(l2) * x
            out, t, m = np.full((3, d), np.nan, dtype), None if T is None else T.copy(), None if T is None else mean.copy()
            kernels.c.glm_estimate(X, ptr, index, x, y, logistic, l2, t, m, renew, out)
            assert same_bits(out, g)
            if T is not None:
                expected = T.copy()
                expected[at] = new if renew else T[at]
                assert same_bits(t, expected)
                assert same_bits(m, mean + change / sizes[:, None].astype(dtype) if renew else mean)


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
        "no columns": ("glm_estimate", z[:, :0].copy(), PTR, None, out[:, :0].copy(), c, 0, 0.1, None, None, 0, out[:, :0].copy()),
        "samples": ("glm_margins", z, PTR, out, c[:8].copy()),
        "index beyond": ("glm_margins_batch", z, PTR, index + 3, out, np.zeros((4, 2))),
        "index of an agent without samples": ("glm_margins_batch", z, PTR, index, out, np.zeros((4, 2))),
        "rounds": ("words", 0, 1 << 32, 0, np.arange(2), np.zeros((2, 4), np.uint32)),
        "ids": ("words", 0, 0, 0, np.array([-1, 0]), np.zeros((2, 4), np.uint32)),
        "batch": ("sample_batches", 0, 0, 0, np.arange(2), np.array([3, 2]), np.zeros((2, 3), np.int64)),
        "payload": ("quantize_encode", 0, 0, 0, np.arange(4), out, None, np.zeros((4, 6), np.uint8), 254, 8, 3, False, True),
        "grid": ("quantize_encode", 0, 0, 0, np.arange(4), out, None, np.zeros((4, 7), np.uint8), 256, 8, 3, False, True),
        "minus": ("quantize_encode", 0, 0, 0, np.arange(4), out, x, np.zeros((4, 7), np.uint8), 254, 8, 3, False, True),
        "block": ("quantize_decode", np.zeros((4, 11), np.uint8), out, 254, 8, 2, 1.0),
        "reference": ("quantize_advance", np.zeros((4, 7), np.uint8), out, x, 254, 8, 3, 1.0, 1.0),
        "blend": ("blend", 1.0, z, 1.0, out, 0.0, None, None, z),
        "blend beyond": ("blend", 1.0, z, 1.0, z, 1.0, x, HEAD + 1, z.copy()),
        "estimate": ("glm_estimate", z, PTR, None, out, c[:8].copy(), True, 0.0, None, None, False, out.copy()),
        "estimate beyond": ("glm_estimate", z, PTR, index + 3, out, c, True, 0.0, None, None, False, out.copy()),
        "nothing to renew": ("glm_estimate", z, PTR, None, out, c, True, 0.0, None, None, True, out.copy()),
    }


@pytest.mark.parametrize("case", wrong_calls())
def test_a_wrong_call_is_refused(case):
    name, *args = wrong_calls()[case]
    with pytest.raises((ValueError, BufferError)):
        getattr(kernels.c, name)(*args)


def test_a_wrong_number_of_arguments_is_refused():
    with pytest.raises(TypeError, match="arguments"):
        kernels.c.total(np.zeros((1, 1)))
