"""The conformance of objectives: the built-in ones, and one of a plugin that has a kind of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from peftkit import Objective, Task
from peftkit.plugins import load_registry
from peftkit.recipe.conflicts.unused_options import UNUSED_SETTINGS
from peftkit.recipe.tables.evaluate_config import EvaluateConfig
from peftkit.testing import check_objective, check_registered, check_task
from peftkit.testing.objective_checks import OTHER_SETTINGS
from peftkit.testing.run_checks import Colours
from tests.regression_plugin import BrightnessHead, Shades
from tests.tiny_runs import (
    CHAT_TEMPLATE,
    ColourChat,
    ColourChoice,
    ColourDocument,
    ColourDocuments,
    ColourNumber,
    ColourSet,
    ColourSimilarity,
    ColourSpans,
    ColourTags,
    ColourText,
)

BUILT_IN = [entry.component for entry in load_registry("").all("objective").values()]
TASKS: Mapping[str, Task] = {
    "classification": Colours(),
    "multiple_choice": ColourChoice(),
    "generation": ColourText(),
    "language_modeling": ColourDocument(),
    "regression": ColourNumber(),
    "multi_label": ColourSet(),
    "token_tagging": ColourTags(),
    "span_qa": ColourSpans(),
    "embedding": ColourDocuments(),
    "text_similarity": ColourSimilarity(),
    "chat": ColourChat(),
}
OPTIONS: Mapping[str, Mapping[str, Any]] = {"chat": {"chat_template": CHAT_TEMPLATE}}
"""Options of the objectives that need some."""


@pytest.mark.parametrize("objective", BUILT_IN, ids=lambda each: each.__name__)
def test_built_in_objectives_conform(objective: type[Objective], tmp_path: Path) -> None:
    configured = objective(**OPTIONS.get(objective.task_kind, {}))
    check_objective(configured, TASKS[objective.task_kind], tmp_path, runs=False)


@pytest.mark.slow
def test_an_objective_of_a_plugin_conforms(regression_plugin: Path, tmp_path: Path) -> None:
    check_task(Shades())
    check_registered(BrightnessHead)
    check_objective(BrightnessHead(), Shades(), tmp_path)


def test_the_conformance_kit_varies_every_setting_that_may_be_unused() -> None:
    assert {*OTHER_SETTINGS} == {"max_new_tokens", *UNUSED_SETTINGS}
    for setting, value in OTHER_SETTINGS.items():
        assert EvaluateConfig.model_fields[setting].default != value
