"""Finds options of evaluation and of the objective that change nothing.

Those of tasks are refused by the tasks, as ``DatasetTask`` does. A limit that is not reached, such as
``evaluate.max_new_tokens`` where no text is generated, is none of them: it says what may be at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel

from peftkit.components import ModelKind, Objective
from peftkit.errors import comma_separated
from peftkit.recipe.partial_recipe import known
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.tables.evaluate_config import EvaluateConfig
from peftkit.recipe.toml_lines import KeyPath

UNUSED_SETTINGS: Mapping[str, str] = {
    "stop": "generates no text",
    "num_beams": "generates no text",
    "temperature": "generates no text",
    "scoring": "ranks no candidates by their tokens",
    "candidate_end": "ranks no candidates by their tokens",
}
"""Settings of evaluation that some objectives do not use, and why. Other settings of sampling need a temperature."""


def unused_options(recipe: Recipe, model: ModelKind | None) -> Iterator[tuple[KeyPath, str]]:
    """Find the options of evaluation and of the objective that change nothing.

    Args:
        recipe: The recipe.
        model: The kind of model; None if it is unknown.
    """
    fitting: Sequence[type[Objective]] = ()
    with known():
        fitting = recipe.objectives_for(model)
    names = comma_separated(sorted(repr(each.model_fields["name"].default) for each in fitting))
    evaluated = list(fitting)
    with known():
        evaluated += [each for probe in recipe.probes for each in probe.recipe.objectives_for(model)]
    for setting, why in UNUSED_SETTINGS.items():
        used = any(each.used_settings is None or setting in each.used_settings for each in evaluated)
        with known():
            if fitting and not used and _is_set(recipe.evaluate, EvaluateConfig, setting):
                yield ("evaluate", setting), f"has no effect, because {names} {why}; leave it out"
    with known():
        for index, each in enumerate(recipe.evaluate.set):
            if each.at_end_only and each.examples is not None:
                text = "has no effect, because at_end_only evaluates all rows, once; leave one of them out"
                yield ("evaluate", "set", index, "examples"), f"the set {each.name!r}: {text}"
    with known():
        if isinstance(recipe.objective, Objective):
            for option, reason in recipe.objective.options_without_effect(recipe.task).items():
                if _is_set(recipe.objective, type(recipe.objective), option):
                    yield ("objective", option), f"has no effect, because {reason}; leave it out"


def _is_set(table: BaseModel, table_class: type[BaseModel], key: str) -> bool:
    """Return whether a key has another value than its default, which a recipe that is read again may have."""
    return bool(getattr(table, key) != table_class.model_fields[key].get_default(call_default_factory=True))
