"""The benches run and their figures are figures; how fast is theirs to say."""

from __future__ import annotations

import json
import math

import pytest

from decentral import bench
from decentral.bench import auto
from decentral.errors import ConfigError


def test_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["kernels", "--size", "20000", "--seconds", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["what"]: row for row in found["rows"]}
    assert found["machine"] and all(row["ms"] > 0 and row["x copy"] > 0 for row in rows.values())
    assert rows["quantize 4 bits"]["bytes"] == 20_000 / 2 + 4 * math.ceil(20_000 / 1024)
    assert 1 <= rows["top-k, 1.0%"]["/ ideal"] < 1.05


def test_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["target", "--seconds", "0"]) == 0
    shown = capsys.readouterr().out
    assert "exact diffusion" in shown and "LT-ADMM-CC" in shown


def test_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "WIDTHS", (40,))
    rows = bench.rows("auto", 0.01, 0)
    assert len(rows) == len(auto.NETWORKS)
    slowest = rows[-1]
    assert slowest["plain, s"] > rows[0]["plain, s"] and slowest["lost, %"] >= 0


def test_exchange_needs_ranks() -> None:
    with pytest.raises(ConfigError, match="needs 2 ranks or more"):
        bench.main(["exchange"])


@pytest.mark.mpi
def test_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    from mpi4py import MPI

    rows = bench.rows("exchange", 0.01, 0)
    if MPI.COMM_WORLD.rank:
        assert rows == []
        return
    assert all(row["ours/s"] > 0 and row["bare/s"] > 0 for row in rows)
    lead = next(row for row in rows if row["what"].startswith("LEAD, 2 bits"))
    rounds = int(lead["note"].split()[0])
    peers = min(2, MPI.COMM_WORLD.size - 1)
    assert lead["note"].endswith(f"{rounds * peers * (16 + 4 + 25):,} bytes sent by an agent")
