"""Export the saved weights of a finished run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from peftkit.components import Objective
from peftkit.errors import InputError
from peftkit.inference.finished_run import load_finished_recipe
from peftkit.inference.model_card import model_card
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.run_directory import RunDirectory


def export(path: Path, registry: Registry, out: Path) -> None:
    """Copy a run's saved weights in the format of the method's library, with a model card.

    Args:
        path: The run directory.
        registry: The installed components.
        out: A folder that is empty or does not exist.

    Raises:
        InputError: The folder is not a finished run, or ``out`` is not empty.
    """
    check_empty(out)
    recipe = load_finished_recipe(path, registry)
    shutil.copytree(path / "model", out, dirs_exist_ok=True)
    config = out / "adapter_config.json"
    if config.is_file():  # name the base model as in the recipe, not by its path on this machine
        content = json.loads(config.read_text(encoding="utf-8"))
        content["base_model_name_or_path"] = recipe.model.name
        config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (out / "README.md").write_text(model_card(path, recipe), encoding="utf-8")
    if recipe.method.loaded_by in ("transformers", "peft"):
        _write_library_files(path, recipe, out)
    for name in ("recipe.toml", "summary.json"):  # so that peftkit.load_model can load the folder
        shutil.copyfile(path / name, out / name)


def _write_library_files(path: Path, recipe: Recipe, out: Path) -> None:
    """Write the files of the objective, if it has some; they need the tokenizer, but no weights."""
    kind = RunDirectory(path).summary().get("model_kind")
    if kind is None or type(recipe.objective_for(kind)).export is Objective.export:
        return
    from peftkit.models.load_base_model import load_objective

    _, objective = load_objective(recipe)
    objective.component.export(out, objective.context)


def check_empty(out: Path) -> None:
    """Raise an InputError if ``out`` exists and is not an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{str(out)!r} already exists and is not an empty folder; choose another")
