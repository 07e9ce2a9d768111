"""Every compressor in its settings of interest, on both sets of inner loops."""

import numpy as np
import pytest

from decentral import kernels
from decentral.compressors import NAMES, build
from decentral.random import Key, Purpose

SETTINGS = {
    "quantize": [
        {"bits": 8},
        {"bits": 1},
        {"bits": 2},
        {"bits": 3, "norm": "2"},
        {"bits": 4, "block": 32},
        {"bits": 16, "block": 0},
        {"bits": 2, "symbols": "paper"},
        {"bits": 4, "rounding": "nearest"},
        {"bits": 9, "norm": "2", "rounding": "nearest"},
        {"bits": 1, "norm": "2", "rounding": "nearest"},
    ],
    "qsgd": [{"levels": 1}, {"levels": 16}, {"levels": 5, "contracted": True}, {"levels": 100, "block": 64}],
    "rand-k": [{"k": 1}, {"fraction": 0.5}, {"fraction": 0.1}, {"fraction": 0.3, "contracted": True}],
    "top-k": [{"k": 1}, {"fraction": 0.1}, {"fraction": 1.0}],
    "top-k-quantize": [{"fraction": 0.25}, {"fraction": 0.5, "quantize": {"bits": 2, "rounding": "nearest"}}],
    "absolute": [{"bits": 8}, {"bits": 1}, {"bits": 3, "step": 0.01, "rounding": "dithered"}, {"bits": 16, "step": 1e-4}],
}


def settings():
    """One test parameter for each setting; a compressor that is not in SETTINGS is tested with its defaults."""
    for name in (n for n in NAMES if n != "auto"):
        for spec in SETTINGS.get(name, [{}]):
            yield pytest.param({"name": name, **spec}, id=" ".join([name, *(f"{k}={v}" for k, v in spec.items())]))


@pytest.fixture(params=settings())
def compressor(request):
    return build(request.param)


def use_numpy(monkeypatch):
    """Until the test, or the context of the patch, ends."""
    monkeypatch.setattr(kernels, "c", None)
    monkeypatch.setattr(kernels, "sparse", None)


@pytest.fixture(name="use_numpy")
def _use_numpy():
    return use_numpy


@pytest.fixture(params=["c", "numpy"])
def backend(request, monkeypatch):
    """Both sets of inner loops."""
    if request.param == "c" and kernels.c is None:
        pytest.skip(kernels.why)
    if request.param == "numpy":
        use_numpy(monkeypatch)
    return request.param


@pytest.fixture(params=[np.float64, np.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


def key_of(rows, round=0, purpose=Purpose.TEST):
    """A fixed key for rows 0..rows-1."""
    return Key(2024, purpose, round, np.arange(rows))


@pytest.fixture(name="key_of")
def _key_of():
    return key_of


@pytest.fixture
def vectors(dtype):
    """d -> (rows, d): vectors on which something once went wrong."""

    def make(d):
        rng = np.random.default_rng(d)
        spike = np.zeros(d)
        spike[d // 2] = -3
        ties = np.where(np.arange(d) % 3 == 0, 2.0, -2.0)
        one_larger = np.ones(d)
        one_larger[-1] = 1.5
        rows = [
            rng.standard_normal(d),
            rng.standard_cauchy(d),
            rng.standard_normal(d) * (rng.random(d) < 0.1),
            spike,
            ties,
            one_larger,
            np.full(d, -0.7),
            np.linspace(-1, 1, d) * 1e-20,
            rng.standard_normal(d) * 1e20,
        ]
        return np.array(rows).astype(dtype)

    return make
