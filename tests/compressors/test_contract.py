"""What every compressor of the registry promises, whatever it does."""

import dataclasses

import numpy as np
import pytest

from decentral.compressors import build, load
from decentral.errors import ConfigError, NonFiniteError, TransportError
from decentral.message import Message
from decentral.random import Key, Purpose

WIDTHS = [1, 5, 33, 100, 1025]


@pytest.mark.parametrize("d", WIDTHS)
def test_payload_is_bytes_of_the_stated_size(backend, compressor, dtype, vectors, key_of, d):
    v = vectors(d)
    before = v.copy()
    payload = compressor.encode(v, key_of(len(v)))
    assert payload.dtype == np.uint8 and payload.flags.c_contiguous
    assert payload.shape == (len(v), compressor.nbytes(d, dtype)) and (v == before).all()
    assert not np.shares_memory(payload, v)
    decoded = compressor.decode(payload, d, dtype)
    assert decoded.shape == v.shape and decoded.dtype == v.dtype and np.isfinite(decoded).all()
    assert compressor.decode(payload, d, dtype).tobytes() == decoded.tobytes()
    assert compressor.ideal_bits(d, dtype) > 0


def test_backends_agree_to_the_bit(compressor, vectors, key_of, monkeypatch, use_numpy):
    from decentral import kernels

    if kernels.c is None:
        pytest.skip(kernels.why)
    for d in WIDTHS:
        v = vectors(d)
        payload = compressor.encode(v, key_of(len(v)))
        decoded = compressor.decode(payload, d, v.dtype)
        with monkeypatch.context() as m:
            use_numpy(m)
            assert (compressor.encode(v, key_of(len(v))) == payload).all()
            assert compressor.decode(payload, d, v.dtype).tobytes() == decoded.tobytes()


@pytest.mark.parametrize("d", WIDTHS)
def test_error_feedback_is_its_definition(backend, compressor, vectors, key_of, d):
    x = vectors(d)
    u, key = np.roll(x, 1, axis=0) / 2, key_of(len(x))
    payload = compressor.encode_difference(x, u, key)
    assert payload.tobytes() == compressor.encode(x - u, key).tobytes()
    q = compressor.decode(payload, d, x.dtype)
    for step in (1.0, 0.3):
        moved = u.copy()
        estimate = compressor.advance(payload, moved, step)
        np.testing.assert_array_equal(estimate, u + q)  # but for the sign of a zero
        np.testing.assert_array_equal(moved, u + x.dtype.type(step) * q)
        assert (estimate is moved) == (step == 1)


@pytest.mark.parametrize("d", [33, 1100])
def test_no_rows(backend, compressor, dtype, key_of, d):
    none, key = np.empty((0, d), dtype), key_of(0)
    for payload in (compressor.encode(none, key), compressor.encode_difference(none, none, key)):
        assert payload.dtype == np.uint8 and payload.shape == (0, compressor.nbytes(d, dtype))
    decoded = compressor.decode(payload, d, dtype)
    assert decoded.shape == none.shape and decoded.dtype == dtype
    assert all(compressor.advance(payload, none, step).shape == none.shape for step in (1.0, 0.3))


def test_any_order_in_memory(backend, compressor, vectors, key_of):
    x = vectors(100)
    u, key = np.roll(x, 1, axis=0) / 2, key_of(len(x))
    columns = np.asfortranarray(x), np.asfortranarray(u)
    assert compressor.encode(columns[0], key).tobytes() == compressor.encode(x, key).tobytes()
    expected = compressor.encode_difference(x, u, key)
    found = compressor.encode_difference(*columns, key)
    assert found.shape == expected.shape and found.flags.c_contiguous and found.tobytes() == expected.tobytes()
    for step in (1.0, 0.3):
        plain, other = u.copy(), columns[1].copy(order="F")
        np.testing.assert_array_equal(compressor.advance(found, other, step), compressor.advance(expected, plain, step))
        np.testing.assert_array_equal(other, plain)


@pytest.mark.parametrize("d", [5000, 6 * 1024])
def test_parts_make_up_the_whole(backend, compressor, dtype, key_of, d):
    """Encoded, decoded and accumulated part by part; their bytes are those of the row, each once."""
    x = np.random.default_rng(d).standard_normal((3, d)).astype(dtype)
    u, out = x[::-1] / 2, np.empty((3, d), dtype)
    u[:, 1000:3000] = x[:, 1000:3000]
    payload = compressor.encode_difference(x, u, key_of(3))
    parts = compressor.cut(d, dtype, 600)
    assert [p.begin for p in parts[1:]] == [p.end for p in parts[:-1]]
    bytes_of = np.concatenate([np.arange(*where) for p in parts for where in p.where]) if parts else np.arange(payload.shape[1])
    assert (np.sort(bytes_of) == np.arange(payload.shape[1])).all() and len(parts) != 1
    assert not compressor.cut(d, dtype, 8 * d + 8) and not compressor.cut(1, dtype, 1)
    for row in range(3):
        one, key = slice(row, row + 1), key_of(3)
        made = np.full((1, payload.shape[1]), 0xA5, np.uint8)
        for part in parts or [None]:
            compressor.encode_into(x[one], dataclasses.replace(key, ids=key.ids[one]), made, u[one], part)
        assert made.tobytes() == payload[one].tobytes()
        for part in (parts or [None])[::-1]:  # they may come in any order
            compressor.decode_into(payload[one], out[one], part)
    assert out.tobytes() == compressor.decode(payload, d, dtype).tobytes()
    for step in (1.0, 0.3):
        expected, moved = u.copy(), u.copy()
        found, estimate = compressor.advance(payload, expected, step), moved if step == 1 else np.empty_like(u)
        for row in range(3):
            one = slice(row, row + 1)
            for part in (parts or [None])[::-1]:
                compressor.advance_into(payload[one], moved[one], step, estimate[one], part)
        assert moved.tobytes() == expected.tobytes() and estimate.tobytes() == found.tobytes()


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_non_finite_rows_of_a_difference_are_named(backend, compressor, dtype, key_of, poison):
    x, u = np.ones((5, 40), dtype), np.ones((5, 40), dtype)
    x[1, 7] = u[4, 39] = poison
    with pytest.raises(NonFiniteError) as caught:
        compressor.encode_difference(x, u, key_of(5))
    assert list(caught.value.rows) == [1, 4]


@pytest.mark.parametrize("d", WIDTHS)
def test_zero_goes_to_zero(backend, compressor, dtype, key_of, d):
    if not compressor.relative:
        pytest.skip("its error does not shrink with v: see test_absolute")
    zero = np.zeros((3, d), dtype)
    assert (compressor.decode(compressor.encode(zero, key_of(3)), d, dtype) == 0).all()


@pytest.mark.parametrize("power", [-30, 1, 12])
def test_powers_of_two_pass_through(backend, compressor, vectors, key_of, power):
    if not compressor.relative:
        pytest.skip("its error does not shrink with v: see test_absolute")
    v = vectors(100)[:7]
    factor = v.dtype.type(2.0**power)
    key = key_of(len(v))
    once = compressor.decode(compressor.encode(v, key), 100, v.dtype) * factor
    assert (compressor.decode(compressor.encode(v * factor, key), 100, v.dtype) == once).all()


def test_a_row_is_its_own_whatever_rows_are_beside_it(backend, compressor, vectors, key_of):
    v = vectors(100)
    together = compressor.encode(v, key_of(len(v)))
    for i in range(len(v)):
        alone = compressor.encode(v[i : i + 1], Key(2024, Purpose.TEST, 0, np.array([i])))
        assert (alone[0] == together[i]).all()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_non_finite_rows_are_named(backend, compressor, dtype, key_of, poison):
    v = np.ones((5, 40), dtype)
    v[1, 7] = v[4, 39] = poison
    with pytest.raises(NonFiniteError) as caught:
        compressor.encode(v, key_of(5))
    assert caught.value.rows == [1, 4]


@pytest.mark.parametrize("dtype", [">f8", ">f4", "f2", "i4"])
@pytest.mark.parametrize("spec", ["identity", {"name": "top-k", "k": 2}, {"name": "rand-k", "k": 2}])
def test_bytes_of_other_numbers_are_refused(backend, spec, dtype, key_of):
    """The receiver would take them for its own float32 or float64."""
    with pytest.raises(ValueError, match="rows of|of type"):
        build(spec).encode(np.ones((2, 8), dtype), key_of(2))


def test_any_bytes_decode_to_finite_numbers_or_are_refused(backend, compressor, dtype):
    rng = np.random.default_rng(1)
    for d in (1, 40, 1100):
        size = compressor.nbytes(d, dtype)
        refused = 0
        for trial in range(40):
            payload = rng.integers(0, 256, (1, size), dtype=np.uint8)
            if trial % 2:
                payload[0, :4] = np.frombuffer(np.float32(2.0**126), np.uint8)[:size]  # the largest scale
            try:
                assert np.isfinite(compressor.decode(payload, d, dtype)).all()
            except TransportError:
                refused += 1
        assert refused < 40 or size > 8, "no payload at all was accepted"


def test_a_payload_may_begin_anywhere(backend, compressor, vectors, key_of):
    v = vectors(100)
    payload = compressor.encode(v, key_of(len(v)))
    buffer = np.empty(payload.size + 3, np.uint8)
    shifted = buffer[3:].reshape(payload.shape)
    shifted[...] = payload
    decoded = compressor.decode(shifted, 100, v.dtype)
    assert decoded.flags.aligned and decoded.flags.c_contiguous
    assert decoded.tobytes() == compressor.decode(payload, 100, v.dtype).tobytes()


def test_rows_of_another_size_are_refused(backend, compressor, dtype):
    size = compressor.nbytes(100, dtype)
    for wrong in (size - 1, size + 1):
        with pytest.raises(TransportError, match=f"{wrong} bytes in place of {size}"):
            compressor.decode(np.zeros((2, wrong), np.uint8), 100, dtype)


@pytest.mark.parametrize("change", ["round", "id", "stream", "kind"])
def test_fresh_draws(backend, compressor, change):
    rng = np.random.default_rng(0)
    v = rng.standard_normal((1, 1000))
    base = Key(1, Purpose.AGENT_MESSAGE, 4, np.array([3]))
    other = {
        "round": Key(1, Purpose.AGENT_MESSAGE, 5, np.array([3])),
        "id": Key(1, Purpose.AGENT_MESSAGE, 4, np.array([4])),
        "stream": Key(1, Purpose.AGENT_MESSAGE + 16, 4, np.array([3])),
        "kind": Key(1, Purpose.ARC_MESSAGE, 4, np.array([3])),
    }[change]
    same = (compressor.encode(v, base) == compressor.encode(v, other)).all()
    if compressor.unbiased and compressor.name != "identity":
        assert not same
    assert (compressor.encode(v, base) == compressor.encode(v, base)).all()


def test_is_frozen_configuration(compressor):
    spec = {"name": compressor.name, **dataclasses.asdict(compressor)}
    again = build({k: v for k, v in spec.items() if v is not None})
    assert again == compressor and hash(again) == hash(compressor)
    assert load(compressor.name) is type(compressor)


def test_clips_nothing_where_scales_follow_the_message(compressor, vectors):
    assert not compressor.relative or compressor.saturated(vectors(100)) == 0


def test_message(compressor, vectors, key_of):
    v = vectors(100)
    message = Message("agents", compressor.encode(v, key_of(len(v))), compressor, 100, v.dtype, 7)
    assert message.decode() is message.decode() and message.round == 7
    assert message.nbytes == len(v) * message.row_bytes == len(v) * compressor.nbytes(100, v.dtype)
    assert message.ideal_bits == compressor.ideal_bits(100, v.dtype)


@pytest.mark.parametrize(
    "spec, sentence",
    [
        ({"name": "quantise"}, 'unknown compressor "quantise".*did you mean "quantize"'),
        ({"name": "quantize", "bit": 4}, 'did you mean "bits"'),
        ({"name": "quantize", "bits": 0}, "from 1 to 16"),
        ({"name": "quantize", "bits": 17}, "from 1 to 16"),
        ({"name": "quantize", "bits": "8"}, 'bits = "8": give a whole number .did you mean 8'),
        ({"name": "quantize", "bits": True}, "bits"),
        ({"name": "quantize", "norm": "1"}, "norm"),
        ({"name": "quantize", "block": 100}, "multiple of 32"),
        ({"name": "quantize", "block": -32}, "multiple of 32"),
        ({"name": "quantize", "rounding": "up"}, "rounding"),
        ({"name": "quantize", "symbols": "many"}, "symbols"),
        ({"name": "qsgd", "levels": 0}, "levels"),
        ({"name": "qsgd", "block": 3}, "multiple of 32"),
        ({"name": "top-k"}, "either k"),
        ({"name": "top-k", "k": 3, "fraction": 0.1}, "either k"),
        ({"name": "rand-k", "k": 0}, "from 1"),
        ({"name": "rand-k", "fraction": 1.5}, "above 0"),
        ({"name": "top-k-quantize", "k": 3, "quantize": {"bit": 4}}, 'did you mean "bits"'),
        ({"name": "top-k-quantize", "k": 3, "quantize": {"bits": 40}}, "from 1 to 16"),
        ({"name": "absolute", "bits": 0}, "from 1 to 16"),
        ({"name": "absolute", "step": 0.0}, "compressor.step = 0.0"),
        ({"name": "absolute", "step": float("nan")}, "compressor.step = nan"),
        ({"name": "identity", "bits": 3}, "bits"),
    ],
)
def test_wrong_configurations_are_refused_with_a_sentence(spec, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(spec)


def test_more_entries_than_there_are(key_of):
    for name in ("rand-k", "top-k", "top-k-quantize"):
        with pytest.raises(ConfigError, match="at most 4"):
            build({"name": name, "k": 5}).encode(np.ones((1, 4)), key_of(1))
