"""Uncertainty of a comparison: the posterior of methods' scores, and pairwise tests."""

from peftkit.compare.statistics.posterior import MethodEstimate, PairDifference, Posterior, fit
from peftkit.compare.statistics.tuning_choice import Trial, Tuning

__all__ = ["MethodEstimate", "PairDifference", "Posterior", "Trial", "Tuning", "fit"]
