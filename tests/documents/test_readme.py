"""What the documents say is so: the README's own method keeps the contract, its links, names and commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from decentral.algorithms import NAMES, load
from decentral.recorder import references

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def file_of(name: str, folder: Path) -> Path:
    """The file that the README shows under its name."""
    (code,) = re.findall(rf"```\w+\n(# {re.escape(name)}\n.*?)```", README, re.DOTALL)
    (folder / name).write_text(code, encoding="utf-8")
    return folder / name


def test_own_method_keeps_the_contract(tmp_path: Path) -> None:
    from decentral.testing import check_algorithm

    check_algorithm(f"{file_of('my_method.py', tmp_path)}:Mine")


def test_own_model_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from decentral import load, run

    monkeypatch.chdir(tmp_path)
    file_of("my_net.py", tmp_path)
    chosen = load(file_of("my_net.toml", tmp_path), ["rounds=150"])
    first, last = (run(load("my_net.toml", ["rounds=0"])).row, run(chosen).row)
    assert first["error_rate"] > 0.8 and last["error_rate"] < 0.3 and last["loss"] < 0.5 * first["loss"]


def test_table_of_methods_is_the_registry() -> None:
    table = README.split("## Methods")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`([\w-]+)`", row)) == sorted(NAMES)


def test_table_of_methods_says_who_is_exact() -> None:
    table = README.split("## Methods")[1].split("\n## ")[0]
    for line in table.splitlines():
        for name in re.findall(r"`([\w-]+)`", line.split("|")[1]) if line.startswith("| `") else []:
            assert (load(name).floor is None) == line.split("|")[4].strip().startswith("yes"), name


def test_every_method_can_be_cited() -> None:
    for name in NAMES:
        assert set(load(name).cite) <= set(references()), name


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(document: str) -> None:
    links = re.findall(r"[^!]\[[^]]*\]\((?!http)([^)#]+)", (ROOT / document).read_text(encoding="utf-8"))
    assert not [link for link in links if not (ROOT / link).exists()]


def test_commands_of_the_readme_parse() -> None:
    from decentral.cli import _parser

    lines = [line.split("  #")[0] for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
    commands = [shlex.split(line.split("decentral ", 1)[1]) for line in lines if re.search(r"(^|-m )decentral ", line)]
    assert len(commands) >= 6
    for command in commands:
        _parser().parse_args(command)
