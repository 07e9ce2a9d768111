"""The benches run and their figures are figures; how fast is theirs to say."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest

from decentral import bench
from decentral.bench import auto, kernels
from decentral.compressors import Quantize
from decentral.errors import ConfigError
from decentral.random import Key, Purpose


def test_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["kernels", "--size", "20000", "--seconds", "0.001", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["what"]: row for row in found["rows"]}
    assert found["machine"] and all(row["ms"] > 0 and row["x copy"] > 0 for row in rows.values())
    assert rows["quantize 4 bits"]["bytes"] == 20_000 / 2 + 4 * math.ceil(20_000 / 1024)
    assert 1 <= rows["top-k, 1.0%"]["/ ideal"] < 1.05


@pytest.mark.parametrize("size", [-5, 0, 999])
def test_kernels_of_too_few_entries(size: int) -> None:
    with pytest.raises(ConfigError, match=f"--size {size}: give a whole number, at least 1000"):
        bench.main(["kernels", "--size", str(size)])


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_kernels_for_no_time(seconds: str) -> None:
    with pytest.raises(ConfigError, match=f"--seconds {seconds}: give a number of seconds above 0"):
        bench.main(["kernels", "--size", "2000", "--seconds", seconds])


def test_kernels_without_torch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # what importing it then raises is an ImportError
    assert bench.main(["kernels", "--size", "2000", "--seconds", "0.001"]) == 0
    shown = capsys.readouterr().out
    assert "argpartition" in shown and "PyTorch is not installed: pip install torch" in shown and "eager" not in shown


def test_kernels_against_torch() -> None:
    torch = pytest.importorskip("torch")
    rows = [row for row in bench.rows("kernels", 0.0, 20_000) if row["stock"].startswith("PyTorch")]
    assert {(row["what"], row["stock"]) for row in rows} == {
        ("quantize 4 bits", "PyTorch eager"), ("quantize 4 bits", "PyTorch eager, memory kept"),
        ("quantize 8 bits", "PyTorch eager"), ("quantize 8 bits", "PyTorch eager, memory kept"),
        ("top-k, 0.1%", "PyTorch topk"), ("top-k, 1.0%", "PyTorch topk"), ("top-k, 10.0%", "PyTorch topk"),
    }  # fmt: skip
    assert all(row["x faster"] > 0 for row in rows)
    kernels._torch()
    assert torch.get_num_threads() == 1
    assert f"PyTorch {torch.__version__}" in bench.machine()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("d", [700, 4096, 50_001])
def test_torch_does_the_same_work(bits: int, d: int) -> None:
    """Scales are the quantizer's, bytes as many, and decoded entries off by less than a step, 0 in the mean.

    The mean of d errors in (-1, 1) is above sqrt(20/d) with probability 1e-4 (Hoeffding, 2 exp(-d t²/2)). Float32 rounds
    127 + u up to 128 with probability 2^-18, so a zero is off at most in 1 of 100 seeds; the seed is fixed.
    """
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    x = np.random.default_rng(1).standard_normal((1, d), dtype=np.float32)
    x[:, :600] = 0
    if d > 2000:
        x[:, 1024:2048] = 0  # a block of zeros
    found = kernels._torch_quantize(torch, x, bits)()
    scales = np.concatenate([s.numpy() for s, _ in found])  # (blocks, 1)
    packed = np.concatenate([c.numpy() for _, c in found])
    q = Quantize(bits=bits, block=kernels.BLOCK)
    payload = q.encode(x, Key(0, Purpose.TEST, 0, np.arange(1)))
    ours = payload[0, : 4 * len(scales)].view(np.float32)
    np.testing.assert_array_equal(np.where(scales[:, 0] > 2.0**-100, scales[:, 0], 0), ours)
    assert scales.nbytes + packed.nbytes == q.nbytes(len(scales) * kernels.BLOCK, np.float32)
    codes = np.concatenate([packed & 15, packed >> 4], axis=1) if bits == 4 else packed
    top = 2**bits - 2
    assert codes.max() <= top
    blocks = np.zeros((len(scales), kernels.BLOCK))
    blocks.flat[:d] = x
    error = (codes - top / 2) - blocks * (top / 2 / scales)  # in steps
    assert abs(error).max() < 1 + 1e-4 and abs(error.flat[:d].mean()) < math.sqrt(20 / d)
    assert not error[blocks == 0].any()


def test_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["target", "--seconds", "0.001"]) == 0
    shown = capsys.readouterr().out
    assert "exact diffusion" in shown and "LT-ADMM-CC" in shown


def test_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "WIDTHS", (40,))
    rows = bench.rows("auto", 0.01, 0)
    assert len(rows) == len(auto.METHODS) * len(auto.NETWORKS)
    rows = [row for row in rows if row["method"] == "lead"]
    slowest = rows[-1]
    assert slowest["plain, s"] > rows[0]["plain, s"] and slowest["lost, %"] >= 0


def test_exchange_needs_ranks() -> None:
    with pytest.raises(ConfigError, match="needs 2 ranks or more"):
        bench.main(["exchange"])


@pytest.mark.mpi
def test_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    from mpi4py import MPI

    from decentral.bench import exchange

    monkeypatch.setattr(exchange, "LONG", 300_000)
    rows = bench.rows("exchange", 0.01, 0)
    if MPI.COMM_WORLD.rank:
        assert rows == []
        return
    assert all(row["ours/s"] > 0 and row["bare/s"] > 0 for row in rows)
    lead = next(row for row in rows if row["what"].startswith("LEAD, 2 bits"))
    rounds = int(lead["note"].split()[0])
    peers = min(2, MPI.COMM_WORLD.size - 1)
    assert lead["note"].endswith(f"{rounds * peers * (16 + 4 + 25):,} bytes sent by an agent")
