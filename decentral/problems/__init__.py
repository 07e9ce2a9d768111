"""Local losses f_i of the agents; see `base.Problem` for what one offers."""

from decentral.problems.base import Problem, gradient
from decentral.problems.linear_models import LeastSquares, LinearModel, Logistic, NonconvexLogistic
from decentral.problems.quadratic import Quadratic
from decentral.problems.softmax import Softmax
from decentral.problems.torch_module import TorchModule

PROBLEMS: dict[str, type] = {p.name: p for p in (Logistic, NonconvexLogistic, LeastSquares, Softmax, Quadratic, TorchModule)}

__all__ = [
    "PROBLEMS",
    "LeastSquares",
    "LinearModel",
    "Logistic",
    "NonconvexLogistic",
    "Problem",
    "Quadratic",
    "Softmax",
    "TorchModule",
    "gradient",
]
