"""The user's own data in each format, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from decentral.data import load
from decentral.data.files import parse_libsvm
from decentral.errors import DataError


def test_npz(tmp_path: Path) -> None:
    X = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(6, 2))
    np.savez(tmp_path / "mine.npz", X=X, y=np.array([3, 5, 5, 3, 3, 5]), agent=np.array([0, 0, 1, 1, 2, 2], np.uint8))
    dataset = load("file", path=str(tmp_path / "mine.npz"))
    assert dataset.X.dtype == np.float64 and dataset.X.flags.c_contiguous and np.array_equal(dataset.X, X)
    assert dataset.y.tolist() == [-1, 1, 1, -1, -1, 1] and dataset.classes == (3, 5)
    assert (
        dataset.owner is not None and dataset.owner.dtype == np.int64 and dataset.owner.tolist() == [0, 0, 1, 1, 2, 2]
    )
    chosen = load("file", path=tmp_path / "mine.npz", rows=4, seed=1)
    assert chosen.owner is not None and len(chosen.owner) == 4


def test_labels_decide_classification_or_regression(tmp_path: Path) -> None:
    path, X = tmp_path / "mine.npz", np.eye(4)
    for y, classes, encoded in [
        (np.array([1.0, -1.0, 1.0, 1.0]), (-1, 1), [1, -1, 1, 1]),
        (np.array([True, False, True, True]), (0, 1), [1, -1, 1, 1]),
        (np.array(["b", "a", "c", "a"]), ("a", "b", "c"), [1, 0, 2, 0]),
        (np.array([0.5, 1.0, 2.0, -3.0]), (), [0.5, 1.0, 2.0, -3.0]),
    ]:
        np.savez(path, X=X, y=y)
        dataset = load("file", path=path)
        assert dataset.classes == classes and dataset.y.tolist() == encoded
    np.savez(path, X=X, y=np.arange(4))
    assert load("file", path=path, regression=True).y.tolist() == [0, 1, 2, 3]
    np.savez(path, X=X, y=np.array(["b", "a", "c", "a"]))
    with pytest.raises(DataError, match="regression needs numbers"):
        load("file", path=path, regression=True)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"X": np.eye(3)}, "has X; it must hold X and y"),
        ({"X": np.eye(3), "y": np.arange(4)}, r"y has shape \(4,\); X has 3 rows"),
        ({"X": np.eye(3), "y": np.ones((3, 1))}, r"y has shape \(3, 1\)"),
        ({"X": np.ones(3), "y": np.arange(3)}, r"X has shape \(3,\)"),
        ({"X": np.ones((0, 3)), "y": np.ones(0)}, "not empty"),
        ({"X": np.ones((2, 2), complex), "y": np.arange(2)}, "complex128"),
        ({"X": np.array([[1, 2], [3, np.nan]]), "y": np.arange(2)}, r"X\[1, 1\] is nan"),
        ({"X": np.array([[1, -np.inf], [3, 1]]), "y": np.arange(2)}, r"X\[0, 1\] is -inf"),
        ({"X": np.eye(2), "y": np.array([1.0, np.nan])}, "label of row 1 is nan"),
        ({"X": np.eye(2), "y": np.array(["a", ""])}, "row 1 has no label"),
        ({"X": np.eye(2), "y": np.ones(2)}, "two classes"),
        ({"X": np.eye(2), "y": np.array([None, 1], object)}, "cannot be read"),
        ({"X": np.eye(2), "y": np.arange(2), "agent": np.array([0, -1])}, "from 0"),
        ({"X": np.eye(2), "y": np.arange(2), "agent": np.array([0.5, 1.0])}, "from 0"),
        ({"X": np.eye(2), "y": np.arange(2), "agent": np.arange(3)}, r"agent has shape \(3,\)"),
    ],
)
def test_bad_npz(arrays: dict, sentence: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(DataError, match=sentence) as caught:
        load("file", path=tmp_path / "mine.npz")
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        load("file", path=tmp_path / "none.npz")
    with pytest.raises(DataError, match="there is no file"):
        load("file", path=tmp_path)
    with pytest.raises(DataError, match="give the path of a file"):
        load("file", path=3)
    np.savez(tmp_path / "mine.npz", X=np.eye(3), y=np.arange(3))
    (tmp_path / "mine.npz").write_bytes((tmp_path / "mine.npz").read_bytes()[:100])
    (tmp_path / "other.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "empty.svm").write_text("# nothing\n")
    for name in ("mine.npz", "other.txt"):
        with pytest.raises(DataError, match="cannot be read"):
            load("file", path=tmp_path / name)
    for name in ("empty.csv", "empty.svm"):
        with pytest.raises(DataError, match='no column is called "label"|is empty'):
            load("file", path=tmp_path / name)


CSV = 'age,label,site,height\n30,yes,"A, north",1.5\n40,no,B,1.75\n\n50,yes,B,-2e0\n'


def test_csv_with_a_header(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("\ufeff" + CSV, encoding="utf-8")
    dataset = load("file", path=tmp_path / "mine.csv", group="site")
    assert dataset.X.tolist() == [[30, 1.5], [40, 1.75], [50, -2]]
    assert dataset.y.tolist() == [1, -1, 1] and dataset.classes == ("no", "yes")
    assert dataset.group is not None and dataset.group.tolist() == ["A, north", "B", "B"]
    by_number = load("file", path=tmp_path / "mine.csv", label=1, group=-2)
    assert by_number.y.tolist() == [1, -1, 1] and np.array_equal(by_number.X, dataset.X)


def test_csv_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("5.1,3.5,setosa\n6.0,2.0,other\n")
    dataset = load("file", path=tmp_path / "mine.csv", label=-1)
    assert dataset.X.tolist() == [[5.1, 3.5], [6.0, 2.0]] and dataset.classes == ("other", "setosa")
    (tmp_path / "numbers.csv").write_text("1,2,0\n3,4,1\n5,6,2\n")
    assert load("file", path=tmp_path / "numbers.csv", label=2).y.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        (CSV, {"label": "lable", "group": "site"}, 'unknown column "lable".*did you mean "label"'),
        (CSV, {"group": 9}, "there is no column 9; it has 4"),
        (CSV, {}, "could not convert string 'A, north'"),
        ("a,b\n1,2\n", {}, 'no column is called "label"'),
        ("a,label\n1,0\n,1\n", {}, "could not convert string ''"),
        ("a,label\n1,0\nnan,1\n", {}, r"X\[1, 0\] is nan"),
        ("a,label\n1,0\n2,\n", {}, "row 1 has no label"),
        ("a,b,label\n1,2,0\n2,1\n", {}, "cannot be read"),
        ("a,label\n", {}, "cannot be read|not empty"),
    ],
)
def test_bad_csv(text: str, options: dict, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(DataError, match=sentence) as caught:
        load("file", path=tmp_path / "mine.csv", **options)
    assert "\n" not in str(caught.value)


def test_libsvm_text(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("+1 1:0.5 3:2 # comment\n-1 2:-1e-3\n\n-1\n+1 3:4 1:1\n")
    dataset = load("file", path=tmp_path / "mine")
    assert dataset.X.tolist() == [[0.5, 0, 2], [0, -0.001, 0], [0, 0, 0], [1, 0, 4]]
    assert dataset.y.tolist() == [1, -1, -1, 1]
    assert parse_libsvm("1 0:3 1:4\n0 1:1\n", "")[0].tolist() == [[3, 4], [0, 1]]
    assert parse_libsvm("1 1:3\n0 1:1\n", "", features=3)[0].shape == (2, 3)
    with pytest.raises(DataError, match=r"choose columns of a \.csv"):
        load("file", path=tmp_path / "mine", label=0)


def test_libsvm_agrees_with_scikit_learn(tmp_path: Path) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    X = np.random.default_rng(5).normal(size=(50, 7)) * (np.random.default_rng(6).random((50, 7)) < 0.4)
    X[0] = 1.0
    datasets.dump_svmlight_file(X, np.arange(50) % 2, str(tmp_path / "mine.txt"), zero_based=False)
    expected, labels = datasets.load_svmlight_file(str(tmp_path / "mine.txt"), n_features=7)
    found, y = parse_libsvm((tmp_path / "mine.txt").read_text(), "")
    assert np.array_equal(found, expected.toarray()) and np.array_equal(y, labels)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1 2:3 4\n", 'line "1 2:3 4" is not'),
        ("2:3 4:5\n", "is not"),
        ("1 a:3\n", "could not convert"),
        ("1 1.5:3\n", "whole number"),
        ("1 -2:3\n", "whole number"),
        ("1 999999999999:1\n", "does not fit"),
        ("1 1:nan\n0 1:1\n", "must be finite"),
    ],
)
def test_bad_libsvm(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "mine.svm").write_text(text)
    with pytest.raises(DataError, match=sentence):
        load("file", path=tmp_path / "mine.svm")
