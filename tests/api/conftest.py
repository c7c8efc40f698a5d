"""Run directories with planted results, as for the tests of comparisons."""

from tests.compare.conftest import Plant, plant

__all__ = ["Plant", "plant"]
