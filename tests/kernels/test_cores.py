"""The cores of a rank: those that it may run on, and no more than what its control group grants."""

from pathlib import Path

import pytest

from decentral.kernels import cores


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts this process into a group, with files of limits beside it."""
    monkeypatch.setattr(cores, "GROUP", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "LIMITS", tmp_path / "fs")
    monkeypatch.setattr(cores, "own_cores", lambda: set(range(8)))

    def put(line: str, **limits: str) -> None:
        (tmp_path / "cgroup").write_text(f"4:memory:/elsewhere\n{line}\n")
        for name, text in limits.items():
            file = tmp_path / "fs" / name.replace("__", "/").replace("_max", ".max").replace("cfs_", "cpu.cfs_")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return put


@pytest.mark.parametrize(
    ("line", "limits", "quota", "share"),
    [
        ("0::/", {"cpu_max": "250000 100000"}, 2.5, 2),  # a container that sees its own group as the root
        ("0::/a/b", {"a__cpu_max": "300000 100000", "a__b__cpu_max": "max 100000"}, 3.0, 3),
        ("0::/a/b", {"a__cpu_max": "300000 100000", "a__b__cpu_max": "50000 100000"}, 0.5, 1),
        ("0::/a", {"a__cpu_max": "max 100000"}, float("inf"), 8),
        ("0::/a", {"a__cpu_max": "9900000 100000"}, 99.0, 8),
        ("2:cpu,cpuacct:/a", {"cpu__a__cfs_quota_us": "400000\n", "cpu__a__cfs_period_us": "100000\n"}, 4.0, 4),
        ("2:cpu:/a", {"cpu__a__cfs_quota_us": "-1\n", "cpu__a__cfs_period_us": "100000\n"}, float("inf"), 8),
        ("2:cpu:/gone", {}, float("inf"), 8),
    ],
)
def test_the_limit_of_a_group(group, line: str, limits: dict[str, str], quota: float, share: int) -> None:
    group(line, **limits)
    assert cores.quota() == quota and cores._share(None) == share


def test_without_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cores, "GROUP", tmp_path / "none")
    assert cores.quota() == float("inf") and cores._share(None) == len(cores.own_cores())
