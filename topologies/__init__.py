"""Graph families, by name.

    build("torus", agents=16)                              # the most square one: 4 x 4
    build("erdos-renyi", agents=20, seed=1, p=0.3)
    build("erdos-renyi:20,p=0.3,seed=1")                   # the same graph, as one word
    build("file:karate.edges")                             # edge list, GraphML or adjacency JSON
    build("networkx.circulant_graph", agents=12, offsets=[1, 5])
    build("my_graphs.py:wheel", agents=12)                 # a function of one's own

A family is a function from the number of agents, keyword parameters and, where it draws, a seed to a
networkx.Graph with nodes 0 … N−1. To add one, write the function and enter it in `FAMILIES`. Families that are
formulas (`fixed`) are built without networkx.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from decentral.errors import ConfigError, GraphError, nearest, unknown
from decentral.graph import Graph
from decentral.parameters import own_module
from topologies import fixed, from_file, randomized

FAMILIES: dict[str, Callable[..., Any]] = {
    "ring": fixed.ring,
    "path": fixed.path,
    "complete": fixed.complete,
    "star": fixed.star,
    "grid": fixed.grid,
    "torus": fixed.torus,
    "hypercube": fixed.hypercube,
    "exponential": fixed.exponential,
    "tree": fixed.tree,
    "barbell": fixed.barbell,
    "lollipop": fixed.lollipop,
    "margulis": fixed.margulis,
    "chordal-cycle": fixed.chordal_cycle,
    "regular": randomized.regular,
    "erdos-renyi": randomized.erdos_renyi,
    "watts-strogatz": randomized.watts_strogatz,
    "barabasi-albert": randomized.barabasi_albert,
    "geometric": randomized.geometric,
}


def build(name: str, agents: int | None = None, seed: int = 0, **params: Any) -> Graph:
    """The graph of a family, a file or a function.

    name : as for `parse`, so that a whole specification may be given in one word
    seed : for families and functions that take one
    Raises
        GraphError : an unknown name or parameter, an impossible size or value, another number of agents than
            asked for, or a graph that is directed, not simple or not connected
    """
    name, size, short = parse(name)
    if agents is not None and size not in (None, agents):
        raise GraphError(f"{name}:{size} says {size} agents, but agents = {agents}; leave one of them out")
    agents, params = agents if size is None else size, short | params
    seed = params.pop("seed", seed)
    if agents is None and {"rows", "cols"} <= params.keys():
        agents = fixed.whole(name, "rows", params["rows"], 1) * fixed.whole(name, "cols", params["cols"], 1)
    if agents is not None:
        fixed.whole(name, "agents", agents, 1)
    fixed.whole(name, "seed", seed, 0)
    if name.startswith("file:"):
        if params:
            raise GraphError(
                f'a graph file takes no parameters, but "{next(iter(params))}" is given for {name}'
            )
        graph, label = from_file.read(name.removeprefix("file:")), name
    elif name in FAMILIES:
        if agents is None:
            raise GraphError(f'topology "{name}" needs a number of agents, e.g. {name}:16, or agents = 16')
        family = FAMILIES[name]
        graph, label = _call(getattr(family, "graph", family), name, agents, seed, params)
    elif "." in name or ":" in name.lstrip(":"):
        graph, label = _call(_function(name), name, agents, seed, params)
    else:
        see = 'decentral list topologies; also "file:PATH" and "package.module:function"'
        raise GraphError(unknown("topology", name, FAMILIES, see))
    if isinstance(graph, Graph):
        built, built.name = graph, label
    else:
        built = Graph.from_networkx(graph, label)
    if agents is not None and built.n_agents != agents:
        raise GraphError(
            f'topology "{name}" has {built.n_agents} agents, not {agents}; '
            f"set agents = {built.n_agents}, or leave it out"
        )
    return built


def parse(spec: str) -> tuple[str, int | None, dict[str, Any]]:
    """(name, agents, params) of a specification "name", "name:16", "torus:4x4" or "name:20,p=0.3,seed=1".

    The name is a family, "package.module:function", "file.py:function" or "networkx.generator"; "file:PATH"
    is a name as a whole.
    Raises
        GraphError : what follows the name is none of these
    """
    if spec.startswith("file:"):
        return spec, None, {}
    name, *rest = spec.split(":")
    if rest and name not in FAMILIES and rest[0].isidentifier():
        name = f"{name}:{rest.pop(0)}"
    agents: int | None = None
    params: dict[str, Any] = {}
    for item in ":".join(rest).split(",") if rest else []:
        key, equals, value = (part.strip() for part in item.partition("="))
        rows, _, cols = key.partition("x")
        if equals and key.isidentifier():
            params[key] = _value(value)
        elif not equals and key.isdecimal() and agents is None:
            agents = int(key)
        elif not equals and rows.isdecimal() and cols.isdecimal() and agents is None:
            params |= {"rows": int(rows), "cols": int(cols)}
            agents = int(rows) * int(cols)
        else:
            raise GraphError(
                f'cannot read "{item}" in topology "{spec}"; allowed after the name: a number of agents, '
                "rows and columns, and parameters, as in ring:16, torus:4x4, erdos-renyi:20,p=0.3,seed=1"
            )
    return name, agents, params


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text, text)


def _function(name: str) -> Callable[..., Any]:
    """The function of "package.module:function", "package.module.function" or "path/to/file.py:function"."""
    module, _, attribute = name.rpartition(":" if ":" in name else ".")
    try:
        found = own_module(module, f'topology "{name}"')
    except ConfigError as error:
        raise GraphError(f"{error}{nearest(module, FAMILIES)}") from None
    function = getattr(found, attribute, None)
    if not callable(function):
        raise GraphError(
            f'topology "{name}": {module} has no function "{attribute}"{nearest(attribute, dir(found))}'
        )
    return function  # type: ignore[no-any-return]


def _call(
    function: Callable[..., Any], name: str, agents: int | None, seed: int, params: dict[str, Any]
) -> tuple[Any, str]:
    """(what the function made, its specification); `agents` and `seed` go where the function takes them."""
    # networkx wraps its functions and adds parameters for its backends
    accepted = inspect.signature(getattr(function, "orig_func", function)).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    own = [key for key in accepted if key not in ("agents", "seed", "create_using")]
    for key in params:
        if key not in accepted and not anything:
            takes = f"it takes {', '.join(own) or 'none'}{nearest(key, own)}"
            raise GraphError(f'unknown parameter "{key}" of topology "{name}"; {takes}')
    values = dict(params)
    size = next((key for key in ("agents", "n") if key in accepted and key not in params), None)
    if size and agents is not None:
        values[size] = agents
    if "seed" in accepted:
        values["seed"] = seed
    for key, parameter in accepted.items():
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and not variadic and key not in values:
            raise GraphError(f'topology "{name}" needs its parameter "{key}"; give {key} = …')
    shown = [f"{key}={value}" for key, value in values.items() if key != size]
    first = [] if agents is None else [str(agents)]
    try:
        graph = function(**values)
    except GraphError:
        raise
    except Exception as error:  # of whatever kind someone else's function raises
        raise GraphError(f'topology "{name}" failed: {type(error).__name__}: {error}') from error
    return graph, ":".join([name, *([",".join(first + shown)] if first + shown else [])])
