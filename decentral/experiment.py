"""What is to be run: a TOML file as typed tables, with overrides, a digest and the way back to TOML.

    experiment = load("config.toml", ["graph.agents=64", "algorithm.step_size=0.1"])
    experiment.digest        # the same for everybody who runs the same configuration

Keys are checked when the file is read, unknown ones are refused with the nearest known one. Defaults are filled in, so
that a configuration that spells out a default has the digest of one that does not.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, field, to_builtins
from msgspec.structs import replace

from decentral.errors import ConfigError, unknown
from decentral.parameters import construct, named

METRICS = {
    "grad_norm_sq": "‖∇F(x̄)‖², x̄ the average iterate",
    "consensus": "(1/N) Σ_i ‖x_i − x̄‖²",
    "gap": "F(x̄) − F*, for convex problems",
    "loss": "F(x̄)",
    "error_rate": "share of the training samples that x̄ misclassifies, mean over agents; for softmax and torch with classes",
}


class GraphTable(Struct, frozen=True):
    """[graph]: a family of `topologies` with its parameters, or "file:PATH", or "package.module:function"."""

    topology: str = "ring"
    agents: int = 0
    seed: int | None = None
    params: dict[str, Any] = field(default_factory=dict)
    weights: str | dict[str, Any] = "metropolis"


class SampleLoss(Struct, frozen=True):
    """[problem] over a data set: "logistic", "nonconvex-logistic", "least-squares" or "softmax", with weight l2 of r(x)."""

    name: str = "logistic"
    l2: float = 0.1


class QuadraticLoss(Struct, frozen=True):
    """[problem] name = "quadratic": random Q_i with eigenvalues in [mu, L] and random c_i, from (seed, agent)."""

    name: str = "quadratic"
    d: int = 10
    L: float = 1.0
    mu: float = 0.1


class TorchLoss(Struct, frozen=True):
    """[problem] name = "torch": a PyTorch module, made by model(features, outputs, **params), and its loss.

    model : "file.py:function" or "package.module:function";  loss : "cross-entropy", "mse", or such a function
    """

    name: str = "torch"
    model: str = ""
    loss: str = "cross-entropy"
    l2: float = 0.0
    params: dict[str, Any] = field(default_factory=dict)


class RecordTable(Struct, frozen=True):
    """[record]: a row of the trace every `every` rounds, a checkpoint every `checkpoint` rounds (0: only at an interrupt)."""

    every: int = 1
    metrics: list[str] = field(default_factory=lambda: ["grad_norm_sq", "consensus", "gap"])
    checkpoint: int = 0


class TransportTable(Struct, frozen=True):
    """[transport]: which rank owns which agents; seconds without an arrival after which a run ends (0: never); MPI's calls;
    threads of a rank for long rows (0: its cores); does MPI take rows where they lie on a device (auto: where it says so)."""

    placement: str | list[int] = "block"
    timeout: float = 60.0
    calls: Literal["auto", "collective", "pairs"] = "auto"
    threads: int = 0
    device_buffers: Literal["auto", "yes", "no"] = "auto"


class TimeTable(Struct, frozen=True):
    """[time] of the model: t_g for a component gradient, t_c for an exchange of one vector with all neighbors."""

    t_g: float = 0.1
    t_c: float = 1.0


class Top(Struct, frozen=True):
    """The keys outside of the tables that have a type of their own."""

    name: str = ""
    seed: int = 0
    rounds: int = 1000
    out: str = "results"
    target: dict[str, float] = field(default_factory=dict)
    dtype: Literal["float64", "float32"] = "float64"
    device: str = "cpu"
    x0: Literal["zero", "model"] = "zero"
    data: dict[str, Any] = field(default_factory=dict)
    algorithm: dict[str, Any] = field(default_factory=dict)


class Experiment(Top, frozen=True, dict=True):
    """One run. Attributes are the keys of the file; `data` and `algorithm` hold the parameters of what they name."""

    graph: GraphTable = field(default_factory=GraphTable)
    problem: SampleLoss | QuadraticLoss | TorchLoss = field(default_factory=SampleLoss)
    record: RecordTable = field(default_factory=RecordTable)
    transport: TransportTable = field(default_factory=TransportTable)
    time: TimeTable = field(default_factory=TimeTable)

    def __post_init__(self) -> None:
        for key, value, least in (
            ("rounds", self.rounds, 0), ("record.every", self.record.every, 1),
            ("record.checkpoint", self.record.checkpoint, 0), ("graph.agents", self.graph.agents, 0),
            ("transport.threads", self.transport.threads, 0),
        ):  # fmt: skip
            if value < least:
                raise ConfigError(f"{key} = {value}: give a whole number, at least {least}")
        for key, seed in (("seed", self.seed), ("graph.seed", self.graph.seed)):
            if seed is not None and not 0 <= seed < 2**64:  # keys of draws have 64 bits of it
                raise ConfigError(f"{key} = {seed}: give a whole number from 0 to {2**64 - 1}")
        for key, number in (
            ("problem.l2", getattr(self.problem, "l2", 0.0)), ("transport.timeout", self.transport.timeout),
            ("time.t_g", self.time.t_g), ("time.t_c", self.time.t_c),
        ):  # fmt: skip
            if not 0 <= number < float("inf"):
                raise ConfigError(f"{key} = {number}: give a finite number, at least 0")
        p = self.problem
        if isinstance(p, QuadraticLoss) and not (p.d >= 1 and 0 < p.mu <= p.L < float("inf")):
            raise ConfigError(f"problem: d = {p.d}, mu = {p.mu}, L = {p.L}: give d ≥ 1 and 0 < mu ≤ L")
        if isinstance(p, TorchLoss) and not p.model:
            raise ConfigError('problem "torch" needs problem.model, e.g. model = "my_model.py:net"')
        if self.x0 == "model" and not isinstance(p, TorchLoss):
            raise ConfigError(f'x0 = "model" is the initialization of a torch module; problem "{p.name}" starts at "zero"')
        for metric in (*self.record.metrics, *self.target):
            if metric not in METRICS:
                raise ConfigError(unknown("metric", metric, METRICS, "decentral list metrics"))
        for metric, level in self.target.items():
            if not level > 0:
                raise ConfigError(f"target.{metric} = {level}: give a level above 0")
        if "gap" in self.target:
            from decentral.problems import PROBLEMS

            if not getattr(PROBLEMS.get(p.name), "convex", True):
                raise ConfigError(f"target.gap = {self.target['gap']}: F* of {p.name} is not known; give grad_norm_sq a level")
        if not self.name or not self.name.isprintable() or "/" in self.name or self.name[0] in ".-":
            raise ConfigError(
                f'name = {json.dumps(self.name, ensure_ascii=False)} names a folder below "{self.out}": give some letters, '
                'without "/" and a leading "." or "-"'
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is computed: record.metrics and the metrics of the target."""
        return tuple(m for m in METRICS if m in self.record.metrics or m in self.target)

    @property
    def folder(self) -> Path:
        """Where the run is written: out/name-digest."""
        return Path(self.out) / f"{self.name}-{self.digest}"

    def table(self) -> dict[str, Any]:
        """The configuration as nested tables, defaults included; `parse` reads it back to an equal experiment."""
        table = _plain(to_builtins(self))
        if not table["data"]:
            del table["data"]
        return table

    @cached_property
    def digest(self) -> str:
        """First 8 hex digits of the SHA-256 of `essence`."""
        return _sha256(self.essence.encode())[:8]

    @cached_property
    def essence(self) -> str:
        """Everything that decides what a run computes and records, as JSON.

        That is all of `table` but name, out, transport and record.checkpoint; a file that the configuration names (own
        data, graph, algorithm or torch model) counts by its content and not by its path.
        """
        table = self.table()
        for key in ("name", "out", "transport"):
            del table[key]
        table["device"] = table["device"].partition(":")[0]
        if table["device"] == "cpu":  # the folders of runs from before there was another have no such key
            del table["device"]
        del table["record"]["checkpoint"]
        if "path" in table.get("data", {}):
            table["data"]["path"] = _content(str(table["data"]["path"]))
        topology = table["graph"]["topology"]
        if topology.startswith("file:"):
            from topologies import from_file

            table["graph"]["topology"] = _content(str(from_file.find(topology.removeprefix("file:"))))
        for section, key in (("algorithm", "name"), ("problem", "model"), ("problem", "loss")):
            path, colon, attribute = table[section].get(key, "").rpartition(":")
            if path.endswith(".py"):
                table[section][key] = _content(path) + colon + attribute
        return json.dumps(table, sort_keys=True, separators=(",", ":"))

    def method(self) -> tuple[Any, Any]:
        """(algorithm, estimator) of the [algorithm] table. ConfigError for unknown names and parameters."""
        from decentral import algorithms, estimators

        table = {k: v for k, v in self.algorithm.items() if k != "estimator"}
        return algorithms.build(table), estimators.build(named(self.algorithm.get("estimator", "full"), "algorithm.estimator"))


def load(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read a configuration file, then apply overrides "a.b=value". ConfigError with one sentence for whatever is wrong."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        found = path.parent.glob("*.toml") if path.parent.is_dir() else ()
        nearby = sorted(str(p) for p in found if p.name != "pyproject.toml")[:6]
        raise ConfigError(f'no configuration file "{path}"' + (f"; here are {', '.join(nearby)}" if nearby else "")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'cannot read the configuration file "{path}": {error}') from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    return parse(table, overrides, name=path.stem)


def parse(table: Mapping[str, Any], overrides: Iterable[str] = (), name: str = "run") -> Experiment:
    """An experiment from nested tables; `name` is used where the table has none. The table is left as it is."""
    content: dict[str, Any] = json.loads(json.dumps(table, default=str))  # a deep copy; TOML dates become text
    for override in overrides:
        _set(content, override)
    known = Experiment.__struct_fields__
    for key in content:
        if key not in known:
            homes = [f"{table}.{key}" for table in _tables_with(key, content.get("algorithm", {}))]
            if homes:
                raise ConfigError(f'the key "{key}" stands outside every table of the configuration; did you mean {" or ".join(homes)}?')
            raise ConfigError(unknown("key", key, known) + ". It stands outside every table of the configuration")
    for section in ("graph", "problem", "data", "algorithm", "record", "transport", "time"):
        if not isinstance(content.get(section, {}), dict):
            raise ConfigError(f"{section} = {content[section]!r}: give a table, [{section}]")
    problem = content.get("problem", {})
    which = problem.get("name", "logistic")
    sections: dict[str, tuple[type[Any], dict[str, Any]]] = {
        "graph": (GraphTable, _graph(content.get("graph", {}))),
        "problem": ({"quadratic": QuadraticLoss, "torch": TorchLoss}.get(str(which), SampleLoss), problem),
        "record": (RecordTable, content.get("record", {})),
        "transport": (TransportTable, content.get("transport", {})),
        "time": (TimeTable, content.get("time", {})),
    }
    top = {k: v for k, v in content.items() if k not in sections}
    top.setdefault("name", name)
    if "target" in top and not isinstance(top["target"], dict):
        raise ConfigError(f"target = {top['target']!r}: give a table, e.g. target = {{ grad_norm_sq = 1e-10 }}")
    built = {key: construct(kind, values, key) for key, (kind, values) in sections.items()}
    _check_problem(which)
    if which == "torch":
        top.setdefault("x0", "model")
    data = top.setdefault("data", {})
    if which != "quadratic":
        data.setdefault("name", "synthetic")
    elif data:
        raise ConfigError('problem "quadratic" makes its own data: leave out [data]')
    outer = construct(Top, top, "")
    return _fill(Experiment(**{key: getattr(outer, key) for key in Top.__struct_fields__}, **built))


def _tables_with(key: str, algorithm: object) -> list[str]:
    """The tables that know this key; which keys [algorithm] has depends on the method."""
    from decentral import algorithms

    fields = {"graph": GraphTable, "problem": SampleLoss, "record": RecordTable, "transport": TransportTable, "time": TimeTable}
    found = [table for table, kind in fields.items() if key in kind.__struct_fields__]
    name = algorithm.get("name") if isinstance(algorithm, dict) else None
    with suppress(ConfigError):
        method = algorithms.load(name) if isinstance(name, str) else None
        if key == "estimator" or (method is not None and key in {f.name for f in dataclasses.fields(method)}):
            found.append("algorithm")
    return found


def _check_problem(name: object) -> None:
    known = ("logistic", "nonconvex-logistic", "least-squares", "softmax", "quadratic", "torch")
    if name not in known:
        raise ConfigError(unknown("problem", name, known, "decentral list problems"))


def _graph(table: dict[str, Any]) -> dict[str, Any]:
    """`topology = "ring:16"` is short for a topology and its agents."""
    topology = table.get("topology")
    if isinstance(topology, str):
        family, colon, count = topology.rpartition(":")
        if colon and count.isdigit() and family != "file" and not table.get("agents"):
            return {**table, "topology": family, "agents": int(count)}
    return table


def _fill(experiment: Experiment) -> Experiment:
    """The experiment with the defaults of its algorithm, estimator and compressor written out; checks them too."""
    table = experiment.algorithm
    if not isinstance(table.get("name"), str):
        raise ConfigError('[algorithm] needs name, e.g. name = "d-psgd". See: decentral list algorithms')
    algorithm, estimator = experiment.method()
    filled: dict[str, Any] = {"name": table["name"]}
    for f in dataclasses.fields(algorithm):
        if f.init:
            value = getattr(algorithm, f.name)
            filled[f.name] = _component(value) if dataclasses.is_dataclass(value) else value
    filled["estimator"] = _component(estimator)
    if experiment.device != "cpu":
        from decentral import device

        device.check(experiment.device)
    return replace(experiment, algorithm=_plain(filled))


def _component(value: Any) -> dict[str, Any]:
    inner = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    inner = {k: _component(v) if dataclasses.is_dataclass(v) else v for k, v in inner.items()}
    return {"name": value.name, **inner} if hasattr(value, "name") else inner


def _plain(value: Any) -> Any:
    """Tables and lists of TOML values, without the keys whose value is None."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _set(table: dict[str, Any], override: str) -> None:
    """Apply "a.b=value"; the value is TOML, or a bare string."""
    path, equals, text = override.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise ConfigError(f'--set "{override}" is not PATH=VALUE; e.g. --set algorithm.step_size=0.1')
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if isinstance(inner, str):  # `estimator = "saga"` is short for a table with a name
            inner = table[key] = {"name": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f'--set "{override}": "{key}" is no table')
        table = inner
    table[keys[-1]] = value


def _content(path: str) -> str:
    try:
        return _sha256(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f'cannot read "{path}": {error.strerror}') from None


def _sha256(data: bytes) -> str:
    import hashlib  # 4 ms, which only the rank that names the folder spends

    return hashlib.sha256(data).hexdigest()
