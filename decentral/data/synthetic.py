"""Heterogeneous data for logistic regression, after the experiments of Ren et al., arXiv 2508.15509 and 2604.02558."""

from __future__ import annotations

import numpy as np

from decentral.data.dataset import Raw
from decentral.errors import DataError
from decentral.random import Key, Purpose
from decentral.state import Array


def synthetic(agents: int, seed: int, features: int = 5, samples: int = 100, shift: float = 1.0) -> Raw:
    """Gaussian features around a mean of each agent's own, labels from one logistic model w.

        s_i ~ N(0, shift² I),  a_ih ~ N(s_i, I),  w ~ N(0, I),  P(b_ih = 1) = 1 / (1 + exp(-a_ih · w))

    X (agents · samples, features), labels -1 and +1, owner. An agent's samples depend on (seed, agent) alone.
    """
    for name, value in {"agents": agents, "features": features, "samples": samples}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DataError(f"data.{name} = {value!r}: give a whole number of at least 1")
    if isinstance(shift, bool) or not isinstance(shift, (int, float)) or not 0 <= shift < np.inf:
        raise DataError(f"data.shift = {shift!r}: give a number of at least 0")
    ids = np.arange(agents, dtype=np.int64)
    means = shift * _gaussian(Key(seed, Purpose.SYNTHETIC, 0, ids, 0), features)
    noise = _gaussian(Key(seed, Purpose.SYNTHETIC, 0, ids, 1), samples * features)
    w = _gaussian(Key(seed, Purpose.SYNTHETIC, 0, ids[:1], 2), features)[0]
    X = (noise.reshape(agents, samples, features) + means[:, None, :]).reshape(-1, features)
    chance = Key(seed, Purpose.SYNTHETIC, 0, ids, 3).uniform(samples).ravel()
    margin = np.einsum("rf,f->r", X, w)
    return Raw(X, np.where(chance * (1.0 + np.exp(-margin)) < 1.0, 1, -1), owner=np.repeat(ids, samples))


def _gaussian(key: Key, count: int) -> Array:
    """(rows, count) standard normal numbers by Box and Muller's transform."""
    u = key.uniform(2 * count)
    return np.sqrt(-2.0 * np.log1p(-u[:, 0::2])) * np.cos(2.0 * np.pi * u[:, 1::2])
