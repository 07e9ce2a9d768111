"""The inner loops on a GPU: functions of ``kernels.c`` and ``kernels.sparse`` for CuPy arrays, by the CUDA kernels in cuda/.

Same signatures, same bits; what the C extensions have not got says so. All rows of a call are served together, on CuPy's
current stream. Nothing waits for the device, except a function that reports bad rows or damaged scales: it reads one
number a row back. Give it ``bad``, zeros (rows,) int32 on the device, and it only marks these rows there, does not wait
and returns None; who sends the payload looks at `bad` then.

Arrays are C-contiguous. Shapes and types are checked, ValueError; what is in ptr, head and at is not. A kernel is compiled
when it is first called, for one type and one width of code, in seconds; CuPy keeps it in ~/.cupy/kernel_cache.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

LANES, TILE, WARPS, THREADS = 32, 1024, 8, 256
LARGEST, TWO_NORM, HALF_LARGEST, MEAN, GIVEN = range(5)
PLAIN, DIFFERENCE, FEEDBACK = range(3)
DIGIT, BINS, SAMPLES, SCANNERS = 11, 2048, 32 * 256, 1024
ROOM, ENOUGH = 1 << 15, 1024  # bytes of shared memory of `quantize_mix`; blocks that keep a device at work
SEARCH = 6  # 64-bit numbers of a `Search`
FILES = (
    *("tile.cuh", "random.cu", "sums.cu", "scales.cu", "sign.cu", "quantize.cu"),
    *("absolute.cu", "places.cu", "sample.cu", "top_k.cu"),
)
OPTIONS = ("-std=c++17", "--fmad=false")
REALS = {"f": "float", "d": "double"}
INTEGERS = "lq"  # int64
NULL = np.uint64(0)

Array = Any


@cache
def source() -> str:
    """The text of all kernels."""
    texts = ((Path(__file__).parent / "cuda" / name).read_text(encoding="utf-8") for name in FILES)
    return "\n".join(line for text in texts for line in text.splitlines() if not line.startswith('#include "'))


@cache
def cupy() -> Any:
    """CuPy; imported at the first call."""
    return import_module("cupy")


@cache
def kernel(name: str, device: int) -> Any:
    """The compiled kernel, by its C++ name with template arguments."""
    return cupy().RawModule(code=source(), options=OPTIONS, name_expressions=(name,)).get_function(name)


def _launch(name: str, blocks: int, *args: Any, threads: int = THREADS) -> None:
    if blocks:
        kernel(name, cupy().cuda.Device().id)((blocks,), (threads,), tuple(NULL if a is None else a for a in args))


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _require(truth: Any, what: str) -> None:
    if not truth:
        raise ValueError(what)


def _take(name: str, a: Array, types: str, *shape: int) -> None:
    """Raise ValueError unless the array is contiguous, of one of the types and of the shape."""
    if a.shape != shape or a.dtype.char not in types or not a.flags.c_contiguous:
        raise ValueError(f"{name}: an array {a.shape} of {a.dtype} in place of a contiguous one {shape} of a type in {types!r}")


def _rows_of(v: Array, *others: Array | None) -> tuple[int, int]:
    """The shape of v (rows, d). Raises ValueError unless the others are like it, or None."""
    _take("v", v, "fd", len(v), v.shape[-1])
    for other in others:
        if other is not None:
            _take("rows beside v", other, v.dtype.char, *v.shape)
    rows, d = v.shape
    return rows, d


def _rows_bad(bad: Array | None, rows: int) -> Array:
    if bad is None:
        return cupy().zeros(rows, np.int32)
    _take("bad", bad, "i", rows)
    return bad


def _list(bad: Array) -> list[int] | None:
    return np.flatnonzero(cupy().asnumpy(bad)).tolist() or None


# --- draws ---------------------------------------------------------------------------------------------------------------


def words(seed: int, round: int, tag: int, ids: Array, out: Array) -> None:
    """out (rows, count) uint32; see `Key.words`."""
    _draw("words", 4, seed, round, tag, ids, out, "I")


def halves(seed: int, round: int, tag: int, ids: Array, out: Array) -> None:
    """out (rows, count) uint16; see `Key.halves`."""
    _draw("halves", 8 * LANES, seed, round, tag, ids, out, "H")


def _draw(name: str, each: int, seed: int, round: int, tag: int, ids: Array, out: Array, char: str) -> None:
    _take("ids", ids, INTEGERS, len(ids))
    _take("out", out, char, len(ids), out.shape[-1])
    rows, count = out.shape
    threads = rows * _ceil(count, each) * (1 if each == 4 else LANES)
    _launch(name, _ceil(threads, THREADS), *_key(seed, round, tag), ids, out, np.int64(rows), np.int64(count))


def _key(seed: int, round: int, tag: int) -> tuple[Any, ...]:
    return np.uint64(seed), np.uint32(round), np.uint32(tag)


# --- the quantizer -------------------------------------------------------------------------------------------------------


def quantize_encode(
    seed: int,
    round: int,
    tag: int,
    ids: Array,
    v: Array,
    minus: Array | None,
    payload: Array,
    top: int,
    width: int,
    block: int,
    two_norm: bool,
    dithered: bool,
    bad: Array | None = None,
) -> list[int] | None:
    """payload (rows, row_bytes) of v (rows, d), or of v − minus; the rows that must be refused, or None."""
    mode, grid = PLAIN if minus is None else DIFFERENCE, (top, width, block, two_norm, dithered)
    return _encode(mode, (seed, round, tag), ids, v, minus, None, 0.0, payload, *grid, bad)


def quantize_feedback(
    seed: int,
    round: int,
    tag: int,
    ids: Array,
    v: Array,
    u: Array,
    out: Array | None,
    payload: Array,
    top: int,
    width: int,
    block: int,
    two_norm: bool,
    dithered: bool,
    eta: float,
    bad: Array | None = None,
) -> list[int] | None:
    """`quantize_encode` of v − u, then `quantize_advance` of u by the payload, in one pass.

    u of a row that is refused is not defined.
    """
    grid = (top, width, block, two_norm, dithered)
    return _encode(FEEDBACK, (seed, round, tag), ids, v, u, out, eta, payload, *grid, bad)


def _encode(
    mode: int,
    key: tuple[int, int, int],
    ids: Array,
    v: Array,
    u: Array | None,
    out: Array | None,
    eta: float,
    payload: Array,
    top: int,
    width: int,
    block: int,
    two_norm: bool,
    dithered: bool,
    given: Array | None,
) -> list[int] | None:
    rows, d = _rows_of(v, u, out)
    _take("ids", ids, INTEGERS, rows)
    row_bytes = _row_bytes(payload, rows, d, top, width, block)
    bad = _rows_bad(given, rows)
    norm = TWO_NORM if two_norm else LARGEST
    if d > TILE and TILE % block:
        _block_scales(v, u, payload, block, norm, bad)
        norm = GIVEN
    sizes = (np.int64(n) for n in (rows, d, block, row_bytes))
    choices = np.uint32(_ends(block)), np.int32(top), np.int32(bool(dithered))
    name = f"quantize_encode<{REALS[v.dtype.char]}, {width}, {mode}, {norm}>"
    blocks = _ceil(rows * _ceil(d, TILE), WARPS)
    _launch(name, blocks, *_key(*key), ids, v, u, out, v.dtype.type(eta), payload, *sizes, *choices, bad)
    return _list(bad) if given is None else None


@cache
def _ends(block: int) -> int:
    """Bit r: a block ends with row r of a tile, where blocks begin with the tile."""
    each = _ceil(block, LANES)
    return sum(1 << r for r in range(LANES) if (r + 1) % each == 0)


def _block_scales(v: Array, u: Array | None, payload: Array, block: int, norm: int, bad: Array) -> None:
    rows, d = v.shape
    scales, parts = _ceil(d, block), _ceil(min(block, d), WARPS * TILE)
    largest = cupy().empty((rows, scales, parts), np.float64)
    sums = cupy().empty_like(largest) if norm == TWO_NORM else None
    sizes = (np.int64(n) for n in (d, block, parts))
    name = f"part_norms<{REALS[v.dtype.char]}>"
    _launch(name, rows * scales * parts, v, u, largest, sums, *sizes, np.int32(norm))
    _finish_scales(largest, sums, payload, norm, d, bad)


def _finish_scales(largest: Array, sums: Array | None, payload: Array, norm: int, d: int, bad: Array) -> None:
    rows, scales, parts = largest.shape
    sizes = (np.int64(n) for n in (scales, parts, payload.shape[1]))
    _launch("finish_scales", rows * scales, largest, sums, payload, *sizes, np.int32(norm), np.float64(d), bad)


def _row_bytes(payload: Array, rows: int, d: int, top: int, width: int, block: int) -> int:
    """Bytes of a row of the payload. Raises ValueError where they are not those of the grid."""
    _require(1 <= width <= 17 and 1 <= top < 1 << width, "top or width")
    _require(1 <= d < 1 << 35 and block >= 1 and (block % LANES == 0 or block >= d), "d or block")
    row_bytes = 4 * _ceil(d, block) + _ceil(d * width, 8)
    _take("payload", payload, "B", rows, row_bytes)
    return row_bytes


def quantize_decode(
    payload: Array, out: Array, top: int, width: int, block: int, gain: float, bad: Array | None = None
) -> bool | None:
    """out (rows, d) = gain C; are all scales in range?"""
    return _decode(payload, None, out, top, width, block, gain, 0.0, bad)


def quantize_advance(
    payload: Array,
    u: Array,
    out: Array | None,
    top: int,
    width: int,
    block: int,
    gain: float,
    eta: float,
    bad: Array | None = None,
) -> bool | None:
    """With q = gain C: out = u + q where it is not None, then u ← u + eta q; are all scales in range?"""
    return _decode(payload, u, out, top, width, block, gain, eta, bad)


def _decode(
    payload: Array,
    u: Array | None,
    out: Array | None,
    top: int,
    width: int,
    block: int,
    gain: float,
    eta: float,
    given: Array | None,
) -> bool | None:
    shown: Array = out if u is None else u
    rows, d = _rows_of(shown, out)
    row_bytes = _row_bytes(payload, rows, d, top, width, block)
    bad, real = _rows_bad(given, rows), shown.dtype.type
    name = f"quantize_decode<{REALS[shown.dtype.char]}, {width}, {str(u is not None).lower()}>"
    sizes = (np.int64(n) for n in (rows, d, block, row_bytes))
    blocks = _ceil(rows * _ceil(d, TILE), WARPS)
    _launch(name, blocks, payload, u, out, real(eta), *sizes, np.int32(top), real(gain), bad)
    return _list(bad) is None if given is None else None


def quantize_mix(
    payload: Array,
    u: Array | None,
    ptr: Array,
    head: Array,
    weights: Array | None,
    out: Array,
    top: int,
    width: int,
    block: int,
    gain: float,
    eta: float,
    bad: Array | None = None,
) -> bool | None:
    """With q = gain C (rows, d) and û = u + q, or q without u: out = `disagreement` of û, then u ← u + eta q; are all scales in range?

    At most `most_mixed` rows. In C it is `mix`.
    """
    (n, d), m, real = out.shape, len(head), out.dtype.type
    rows = len(payload)
    _take("out", out, "fd", n, d)
    if u is not None:
        _take("u", u, out.dtype.char, rows, d)
    _take("ptr", ptr, INTEGERS, n + 1)
    _take("head", head, INTEGERS, m)
    if weights is not None:
        _take("weights", weights, out.dtype.char, m)
    _require(n <= rows <= most_mixed(out.dtype), "rows")
    row_bytes = _row_bytes(payload, rows, d, top, width, block)
    marks, group = _rows_bad(bad, rows), LANES
    while group > 1 and (group * rows > most_mixed(out.dtype) or (group * rows > 2 * WARPS and _ceil(d, LANES * group) < ENOUGH)):
        group //= 2
    sizes = (np.int64(x) for x in (rows, n, d, block, row_bytes))
    name, grid = f"quantize_mix<{REALS[out.dtype.char]}, {width}>", (np.int32(group), np.int32(top), real(gain))
    _launch(name, _ceil(d, LANES * group), payload, u, real(eta), ptr, head, weights, out, *sizes, *grid, marks)
    return _list(marks) is None if bad is None else None


def most_mixed(dtype: Any) -> int:
    """Rows that `quantize_mix` takes: their û must fit into the shared memory of a block."""
    return ROOM // (LANES * np.dtype(dtype).itemsize)


# --- the absolute quantizer ----------------------------------------------------------------------------------------------


def absolute_encode(
    seed: int,
    round: int,
    tag: int,
    ids: Array,
    v: Array,
    payload: Array,
    top: int,
    width: int,
    step: float,
    dithered: bool,
    bad: Array | None = None,
) -> list[int] | None:
    """payload of v (rows, d), see `Absolute`; the rows that must be refused, or None. Not in C."""
    rows, d = _rows_of(v)
    _take("ids", ids, INTEGERS, rows)
    row_bytes, real = _code_bytes(payload, rows, d, top, width), v.dtype.type
    marks, sizes = _rows_bad(bad, rows), (np.int64(n) for n in (rows, d, row_bytes))
    steps, choices = (real(step), real((top + 2) * step)), (np.int32(top), np.int32(width), np.int32(bool(dithered)))
    name = f"absolute_encode<{REALS[v.dtype.char]}>"
    blocks = _ceil(rows * _ceil(row_bytes, 4), THREADS)
    _launch(name, blocks, *_key(seed, round, tag), ids, v, payload, *steps, *sizes, *choices, marks)
    return _list(marks) if bad is None else None


def absolute_decode(payload: Array, out: Array, top: int, width: int, step: float, bad: Array | None = None) -> bool | None:
    """out (rows, d) from the payload of `absolute_encode`; are all codes in range? Not in C."""
    rows, d = _rows_of(out)
    row_bytes = _code_bytes(payload, rows, d, top, width)
    marks, sizes = _rows_bad(bad, rows), (np.int64(n) for n in (rows, d, row_bytes))
    name, grid = f"absolute_decode<{REALS[out.dtype.char]}>", (np.int32(top), np.int32(width))
    _launch(name, _ceil(rows * d, THREADS), payload, out, out.dtype.type(step), *sizes, *grid, marks)
    return _list(marks) is None if bad is None else None


def _code_bytes(payload: Array, rows: int, d: int, top: int, width: int) -> int:
    """Bytes of a row of codes alone. Raises ValueError where they are not those of the payload."""
    _require(1 <= width <= 16 and 1 <= top < 1 << width and 1 <= d < 1 << 35, "top, width or d")
    _take("payload", payload, "B", rows, _ceil(d * width, 8))
    return _ceil(d * width, 8)


# --- signs ---------------------------------------------------------------------------------------------------------------


def sign_encode(
    v: Array, minus: Array | None, payload: Array, mean: bool, bad: Array | None = None
) -> list[int] | None:
    """payload (rows, 4 + ceil(d/8)) of v (rows, d), or of v − minus; the rows that must be refused, or None.

    The scale is half the largest magnitude, or the mean of the magnitudes.
    """
    rows, d = _rows_of(v, minus)
    _take("payload", payload, "B", rows, 4 + _ceil(d, 8))
    marks, parts, norm = _rows_bad(bad, rows), _ceil(d, WARPS * TILE), MEAN if mean else HALF_LARGEST
    largest = cupy().empty((rows, 1, parts), np.float64)
    sums = cupy().empty_like(largest) if mean else None
    sizes = (np.int64(n) for n in (d, parts, payload.shape[1]))
    _launch(f"sign_encode<{REALS[v.dtype.char]}>", rows * parts, v, minus, payload, largest, sums, *sizes, np.int32(norm))
    _finish_scales(largest, sums, payload, norm, d, marks)
    return _list(marks) if bad is None else None


def sign_decode(payload: Array, out: Array, bad: Array | None = None) -> bool | None:
    """out (rows, d) from the payload of `sign_encode`; are all scales in range?"""
    rows, d = out.shape
    _take("out", out, "fd", rows, d)
    _take("payload", payload, "B", rows, 4 + _ceil(d, 8))
    marks, sizes = _rows_bad(bad, rows), (np.int64(n) for n in (rows, d, payload.shape[1]))
    _launch(f"sign_decode<{REALS[out.dtype.char]}>", _ceil(rows * _ceil(d, TILE), WARPS), payload, out, *sizes, marks)
    return _list(marks) is None if bad is None else None


# --- top-k ---------------------------------------------------------------------------------------------------------------


def top_k(
    v: Array,
    minus: Array | None,
    payload: Array,
    start: int,
    k: int,
    low: int,
    values: Array | None,
    search: Array | None = None,
    bad: Array | None = None,
) -> list[int] | None:
    """The k entries of largest magnitude of each row of v (rows, d), or of v − minus, ties to the smallest place, in order.

    Their places go to payload[:, start:], coded as `Places` with this `low`; their values to `values` (rows, k), or where it
    is None to payload[:, :start]. Returns the rows that hold NaN or infinity, or None.

    search (rows, SEARCH) int64, zeros at first: what the last call of such rows found, for the next one to be faster. It
    changes no result. Not in C.
    """
    rows, d = _rows_of(v, minus)
    _require(1 <= k <= d < 1 << 35, "k or d")
    _take("payload", payload, "B", rows, start + _place_bytes(d, k, low))
    if values is None:
        _require(start == k * v.dtype.itemsize, "start")
        kept = cupy().empty((rows, k), v.dtype)
    else:
        _take("values", values, v.dtype.char, rows, k)
        kept = values
    if search is None or d <= SAMPLES:
        search = cupy().zeros((rows, SEARCH), np.int64)
    _take("search", search, INTEGERS, rows, SEARCH)
    places, marks = cupy().empty((rows, k), np.int64), _rows_bad(bad, rows)
    _select(v, minus, kept, places, search, marks)
    if values is None:
        payload[:, :start] = kept.view(np.uint8)
    _pack_places(places, d, low, payload, start)
    return _list(marks) if bad is None else None


def _select(v: Array, u: Array | None, values: Array, places: Array, search: Array, bad: Array) -> None:
    """`top_k` up to its values and places (rows, k)."""
    (rows, d), k = v.shape, places.shape[1]
    cp, real = cupy(), REALS[v.dtype.char]
    tiles, sampled = _ceil(d, TILE), min(d, SAMPLES)
    rank, capacity = _sample_plan(d, k)
    above, ties = cp.empty((2, rows, tiles), np.uint32)
    before = cp.empty((2, rows, tiles), np.int64)
    slots = cp.empty((rows, tiles, capacity), v.dtype), cp.empty((rows, tiles, capacity), np.uint16)
    n, width, room = np.int64(rows), np.int64(d), np.int32(capacity)
    warps = _ceil(rows * tiles, WARPS)

    _launch(f"top_k_sample<{real}>", rows, v, u, search, width, np.int64(rank))
    _launch(f"top_k_filter<{real}>", warps, v, u, search, *slots, above, ties, n, width, room, bad)
    scan = np.int64(tiles), np.int64(k), np.int64(3 * tiles * capacity // 4)
    _launch("top_k_scan", rows, search, above, ties, *before, *scan, np.int32(1), threads=SCANNERS)
    if sampled < d:  # else the sample was the row, and every search is settled
        bins, kept = cp.zeros((rows, BINS), np.uint32), cp.empty((2, rows, tiles), np.uint32)
        blocks, bits = min(_ceil(tiles, WARPS), 512), 31 if real == "float" else 63
        while bits:
            shift = max(0, bits - DIGIT)
            digits = (np.int64(blocks), room, np.int32(bits), np.int32(shift))
            _launch(f"top_k_digits<{real}>", rows * blocks, v, u, *slots, search, above, ties, bins, width, *digits)
            _launch("top_k_pick", rows, search, bins, np.int32(shift))
            bits = shift
        _launch(f"top_k_count<{real}>", warps, v, u, *slots, search, above, ties, *kept, n, width, room)
        _launch("top_k_scan", rows, search, *kept, *before, *scan, np.int32(0), threads=SCANNERS)
    sizes = n, width, np.int64(k), room
    _launch(f"top_k_write<{real}>", warps, v, u, *slots, search, above, ties, *before, values, places, *sizes)


def _sample_plan(d: int, k: int) -> tuple[int, int]:
    """(rank in the sample, slots of a tile): a threshold that four deviations put below the k-th largest, and room for what
    passes it; neither decides what is kept."""
    if d <= SAMPLES:
        rank = k
    else:
        expected = k * SAMPLES / d
        rank = math.ceil(expected + 4 * math.sqrt(expected) + 8)
    if rank > SAMPLES:
        return 0, TILE
    passing = TILE * rank / min(d, SAMPLES)
    return rank, min(TILE, LANES * math.ceil((passing + 6 * math.sqrt(passing) + 16) / LANES))


# --- places --------------------------------------------------------------------------------------------------------------


def _high_bits(d: int, k: int, low: int) -> int:
    return d if low < 0 else k + (d - 1 >> low) - 1


def _place_bytes(d: int, k: int, low: int) -> int:
    _require(1 <= k <= d < 1 << 35 and -1 <= low <= 35, "k, d or low")
    return _ceil(k * max(low, 0) + _high_bits(d, k, low), 8)


def pack_places(places: Array, d: int, low: int, out: Array) -> None:
    """out (rows, bytes), the code of places (rows, k) that rise below d; see `Places.pack`."""
    rows, k = places.shape
    _take("places", places, INTEGERS, rows, k)
    _take("out", out, "B", rows, _place_bytes(d, k, low))
    _pack_places(places, d, low, out, 0)


def _pack_places(places: Array, d: int, low: int, payload: Array, start: int) -> None:
    rows, k = places.shape
    words = _ceil(payload.shape[1] - start, 4)
    sizes = (np.int64(n) for n in (rows, k, _high_bits(d, k, low), payload.shape[1], start))
    _launch("pack_places", _ceil(rows * words, THREADS), places, payload, *sizes, np.int32(low))


def unpack_places(stream: Array, d: int, low: int, places: Array, bad: Array | None = None) -> bool | None:
    """places (rows, k) of a stream (rows, bytes); are they k places that rise below d?"""
    rows, k = places.shape
    _take("places", places, INTEGERS, rows, k)
    _take("stream", stream, "B", rows, _place_bytes(d, k, low))
    marks = _rows_bad(bad, rows)
    _unpack_places(stream, d, low, places, marks)
    sizes = (np.int64(n) for n in (rows, k, d))
    _launch("check_places", _ceil(rows * k, THREADS), places, *sizes, marks)
    return _list(marks) is None if bad is None else None


def _unpack_places(stream: Array, d: int, low: int, places: Array, bad: Array) -> None:
    """`unpack_places` of rows that may be longer than their code."""
    rows, k = places.shape
    tiles = _ceil(stream.shape[1], TILE // 8)
    counts, before = cupy().empty((rows, tiles), np.uint32), cupy().empty((rows, tiles), np.int64)
    n, warps = np.int64(rows), _ceil(rows * tiles, WARPS)
    code = *(np.int64(x) for x in (k, _high_bits(d, k, low), stream.shape[1], 0)), np.int32(low)
    _launch("count_places", warps, stream, counts, n, *code)
    _launch("scan_places", rows, stream, counts, before, places, *code, bad, threads=SCANNERS)
    _launch("unpack_places", warps, stream, before, places, n, *code)


def sample_places(seed: int, round: int, tag: int, ids: Array, d: int, places: Array) -> None:
    """places (rows, k) that rise below d: for each row those of `sample_batches`, sorted. Not in C.

    All steps of Floyd's algorithm at once, by a table of d numbers: 4 d bytes a row while it runs, and the time to clear them.
    """
    rows, k = places.shape
    _require(1 <= k <= d < 1 << 32, "k or d")
    _take("places", places, INTEGERS, rows, k)
    drawn, first = cupy().empty((rows, k), np.uint32), cupy().zeros((rows, d), np.uint32)
    bits = cupy().zeros((rows, _ceil(d, LANES)), np.uint32)
    words(seed, round, tag, ids, drawn)
    sizes = tuple(np.int64(n) for n in (rows, k, d))
    _launch("sample_first", _ceil(rows * k, THREADS), drawn, first, *sizes)
    _launch("sample_places", _ceil(rows * k, THREADS), drawn, first, bits, *sizes)
    _unpack_places(bits.view(np.uint8), d, -1, places, _rows_bad(None, rows))


def scatter(places: Array, values: Array, out: Array, step: float | None) -> None:
    """out (rows, d) = values (rows, k) at places (rows, k), zeros elsewhere; with a step, out += step values at the places."""
    rows, d = out.shape
    k = places.shape[1]
    _take("out", out, "fd", rows, d)
    _take("places", places, INTEGERS, rows, k)
    _take("values", values, out.dtype.char, rows, k)
    if step is None:
        out[...] = 0
    sizes = (np.int64(n) for n in (rows, k, d))
    name = f"scatter<{REALS[out.dtype.char]}, {str(step is not None).lower()}>"
    _launch(name, _ceil(rows * k, THREADS), places, values, out, *sizes, out.dtype.type(step or 0))


# --- sums over a neighborhood --------------------------------------------------------------------------------------------


def total(z: Array, ptr: Array, out: Array) -> None:
    """out (n, d) = Σ z (m, d) over the arcs ptr[i]..ptr[i + 1] of each agent, in arc order."""
    n, d = out.shape
    _take("out", out, "fd", n, d)
    _take("z", z, out.dtype.char, len(z), d)
    _take("ptr", ptr, INTEGERS, n + 1)
    _launch(f"total<{REALS[z.dtype.char]}>", _ceil(n * d, THREADS), z, ptr, out, np.int64(n), np.int64(d))


def disagreement(x: Array, ptr: Array, head: Array, weights: Array | None, out: Array) -> None:
    """out (n, d) = Σ_a weights[a] (x[i] − x[head[a]]), in arc order; x (known rows, d), weights None for ones."""
    n, d = out.shape
    _take("out", out, "fd", n, d)
    _take("x", x, out.dtype.char, len(x), d)
    _take("ptr", ptr, INTEGERS, n + 1)
    _take("head", head, INTEGERS, len(head))
    if weights is not None:
        _take("weights", weights, out.dtype.char, len(head))
    sizes = np.int64(n), np.int64(d)
    _launch(f"disagreement<{REALS[x.dtype.char]}>", _ceil(n * d, THREADS), x, ptr, head, weights, out, *sizes)


def all_finite(v: Array) -> bool:
    """No NaN and no infinity in v."""
    return bool(cupy().isfinite(v).all())
