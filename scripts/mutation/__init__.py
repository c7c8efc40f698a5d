"""Mutants of source files, and tests that are run on them."""
