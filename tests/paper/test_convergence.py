"""One claim of a paper or of the specification each; P100 is the verification problem of its section 9."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest
from cases import facts_of, hood_of, p100, run

from decentral import algorithms
from decentral.compressors import build as compressor
from decentral.estimators import SAGA, SGD, SVRG, Full, LooplessSVRG, Oracle
from decentral.graph import Graph, mixing
from decentral.neighborhood import InProcess, Lossy
from decentral.problems import LeastSquares, NonconvexLogistic, Quadratic, Softmax

LT = {"local_steps": 5, "step_size": 0.1, "dual_step": 0.09, "reference_step": 1.0, "relaxation": 0.5}


def q(bits: int, **p: Any) -> Any:
    return compressor({"name": "quantize", "bits": bits, **p})


def rounds(name: str, limit: int = 1500, estimator: Any = None, problem: Any = None, hood: Any = None, **p: Any) -> int | None:
    return run(algorithms.load(name)(**p), limit, problem, hood, estimator, stop=1e-20).rounds_to(1e-20)


def floor(name: str, limit: int, estimator: Any = None, hood: Any = None, **p: Any) -> float:
    return float(run(algorithms.load(name)(**p), limit, None, hood, estimator).grad[-50:].min())


@pytest.fixture(scope="module")
def uncompressed() -> int:
    found = rounds("lt-admm", local_steps=5, step_size=0.1, dual_step=0.09)
    assert found is not None
    return found


@pytest.mark.parametrize("form", "ABCDE")
@pytest.mark.parametrize(("bits", "extra"), [(8, 1), (4, 2), (2, 8)])
def test_lt_admm_cc_needs_the_rounds_of_lt_admm(form: str, bits: int, extra: int, uncompressed: int) -> None:
    """Section 9.1: 155 rounds with identity, 8 and 4 bits in all forms, 158 with 2 (the counts are those of our instance)."""
    if bits == 2 and form != "A":
        pytest.skip("2 bits are stated for form A")
    found = rounds("lt-admm-cc", form=form, compressor=q(bits, symbols="paper"), **LT)
    assert found is not None and abs(found - uncompressed) <= extra


def test_lead_coincides_with_nids_while_sending_a_fraction_of_the_bytes() -> None:
    """ICLR 2021, the headline experiment: 2 bits, the rounds of NIDS within 6 %."""
    nids = rounds("nids", step_size=0.3)
    lead = rounds("lead", step_size=0.3, mixing_step=1.0, reference_step=0.5, compressor=q(2, symbols="paper"))
    cold = rounds("cold", step_size=0.3, mixing_step=1.0, compressor=q(8))
    assert nids is not None and lead is not None and cold is not None
    assert abs(lead - nids) <= 0.06 * nids
    assert abs(cold - nids) <= 1
    assert q(2).nbytes(1000, np.float32) < 4000 / 10


def test_saga_with_reset_table_needs_the_rounds_of_the_full_gradient(uncompressed: int) -> None:
    """Section 9.2: |B| = 1, 154 against 155; persistent with |B| = 8, 152."""
    for estimator in (SAGA(batch=1, reset=True), SAGA(batch=8), SVRG(batch=1)):
        found = rounds("lt-admm-cc", estimator=estimator, compressor=q(8), **LT)
        assert found is not None and abs(found - uncompressed) <= 0.03 * uncompressed + 3


@pytest.mark.parametrize("estimator", [SAGA(batch=1), SVRG(batch=1, every=3), LooplessSVRG(batch=1, probability=0.1)], ids=lambda e: e.name)
def test_variance_reduction_is_exact_where_sgd_stalls(estimator: Any) -> None:
    """LT-ADMM(-CC) abstracts: variance reduction reaches the optimum, plain stochastic gradients a neighborhood."""
    p = {**LT, "step_size": 0.02, "compressor": q(8)}
    assert rounds("lt-admm-cc", 2500, estimator, **p) is not None
    assert floor("lt-admm-cc", 1500, SGD(batch=1), **p) > 1e-7


@pytest.mark.parametrize("name", ["d-psgd", "atc", "choco-sgd", "deepsqueeze"])
def test_constant_steps_leave_a_floor_and_decaying_ones_do_not(name: str) -> None:
    p = {"compressor": q(8)} if hasattr(algorithms.load(name), "compressor") else {}
    at_constant = floor(name, 1500, step_size=0.1, **p)
    assert at_constant > 1e-6
    if name != "deepsqueeze":
        assert floor(name, 4000, step_size=0.1, decay=0.005, **p) < at_constant / 10


@pytest.mark.parametrize("c", [1.3, 1.4])
def test_edge_iteration_is_stable_up_to_four_thirds(c: float) -> None:
    """3.3 (h): c = τβρl_u/2; 1.3 converges, 1.4 diverges."""
    with np.errstate(all="ignore"):
        trace = run(algorithms.load("lt-admm")(local_steps=5, step_size=0.01, dual_step=2 * c / 20), 400)
    assert (trace.consensus[-1] < 1e-3) == (c < 4 / 3)


def test_without_memory_compression_stalls() -> None:
    """3.3 (g): η = 0 stalls well above 1e-10, η > 0 does not."""
    assert floor("lt-admm-cc", 600, compressor=q(8), **{**LT, "reference_step": 0.0}) > 1e-10
    assert floor("lt-admm-cc", 600, compressor=q(8), **LT) < 1e-25


def test_form_a_fails_where_form_e_does_not() -> None:
    """3.2: Rand-10/20 kind of noise, ω = 3 and 9 here: A diverges, E with small relaxation converges."""
    strong = compressor({"name": "rand-k", "k": 2})  # ω = 1.5 at d = 5
    e = rounds("lt-admm-cc", 6000, form="E", compressor=strong, local_steps=5, step_size=0.1, dual_step=0.005)
    assert e is not None
    strongest = compressor({"name": "rand-k", "k": 1})  # ω = 4 > 1 + √5
    with np.errstate(all="ignore"), pytest.raises(Exception, match="diverged|NaN"):
        run(algorithms.load("lt-admm-cc")(compressor=strongest, **LT), 3000)


def test_a_lost_payload_spoils_lead_and_hardly_lt_admm_cc() -> None:
    """0.1: one payload lost at round 50: LEAD ends far off, LT-ADMM-CC near, both exact without the loss."""
    g = Graph.from_networkx(nx.cycle_graph(10))

    def lossy() -> InProcess:
        return Lossy(g, mixing(g), seed=7, lost=lambda k, arcs: (arcs == 0) & (k == 20))

    lead = {"step_size": 0.3, "mixing_step": 1.0, "reference_step": 0.5, "compressor": q(8)}
    assert floor("lead", 1000, hood=lossy(), **lead) > 1e-9
    assert floor("lead", 1000, **lead) < 1e-25
    spoiled = floor("lt-admm-cc", 1000, hood=lossy(), compressor=q(8), **LT)
    assert floor("lt-admm-cc", 1000, compressor=q(8), **LT) < 1e-25 < spoiled


@pytest.mark.parametrize("name", ["dyna-cold", "dpdc3"])
@pytest.mark.parametrize("bits", [1, 2])
def test_a_shrinking_scale_makes_absolute_quantizers_exact(name: str, bits: int) -> None:
    """4.3, 4.4: with s_k just above the linear rate one bit an entry reaches the optimum; at a fixed scale nothing does."""
    c = compressor({"name": "absolute", "bits": bits})
    assert rounds(name, 1500, compressor=c, scale_decay=0.98) is not None
    assert floor("cold", 1500, step_size=0.3, mixing_step=0.3, compressor=c) > 1e-6


@pytest.mark.parametrize("name", ["dyna-cold", "dpdc3"])
def test_a_scale_that_decays_too_fast_clips_and_says_so(name: str) -> None:
    """4.4, the trap: at w = 0.7 the levels outgrow 8 bits, and the method stops short of the optimum; 0.98 clips nothing."""
    c = compressor({"name": "absolute", "bits": 8})
    for w, fine in ((0.98, True), (0.7, False)):
        hood = hood_of(nx.cycle_graph(10))
        found = rounds(name, hood=hood, compressor=c, scale_decay=w)
        assert (hood.saturated == 0) == fine == (found is not None)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["dyna-cold", "dpdc3"])
def test_a_scale_below_all_numbers_is_no_division_by_zero(name: str, dtype: Any) -> None:
    problem, hood = p100(dtype=dtype), hood_of(nx.cycle_graph(10), dtype=dtype)
    method = algorithms.load(name)(compressor=compressor({"name": "absolute"})).tuned(facts_of(hood, problem))
    oracle = Oracle(problem, Full(), hood.agents, hood.seed)
    state = method.round(method.init(np.zeros((10, 5), dtype), hood, oracle), 10**6, hood, oracle)
    state = method.round(state, 10**6 + 1, hood, oracle)
    assert np.isfinite(state.x).all() and hood.saturated > 0


@pytest.mark.parametrize(("name", "c", "says"), [
    ("cold", {"name": "absolute"}, "does not scale"),
    ("lead", {"name": "absolute"}, "does not scale"),
    ("dpdc", {"name": "absolute"}, "does not scale"),
    ("dyna-cold", {"name": "quantize"}, "use absolute"),
    ("dpdc3", {"name": "quantize"}, "use absolute"),
    ("dpdc3", {"name": "absolute"}, None),
    ("dyna-cold", {"name": "absolute"}, None),
    ("dyna-cold", {"name": "identity"}, None),
])
def test_warns_of_a_quantizer_of_the_other_kind(name: str, c: dict[str, Any], says: str | None) -> None:
    facts = facts_of(hood_of(nx.cycle_graph(10)), p100())
    warnings = algorithms.load(name)(compressor=compressor(c)).tuned(facts).check(facts)
    assert [says in text for text in warnings] == [True] if says else not warnings


def problems() -> dict[str, Any]:
    rng = np.random.default_rng(11)
    X, ptr = rng.normal(size=(200, 4)) + np.repeat(rng.normal(size=(10, 4)), 20, axis=0), np.arange(11) * 20
    B = rng.normal(size=(10, 4, 4))
    return {
        "quadratic": Quadratic(B @ B.transpose(0, 2, 1) + 0.2 * np.eye(4), rng.normal(size=(10, 4))),
        "least-squares": LeastSquares(X, X @ np.ones(4) + rng.normal(size=200), ptr, l2=0.1),
        "logistic": p100(),
        "nonconvex-logistic": p100(kind=NonconvexLogistic, l2=0.01),
        "softmax": Softmax(X, rng.integers(0, 3, 200), ptr, classes=3, l2=0.1),
    }


EXACT = [n for n in algorithms.NAMES if algorithms.load(n).floor is None]


@pytest.mark.parametrize("problem", problems())
@pytest.mark.parametrize("name", EXACT)
def test_defaults_converge_everywhere(name: str, problem: str) -> None:
    """step_size = "auto" and friends reach the optimum (a stationary point) of every problem without tuning."""
    p = problems()[problem]
    hood = hood_of(nx.erdos_renyi_graph(10, 0.4, seed=1))
    cls = algorithms.load(name)
    own_scale = hasattr(cls, "scale_decay")  # these want an absolute quantizer, and one bit is the hardest
    c = {"compressor": compressor({"name": "absolute", "bits": 1}) if own_scale else q(8)} if hasattr(cls, "compressor") else {}
    level = 1e-16 if p.convex else 1e-8  # without strong convexity the last digits take long
    trace = run(cls(**c), 6000, p, hood, stop=level)
    assert trace.grad[-1] < level and trace.consensus[-1] < level


def test_exact_diffusion_steps_are_bounded_by_two_over_l_whatever_the_graph() -> None:
    """Section 5: 1.95/L converges, 2.05/L diverges, on a quadratic with the same curvature at all agents."""
    problem = Quadratic(np.repeat(np.diag([1.0, 0.5, 0.2])[None], 10, axis=0), np.random.default_rng(0).normal(size=(10, 3)))
    for eta, fine in ((1.95, True), (2.05, False)):
        with np.errstate(all="ignore"):
            trace = run(algorithms.load("exact-diffusion")(step_size=eta), 800, problem)
        assert (trace.grad[-1] < 1e-10) == fine


def test_extra_bound_is_tight() -> None:
    """Section 5: η < (5 + 3λ_min(W))/(4L); 0.98 of it converges, 1.02 diverges."""
    hood = hood_of(nx.cycle_graph(10))
    problem = Quadratic(np.repeat(np.diag([1.0, 0.5, 0.2])[None], 10, axis=0), np.random.default_rng(0).normal(size=(10, 3)))
    limit = (5 + 3 * facts_of(hood, problem).lambda_min) / 4
    for factor, fine in ((0.98, True), (1.02, False)):
        with np.errstate(all="ignore"):
            trace = run(algorithms.load("extra")(step_size=factor * limit), 3000, problem, hood)
        assert (trace.consensus[-1] < 1e-8) == fine
