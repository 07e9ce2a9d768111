"""Trouble under mpirun: one sentence, the right exit status, and an end within seconds. Each test starts its own ranks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decentral import experiment, kernels, runner
from decentral.neighborhood import launched
from tests.cli.conftest import TEXT

MPIRUN = shutil.which("mpirun", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
pytestmark = pytest.mark.skipif(MPIRUN is None or launched() > 1, reason="needs mpirun, outside of mpirun")


def environment() -> dict[str, str]:
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    calm = {"OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join(p for p in (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, **root, **calm, "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "PYTHONPATH": path}


def start(ranks: int, *arguments: str) -> subprocess.Popen[str]:
    command = [str(MPIRUN), "-n", str(ranks), sys.executable, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def mpirun(ranks: int, *arguments: str, seconds: float = 60) -> tuple[int, str, str]:
    process = start(ranks, *arguments)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def ours(err: str) -> list[str]:
    """What we say, without the warning that the machine is busy."""
    return [line for line in err.splitlines() if line.startswith("decentral: ") and "warning: 1 KiB" not in line]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(TEXT)
    return tmp_path


RUN = ("-m", "decentral", "run", "small.toml")


def test_bad_config_is_said_once() -> None:
    status, _, err = mpirun(3, *RUN, "--set", "roundz=3")
    assert status == 2, err
    assert len(ours(err)) == 1 and '"rounds"' in err and "Traceback" not in err


def test_more_ranks_than_agents() -> None:
    status, _, err = mpirun(4, *RUN, "--set", "graph.agents=3")
    assert status == 2, err
    assert ours(err) == ["decentral: 3 agents on 4 ranks: give at most one rank per agent, or set graph.agents = 4"]


RUN_ALIKE_BUT_RANK_1 = """if True:
    import os, sys
    if "1" in (os.environ.get("OMPI_COMM_WORLD_RANK"), os.environ.get("PMI_RANK")):
        os.environ[sys.argv[1]] = sys.argv[2]
    from decentral.cli import main
    sys.exit(main(["run", "small.toml"]))"""
"""Launchers pass the environment on to the ranks of their own machine, not always to others."""


@pytest.mark.skipif(kernels.c is None, reason=kernels.why)
def test_other_kernels_on_one_rank() -> None:
    """Their sums need not have the bits of the others'."""
    status, _, err = mpirun(3, "-c", RUN_ALIKE_BUT_RANK_1, "DECENTRAL_KERNELS", "numpy")
    assert status == 2, err
    (line,) = ours(err)
    assert "rank 1" in line and "numpy (DECENTRAL_KERNELS=numpy) against" in line and line.endswith("and environment")
    assert not list(Path(".").glob("results/*/final.npz"))


def test_threads_that_one_rank_alone_is_told_of() -> None:
    status, _, err = mpirun(3, "-c", RUN_ALIKE_BUT_RANK_1, "DECENTRAL_THREADS", "1")
    assert status == 0, err


def test_same_numbers_as_in_one_process() -> None:
    sets = ["transport.placement=[2, 0, 1, 1, 0, 2]", "algorithm.estimator.name=saga", "algorithm.estimator.batch=3"]
    status, out, err = mpirun(3, *RUN, *(part for s in sets for part in ("--set", s)))
    assert status == 0, err
    assert "3 MPI ranks" in out
    chosen = experiment.load("small.toml", sets)
    with np.load(chosen.folder / "final.npz") as file:
        many = file["x"]
    record: dict[str, Any] = json.loads((chosen.folder / "run.json").read_text())
    assert record["placement"] == [[1, 4], [2, 3], [0, 5]] and record["transport_bytes"] > 0 and len(record["hosts"]) == 3
    alone = runner.run(experiment.load("small.toml", [*sets[1:], "out=alone"]))
    np.testing.assert_array_equal(many, alone.x)
    assert alone.row["wire_bytes"] == 60 * 12 * 56
    assert (chosen.folder / "trace.csv").read_text().splitlines()[-1].split(",")[2] == str(60 * 12 * 56)


RAISES = """
from dataclasses import dataclass
from decentral.algorithms.d_psgd import DPSGD
from decentral.errors import NonFiniteError

@dataclass(frozen=True)
class Raises(DPSGD):
    kind: str = "bug"
    when: int = 7

    def round(self, s, k, hood, oracle):
        if k == self.when and 3 in hood.agents:
            if self.kind == "bug":
                raise ZeroDivisionError("a mistake in the method")
            if self.kind == "stuck":
                import time

                time.sleep(60)
            s.x[:] = float("nan")
        return super().round(s, k, hood, oracle)
"""


def test_a_rank_that_raises_ends_all() -> None:
    Path("raises.py").write_text(RAISES)
    begin = time.monotonic()
    status, _, err = mpirun(3, *RUN, "--set", "algorithm.name=raises.py:Raises")
    assert status == 1 and time.monotonic() - begin < 30
    assert ours(err) == ["decentral: rank 1: a mistake in the method"]
    assert err.count("Traceback") == 1 and "raises.py" in err
    record = json.loads(next(Path("results").glob("*/run.json")).read_text())
    assert record["status"] == "failed" and record["why"] == "a mistake in the method"


def test_a_rank_that_diverges_alone_is_named() -> None:
    Path("raises.py").write_text(RAISES)
    status, _, err = mpirun(3, *RUN, "--set", "algorithm.name=raises.py:Raises", "--set", "algorithm.kind=sick")
    assert status == 1 and "Traceback" not in err, err
    assert len(ours(err)) == 1 and "rank 1: round 7: agent" in ours(err)[0]
    record = json.loads(next(Path("results").glob("*/run.json")).read_text())
    assert record["status"] == "diverged"


@pytest.mark.parametrize(("when", "sentence"), [(7, "in round 7 for rank 1"), (0, "in round 0 for the other ranks")])
@pytest.mark.parametrize("calls", ["auto", "pairs"])
def test_a_hang_explains_itself(calls: str, when: int, sentence: str) -> None:
    """A rank that stops answering: its neighbor says who waits for whom, on which arc, in which round; status 1."""
    if (calls == "pairs" or kernels.wire is None) and when == 0:
        sentence = "in round 0 for rank 1"
    Path("raises.py").write_text(RAISES)
    sets = [f"algorithm.{s}" for s in ("name=raises.py:Raises", "kind=stuck", f"when={when}")]
    sets += ["transport.timeout=2", f"transport.calls={calls}"]
    more = tuple(part for s in sets for part in ("--set", s))
    begin = time.monotonic()
    status, _, err = mpirun(3, *RUN, *more)
    assert status == 1 and time.monotonic() - begin < 30
    said = [line for line in ours(err) if "has waited" in line]
    assert said and sentence in said[0] and ("→" in said[0] or "other ranks" in sentence), err


def test_without_mpi4py() -> None:
    """A Python that has no mpi4py under mpirun: a sentence, not eight runs on top of each other."""
    code = "import sys; sys.modules['mpi4py'] = None; from decentral.cli import main; sys.exit(main(['run', 'small.toml']))"
    status, _, err = mpirun(2, "-c", code)
    assert status == 2 and len(ours(err)) == 1 and "cannot import mpi4py" in err


def test_terminated_ranks_leave_a_checkpoint_that_another_layout_continues() -> None:
    sets = ("--set", "rounds=100000", "--set", "algorithm.estimator.name=saga", "--set", "record.every=50")
    process = start(3, *RUN, *sets)
    time.sleep(1)
    for _ in range(200):
        if list(Path("results").glob("*/trace.csv")):
            break
        time.sleep(0.1)
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    where = next(Path("results").iterdir())
    record = json.loads((where / "run.json").read_text())
    assert record["status"] == "interrupted" and "SIGTERM" in record["why"]
    assert (where / "checkpoint" / "state.npz").exists()


def test_resume_on_another_number_of_ranks() -> None:
    sets = ["rounds=200", "algorithm.estimator.name=saga", "record.checkpoint=90"]
    Path("stop.py").write_text(STOP)
    status, _, err = mpirun(2, "stop.py", *sets)
    assert status != 0
    arguments = [part for s in sets for part in ("--set", s)]
    status, out, err = mpirun(3, *RUN, *arguments, "--resume")
    assert status == 0, err
    assert "resumed   at round 180" in out
    with np.load(experiment.load("small.toml", sets).folder / "final.npz") as file:
        resumed = file["x"]
    straight = runner.run(experiment.load("small.toml", [*sets, "out=straight"]))
    np.testing.assert_array_equal(resumed, straight.x)


STOP = """
import os, sys
from decentral import experiment, runner
from decentral.ranks import Ranks

class Stop(runner.Silent):
    def progress(self, k, row):
        if k > 185:
            os._exit(3)

runner.BEAT = 0.0
ranks = Ranks.start()
watch = Stop() if ranks.rank == 0 else runner.Silent()
runner.run(experiment.load("small.toml", sys.argv[1:]), watch=watch, ranks=ranks)
"""


def test_launcher_of_another_mpi() -> None:
    """Every process would believe that it is alone, and do all of the work."""
    pytest.importorskip("mpi4py")
    others = {**environment(), "PMI_SIZE": "4", "PMI_RANK": "0"}
    found = subprocess.run([sys.executable, *RUN], capture_output=True, text=True, env=others, timeout=60)
    assert found.returncode == 2
    assert len(ours(found.stderr)) == 1 and "it belongs to another MPI than mpi4py's" in found.stderr
