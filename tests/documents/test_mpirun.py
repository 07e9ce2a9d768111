"""launch/mpirun.sh, with a launcher in place of mpirun that prints what it is given."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "mpirun.sh"
STUB = """#!/bin/sh
[ "$1" = --version ] && { echo "mpirun (Open MPI) 5.0.11"; exit; }
echo "$@"
echo "btl=$OMPI_MCA_btl yield=$OMPI_MCA_mpi_yield_when_idle"
"""


@pytest.fixture
def launched(tmp_path: Path):
    """(ranks, what follows, cpu.max, variables) -> (arguments, settings) of mpirun, on a machine of 8 cores."""
    (tmp_path / "launch").mkdir()
    for name, text in {"mpirun": STUB, "nproc": "#!/bin/sh\necho 8\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def launch(ranks: int, *command: str, limit: str = "", **variables: str) -> tuple[str, str]:
        file = tmp_path / "cpu.max"
        file.unlink(missing_ok=True)
        if limit:
            file.write_text(limit + "\n")
        script = tmp_path / "launch" / "mpirun.sh"  # no .venv beside it
        script.write_text(SCRIPT.read_text().replace("/sys/fs/cgroup/cpu.max", str(file)))
        found = subprocess.run(
            ["bash", script, "-n", str(ranks), *command], capture_output=True, text=True, check=True,
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **variables},
        )  # fmt: skip
        assert not found.stderr
        arguments, settings = found.stdout.splitlines()
        return arguments.removeprefix("--allow-run-as-root "), settings

    return launch


def test_this_machine_alone(launched) -> None:
    assert launched(4, "true") == ("--oversubscribe --bind-to none -n 4 true", "btl=self,sm yield=")
    assert launched(8, "true") == ("--oversubscribe --bind-to none -n 8 true", "btl=self,sm yield=1")


@pytest.mark.parametrize(
    "variable",
    ["SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "PE_HOSTFILE", "OAR_JOB_ID", "COBALT_JOBID",
     "PRTE_MCA_prte_default_hostfile", "OMPI_MCA_orte_default_hostfile"],
)  # fmt: skip
def test_schedulers_and_hostfiles_place_the_ranks(launched, variable: str) -> None:
    assert launched(64, "true", **{variable: "7"}) == ("-n 64 true", "btl= yield=")


def test_the_user_places_the_ranks(launched) -> None:
    assert launched(64, "true", OMPI_MCA_btl="self,tcp") == ("-n 64 true", "btl=self,tcp yield=")
    assert launched(64, "--hostfile", "hosts", "true") == ("-n 64 --hostfile hosts true", "btl= yield=")


@pytest.mark.parametrize(
    "limit, cores", [("max 100000", 8), ("300000 100000", 3), ("250000 100000", 3), ("50000 100000", 1), ("9900000 100000", 8)]
)
def test_a_rank_yields_where_the_container_has_no_core_for_it(launched, limit: str, cores: int) -> None:
    assert launched(cores, "true", limit=limit)[1].endswith("yield=1")
    assert cores == 1 or launched(cores - 1, "true", limit=limit)[1].endswith("yield=")
