"""Checks that a model can be probed: it needs a language modeling head before and after training."""

from __future__ import annotations

from collections.abc import Iterator

from peftkit.components import ModelKind
from peftkit.recipe.probes.probe_tasks import RecipeProbe
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.toml_lines import KeyPath


def probe_conflicts(recipe: Recipe, model: ModelKind | None) -> Iterator[tuple[KeyPath, str]]:
    """Find the probes that the model of a recipe cannot be measured on.

    Args:
        recipe: The recipe.
        model: The kind of the model; None if it is unknown.
    """
    if recipe.probe and _shards_while_loading(recipe):
        text = "the base model is measured before training, and stage 3 shards it while it is loaded; use stage 2"
        yield ("train", "deepspeed", "stage"), f"cannot be 3 with probes: {text}"
    is_whole = isinstance(recipe, Recipe)  # what a probe is evaluated by is made of all other tables
    for index, probe in enumerate(recipe.probes if model is not None and is_whole else ()):
        if text := _why_unmeasurable(recipe, probe, model):
            yield ("probe", index, "name"), f"{probe.name!r} cannot be measured: {text}"


def _shards_while_loading(recipe: Recipe) -> bool:
    deepspeed = recipe.train.deepspeed
    return deepspeed.used and deepspeed.stage not in (0, 1, 2)


def _why_unmeasurable(recipe: Recipe, probe: RecipeProbe, model: ModelKind | None) -> str:
    """Return why a probe cannot be measured; empty if it can, or if another check reports the reason."""
    kind = type(probe.task.task).kind
    if model == "encoder":
        if kind == "language_modeling":
            return (
                "an encoder reads a whole text at once and predicts none, so texts have no likelihood and no bits per "
                "byte; use a decoder or an encoder-decoder"
            )
        return (
            "an encoder predicts by a new head, which the base model does not have, so there is nothing that could be "
            "forgotten; use a decoder or an encoder-decoder"
        )
    trained = recipe.objectives_for(model)
    if len(trained) != 1:
        return ""  # reported for the task
    if recipe.objective_for(model).head(recipe.task) is not None:  # type: ignore[arg-type]
        name = trained[0].model_fields["name"].default
        return (
            f"the objective {name!r} trains a new head in the place of the one that predicts tokens, so the base model "
            "cannot be compared with; probe runs whose objective predicts text"
        )
    fitting = probe.recipe.objectives_for(model)
    if not fitting:
        return f"no objective is for {kind} tasks and a model of kind {model!r}"
    if len(fitting) > 1:
        return f"several objectives are for {kind} tasks and this model; uninstall the plugins of all but one"
    objective = probe.recipe.objective_for(model)  # type: ignore[arg-type]
    if objective.head(probe.task.task) is not None:
        return f"{kind} tasks need a new head, which the base model does not have; use a task that is answered by text"
    if objective.needs_reference:
        return f"the objective {objective.name!r} compares the model with its base already"
    return ""
