"""A state saved on one layout continues on another with the same bits, for every registered method."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decentral import algorithms
from decentral.estimators import SAGA, Oracle
from decentral.neighborhood import InProcess, Neighborhood
from decentral.problems import Logistic, Problem
from decentral.random import Key, Purpose
from decentral.recorder import Checkpoint
from decentral.runner import restore
from decentral.state import rows
from decentral.testing import Case, on_blocks

CASE = Case()
SIZES = np.array([5, 9, 4, 7, 6, 5])
HALF = 6


def problem(own: np.ndarray) -> Problem:
    """Logistic regression with unequal sample counts, so that sample rows are tested too."""
    X, y = [], []
    for i in own:
        draw = Key(11, Purpose.TEST, 0, np.array([i])).uniform(SIZES[i] * 5).reshape(SIZES[i], 5) - 0.5
        X.append(draw[:, :4])
        y.append(np.sign(draw[:, 4]))
    return Logistic(np.concatenate(X), np.concatenate(y), np.concatenate(([0], np.cumsum(SIZES[own]))), l2=0.1)


def method(name: str) -> Any:
    kind = algorithms.load(name)
    table: dict[str, Any] = {"name": name}
    if "compressor" in {f.name for f in fields(kind)}:
        table["compressor"] = {"name": "quantize", "bits": 6}
    return algorithms.build(table).tuned(CASE.facts())


def start(chosen: Any, hood: Neighborhood) -> tuple[Oracle, Any]:
    oracle = Oracle(problem(hood.agents), SAGA(batch=2), hood.agents, CASE.seed)
    return oracle, chosen.init(np.zeros((hood.n, 4)), hood, oracle)


def advance(chosen: Any, state: Any, hood: Neighborhood, oracle: Oracle, first: int, last: int) -> Any:
    for k in range(first, last):
        state = chosen.round(state, k, hood, oracle)
    return state


@pytest.mark.parametrize("name", algorithms.NAMES)
def test_other_layout_continues(name: str, tmp_path: Path) -> None:
    chosen = method(name)
    hood = InProcess(CASE.graph, CASE.weights, CASE.seed)
    oracle, state = start(chosen, hood)
    straight = advance(chosen, state, hood, oracle, 0, 2 * HALF).x
    assert np.isfinite(straight).all() and np.abs(straight).max() > 0

    def first_half(hood: Neighborhood) -> tuple[dict[str, str], dict[str, Any], Any]:
        oracle, state = start(chosen, hood)
        state = advance(chosen, state, hood, oracle, 0, HALF)
        kinds = {name: kind for name, kind, _ in rows(state)}
        sizes = SIZES[hood.agents]
        return kinds, {n: hood.collect(kind, a, sizes) for n, kind, a in rows(state)}, hood.collect("agents", oracle.evaluations)

    kinds, arrays, evaluations = on_blocks(first_half, CASE.graph, [1, 0, 2, 0, 1, 2], seed=CASE.seed)[0]
    Checkpoint(HALF, 1.5, 10, 80.0, 12, {"a": 0.1}, kinds, arrays, evaluations, SIZES).save(tmp_path / "state.npz")
    saved = Checkpoint.load(tmp_path / "state.npz")
    assert (saved.round, saved.seconds, saved.wire_bytes, saved.parameters) == (HALF, 1.5, 10, {"a": 0.1})
    np.testing.assert_array_equal(saved.evaluations, evaluations)

    def second_half(hood: Neighborhood) -> tuple[Any, Any]:
        oracle, state = start(chosen, hood)
        restore(state, saved, hood)
        return hood.agents, advance(chosen, state, hood, oracle, HALF, 2 * HALF).x

    for own, x in on_blocks(second_half, CASE.graph, [0, 3, 1, 1, 2, 0], seed=CASE.seed):
        np.testing.assert_array_equal(x, straight[own])
