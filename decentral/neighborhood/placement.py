"""Which rank owns which agents, and how many ranks a launcher started. No MPI is imported here."""

from __future__ import annotations

import os

import numpy as np

from decentral.errors import ConfigError, unknown
from decentral.random import Key, Purpose
from decentral.state import Array

PLACEMENTS = ("block", "cyclic", "random")


def place(agents: int, ranks: int, how: str | list[int] = "block", seed: int = 0) -> Array:
    """(agents,) rank of each agent: "block" (consecutive ids), "cyclic", "random", or the list itself.

    Raises ConfigError when ranks exceed agents, or a list does not fit.
    """
    if ranks > agents:
        raise ConfigError(f"{agents} agents on {ranks} ranks: give at most one rank per agent, or set graph.agents = {ranks}")
    if isinstance(how, list):
        if len(how) != agents or set(how) != set(range(ranks)):
            raise ConfigError(
                f"transport.placement lists {len(how)} ranks {sorted(set(how))}: "
                f"give one rank for each of {agents} agents, using every rank 0 to {ranks - 1}"
            )
        return np.asarray(how, dtype=np.int64)
    blocks = np.arange(agents, dtype=np.int64) * ranks // agents
    if how == "block":
        return blocks
    if how == "cyclic":
        return np.arange(agents, dtype=np.int64) % ranks
    if how == "random":
        draw = Key(seed, Purpose.GRAPH, 0, np.array([1])).words(agents)[0]
        return blocks[np.argsort(draw, kind="stable")]
    raise ConfigError(unknown("placement", how, PLACEMENTS))


def launched() -> int:
    """How many processes an MPI launcher says it started; 0 where no launcher is seen."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0
