"""Compares methods from run directories: which runs are comparable, scores against cost, and the verdict."""
