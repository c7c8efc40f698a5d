"""Evaluation of models on dev and test, and input-blind baselines."""
