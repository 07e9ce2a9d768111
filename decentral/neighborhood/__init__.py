"""How messages move between neighboring agents; see `base.Neighborhood`."""

from decentral.neighborhood.base import HEADER, Meters, Neighborhood
from decentral.neighborhood.in_process import InProcess
from decentral.neighborhood.placement import launched, place
from decentral.neighborhood.wrappers import Emulated, Lossy, Traced

__all__ = ["HEADER", "Emulated", "InProcess", "Lossy", "Meters", "Neighborhood", "Traced", "launched", "place"]
