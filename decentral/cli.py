"""The command line: decentral run | show | list | compare | report | data | check | cite | bench.

Exit status 0: done; 1: the run failed or diverged; 2: bad input; 130 or 143: stopped by Ctrl-C or SIGTERM, resumable.
Heavy modules are imported inside the command that needs them.
"""

from __future__ import annotations

import argparse
import functools
import gc
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from decentral.errors import ConfigError, DecentralError, unknown

if TYPE_CHECKING:
    from decentral.experiment import Experiment

NAMESPACES = ("topologies", "weights", "algorithms", "compressors", "estimators", "problems", "data", "metrics")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if list(arguments[:1]) == ["bench"]:  # it has a parser of its own, for its --help as well
            options = argparse.Namespace(command=_bench, arguments=arguments[1:])
        else:
            options = _parser(arguments).parse_args(arguments)
        status: int = options.command(options)
        sys.stdout.flush()
        return status
    except DecentralError as error:
        if _rank() == 0:  # what all ranks see, one says
            print(f"decentral: {error}", file=sys.stderr, flush=True)
        else:
            time.sleep(1)  # the launcher ends all ranks when one of them ends like this
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `decentral list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as `main` does: of one rank, and with the nearest guess."""

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice is None:
            raise ConfigError(f"{message}. See: {self.prog} --help")
        what = "command" if self.prog == "decentral" else f'argument of "{self.prog}"'
        raise ConfigError(unknown(what, choice[1], re.findall(r"[\w-]+", choice[2]), f"{self.prog} --help"))


def _rank() -> int:
    """This process among those of a launcher, before MPI is imported."""
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def _parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Of the command that the arguments begin with, else of all: eight ranks that start need no others."""
    from decentral import __version__

    # for what it prints argparse asks how wide the terminal is, and imports 5 ms of modules for that in every rank
    wanted = not arguments or not {"-h", "--help"}.isdisjoint(arguments)
    form = functools.partial(argparse.HelpFormatter, width=None if wanted else 100)
    parser = Parser(
        formatter_class=form, prog="decentral", description="Decentralized, peer-to-peer training with compressed messages.",
        epilog="Under a launcher: mpirun -n 8 python -m decentral run config.toml",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"decentral {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)
    for name in [name for name in COMMANDS if name == next(iter(arguments), None)] or COMMANDS:
        function, text, add = COMMANDS[name]
        made = commands.add_parser(name, help=text, description=text, formatter_class=form)
        made.set_defaults(command=function)
        add(made)
    return parser


def _overrides(made: argparse.ArgumentParser) -> None:
    made.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a key of the configuration")


def _run_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("config", type=Path)
    _overrides(made)
    made.add_argument("--force", action="store_true", help="run again although it was run")
    made.add_argument("--resume", action="store_true", help="continue from the checkpoint of a stopped run")
    made.add_argument("--quiet", action="store_true", help="print the outcome only")


def _show_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("what", help='a configuration, or a graph such as "ring:16"')
    made.add_argument("--ranks", type=int, default=1)
    _overrides(made)


def _list_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("what", nargs="?", choices=NAMESPACES, metavar="|".join(NAMESPACES))


def _compare_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("folders", nargs="+")
    made.add_argument("--to", metavar="METRIC=LEVEL", help="e.g. grad_norm_sq=1e-10; default: the runs' own target")
    made.add_argument("--sort", default="rounds", help="rounds, gradients, bytes, modelled, seconds or best")
    form = made.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true")
    form.add_argument("--json", action="store_true")
    _times(made)


def _report_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("folders", nargs="+")
    made.add_argument("--out", type=Path, help="folder to write to")
    made.add_argument("--to", metavar="METRIC=LEVEL")
    made.add_argument(
        "--format", action="append", metavar="FORMAT", help="png (the default), pdf or svg; repeat it, or give a,b,c"
    )
    _times(made)


def _times(made: argparse.ArgumentParser) -> None:
    made.add_argument("--t-g", type=float, help="modelled time of a component gradient")
    made.add_argument("--t-c", type=float, help="modelled time of an exchange of one vector")


def _data_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("action", nargs="?", choices=["fetch"])
    made.add_argument("name", nargs="?")


def _cite_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("names", nargs="+", help="method names or run folders")


# --- run ------------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    with _kept():
        from decentral import experiment, runner
        from decentral.allocation import keep_freed_memory
        from decentral.neighborhood import launched
        from decentral.ranks import Ranks

        keep_freed_memory()
        ranks = Ranks.start()
        chosen = ranks.together(lambda: experiment.load(options.config, options.set))
    watch: runner.Watch = _Printer(options.quiet, launched() > 0) if ranks.rank == 0 else runner.Silent()
    try:
        outcome = runner.run(chosen, force=options.force, resume=options.resume, watch=watch, ranks=ranks)
    finally:
        watch.stop()
    if ranks.rank == 0:
        _tell(outcome, chosen)
    return outcome.exit_status


@contextmanager
def _kept() -> Iterator[None]:
    """What is made meanwhile stays to the end, as modules do: looking for garbage among it takes a tenth of a start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class _Printer:
    """Header, progress with rate and time left: a live line on a terminal, a plain one every 5 s otherwise."""

    def __init__(self, quiet: bool, launched: bool):
        self.quiet, self.launched = quiet, launched
        self.live: Any = None
        self.first = self.rounds = 0
        self.since = self.told = time.monotonic()

    def say(self, sentence: str) -> None:
        print(f"decentral: {sentence}", file=sys.stderr, flush=True)

    def start(self, record: dict[str, Any], first: int, rounds: int) -> None:
        self.first, self.rounds, self.since = first, rounds, time.monotonic()
        self.told = self.since
        if self.quiet:
            return
        for line in header(record):
            print(line)
        if first:
            print(f"resumed   at round {first}")
        sys.stdout.flush()
        if sys.stdout.isatty() and not self.launched:  # a launcher gives ranks a terminal also where it has none itself
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("round {task.completed:.0f}/{task.total:.0f}"), BarColumn(), TextColumn("{task.fields[what]}"))
            self.live = Progress(*columns, TimeRemainingColumn(), transient=True)
            self.live.start()
            self.live.add_task("", total=rounds, completed=first, what="")

    def progress(self, k: int, row: dict[str, float]) -> None:
        now = time.monotonic()
        rate = (k - self.first) / max(now - self.since, 1e-9)
        what = f"{rate:,.0f} rounds/s"
        metric = next((m for m in ("grad_norm_sq", "loss", "consensus") if m in row), None)
        if metric:
            what += f", {metric} {row[metric]:.2e}"
        if self.live is not None:
            self.live.update(self.live.task_ids[0], completed=k, what=what)
        elif not self.quiet and now - self.told > 5:
            self.told = now
            left = (self.rounds - k) / max(rate, 1e-9)
            print(f"round {k} of {self.rounds}, {what}, {left:.0f} s left", flush=True)

    def stop(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None


def header(record: dict[str, Any]) -> list[str]:
    """What runs, in a few lines, from run.json."""
    from decentral import runner

    graph, data, problem = record["graph"], record["data"], record["problem"]
    samples = [a["samples"] for a in data["agents"]]
    each = f"{min(samples)}" if min(samples) == max(samples) else f"{min(samples)} to {max(samples)}"
    where = "in one process"
    if record["executor"] == "mpi":
        where = f"{record['ranks']} MPI ranks, {record['mpi_library']}; {record['transport']}"
    return [
        f"problem   {runner.constants(problem)}",
        f"data      {data['name']}, {data['rows']} rows, split {data['split']}, {each} per agent",
        f"graph     {graph['name']}: {graph['agents']} agents, {graph['edges']} edges, gap {graph['gap']:.3g}",
        f"executor  {where}; {_served(record)}",
        f"method    {record['label']}: {', '.join(parameters(record['parameters']))}",
    ]


def _served(record: dict[str, Any]) -> str:
    """What the inner loops run on."""
    if record["device"] != "cpu":
        return str(record["device"])
    return f"{record['kernels'].split()[0]} kernels, {record['threads']} thread" + "s" * (record["threads"] > 1)


def parameters(table: dict[str, Any]) -> list[str]:
    """The numbers and components of a method, for people."""
    return [f"{key} {_shown(value)}" for key, value in table.items() if key != "name"]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{k}={_shown(v)}" for k, v in value.items() if k != "name")
        return f"{value.get('name', '')}" + (f"({inner})" if inner else "")
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def _tell(outcome: Any, chosen: Experiment) -> None:
    """The end of a run, for people."""
    if outcome.again:
        why = f" ({outcome.why})" if outcome.why else ""
        print(f"{outcome.folder} was run already: {outcome.status} after {outcome.rounds} rounds{why}; --force runs it again")
        print(f"next      decentral report {outcome.folder}")
        return
    words = {"target": "reached its target", "finished": "finished", "diverged": "diverged", "interrupted": "was stopped"}
    line = f"{words[outcome.status]} after {outcome.rounds} rounds"
    if outcome.status == "finished" and chosen.target:
        line += ", target not reached"
    print(f"outcome   {line}")
    if outcome.why:
        print(f"          {outcome.why}", file=sys.stderr, flush=True)
    row = outcome.row
    if row and row["round"] == outcome.rounds:  # a stopped run may be between two records
        metrics = ", ".join(f"{m} {row[m]:.3e}" for m in chosen.metrics if m in row)
        arcs = 2 * outcome.record["graph"]["edges"]
        per_arc = f"{row['wire_bytes'] / arcs:,.0f} bytes per arc, " if arcs else ""
        print(f"          {metrics}")
        spent = f"modelled time {row['modelled_seconds']:,.6g}, {row['seconds']:.3g} s"
        print(f"          {row['gradients']:,.0f} gradients per agent, {per_arc}{spent}")
    print(f"folder    {outcome.folder}")
    if outcome.status == "interrupted":
        again = [part for part in sys.argv[1:] if part not in ("--force", "--resume")]
        print(f"next      {shlex.join(['decentral', *again, '--resume'])}")
    else:
        print(f"next      decentral report {outcome.folder}")


# --- show -----------------------------------------------------------------------------------------------------------


def _show(options: argparse.Namespace) -> int:
    what = options.what
    if not Path(what).exists() and not what.endswith(".toml"):
        import topologies

        if options.set or options.ranks != 1:
            raise ConfigError(f'--set and --ranks go with a configuration; "{what}" is a graph, e.g. ring:8 or torus:4x4')
        print(topologies.build(what).card())
        return 0
    if options.ranks < 1:
        raise ConfigError(f"--ranks {options.ranks}: give a whole number, at least 1")
    from decentral import experiment
    from decentral.preview import preview

    print(preview(experiment.load(what, options.set), options.ranks))
    return 0


# --- list, data, cite -------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    for what in [options.what] if options.what else NAMESPACES:
        if not options.what:
            print(f"{what}")
        for name, text in _names(what):
            print(f"  {name:<20}{text}".rstrip())
    return 0


def _names(what: str) -> list[tuple[str, str]]:
    def first_line(thing: Any) -> str:
        return (thing.__doc__ or "").strip().splitlines()[0] if thing.__doc__ else ""

    match what:
        case "topologies":
            import topologies

            return [(name, first_line(family)) for name, family in topologies.FAMILIES.items()]
        case "weights":
            from decentral.graph import RULES

            return [(name, first_line(rule)) for name, rule in RULES.items()]
        case "algorithms":
            from decentral import algorithms

            return [(name, _method_line(algorithms.load(name))) for name in algorithms.NAMES]
        case "compressors":
            from decentral import compressors

            return [(name, first_line(compressors.load(name))) for name in compressors.NAMES]
        case "estimators":
            from decentral.estimators import ESTIMATORS

            return [(name, first_line(kind)) for name, kind in ESTIMATORS.items()]
        case "problems":
            from decentral.problems import PROBLEMS, LinearModel

            return [
                (name, first_line(kind if issubclass(kind, LinearModel) else sys.modules[kind.__module__]))
                for name, kind in PROBLEMS.items()
            ]
        case "data":
            return [(line.name, line.source) for line in _available()]
        case _:
            from decentral.experiment import METRICS

            return list(METRICS.items())


def _method_line(method: Any) -> str:
    import inspect

    module = inspect.getdoc(inspect.getmodule(method)) or ""
    takes = "compressed" if "compressor" in method.__dataclass_fields__ else "plain"
    return f"{method.label:<18}{takes:<12}{module.splitlines()[0] if module else ''}"


def _available() -> Any:
    from decentral.data import available

    return available()


def _data(options: argparse.Namespace) -> int:
    from decentral import data

    if options.action == "fetch":
        if not options.name:
            raise ConfigError("say which data set to fetch: decentral data fetch a9a")
        print(data.fetch(options.name, say=lambda text: print(text, file=sys.stderr)))
        return 0
    lines = data.available()
    wide = max(len(line.origin) for line in lines) + 2
    print(f"  {'name':<16}{'rows':>8}{'features':>10}{'classes':>9}  {'here':<6}{'from':<{wide}}source")
    for line in lines:
        size = "".join(f"{'' if v is None else v:>{w}}" for v, w in ((line.rows, 8), (line.features, 10), (line.classes, 9)))
        print(f"  {line.name:<16}{size}  {'yes' if line.cached else 'no':<6}{line.origin:<{wide}}{line.source}")
    print(f"cache: {data.root()} (DECENTRAL_DATA overrides)")
    return 0


def _cite(options: argparse.Namespace) -> int:
    from decentral import algorithms
    from decentral.recorder import bibtex, read_record, references

    entries: dict[str, None] = {}
    for name in options.names:
        if Path(name).is_dir():
            record = read_record(Path(name))
            if record is None:
                raise ConfigError(f'"{name}" is no run folder: it has no run.json')
            entries |= dict.fromkeys(record.get("cite", []))
        else:
            keys = [name] if name in references() else algorithms.load(name).cite
            entries |= dict.fromkeys(bibtex(keys))
    print("\n\n".join(entries))
    return 0


# --- compare, report ----------------------------------------------------------------------------------------------------


def _compare(options: argparse.Namespace) -> int:
    from decentral.report import compare
    from decentral.report.runs import read_runs

    runs = read_runs(*options.folders)
    target = compare.parse_target(options.to) if options.to else compare.common_target(runs)
    rows = compare.table(runs, target, sort=options.sort, t_g=options.t_g, t_c=options.t_c)
    if options.csv:
        print(compare.to_csv(rows), end="")
    elif options.json:
        print(compare.to_json(rows, target), end="")
    else:
        compare.show(rows, target)
    return 0


def _report(options: argparse.Namespace) -> int:
    from decentral import report

    to = report.parse_target(options.to) if options.to else None
    formats = [name.strip() for given in options.format or ["png"] for name in given.split(",")]
    print(report.report(report.read_runs(*options.folders), options.out, options.t_g, options.t_c, to, formats))
    return 0


# --- check, bench -----------------------------------------------------------------------------------------------------------


def _check(options: argparse.Namespace) -> int:
    """Every line says what is there, and how to get what is not."""
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    from decentral import __version__, kernels

    print(f"decentral     {__version__}, Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package, extra in (
        ("numpy", ""), ("scipy", ""), ("networkx", ""), ("msgspec", ""), ("mpi4py", "mpi"), ("matplotlib", "report"),
        ("jinja2", "report"), ("scikit-learn", "data"), ("cvxpy", "fastest"), ("torch", "torch"), ("cupy-cuda12x", "gpu"),
    ):  # fmt: skip
        try:
            print(f"{package:<14}{installed(package)}")
        except PackageNotFoundError:
            print(f"{package:<14}not installed" + (f"; pip install 'decentral[{extra}]'" if extra else ""))
    try:
        from decentral.neighborhood import mpi

        print(f"MPI           {mpi.library()}, {mpi.world().size} ranks here")
    except (ImportError, RuntimeError) as error:
        print(f"MPI           none ({error}): runs in one process work, mpirun does not")
    print(f"kernels       {kernels.in_words()}")
    start = time.perf_counter()
    outcome = _self_test()
    good = outcome.status == "target"
    seconds = time.perf_counter() - start
    print(f"self-test     {'passed' if good else 'FAILED'}: exact diffusion on ring:8, {outcome.rounds} rounds, {seconds:.2f} s")
    return 0 if good else 1


def _self_test() -> Any:
    import tempfile

    from decentral import experiment, runner
    from decentral.ranks import Ranks

    with tempfile.TemporaryDirectory() as folder:
        table = {
            "rounds": 500, "out": folder, "target": {"grad_norm_sq": 1e-10}, "graph": {"topology": "ring", "agents": 8},
            "problem": {"name": "quadratic", "d": 10}, "algorithm": {"name": "exact-diffusion"},
        }  # fmt: skip
        return runner.run(experiment.parse(table, name="self-test"), ranks=Ranks())


def _bench(options: argparse.Namespace) -> int:
    from importlib import import_module

    status: int = import_module("decentral.bench").main(options.arguments)
    return status


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], str, Callable[[argparse.ArgumentParser], None]]] = {
    "run": (_run, "run a configuration; under mpirun, one process per rank", _run_arguments),
    "show": (_show, "what a configuration or a graph means, without running it", _show_arguments),
    "list": (_list, "what can be named in a configuration", _list_arguments),
    "compare": (_compare, "a table of runs: what each spent to reach a target", _compare_arguments),
    "report": (_report, "plots and a self-contained HTML page of runs", _report_arguments),
    "data": (_data, "the data sets; `data fetch NAME` brings one into the cache", _data_arguments),
    "check": (_check, "versions, MPI, compiled kernels, extras, and a small self-test", lambda made: None),
    "cite": (_cite, "BibTeX of methods, or of what runs used", _cite_arguments),
    "bench": (_bench, "speed on this machine, as ratios", lambda made: None),
}
"""What each does, in a line, and its arguments."""
