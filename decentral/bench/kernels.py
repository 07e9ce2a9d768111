"""Compressors against a copy of the same array and against the stock alternatives, interleaved; on one thread, or on two.

    decentral bench kernels [--size 10000000]

A ratio is a time over that of `numpy.copyto` of the same float32 array in the same run. "stock" is what one would
write without this project: NumPy for the quantizer (the plain text of the same function), `numpy.argpartition` of the
magnitudes for top-k, `numpy.packbits` for signs; for a kernel that does two things, the two that do one of them; and,
where it is installed, PyTorch on one thread: `torch.topk` of the magnitudes, unsorted, and the quantizer in eager
operations. What is freed is kept for the next array, as in a run (`allocation`). That helps whoever makes large
temporaries, as eager PyTorch does: "PyTorch eager" runs in an ordinary process beside this one, in turn with the others, as
one would meet it; "PyTorch eager, memory kept" in this one. "/ ideal": bytes over b bits an entry, without scales (blocks of
1024 here; the default of 512 has twice as many); for top-k over 32 bits a value and the entropy of the places.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from decentral import kernels
from decentral.compressors import Identity, NormSign, Quantize, RandK, TopK, TopKQuantize
from decentral.random import Key
from decentral.state import Array

BLOCK = 1024
"""Entries under one scale."""

ROWS = 3
"""Known rows in the rows "a round" and "mix": the own and two neighbors'."""


def best_of(seconds: float, bodies: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The fastest call of each, in turn until the time is over; three calls at least."""
    best = dict.fromkeys(bodies, np.inf)
    end, turn = time.perf_counter() + seconds, 0
    while turn < 3 or time.perf_counter() < end:
        for name, body in bodies.items():
            start = time.perf_counter()
            body()
            best[name] = min(best[name], time.perf_counter() - start)
        turn += 1
    return best


def on_two_threads(body: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> None:
        kernels.use_threads(2)
        body()
        kernels.use_threads(1)

    return run


class numpy_only:
    """Within it, the NumPy text of every kernel runs."""

    def __enter__(self) -> None:
        self.kept = kernels.c, kernels.sparse
        kernels.c = kernels.sparse = None

    def __exit__(self, *exc: object) -> None:
        kernels.c, kernels.sparse = self.kept


def rows(seconds: float, n: int = 10_000_000) -> list[dict[str, Any]]:
    """The rows of the table for arrays of n float32."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1, n), dtype=np.float32)
    key = Key(0, 1, 0, np.array([0]))
    table: list[dict[str, Any]] = []

    def add(
        what: str, body: Callable[[], Any], stock: dict[str, Callable[[], Any]], payload: int | None = None, bits: float = 0.0
    ) -> None:
        found = best_of(seconds, {"ours": body, "copy": lambda: np.copyto(y, x), **stock})
        for name in stock or ("",):
            row: dict[str, Any] = {"what": what, "ms": found["ours"] * 1e3, "x copy": found["ours"] / found["copy"]}
            row["stock"], row["x faster"] = name, (found[name] / found["ours"] if name else float("nan"))
            row["bytes"] = payload if payload is not None else float("nan")
            row["/ ideal"] = payload / (bits / 8) if payload is not None and bits else float("nan")
            table.append(row)

    def twice(what: str, body: Callable[[], Any], stock: dict[str, Callable[[], Any]] | None = None) -> None:
        if kernels.c is not None and (os.cpu_count() or 1) > 1:
            add(f"{what}, 2 threads", on_two_threads(body), stock or {})

    def plain(body: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            with numpy_only():
                return body()

        return run

    torch = _torch()
    ordinary = None if torch is None else OrdinaryProcess(n)
    for bits in (2, 4, 8):
        q = Quantize(bits=bits, block=BLOCK)

        def encode(q: Quantize = q) -> Array:
            return q.encode(x, key)

        payload = encode()
        stock = {"NumPy": plain(encode)} if bits == 4 else {}
        if ordinary is not None and bits in (4, 8):
            stock["PyTorch eager"] = lambda bits=bits, process=ordinary: process.quantize(bits)  # type: ignore[misc]
            stock["PyTorch eager, memory kept"] = _torch_quantize(torch, x, bits)
        add(f"quantize {bits} bits", encode, stock, payload.shape[1], bits * n)
        if bits == 4:
            twice("quantize 4 bits", encode)
    if ordinary is not None:
        ordinary.end()
    q4, u = Quantize(bits=4, block=BLOCK), np.zeros((1, n), np.float32)
    payload = q4.encode(x, key)
    one_scale = Quantize(bits=4, block=0)
    add("quantize 4 bits, one scale", lambda: one_scale.encode(x, key), {})
    twice("quantize 4 bits, one scale", lambda: one_scale.encode(x, key))
    add("error feedback, encode x − u, 4 bits", lambda: q4.encode_difference(x, u, key), {})
    twice("error feedback, encode x − u, 4 bits", lambda: q4.encode_difference(x, u, key))
    add("decode and accumulate, 4 bits", lambda: q4.advance(payload, u, 1.0), {"NumPy": plain(lambda: q4.advance(payload, u, 1.0))})
    twice("decode and accumulate, 4 bits", lambda: q4.advance(payload, u, 1.0))
    one, two, sent = np.zeros((1, n), np.float32), np.zeros((1, n), np.float32), np.empty_like(payload)

    def in_one_kernel() -> bool:
        return q4.feedback(x, one, key, sent, 1.0, one)

    def in_two_kernels() -> None:
        q4.encode_into(x, key, sent, minus=two)
        q4.advance(sent, two, 1.0)

    if in_one_kernel():
        what = "error feedback in one kernel, 4 bits"
        add(what, in_one_kernel, {"two kernels": in_two_kernels})
        twice(what, in_one_kernel, {"two kernels": on_two_threads(in_two_kernels)})
    known, received = np.zeros((ROWS, n), np.float32), np.repeat(payload, ROWS, axis=0)

    def whole() -> None:
        q4.encode_difference(x, known[:1], key)
        q4.advance(received, known, 1.0)

    add(f"a round: encode one row, accumulate {ROWS}, 4 bits", whole, {})
    twice(f"a round: encode one row, accumulate {ROWS}, 4 bits", whole)
    sums = np.array([0, ROWS - 1]), np.arange(1, ROWS), np.full(ROWS - 1, 0.3, np.float32)  # the own row and its neighbors'
    plain_rows = np.repeat(x.view(np.uint8), ROWS, axis=0)
    for what, sent_rows, codec, reference in (
        (f"mix {ROWS} rows as they are", plain_rows, Identity(), None),
        (f"decode {ROWS} rows, advance by 1/2 and mix, 4 bits", received, q4, known),
    ):

        def in_one_pass(sent: Array = sent_rows, codec: Any = codec, u: Array | None = reference) -> Any:
            return codec.mix(((0, sent),), n, np.float32, u, 0.5, sums)

        def in_two_passes(sent: Array = sent_rows, codec: Any = codec, u: Array | None = reference) -> Array:
            estimate, out = codec.decode(sent, n, np.float32) if u is None else codec.advance(sent, u, 0.5), np.empty((1, n), np.float32)
            kernels.c.disagreement(estimate, *sums, out)
            return out

        if in_one_pass() is not None:
            add(what, in_one_pass, {"two passes": in_two_passes})
            twice(what, in_one_pass, {"two passes": on_two_threads(in_two_passes)})
    for part in (0.001, 0.01, 0.1):
        k = int(part * n)
        c = TopK(k=k)
        stock = {"argpartition": lambda k=k: np.argpartition(np.abs(x[0]), n - k)[n - k :]}  # type: ignore[misc]
        if torch is not None:
            tensor = torch.from_numpy(x[0])
            stock["PyTorch topk"] = lambda k=k, t=tensor: torch.topk(t.abs(), k, sorted=False)  # type: ignore[misc]
        entropy = _binary_entropy(part) * n
        add(f"top-k, {part:.1%}", lambda c=c: c.encode(x, key), stock, c.nbytes(n, np.float32), 32 * k + entropy)  # type: ignore[misc]
    zeros = np.where(rng.random((1, n)) < 0.005, x, 0).astype(np.float32)
    few = TopK(k=n // 100)
    add(
        "top-k, 1 %, of 99.5 % zeros", lambda: few.encode(zeros, key),
        {"argpartition": lambda: np.argpartition(np.abs(zeros[0]), n - n // 100)[n - n // 100 :]},
    )  # fmt: skip
    chosen = few.encode(x, key)
    add("decode top-k, 1 %", lambda: few.decode(chosen, n, np.float32), {})
    both = TopKQuantize(k=n // 100)
    add("top-k, 1 %, then quantize 8 bits", lambda: both.encode(x, key), {}, both.nbytes(n, np.float32))
    spread = RandK(k=n // 100)
    add("rand-k, 1 %", lambda: spread.encode(x, key), {}, spread.nbytes(n, np.float32))
    sign = NormSign()
    add("sign", lambda: sign.encode(x, key), {"packbits": lambda: np.packbits(x >= 0)}, sign.nbytes(n, np.float32), n)
    return table


def _binary_entropy(p: float) -> float:
    return float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


def _torch() -> Any:
    """PyTorch on one thread, or None."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    return torch


class OrdinaryProcess:
    """A process that has set nothing up, in which eager PyTorch quantizes n entries. Raises RuntimeError where it fails.

    To switch the allocator to and fro in this process would not do: whatever comes next would find its pages given back.
    """

    def __init__(self, n: int) -> None:
        command = [sys.executable, "-c", f"from decentral.bench import kernels; kernels.serve({n})"]
        path = {"PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            command, env={**os.environ, **path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._wait()

    def quantize(self, bits: int) -> None:
        """To 4 or 8 bits; asking costs some 0.1 ms."""
        print(bits, file=self.process.stdin, flush=True)
        self._wait()

    def end(self) -> None:
        self.process.communicate()

    def _wait(self) -> None:
        if not (self.process.stdout and self.process.stdout.readline()):
            raise RuntimeError("the process that runs PyTorch ended")


def serve(n: int) -> None:
    """In that process: a line when ready, then one for every line that asks, until the input ends."""
    x, torch = np.random.default_rng(0).standard_normal((1, n), dtype=np.float32), _torch()
    bodies = {bits: _torch_quantize(torch, x, bits) for bits in (4, 8)}
    print(flush=True)
    for line in sys.stdin:
        bodies[int(line)]()
        print(flush=True)


def _torch_quantize(torch: Any, x: Array, bits: int) -> Callable[[], list[tuple[Any, Any]]]:
    """A call that quantizes x to 4 or 8 bits: the arithmetic of `grid` in eager PyTorch, with PyTorch's random numbers.

    It returns the scales (blocks, 1), float32, and the codes (blocks, 128 · bits), uint8, of the whole blocks and of the
    padded rest. Operations are in place where they can be. At 4 bits entries j and j + 512 of a block share a byte: each
    operation then runs along memory.
    """
    v, top = torch.from_numpy(x[0]), 2**bits - 2
    whole = v.numel() // BLOCK * BLOCK
    parts = [v[:whole].view(-1, BLOCK)] if whole else []
    if whole < v.numel():
        parts.append(torch.nn.functional.pad(v[whole:], (0, BLOCK - v.numel() + whole))[None])

    def encode(blocks: Any) -> tuple[Any, Any]:
        scale = blocks.abs().amax(dim=1, keepdim=True).clamp_(min=2.0**-110)
        levels = torch.rand(blocks.shape).add_(top / 2).addcmul_(blocks, top / 2 / scale)
        codes = levels.to(torch.uint8).clamp_(max=top)  # cut towards 0: floor, as none is below 0 but by rounding
        if bits == 4:
            codes = codes[:, BLOCK // 2 :].bitwise_left_shift(4).bitwise_or_(codes[:, : BLOCK // 2])
        return scale, codes

    return lambda: [encode(blocks) for blocks in parts]
