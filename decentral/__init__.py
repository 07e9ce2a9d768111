"""Decentralized, peer-to-peer training with compressed messages, in one process or on MPI ranks.

    import decentral
    outcome = decentral.run(decentral.load("config.toml"))
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
_WHERE = {
    "Experiment": "experiment", "load": "experiment", "parse": "experiment", "run": "runner", "Outcome": "runner",
    "Graph": "graph", "mixing": "graph", "check_algorithm": "testing",
}  # fmt: skip
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    """Import on first use: `import decentral` costs nothing."""
    if name not in _WHERE:
        raise AttributeError(f"module 'decentral' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"decentral.{_WHERE[name]}"), name)
