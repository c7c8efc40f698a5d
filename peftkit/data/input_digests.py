"""Digests of a run's inputs: rows, files of the base model, files named in the recipe, source code of plugins.

They are saved with every checkpoint; ``peftkit.train.resume`` compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator

from peftkit.data.input_files import code_digests, digest_of, file_digest, model_files, named_files
from peftkit.data.pipeline import PreparedData, prepare_data
from peftkit.errors import InputError, comma_separated
from peftkit.models import BoundObjective, ModelFamily
from peftkit.models.load_base_model import load_objective
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.recipe.model_names import model_path
from peftkit.run_directory import RunDirectory

WITHOUT_EFFECT = ("generation_config.json", "README.txt", "LICENSE.txt", "trainer_state.json", "all_results.json")
"""Files with these extensions that no run depends on."""
MODEL_SUFFIX = " of the model"
"""Ends the names of inputs that are files of the base model."""

Inputs = Mapping[str, str]
"""Digest by the name of the input."""


def input_digests(recipe: Recipe, registry: Registry, objective: BoundObjective, data: PreparedData) -> dict[str, str]:
    """Returns the digests of everything that a run reads.

    Args:
        recipe: The recipe.
        registry: The installed components.
        objective: The objective, with the model family.
        data: The prepared data.
    """
    digests = {f"the rows of {split}": value for split, value in data.row_digests.items()}
    # Those of a stream are met while it is read, and its files have digests.
    if rows := [row for row in data.skipped_rows if data.split_sizes[row.split] is not None]:
        digests["the skipped rows"] = digest_of(str(row).encode() for row in rows)
    digests |= {
        f"{name}{MODEL_SUFFIX}": value for name, value in model_digests(recipe.model.name, objective.family).items()
    }
    digests |= {f"the file {path}": file_digest(path) for path in sorted(named_files(recipe))}
    digests |= {
        f"the code of {name}": value for name, value in code_digests(recipe, registry, objective.component).items()
    }
    return digests


def compute_input_digests(recipe: Recipe, registry: Registry, accelerator: Accelerator) -> dict[str, str]:
    """Computes the digests of everything that a run of the recipe would read now, without loading weights.

    Args:
        recipe: The recipe, with pinned hub commits.
        registry: The installed components.
        accelerator: The accelerator; all of its processes must call this function.

    Raises:
        PeftkitError: An input cannot be read.
    """
    _, objective = load_objective(recipe)
    return input_digests(recipe, registry, objective, prepare_data(recipe, objective, accelerator))


def recorded_input_digests(path: Path) -> Inputs:
    """Reads the digests that a run recorded at its start; empty for runs of older versions."""
    try:
        recorded = RunDirectory(path).environment().get("inputs")
    except InputError:
        return {}
    return recorded if isinstance(recorded, Mapping) else {}


def check_model_files(path: Path, family: ModelFamily, name: str) -> None:
    """Checks that the base model of a finished run has not changed.

    Args:
        path: The run directory.
        family: The model family, with config.
        name: Name of the model in the recipe.

    Raises:
        InputError: Files of the model have changed.
    """
    began = {key: value for key, value in recorded_input_digests(path).items() if key.endswith(MODEL_SUFFIX)}
    now = {f"{file}{MODEL_SUFFIX}": value for file, value in model_digests(name, family).items()}
    if began and (different := changed_inputs(began, now)):
        raise InputError(
            f"{str(path)!r} was trained on a different base model, {name!r} differs in {comma_separated(different)}; "
            "restore its files, or set model.name in the run's recipe.toml to a folder that has them"
        )


def changed_inputs(began: Inputs, now: Inputs) -> list[str]:
    """Lists the inputs that were changed, added or removed.

    Args:
        began: Digests of the inputs that the run was started with.
        now: Digests of the current inputs.

    Returns:
        Names of inputs, with "(new)" or "(missing)" where an input is on one side only.
    """
    return [
        name + ("" if name in began and name in now else " (missing)" if name in began else " (new)")
        for name in sorted({*began, *now})
        if began.get(name) != now.get(name)
    ]


def model_digests(name: str, family: ModelFamily) -> dict[str, str]:
    """Returns the digest of each file of a local model, or the commit of a model on the hub.

    Args:
        name: Name of the model in the recipe.
        family: The model family, with config.
    """
    folder = Path(model_path(name))
    if not folder.is_dir():
        commit = getattr(family.config, "_commit_hash", None)
        return {"the commit": str(commit)} if commit else {}
    files = (file for file in model_files(folder) if file.name not in WITHOUT_EFFECT)
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in files}
