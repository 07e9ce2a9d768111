"""What all tests share: the rank in the id of a test, quiet ranks, a key for random tests."""

from __future__ import annotations

import atexit
import io
import os
import sys
import tempfile

import numpy as np
import pytest

from decentral.neighborhood.placement import launched
from decentral.random import Key, Purpose

SIZE = launched()
RANK = next((int(os.environ[v]) for v in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID") if v in os.environ), 0)

if SIZE > 1:  # pytest's folders for tests are made, and old ones removed, without a thought of other processes
    _own = tempfile.TemporaryDirectory(prefix=f"rank{RANK}-", ignore_cleanup_errors=True)
    os.environ["PYTEST_DEBUG_TEMPROOT"] = _own.name
    atexit.register(_own.cleanup)


@pytest.fixture(autouse=True)
def rank(request: pytest.FixtureRequest) -> int:
    """Rank of this process, 0 without MPI; it stands in the id of each test that runs under mpirun."""
    return int(getattr(request, "param", 0))


@pytest.fixture
def key() -> Key:
    """A fixed key of four rows, so that a random test gives the same answer every time."""
    return Key(seed=2024, purpose=Purpose.TEST, round=0, ids=np.arange(4))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if SIZE > 1:
        metafunc.parametrize("rank", [RANK], ids=[f"rank{RANK}of{SIZE}"], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.option.markexpr or ""
    for item in items:
        if SIZE < 2 and "mpi" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs mpirun: bash launch/test.sh"))
        if "download" in item.keywords and "download" not in wanted:
            item.add_marker(pytest.mark.skip(reason="fetches from the internet: pytest -m download"))


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Rank 0 speaks; the others keep their words, and say them at the end if something failed."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if RANK and SIZE > 1 and reporter is not None:
        reporter._tw._file = io.StringIO()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = int(exitstatus)


def pytest_unconfigure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    words = getattr(getattr(reporter, "_tw", None), "_file", None)
    if isinstance(words, io.StringIO) and config.stash.get(_STATUS, 1) not in (0, 5):
        print(f"--- rank {RANK} of {SIZE} ---\n{words.getvalue()}", file=sys.stderr, flush=True)


_STATUS = pytest.StashKey[int]()
