"""Run folders as the recorder leaves them, made up: nine methods on a ring of eight agents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HEADER = "round,gradients,wire_bytes,ideal_bits,modelled_seconds,seconds,grad_norm_sq,consensus,gap"
AGENTS, SAMPLES, D = 8, 4070, 123
BIB = "@article{%s, title = {{A paper about %s}}, author = {Doe, Jane and Roe, R.}, year = {2024}}"

# label: rate per round, floor, gradients per round, exchanges per round, bytes per arc and round
METHODS: dict[str, tuple[float, float, float, int, int]] = {
    "LT-ADMM-CC": (0.88, 1e-32, 5 * SAMPLES, 2, 286),
    "LT-ADMM": (0.87, 1e-32, 5 * SAMPLES, 1, 984),
    "LEAD": (0.955, 1e-32, SAMPLES, 1, 143),
    "CEDAS": (0.957, 1e-32, SAMPLES, 1, 143),
    "COLD": (0.962, 1e-32, SAMPLES, 1, 143),
    "DPDC": (0.968, 1e-32, SAMPLES, 1, 143),
    "CHOCO-SGD": (0.96, 3.6e-5, SAMPLES, 1, 143),
    "NIDS": (0.955, 1e-32, SAMPLES, 1, 984),
    "D-PSGD": (0.955, 2.1e-5, SAMPLES, 1, 984),
}


def write_run(
    folder: Path,
    label: str = "LEAD",
    *,
    rounds: int = 1500,
    target: float = 1e-10,
    edit: dict[str, Any] | None = None,
) -> Path:
    """A run folder of one of METHODS; `edit` replaces entries of its run.json."""
    rate, floor, gradients, exchanges, nbytes = METHODS[label]
    k = np.arange(rounds + 1)
    wobble = np.exp(0.12 * np.random.default_rng(len(label)).standard_normal(len(k)).cumsum() / np.sqrt(1 + 0.1 * k))
    value = 0.08 * rate**k * wobble + floor * np.exp(0.1 * np.sin(k / 3.0))
    if (value <= target).any():
        k = k[: int(np.argmax(value <= target)) + 1]
    value = value[: len(k)]
    seconds = k * (2.1e-4 + 1.4e-8 * gradients + 2e-7 * nbytes)
    columns = [k, k * gradients, k * nbytes * 2 * AGENTS, k * nbytes * 2 * AGENTS * 7.9,
               k * (0.1 * gradients + exchanges), seconds, value, 0.3 * value**0.97, 5 * value]  # fmt: skip
    folder.mkdir(parents=True)
    lines = [HEADER] + [",".join(f"{x:.17g}" for x in row) for row in zip(*columns, strict=True)]
    (folder / "trace.csv").write_text("\n".join(lines) + "\n")
    method = label.lower()
    (folder / "config.toml").write_text(
        f'name = "ring-{method}"\nseed = 7\nrounds = {rounds}\n[algorithm]\nname = "{method}"\n'
        '[algorithm.compressor]\nname = "quantize"\nbits = 8\n'
    )
    holdings = [
        {
            "agent": i,
            "samples": SAMPLES + (i % 3 - 1) * 400,
            "classes": {
                "-1": (SAMPLES + (i % 3 - 1) * 400) * (i < 6),
                "1": (SAMPLES + (i % 3 - 1) * 400) * (i >= 6),
            },
        }
        for i in range(AGENTS)
    ]
    exact = floor < 1e-20
    record = {
        "status": "target" if exact and value[-1] <= target else "finished",
        "why": None,
        "name": f"ring-{method}",
        "digest": "0123abcd",
        "algorithm": method,
        "label": label,
        "versions": {"decentral": "0.1.0", "python": "3.11.9", "numpy": "2.4.6", "mpi4py": "4.1.2"},
        "executor": "mpi",
        "ranks": 8,
        "mpi_library": "Open MPI 5.0.11",
        "hosts": ["node01"],
        "placement": [[i] for i in range(AGENTS)],
        "device": "cpu",
        "git": "4f1c2a9",
        "start": f"2025-11-21T05:03:{list(METHODS).index(label):02}+00:00",
        "end": "2025-11-21T05:03:04+00:00",
        "seconds": float(seconds[-1]),
        "command": f"mpirun -n 8 python -m decentral run ring.toml --set algorithm.name={method}",
        "graph": {
            "name": "ring:8", "agents": AGENTS, "edges": AGENTS, "diameter": 4,
            "degree_min": 2, "degree_max": 2,
            "arcs": [sorted((i, (i + 1) % AGENTS)) for i in range(AGENTS)],
            "l_l": 0.5858, "l_u": 4.0, "gap": 0.1953,
        },
        "problem": {"name": "logistic", "d": D, "L": 3.6, "mu": 0.1, "f_star": 0.4321,
                    "description": "logistic regression with l2 weight 0.1"},
        "data": {"name": "a9a", "rows": 32561, "split": "sorted by label", "agents": holdings},
        "parameters": {"step_size": 0.1, "mixing_step": 0.5, "compressor": {"name": "quantize", "bits": 8}},
        "cost": {"gradients_per_round": gradients, "exchanges_per_round": exchanges,
                 "bytes_per_arc_per_round": nbytes},
        "exact": exact,
        "floor_reason": None if exact else "a constant step keeps a bias where the agents' data differ",
        "cite": [BIB % (method.replace("-", ""), label), BIB % ("platoon99", "the data")],
        "notes": ["warm start: one gradient step before round 1"] if label == "LEAD" else [],
        "warnings": [] if exact else ["the step is larger than 1/(2L)"],
        "target": {"grad_norm_sq": target},
        "transport_bytes": int(columns[2][-1] * 1.1),
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record | (edit or {})))
    return folder


@pytest.fixture(name="write_run")
def _write_run() -> Callable[..., Path]:
    return write_run


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a run of each of the nine methods; tests only read it."""
    results = tmp_path_factory.mktemp("nine") / "results"
    for label in METHODS:
        write_run(results / f"ring-{label.lower()}-0123abcd", label)
    return results
