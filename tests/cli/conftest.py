"""A small configuration, and the command line as a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from decentral.cli import main

TEXT = """
seed = 5
rounds = 60
[graph]
topology = "ring"
agents = 6
[problem]
l2 = 0.1
[data]
name = "synthetic"
[algorithm]
name = "d-psgd"
[record]
every = 3
"""


class Result(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file in a folder of its own, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """`command("run", path)` -> exit status, stdout, stderr."""

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as stop:
            status = int(stop.code or 0)
        return Result(status, *capfd.readouterr())

    return call
