"""The processes of a run, for set-up: what rank 0 makes all have, what one refuses all refuse."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from zlib import crc32

import numpy as np

from decentral import errors, kernels
from decentral.errors import DecentralError, DivergedError, TransportError
from decentral.graph import Graph, MixingMatrix
from decentral.neighborhood import InProcess, Neighborhood, launched
from decentral.state import Array

if TYPE_CHECKING:
    from decentral.experiment import Experiment

T = TypeVar("T")


class Ranks:
    """The processes of a run, for set-up: what rank 0 makes all have, what one refuses all refuse."""

    def __init__(self, comm: Any = None):
        self.comm = comm
        self.rank: int = comm.rank if comm else 0
        self.size: int = comm.size if comm else 1

    @classmethod
    def start(cls) -> Ranks:
        """The ranks that a launcher started, or this process alone. MPI is imported in the first case only."""
        if launched() <= 1:
            return cls()
        try:
            from decentral.neighborhood import mpi
        except ImportError as error:
            raise TransportError(
                f"the launcher started {launched()} processes, but this Python cannot import mpi4py ({error}): "
                f"use the Python of the installation, or {sys.executable} -m pip install mpi4py"
            ) from None
        return cls(mpi.world())

    def share(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` returns on rank 0 (arrays and JSON values), on every rank; its errors are raised on all. COLLECTIVE."""
        if self.comm is None:
            return make()
        content: dict[str, Any] = {}
        if self.rank == 0:
            try:
                content = make()
            except DecentralError as error:
                content = {"error": [type(error).__name__, str(error)]}
        arrays = [k for k, v in content.items() if isinstance(v, np.ndarray)]
        plain = {k: v for k, v in content.items() if k not in arrays}
        file = io.BytesIO()
        for array in (np.array(json.dumps([arrays, plain])), *(content[k] for k in arrays)):
            np.save(file, array)
        size = np.array([file.getbuffer().nbytes])
        self.comm.Bcast(size, root=0)
        data = np.frombuffer(file.getvalue(), np.uint8).copy() if self.rank == 0 else np.empty(int(size[0]), np.uint8)
        self.comm.Bcast(data, root=0)
        if self.rank:
            file = io.BytesIO(data.tobytes())
            arrays, content = json.loads(str(np.load(file)))
            content |= {k: np.load(file) for k in arrays}
        if "error" in content:
            raise _error(*content["error"])
        return content

    def together(self, make: Callable[[], T]) -> T:
        """`make()` of this rank; where a rank fails, all raise its error, with its number if it is alone. COLLECTIVE."""
        if self.comm is None:
            return make()
        failure, made = "", None
        try:
            made = make()
        except DecentralError as error:
            failure = f"{type(error).__name__}\n{error}"
        mine = np.zeros(2048, np.uint8)
        text = failure.encode()[:2047]
        mine[: len(text)] = np.frombuffer(text, np.uint8)
        every = np.empty((self.size, 2048), np.uint8)
        self.comm.Allgather(mine, every)
        failures = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in every]
        failing = [r for r, text_of in enumerate(failures) if text_of]
        if failing:
            kind, _, sentence = failures[failing[0]].partition("\n")
            alone = "" if len(failing) == self.size else f"rank {failing[0]}: "
            raise _error(kind, alone + sentence)
        return made  # type: ignore[return-value]

    def neighborhood(self, graph: Graph, weights: MixingMatrix, placement: Array, experiment: Experiment) -> Neighborhood:
        if self.comm is None:
            return InProcess(graph, weights, experiment.seed, experiment.dtype)
        from decentral.neighborhood.mpi import MPINeighborhood

        table = experiment.transport
        how = (experiment.seed, experiment.dtype, table.timeout, table.calls)
        hood = MPINeighborhood(graph, weights, placement, self.comm, *how, device_buffers=table.device_buffers)
        hood.agree(f"{crc32(experiment.essence.encode()):08x}, {version()}, {kernels.in_words()}")
        return hood

    def local_rank(self) -> int:
        """The number of this process among those of its machine. COLLECTIVE."""
        if self.comm is None:
            return 0
        from decentral.neighborhood import mpi

        return mpi.local_rank(self.comm)

    def hosts(self) -> list[str]:
        if self.comm is None:
            return [os.uname().nodename]
        from decentral.neighborhood import mpi

        return mpi.hosts(self.comm)

    def library(self) -> str | None:
        if self.comm is None:
            return None
        from decentral.neighborhood import mpi

        return mpi.library()


def _error(kind: str, sentence: str) -> DecentralError:
    found = getattr(errors, kind, DecentralError)
    return DivergedError(sentence) if issubclass(found, DivergedError) else found(sentence)


def version() -> str:
    from decentral import __version__

    return __version__
