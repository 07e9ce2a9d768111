"""compressor = "auto": measured, chosen, kept over a resume, and without a trace in the meters or the numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import networkx as nx
import numpy as np
import pytest
from cases import facts_of, hood_of, p100

from decentral import algorithms, experiment, runner
from decentral.algorithms.base import PLAIN
from decentral.compressors import auto, build
from decentral.errors import ConfigError
from decentral.estimators import SAGA, Full, Oracle
from decentral.experiment import Experiment
from decentral.graph import Graph, mixing
from decentral.neighborhood import Neighborhood, place
from decentral.preview import Heard
from decentral.problems import Quadratic

TABLE = {
    "rounds": 30,
    "graph": {"topology": "ring", "agents": 5},
    "problem": {"name": "logistic", "l2": 0.1},
    "data": {"name": "synthetic", "rows": 100, "features": 70},
}


def configured(out: Path, compressor: object, method: str = "lead", **more: object) -> Experiment:
    table = {**TABLE, "out": str(out), "algorithm": {"name": method, "compressor": compressor}, **more}
    return experiment.parse(table)


@pytest.mark.parametrize("method", ["lead", "lt-admm-cc", "choco-sgd"])
def test_a_slow_network_asks_for_fewer_bytes(method: str, tmp_path: Path) -> None:
    """In process a message costs nothing to move; at 1 kB/s every byte is a millisecond, and 2 bits are 1/16 of them."""
    heard = Heard()
    slow = runner.run(configured(tmp_path, {"name": "auto", "bandwidth": 1e3}, method), watch=heard)
    assert slow.record["parameters"]["compressor"]["name"] == "quantize"
    lines = [s for s in heard.said if s.startswith("compressor auto: ")]
    assert len(lines) == 4 and sum(s.endswith("<- chosen") for s in lines) == 1


def test_the_choice_leaves_no_trace(tmp_path: Path) -> None:
    chosen = runner.run(configured(tmp_path, {"name": "auto", "bandwidth": 1e3}))
    plain = runner.run(configured(tmp_path, chosen.record["parameters"]["compressor"]))
    np.testing.assert_array_equal(chosen.x, plain.x)
    for column in ("wire_bytes", "ideal_bits", "gradients"):
        assert chosen.row[column] == plain.row[column] > 0


def test_a_resumed_run_keeps_its_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = iter([0.0, 1.0])  # would choose the first the first time, the last the second
    monkeypatch.setattr(auto, "choose", lambda found: found[0] if next(order) == 0 else found[-1])
    chosen = configured(tmp_path, "auto")
    interrupts = runner.Interrupts()
    with monkeypatch.context() as patch:
        patch.setattr(runner, "Interrupts", lambda: interrupts)
        interrupts.signal = 15
        stopped = runner.run(chosen)
    assert stopped.status == "interrupted" and 0 < stopped.rounds < 30
    ended = runner.run(chosen, resume=True)
    assert ended.record["parameters"]["compressor"] == {"name": "identity"}
    np.testing.assert_array_equal(ended.x, runner.run(configured(tmp_path, "identity")).x)


def test_what_does_not_converge_is_not_chosen() -> None:
    found = [auto.Prediction({"name": "identity"}, 1.0, 10.0), auto.Prediction({"name": "quantize"}, 1e-3, np.inf)]
    assert auto.choose(found).table == {"name": "identity"}
    assert "does not converge" in str(found[1])


def test_where_no_candidate_converges_bytes_alone_decide(tmp_path: Path) -> None:
    """CHOCO-SGD ends at an error of its own, here one that is no smaller than the first."""
    heard, data = Heard(), {"name": "synthetic", "rows": 400, "features": 20, "shift": 5.0, "split": "sorted"}
    done = runner.run(configured(tmp_path, {"name": "auto", "bandwidth": 1e3}, "choco-sgd", data=data), watch=heard)
    assert any("without compression the error does not shrink" in s for s in heard.said)
    assert done.record["parameters"]["compressor"]["bits"] == 8


def test_of_equals_the_fewest_bytes() -> None:
    def chosen(*costs: float, stopped: bool = False) -> int:
        found = [auto.Prediction({"number": i}, cost, 1.0, stopped and i == 2) for i, cost in enumerate(costs)]
        return int(auto.choose(found).table["number"])

    assert chosen(1.0, 1.009, 1.02) == 1 and chosen(1.02, 1.0, 1.02) == 1 and chosen(1.005, 1.0, 1.005) == 2
    assert chosen(1.0, 1.02, 1.005, stopped=True) == 0  # it costs more than that
    assert chosen(np.inf, np.inf, np.inf) == 0


def test_rounds_grow_where_the_compressor_is_coarse() -> None:
    """COLD with a hundredth of the entries has to mix slowly; without compression it need not."""
    hood = hood_of(nx.cycle_graph(5))
    facts = dataclasses.replace(facts_of(hood, p100(own=hood.agents)), d=512)
    fine = algorithms.build({"name": "cold"})
    coarse = algorithms.build({"name": "cold", "compressor": {"name": "top-k", "fraction": 0.01}})
    rounds = [auto.rounds_of(m, facts, hood.graph, hood.mixing) for m in (fine, coarse)]
    assert rounds[1] > 1.5 * rounds[0]


@dataclass(frozen=True)
class Descent:
    """Every agent goes down its own f_i = ‖x − c_i‖²/2 by `fall`: the mean loses 1 − (1 − fall)² of ‖∇F‖² a round."""

    fall: float
    compressor: Any = PLAIN
    vectors = 1

    @property
    def rounds(self) -> float:
        """Rounds a digit."""
        return -0.5 / np.log10(abs(1 - self.fall))

    def init(self, x: Any, hood: Neighborhood, oracle: Any) -> Any:
        return SimpleNamespace(x=x)

    def round(self, s: Any, k: int, hood: Neighborhood, oracle: Any) -> Any:
        hood.exchange(*[hood.to_neighbors(PLAIN, s.x, k, stream) for stream in range(self.vectors)])
        s.x -= self.fall * oracle(None, s.x, k)
        return s


class Twofold(Descent):
    """Two vectors in one exchange."""

    vectors = 2


START = np.zeros((5, 3))


def descents(*falls: float) -> tuple[list[Any], Any, Oracle]:
    hood = hood_of(nx.cycle_graph(5))
    problem = Quadratic(np.repeat(np.eye(3)[None], 5, axis=0), np.random.default_rng(0).normal(size=(5, 3)))
    return [Descent(fall) for fall in falls], hood, Oracle(problem, Full(), hood.agents)


@pytest.fixture
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not make it the stand-in."""
    monkeypatch.setattr(auto, "SECONDS", 60.0)


def test_rounds_are_those_of_the_own_problem() -> None:
    """0.1 needs 65.6 rounds for six digits, 0.2 31.0: with parts of a round, and between rounds that are looked at."""
    methods, *rest = descents(0.1, 0.2, 0.05, 2.5)
    found = auto._rounds(methods, [1.0, 1.0, 0.01, 0.01], *rest, START, 0.0, 1000, 60.0)
    assert [stopped for _, stopped in found] == [False] * 4
    np.testing.assert_allclose([rounds for rounds, _ in found[:3]], [m.rounds for m in methods[:3]], rtol=1e-6)
    assert found[3][0] == np.inf  # it diverges


@pytest.mark.parametrize("alone", [0.0, 0.1])
def test_the_agents_own_iterates_have_to_get_there(alone: float) -> None:
    """x̄ goes down at once; what the agents disagree in, which it does not show, shrinks by what they mix in a round."""

    class Mixing(Descent):
        def round(self, s: Any, k: int, hood: Neighborhood, oracle: Any) -> Any:
            mean, moved = s.x.mean(axis=0), oracle(None, s.x, k).mean(axis=0)
            s.x = mean - self.fall * moved + (np.array([[1.0], [-1.0], [0.0], [0.0], [0.0]]) if k == 0 else alone * (s.x - mean))
            return s

    method, (_, hood, oracle) = Mixing(0.99), descents()
    gradient = oracle.problem.evaluate(np.zeros((1, 3)))[1][0] / 5
    first = float(gradient @ gradient)
    (rounds, _), = auto._rounds([method], [1.0], hood, oracle, START, 2.0, 300, 60.0) or [(np.inf, False)]
    if alone:  # L² 6/5 · 0.01^(k − 1) = 1e-6 of the first
        levels = [4 * 6 / 5 * 0.01 ** (k - 1) for k in range(1, 8)]
        k = next(i for i, level in enumerate(levels) if level <= 1e-6 * first)
        needed = k + np.log(levels[k - 1] / (1e-6 * first)) / np.log(100)
        assert rounds == pytest.approx(needed / 6, rel=1e-3)
    else:
        assert rounds < 1


def test_where_no_smoothness_is_known_the_loss_counts() -> None:
    """A gradient that vanishes on the way tells nothing: of loss = ‖x̄ − x*‖ a digit needs twice the rounds of ‖∇F‖².

    Where agent 0 stays where it is, F(x̄) is not enough.
    """
    methods, hood, _ = descents(0.1, 0.2)
    goal = np.array([1.0, -2.0, 3.0])
    oracle = Oracle(Quadratic(np.repeat(np.eye(3)[None], 5, axis=0), np.repeat(goal[None], 5, axis=0)), Full(), hood.agents)

    def loss(points: Any) -> Any:
        return 5 * np.linalg.norm(points - goal, axis=1), None

    found = auto._rounds(methods, [1.0, 1.0], hood, oracle, START, np.nan, 1000, 60.0, loss)
    np.testing.assert_allclose([rounds for rounds, _ in found], [2 * m.rounds for m in methods], rtol=1e-6)

    class Apart(Descent):
        def round(self, s: Any, *rest: Any) -> Any:
            s.x = np.outer([0.0, 1.25, 1.25, 1.25, 1.25], goal)  # x̄ is there at once
            return s

    assert auto._rounds([Apart(0.1)], [1.0], hood, oracle, START, np.nan, 20, 60.0, loss) == []


@pytest.mark.parametrize("method, left", [("cold", 2), ("dyna-cold", 1), ("lead", 4)])
def test_what_the_method_would_warn_of_is_left_out(method: str, left: int, tmp_path: Path) -> None:
    """COLD wants a contraction, which dithered rounding of 300 entries to 4 bits is not; Dyna-COLD no scales but its own."""
    heard, data = Heard(), {"name": "synthetic", "rows": 100, "features": 300}
    done = runner.run(configured(tmp_path, {"name": "auto", "bandwidth": 1e3}, method, data=data), watch=heard)
    lines = [s for s in heard.said if s.startswith("compressor auto: ")]
    assert sum("is left out" in s for s in lines) == 4 - left and sum(s.count("<- chosen") for s in lines) == 1
    assert not done.record["warnings"]
    allowed = [{"name": "identity"}, *({"name": "quantize", "bits": bits} for bits in (8, 4, 2))][:left]
    assert done.record["parameters"]["compressor"] in allowed


def test_what_costs_more_than_another_is_stopped() -> None:
    methods, *rest = descents(0.2, 0.1, 0.3)
    (first, _), (rounds, stopped), (last, whole) = auto._rounds(methods, [1.0, 1.0, 1.0], *rest, START, 0.0, 1000, 60.0)
    assert stopped and first < rounds < methods[1].rounds  # no fewer than what shows that it costs more
    assert "more than" in str(auto.Prediction({"name": "identity"}, 1.0, rounds, stopped))
    assert last < first and not whole


def test_no_more_rounds_than_those_of_the_run() -> None:
    """0.1 needs 43.7 rounds for four digits, and 65.6 for six. A method whose scale shrinks by the round may fail where no run comes."""
    for most, digits in ((80, 6), (50, 4), (40, 0)):
        (method,), hood, oracle = descents(0.1)
        seen: list[int] = []

        def round(s: Any, k: int, *rest: Any, of: Any = method.round, seen: list[int] = seen) -> Any:
            seen.append(k)
            return of(s, k, *rest)

        spied = SimpleNamespace(init=method.init, round=round)
        assert len(auto._rounds([spied], [1.0], hood, oracle, START, 0.0, most, 60.0)) == (digits > 0) and max(seen) < most


def test_fewer_digits_or_the_stand_in_where_time_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of a second a look: the 13th look, at round 47, sees four digits, the 14th, at 59, five, and the 15th, at 74, six."""
    levels, crossing = [], auto._crossing
    monkeypatch.setattr(auto, "_crossing", lambda trace, level: levels.append(level) or crossing(trace, level))
    clock = iter(range(10_000))
    monkeypatch.setattr(auto.time, "perf_counter", lambda: float(next(clock)))
    methods, *rest = descents(0.1, 0.2)
    for seconds, digits in ((20.0, 6), (13.5, 5), (12.5, 4), (10.0, 0)):
        levels.clear()
        found = auto._rounds(methods, [1.0, 1.0], *rest, START, 0.0, 1000, seconds)
        assert levels == ([10.0**-digits] * 2 if digits else [])
        np.testing.assert_allclose([rounds for rounds, _ in found], [m.rounds for m in methods][: len(found)], rtol=1e-6)


def test_the_own_problem_is_left_alone_where_rounds_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "LEAST", np.inf)
    monkeypatch.setattr(auto, "_rounds", None)
    seconds, rounds = auto.measure(*descents(0.1, 0.2), auto.Auto(latency=1.0), 0.0)
    assert len(seconds) == 2 and min(seconds) > 2.0 and rounds == []
    _, hood, oracle = descents(0.1)
    (seconds, _), size = auto.measure([Twofold(0.1)], hood, oracle, auto.Auto(latency=1.0, bandwidth=1.0), 0.0), 16 + 2 * 24
    assert seconds[0] == pytest.approx(2.0 + 2 * size, rel=0.01)  # to two neighbors: one message each, with both


@pytest.mark.parametrize("most", [5, 4])
def test_too_many_agents_for_the_stand_in(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What 2 bits cost in rounds is then not known, and they are not tried."""
    monkeypatch.setattr(auto, "LEAST", np.inf)
    monkeypatch.setattr(auto, "MOST_AGENTS", most)
    heard = Heard()
    done = runner.run(configured(tmp_path, {"name": "auto", "bandwidth": 1e3}), watch=heard)
    assert sum(" rounds a digit = " in s for s in heard.said) == (4 if most == 5 else 0)
    assert sum(" ms a round" in s for s in heard.said) == (4 if most == 5 else 2)
    assert most == 5 or done.record["parameters"]["compressor"]["bits"] == 8


@pytest.mark.mpi
@pytest.mark.parametrize("least", [auto.LEAST, np.inf])  # inf: on the stand-in
def test_all_ranks_predict_the_same(time_enough: None, monkeypatch: pytest.MonkeyPatch, least: float) -> None:
    from mpi4py import MPI

    from decentral.neighborhood.mpi import MPINeighborhood

    graph = Graph.from_networkx(nx.cycle_graph(10))
    hood = MPINeighborhood(graph, mixing(graph), place(10, MPI.COMM_WORLD.size, "block", seed=3), seed=7)
    problem = p100(own=hood.agents)
    facts = facts_of(hood_of(nx.cycle_graph(10)), p100(), "saga", 8)
    oracle = Oracle(problem, SAGA(batch=8), hood.agents, 7)
    monkeypatch.setattr(auto, "LEAST", least)
    tables, methods, _ = auto.Auto().candidates(algorithms.build({"name": "lead"}), facts)
    found, reason = auto.predict(tables, methods, hood, oracle, auto.Auto(bandwidth=1e4), facts)
    mine = np.array([(p.seconds, p.rounds, p.stopped) for p in found], float)
    assert len(found) == 4 and not reason and np.isfinite(mine).all()
    np.testing.assert_array_equal(hood.max(mine), mine)
    np.testing.assert_array_equal(hood.max(-mine), -mine)
    assert hood.wire_bytes == 0 and not oracle.evaluations.any()
    hood.close()


@pytest.mark.parametrize("field", ["latency", "bandwidth"])
@pytest.mark.parametrize("value", [-1.0, np.inf, np.nan])
def test_bad_values(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"compressor\.{field} = {value}: give a positive number"):
        build({"name": "auto", field: value})
