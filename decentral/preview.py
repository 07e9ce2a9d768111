"""What a run would be, without making it: `decentral show config.toml`."""

from __future__ import annotations

import numpy as np

from decentral.assembly import build_graph, build_mixing
from decentral.cli import parameters
from decentral.experiment import Experiment
from decentral.neighborhood import Neighborhood, place
from decentral.ranks import Ranks
from decentral.runner import Interrupts, Job, Silent, constants, single_threaded
from decentral.state import rows

MOST = 1000
"""Rounds after which a method is taken to send nothing."""


class Heard(Silent):
    """A watch that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


def preview(experiment: Experiment, ranks: int = 1) -> str:
    """What a run would be: graph, placement, numbers for "auto", bytes, memory.

    Rounds are computed until one communicates, and nothing is written.
    """
    graph = build_graph(experiment)
    weights = build_mixing(experiment, graph)
    placement = place(graph.n_agents, ranks, experiment.transport.placement, experiment.seed)
    with single_threaded(), np.errstate(over="ignore", invalid="ignore"):
        job = Job(experiment, Ranks(), Interrupts(), watch := Heard())
        data = job.prepare(graph, weights, placement)
        record = job._record(graph, weights, placement, data, None)
        hood, oracle = job.hood, job.oracle
        state = job.algorithm.init(hood.give(job.start()), hood, oracle)
        at_start, k = (hood.wire_bytes, hood.vectors, oracle.evaluations.mean()), 0
        while hood.vectors == at_start[1] and k < MOST:
            state = job.algorithm.round(state, k, hood, oracle)
            k += 1
    moved = max(1, hood.vectors - at_start[1])
    vectors = record["cost"]["exchanges_per_round"]
    sent = (hood.wire_bytes - at_start[0]) / max(1, graph.n_arcs) * vectors / moved
    work = (oracle.evaluations.mean() - at_start[2]) / k
    blocks = [Neighborhood(graph, weights, np.flatnonzero(placement == r)) for r in range(ranks)]
    memory = []
    for block in blocks:
        samples = int(np.asarray(job.problem.sizes)[block.agents].sum())
        counts = {"agents": block.n, "known": block.n + block.g, "arcs": block.m, "samples": samples}
        held = sum(counts[kind] * a[0].nbytes for _, kind, a in rows(state) if len(a))
        memory.append(held + (samples * job.problem.X.itemsize * (job.problem.X.shape[1] + 1) if data else 0))  # type: ignore[attr-defined]
    heaviest = int(np.argmax(memory))
    lines = [graph.card([weights]), ""]
    lines += [f"problem    {constants(record['problem'])}"]
    facts = record["data"]
    sizes = [a["samples"] for a in facts["agents"]]
    lines += [f"data       {facts['name']}, {facts['rows']} rows, split {facts['split']}, {min(sizes)} to {max(sizes)} per agent"]
    lines += [f"method     {record['label']}"]
    lines += [f"             {line}" for line in parameters(record["parameters"])]
    if choice := [sentence for sentence in watch.said if sentence.startswith("compressor auto: ")]:
        lines += choice + ["           measured here, in one process; a run measures again, on its own ranks and network"]
    lines += [f"warning    {text}" for text in job.warnings]
    lines += [
        f"a round    {work:,.0f} gradients per agent, {sent:,.0f} bytes per arc (headers included"
        f"{'' if vectors == moved else ', on average'}), "
        f"modelled time {work * experiment.time.t_g + vectors * experiment.time.t_c:,.4g}",
        f"all        {experiment.rounds} rounds, {sent * graph.n_arcs * experiment.rounds / 1e6:,.4g} MB",
        f"memory     {max(memory) / 1e6:,.4g} MB of state and data on rank {heaviest}, the fullest of {ranks}",
    ]
    for r, block in enumerate(blocks[:16] if ranks > 1 else []):
        agents = ", ".join(str(i) for i in block.agents[:12]) + (", …" if block.n > 12 else "")
        lines.append(f"rank {r:<6}agents {agents}; hears {block.g} elsewhere; {memory[r] / 1e6:,.4g} MB")
    lines.append(f"folder     {experiment.folder}")
    return "\n".join(lines)
