"""How sure a comparison is: the posterior of methods' scores, and pairwise tests beside it."""

from peftkit.compare.statistics.engine import MethodEstimate, PairDifference, Posterior, fit
from peftkit.compare.statistics.tuning import Trial, Tuning

__all__ = ["MethodEstimate", "PairDifference", "Posterior", "Trial", "Tuning", "fit"]
