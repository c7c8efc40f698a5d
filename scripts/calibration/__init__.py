"""Simulations with a known truth, and how often the statistics of ``compare`` are right on them."""
