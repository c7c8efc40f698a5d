"""Mutants of source files, and the tests that run on them."""
