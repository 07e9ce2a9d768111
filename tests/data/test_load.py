"""Named sets, their options, and the cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from decentral.data import Dataset, available, fetch, load, registry, store
from decentral.data.decoders import digest
from decentral.errors import DataError

BUNDLED = ["breast-cancer", "digits", "wine", "iris", "diabetes"]


@pytest.fixture(autouse=True, scope="module")
def _scikit_learn() -> None:
    pytest.importorskip("sklearn", reason="the bundled sets come with scikit-learn")


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_set_has_the_shape_and_types_it_says(name: str) -> None:
    listing = next(listing for listing in available() if listing.name == name)
    dataset = load(name)
    assert dataset.X.shape == (listing.rows, listing.features)
    assert dataset.X.dtype == np.float64 and dataset.X.flags.c_contiguous and not dataset.X.flags.writeable
    assert len(dataset.classes) == listing.classes
    assert dataset.y.dtype == (np.int64 if len(dataset.classes) > 2 else np.float64)
    if len(dataset.classes) == 2:
        assert set(dataset.y) == {-1.0, 1.0}
    if len(dataset.classes) > 2:
        assert set(dataset.y) == set(range(len(dataset.classes)))


def test_bundled_set_is_the_one_of_scikit_learn() -> None:
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    dataset = load("breast-cancer", scale="none")
    assert np.array_equal(dataset.X, X) and np.array_equal(dataset.y, 2 * y - 1)


def test_scales() -> None:
    X = load("wine", scale="none").X
    standard, unit, maxabs = (load("wine", scale=scale).X for scale in ("standard", "unit", "maxabs"))
    np.testing.assert_allclose(standard, (X - X.mean(0)) / X.std(0), atol=1e-12)
    np.testing.assert_allclose(unit, X / np.linalg.norm(X, axis=1)[:, None], rtol=1e-14)
    np.testing.assert_allclose(maxabs, X / abs(X).max(0), rtol=1e-15)
    assert np.array_equal(load("wine").X, standard)


def test_constant_columns_stay_finite(tmp_path: Path) -> None:
    X = np.full((7, 3), 0.1)
    X[:, 1] = np.arange(7)
    X[:, 2] = 0.0
    np.savez(tmp_path / "mine.npz", X=X, y=np.arange(7) % 2)
    for scale in ("standard", "maxabs", "unit"):
        assert np.isfinite(load("file", path=tmp_path / "mine.npz", scale=scale).X).all()
    assert not load("file", path=tmp_path / "mine.npz", scale="standard").X[:, [0, 2]].any()


def test_intercept_is_a_last_column_of_ones_that_no_scale_touches() -> None:
    plain, more = load("wine"), load("wine", intercept=True)
    assert np.array_equal(more.X[:, :-1], plain.X) and (more.X[:, -1] == 1).all() and more.X.flags.c_contiguous


def test_classes_keeps_their_rows_in_the_order_given() -> None:
    whole, two = load("digits"), load("digits", classes=[9, 4])
    assert two.classes == (9, 4)
    assert np.array_equal(two.X, whole.X[(whole.y == 4) | (whole.y == 9)])
    assert np.array_equal(two.y, np.where(whole.y == 4, 1.0, -1.0)[(whole.y == 4) | (whole.y == 9)])
    three = load("digits", classes=[1, 7, 8])
    assert three.y.dtype == np.int64 and set(three.y) == {0, 1, 2}


def test_rows_is_a_subset_in_order_that_the_seed_decides() -> None:
    whole = load("digits", scale="none")
    some, again, other = (load("digits", rows=200, seed=seed) for seed in (3, 3, 4))
    position = {row.tobytes(): k for k, row in enumerate(whole.X)}
    places = [position[row.tobytes()] for row in some.X]
    assert len(places) == 200 and places == sorted(set(places))
    assert np.array_equal(some.X, again.X) and not np.array_equal(some.X, other.X)
    assert np.array_equal(some.y, whole.y[places])


def test_parameters_give_the_same_set_again() -> None:
    first = load("digits", rows=50, classes=[0, 3], seed=9, intercept=True)
    second = load(first.name, **first.parameters)
    assert np.array_equal(first.X, second.X) and np.array_equal(first.y, second.y)
    made = load("synthetic", agents=3, seed=2, samples=5)
    assert np.array_equal(made.X, load(made.name, **made.parameters).X)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "a9"}, r'unknown data "a9"; known: .*did you mean "a9a"'),
        ({"name": "iris", "scael": "unit"}, r'unknown parameter of data "iris" "scael".*did you mean "scale"'),
        ({"name": "iris", "scale": "units"}, r'unknown data.scale "units".*did you mean "unit"'),
        ({"name": "iris", "rows": 151}, "data.rows = 151: give a whole number from 1 to 150"),
        ({"name": "iris", "rows": 2.5}, "data.rows = 2.5"),
        ({"name": "iris", "classes": [0, 7]}, 'unknown class "7"; known: 0, 1, 2'),
        ({"name": "iris", "classes": [1]}, "at least two"),
        ({"name": "iris", "classes": [1, 1]}, "at least two different"),
        ({"name": "iris", "intercept": 1}, "data.intercept = 1"),
        ({"name": "diabetes", "classes": [1, 2]}, "regression targets"),
        ({"name": "synthetic"}, "say how many agents"),
        ({"name": "synthetic", "agents": 2, "samples": 0}, "data.samples = 0"),
        ({"name": "synthetic", "agents": 2, "shift": -1.0}, "data.shift = -1.0"),
        ({"name": "file"}, "needs data.path"),
        ({"name": "a9a", "fallback": "breast-cancr"}, 'did you mean "breast-cancer"'),
    ],
)
def test_bad_requests_are_one_sentence(arguments: dict, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        load(**arguments)
    assert "\n" not in str(caught.value)


def test_signs_and_indices() -> None:
    two, three, numbers = load("breast-cancer"), load("iris"), load("diabetes")
    assert two.signs() is two.y and np.array_equal(two.indices(), (two.y > 0).astype(int))
    assert three.indices() is three.y
    with pytest.raises(DataError, match=r'"iris" has 3 classes where two classes are needed: .*classes = \[0, 1\]'):
        three.signs()
    with pytest.raises(DataError, match="regression targets"):
        numbers.signs()
    with pytest.raises(DataError, match="regression targets"):
        numbers.indices()


def test_synthetic_agents_differ_by_a_shift_and_do_not_depend_on_their_number() -> None:
    few, many = load("synthetic", agents=4, seed=1, samples=400), load("synthetic", agents=9, seed=1, samples=400)
    assert np.array_equal(few.X, many.X[:1600]) and np.array_equal(few.y, many.y[:1600])
    assert np.array_equal(few.owner, np.repeat(np.arange(4), 400)) and set(few.y) == {-1.0, 1.0}
    means = many.X.reshape(9, 400, 5).mean(axis=1)
    assert 0.5 < means.std() < 1.6  # 45 draws of N(0, 1.05): outside with probability below 1e-5, and the key is fixed
    within = (many.X.reshape(9, 400, 5) - means[:, None]).std(axis=(0, 1))
    np.testing.assert_allclose(within, 1.0, atol=0.05)  # 3600 draws: four standard deviations, and the key is fixed
    assert not np.array_equal(few.X, load("synthetic", agents=4, seed=2, samples=400).X)


def test_synthetic_labels_follow_the_logistic_model() -> None:
    from scipy.optimize import minimize

    data = load("synthetic", agents=5, seed=3, features=3, samples=4000)
    fit = minimize(lambda w: np.logaddexp(0, -data.y * (data.X @ w)).mean(), np.zeros(3), method="BFGS").x
    margin = data.X @ fit
    for low in (-2.0, -1.0, 0.0, 1.0):
        inside = (margin >= low) & (margin < low + 1)
        share, expected = (data.y[inside] > 0).mean(), (1 / (1 + np.exp(-margin[inside]))).mean()
        assert abs(share - expected) < 5 * np.sqrt(0.25 / inside.sum())  # five standard deviations; the key is fixed


def test_second_load_needs_no_scikit_learn_and_shares_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch("digits")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    X = load("digits").X
    base: object = X
    while isinstance(base, np.ndarray):
        base = base.base
    assert type(base).__name__ == "mmap"


def test_absent_scikit_learn_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DECENTRAL_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match="scikit-learn, which is not installed"):
        load("iris")


@pytest.mark.parametrize("damage", ["cut", "gone", "shape"])
def test_damaged_cache_is_made_again(damage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DECENTRAL_DATA", str(tmp_path))
    before = np.array(load("iris").X)
    path = fetch("iris") / "X.npy"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    elif damage == "gone":
        path.unlink()
    else:
        np.save(path, np.zeros((150, 5)))
    assert not next(listing.cached for listing in available() if listing.name == "iris")
    assert np.array_equal(load("iris").X, before)
    assert [folder.name[:5] for folder in tmp_path.iterdir()] == ["iris-"]


def test_wrong_content_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from decentral.data import decoders

    monkeypatch.setenv("DECENTRAL_DATA", str(tmp_path))
    monkeypatch.setattr(decoders, "bundled", lambda name: (np.zeros((150, 4)), np.zeros(150, np.int8)))
    with pytest.raises(DataError, match="iris is refused: it decodes to SHA-256"):
        load("iris")
    assert not list(tmp_path.iterdir())


def test_digest_sees_every_byte() -> None:
    X, y = np.arange(6.0).reshape(3, 2), np.array([0, 1, 0], np.int8)
    other = X.copy()
    other[2, 1] = np.nextafter(5.0, 6.0)
    assert digest(X, y) == digest(np.asfortranarray(X), y) == digest(X.astype(">f8"), y)
    assert len({digest(X, y), digest(other, y), digest(X, y[::-1])}) == 2 + (not np.array_equal(y, y[::-1]))


def test_unwritable_cache_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DECENTRAL_DATA", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot write the data cache .*Set DECENTRAL_DATA"):
        load("iris")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(store.root()) == store.os.environ["DECENTRAL_DATA"]
    monkeypatch.delenv("DECENTRAL_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/cache")
    assert store.root() == Path("/some/cache/decentral")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert store.root() == Path.home() / ".cache" / "decentral"


def test_the_slower_of_two_writers_finds_the_work_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DECENTRAL_DATA", str(tmp_path))
    raw = store.obtain("iris", print)
    (tmp_path / "late").mkdir()
    store._keep("iris", tmp_path / "late", np.array(raw.X), raw.labels)
    assert np.array_equal(raw.X, load("iris", scale="none").X)


def test_processes_may_load_at_once_into_an_empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DECENTRAL_DATA", str(tmp_path))
    code = "from decentral.data import load; d = load('breast-cancer'); print(d.X.shape, abs(d.X).sum())"
    run = [subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) for _ in range(2)]
    answers = [process.communicate() for process in run]
    assert [process.returncode for process in run] == [0, 0], answers
    assert len({out for out, _ in answers}) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_every_listing_has_a_source() -> None:
    listings = available()
    assert {listing.name for listing in listings} == {*registry.RECIPES, "synthetic", "file"}
    assert all(listing.source and listing.origin for listing in listings)
    with pytest.raises(DataError, match="unknown data set to fetch"):
        fetch("synthetic")


def test_dataset_is_frozen() -> None:
    dataset: Dataset = load("iris")
    with pytest.raises(AttributeError):
        dataset.name = "other"  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        dataset.X[0, 0] = 1.0
