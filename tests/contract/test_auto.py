"""compressor = "auto": measured, chosen, kept over a resume, and without a trace in the meters or the numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from cases import facts_of, hood_of, p100

from decentral import algorithms, experiment, runner
from decentral.compressors import auto, build
from decentral.errors import ConfigError
from decentral.experiment import Experiment

TABLE = {
    "rounds": 30,
    "graph": {"topology": "ring", "agents": 5},
    "problem": {"name": "logistic", "l2": 0.1},
    "data": {"name": "synthetic", "rows": 100, "features": 70},
}


def configured(out: Path, compressor: object, method: str = "lead", **more: object) -> Experiment:
    table = {**TABLE, "out": str(out), "algorithm": {"name": method, "compressor": compressor}, **more}
    return experiment.parse(table)


class Heard(runner.Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


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


def test_rounds_grow_where_the_compressor_is_coarse() -> None:
    """COLD with a hundredth of the entries has to mix slowly; without compression it need not."""
    hood = hood_of(nx.cycle_graph(5))
    facts = dataclasses.replace(facts_of(hood, p100(own=hood.agents)), d=512)
    fine = algorithms.build({"name": "cold"})
    coarse = algorithms.build({"name": "cold", "compressor": {"name": "top-k", "fraction": 0.01}})
    rounds = [auto.rounds_of(m, facts, hood.graph, hood.mixing) for m in (fine, coarse)]
    assert rounds[1] > 1.5 * rounds[0]


@pytest.mark.parametrize("field", ["latency", "bandwidth"])
def test_bad_values(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"compressor\.{field} = -1.*: give a positive number"):
        build({"name": "auto", field: -1.0})
