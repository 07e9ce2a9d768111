"""Round counts of sections 9.1 and 9.2 of the specification on problem P100, to 1e-20 in ‖∇F(x̄)‖² and consensus.

The counts are those of the specification. Its data are not stated, ours were searched to agree in four of them (see
`cases.logistic_data`); the others then follow within 3 %, with exceptions that depend on more than the spectrum:
ATC tracking (+10 %), top-k (−5 %), 2 bits (−5 %), and a persistent SAGA table with |B| = 1 (+6 to +20 %: its rate is that
of the single samples, whose spread is another). Those are held to 21 %, and their order is tested.
"""

from __future__ import annotations

from typing import Any

import pytest
from cases import run

from decentral import algorithms
from decentral.compressors import build as compressor
from decentral.estimators import SAGA

Q = {b: compressor({"name": "quantize", "bits": b, "symbols": "paper"}) for b in (2, 4, 8)}
NEAREST = compressor({"name": "quantize", "bits": 4, "rounding": "nearest"})
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
