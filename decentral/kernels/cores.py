"""How many threads the compiled kernels of a rank use: what is asked for, or the rank's share of its cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decentral import kernels
from decentral.errors import ConfigError

if TYPE_CHECKING:
    from decentral.ranks import Ranks

AT_MOST = 16
"""Threads of a rank where no number is asked for: more take as long to start as they save."""


@contextmanager
def kernel_threads(asked: int, ranks: Ranks) -> Iterator[None]:
    """Within it, the kernels use DECENTRAL_THREADS threads, else `asked`, else (0) this rank's share of its cores. COLLECTIVE.

    Raises ConfigError on all ranks where that is not a number of threads.
    """
    before = kernels.threads
    number, share = ranks.together(lambda: _number(asked)), _share(ranks.comm)  # a launcher need not pass the variable on to all ranks
    kernels.use_threads(number or min(share, AT_MOST))
    try:
        yield
    finally:
        kernels.use_threads(before)


def _number(asked: int) -> int:
    given = os.environ.get("DECENTRAL_THREADS") or str(asked)
    if not given.isdecimal() or int(given) > kernels.MOST_THREADS:
        raise ConfigError(
            f"DECENTRAL_THREADS or transport.threads = {given}: give threads a rank, at most {kernels.MOST_THREADS}, "
            "or 0 for the cores that it has"
        )
    return int(given)


GROUP, LIMITS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def own_cores() -> set[int]:
    """The cores that this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def quota() -> float:
    """Cores' worth of time that the control groups of this process may use, as containers set it; inf without a limit."""
    least = np.inf
    try:
        lines = GROUP.read_text().splitlines()
    except OSError:
        return least
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = LIMITS / "cpu" if controllers else LIMITS  # version 1, or 2
        for group in (root / path.strip("/"), *(root / path.strip("/")).parents):
            try:
                if controllers:
                    spent, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
                else:
                    spent, period = (group / "cpu.max").read_text().split()
            except (OSError, ValueError):
                continue  # no group, or the root
            if spent.isdecimal() and int(period) > 0:
                least = min(least, int(spent) / int(period))
    return least


def _share(comm: Any) -> int:
    """The cores that this process may run on, shared with the ranks that may run on the same ones. COLLECTIVE."""
    cores, most = own_cores(), quota()
    count = max(1, int(min(most, len(cores))))
    if comm is None:
        return count
    from zlib import crc32

    limited = GROUP.read_text() if most < len(cores) else ""  # ranks of other groups have time of their own
    mine = np.array([crc32(f"{os.uname().nodename} {sorted(cores)} {limited}".encode())])
    every = np.empty(comm.size, mine.dtype)
    comm.Allgather(mine, every)
    return max(1, count // int((every == mine).sum()))
