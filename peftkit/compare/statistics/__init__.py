"""Statistics on arrays: the posterior of methods' scores, pairwise tests, and the variance between seeds."""

from peftkit.compare.statistics.posterior import MethodEstimate, PairDifference, Posterior, fit
from peftkit.compare.statistics.tuning_choice import TrialScores, Tuning

__all__ = ["MethodEstimate", "PairDifference", "Posterior", "TrialScores", "Tuning", "fit"]
