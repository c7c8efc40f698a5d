"""Vectors by contrast: losses over whole steps, negatives, rankings."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftkit.components import Objective
from peftkit.objectives import ContrastiveEmbedding
from peftkit.testing import check_objective
from tests.tiny_runs import ColourDocuments

EXHAUSTIVE = (pytest.mark.slow, pytest.mark.exhaustive)


@pytest.mark.parametrize("objective", [ContrastiveEmbedding(symmetric=True)])
def test_objectives_conform(objective: Objective, tmp_path: Path) -> None:
    check_objective(objective, ColourDocuments(), tmp_path, runs=False)


@pytest.mark.slow
def test_whole_runs_conform(tmp_path: Path) -> None:
    check_objective(ContrastiveEmbedding(), ColourDocuments(), tmp_path)
