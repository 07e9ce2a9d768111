"""The optimum of F by a reference solver, to which `gap` refers: Newton with a line search, L-BFGS where d is large."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from decentral.problems.base import Problem
from decentral.state import Array

if TYPE_CHECKING:
    from decentral.neighborhood import Neighborhood

NEWTON_LIMIT = 2000
"""Dimensions up to which the (d, d) Hessian is formed."""


def optimum(problem: Problem, hood: Neighborhood, tolerance: float = 1e-13) -> tuple[Array, float]:
    """The minimizer x* (d,) of a convex F and F(x*). COLLECTIVE; not counted as communication of a method."""
    agents = float(hood.graph.n_agents)

    def value(x: Array) -> tuple[float, Array]:
        loss, slope = problem.evaluate(x[None])
        both = hood.sum(np.concatenate((np.asarray(loss, np.float64), slope[0].astype(np.float64)))) / agents
        return float(both[0]), both[1:]

    x = np.zeros(problem.d)
    if problem.d > NEWTON_LIMIT:
        from scipy.optimize import minimize

        found = minimize(value, x, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-16, "gtol": 1e-10})
        return found.x, float(found.fun)
    f, g = value(x)
    for _ in range(100):
        if np.linalg.norm(g) <= tolerance:
            break
        step = np.linalg.solve(hood.sum(problem.hessian(x)) / agents + 1e-14 * np.eye(problem.d), g)
        slope, t = float(g @ step), 1.0
        while True:
            f_new, g_new = value(x - t * step)
            if f_new <= f - 1e-4 * t * slope or t < 1e-8 or np.linalg.norm(g_new) < 0.5 * np.linalg.norm(g):
                break
            t /= 2
        if np.linalg.norm(g_new) >= np.linalg.norm(g) and abs(f_new - f) <= 1e-15 * max(1.0, abs(f)):
            break  # rounding: no further decrease is to be had
        x, f, g = x - t * step, f_new, g_new
    return x, f
