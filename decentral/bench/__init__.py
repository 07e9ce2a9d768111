"""Speed as ratios in one run, with the machine named.

    decentral bench rounds      in process: rounds per second against a loop over agents, and the shares of a round
    decentral bench target      in process: seconds, rounds and bytes to 1e-6; metrics; the start
    decentral bench kernels     compressors against a copy of the array, and the stock alternatives
    decentral bench auto        is compressor = "auto" right?
    launch/mpirun.sh -n 8 python -m decentral bench exchange     ranks on a ring against bare MPI calls of the same bytes
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from importlib import import_module
from typing import Any

import numpy as np

from decentral import kernels as inner  # bench.kernels is another
from decentral.allocation import keep_freed_memory
from decentral.cli import Parser
from decentral.errors import ConfigError
from decentral.neighborhood import launched

WHAT = ("rounds", "target", "kernels", "auto", "exchange")
LEAST = 1000
"""Entries of `bench kernels`, of which top-k keeps a thousandth."""


def main(arguments: list[str]) -> int:
    parser = Parser(prog="decentral bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="?", choices=WHAT, type=lambda name: "rounds" if name == "round" else name)
    parser.add_argument("--seconds", type=float, default=0.5, help="how long each figure is measured")
    parser.add_argument("--size", type=int, help="entries of the arrays of `bench kernels` (10 000 000)")
    parser.add_argument("--json", action="store_true", help="data in place of a table")
    options = parser.parse_args(arguments)
    if options.what is None:
        parser.print_help()
        return 0
    if not 0 < options.seconds < math.inf:
        raise ConfigError(f"--seconds {options.seconds:g}: give a number of seconds above 0")
    size = 10_000_000 if options.size is None else options.size
    if options.size is not None and options.what != "kernels":
        raise ConfigError(f"--size {size} is for bench kernels: leave it out for bench {options.what}")
    if size < LEAST:
        raise ConfigError(f"--size {size}: give a whole number, at least {LEAST}")
    try:
        table = rows(options.what, options.seconds, size)
    except MemoryError:
        raise ConfigError(f"--size {size}: arrays of so many entries do not fit into memory") from None
    if table:
        show(table, options.json)
    if options.what == "kernels" and not options.json and sys.modules.get("torch") is None:
        print("PyTorch is not installed: pip install torch adds its rows.")
    return 0


def rows(what: str, seconds: float, size: int) -> list[dict[str, Any]]:
    """The rows of a bench; [] on all ranks but the first. Raises ConfigError where it needs ranks, or refuses them."""
    from threadpoolctl import threadpool_limits

    if what == "exchange" and launched() < 2:
        raise ConfigError("bench exchange needs 2 ranks or more: launch/mpirun.sh -n 8 python -m decentral bench exchange")
    if what != "exchange" and launched() > 1:
        raise ConfigError(f"bench {what} runs in one process: start it without mpirun")
    keep_freed_memory()  # as a run does
    with threadpool_limits(1):
        more = (size,) if what == "kernels" else ()
        table: list[dict[str, Any]] = import_module(f"decentral.bench.{what}").rows(seconds, *more)
        return table


def machine() -> str:
    """The machine and the code in a line."""
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    torch = sys.modules.get("torch")  # there if it was compared with
    packages = f"NumPy {np.__version__}" + (f", PyTorch {torch.__version__}" if torch else "")
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}, kernels {inner.in_words()}"


def show(table: list[dict[str, Any]], as_json: bool) -> None:
    """Print the rows: a table, or with their machine and date as JSON."""
    if as_json:
        from datetime import date

        plain = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in table]
        print(json.dumps({"date": date.today().isoformat(), "machine": machine(), "rows": plain}, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = 132
    console.print(machine(), highlight=False)
    shown = Table()
    for name in table[0]:
        words = isinstance(table[0][name], str)
        shown.add_column(name, justify="left" if words else "right", no_wrap=not words)
    for row in table:
        shown.add_row(*map(_cell, row.values()))
    console.print(shown)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return ""
    return f"{value:,.3g}" if value < 100 else f"{value:,.0f}"
