"""Tiny models and recipes, imported here so that tests elsewhere need no torch."""

from tests.tiny_runs import built_in, make, models, plain, registry, written

__all__ = ["built_in", "make", "models", "plain", "registry", "written"]
