"""What "auto" step sizes are computed from: constants of the problem, the graph, the mixing matrix, the compressor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False, repr=False)  # it is made when every rank starts
class Facts:
    """Constants of a run, the same on all ranks.

    L, mu : max_i smoothness and min_i strong convexity of f_i;  L_max : largest smoothness of one f_ih;  NaN: unknown, and so is
    what is computed from it
    l_l, l_u : smallest positive and largest eigenvalue of the graph Laplacian
    lambda_2, lambda_min : second largest and smallest eigenvalue of W
    """

    L: float
    mu: float
    L_max: float
    d: int
    samples: float
    agents: int
    edges: int
    degree_max: int
    l_l: float
    l_u: float
    lambda_2: float
    lambda_min: float
    estimator: str = "full"
    batch: int = 1

    @property
    def stochastic(self) -> bool:
        return self.estimator != "full"

    @property
    def gap(self) -> float:
        """1 − λ₂(W)."""
        return 1.0 - self.lambda_2

    @property
    def beta_w(self) -> float:
        """Largest eigenvalue of I − W."""
        return 1.0 - self.lambda_min

    @property
    def step(self) -> float:
        """1/L for full gradients, the 1/(3 L_max) of SAGA and SVRG theory for sampled ones, if that is smaller."""
        if not self.stochastic:
            return 1.0 / self.L
        return min(1.0 / self.L, 1.0 / (3.0 * max(self.L, self.L_max / self.batch)))
