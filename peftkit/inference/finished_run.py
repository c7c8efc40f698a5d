"""Load a finished run as a model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from peftkit.components import ApplyContext
from peftkit.data.input_digests import check_model_files
from peftkit.distributed.accelerator import make_accelerator, shutdown
from peftkit.errors import InputError
from peftkit.models import BoundObjective, ModelFamily
from peftkit.models.checkpoints.revisions import pin_revisions, recorded_revisions
from peftkit.models.load_base_model import apply_in_model_dtype, load_base
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, load_recipe
from peftkit.run_directory import RunDirectory
from peftkit.train.steps.reference_passes import restore_reference

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedRun:
    """The selected checkpoint of a finished run, loaded for inference."""

    path: Path
    recipe: Recipe
    objective: BoundObjective
    model: nn.Module
    device: torch.device
    base_weight_names: frozenset[str]
    """Names of the base model's weights before the method was applied."""

    @property
    def family(self) -> ModelFamily:
        """The model family, with tokenizer and config."""
        return self.objective.family


def load_finished_run(path: Path, registry: Registry) -> FinishedRun:
    """Load the base model and the trained weights of a run.

    Args:
        path: The run directory, or a folder that ``peftkit export`` wrote.
        registry: The installed components.

    Returns:
        The run with its model in evaluation mode, on the GPU if there is one.

    Raises:
        InputError: The folder is not a finished run, its weights do not fit the base model, or the base model has
            changed since.
        RunError: The base model cannot be loaded.
    """
    quiet_libraries("warning")
    recipe = load_finished_recipe(path, registry)
    base = load_base(recipe)
    check_model_files(path, base.family, recipe.model.name)
    summary = RunDirectory(path).summary()
    steps = summary["steps"]
    context = ApplyContext(
        base.kind,
        base.objective.component.task_kind,
        recipe.run.effective_init_seed,
        max(1, steps),
        head_parameters=base.head.parameters,
        auto_class=base.objective.auto_class,
    )
    names = frozenset(base.model.state_dict())
    weights = path / "model" if (path / "model").is_dir() else path  # an exported run
    torch.manual_seed(recipe.run.effective_init_seed)
    try:
        model = apply_in_model_dtype(recipe, lambda: recipe.method.load_into(base.model, weights, context))
    except (OSError, ValueError, RuntimeError) as error:
        head_incomplete = base.head.parameters and "new_head" not in summary["parameters"]
        reason = (
            "an older peftkit did not save the whole classification head; run the recipe again"
            if head_incomplete
            else error
        )
        raise InputError(f"{weights} cannot be loaded: {reason}") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    selected = summary["selected"]
    objective = base.objective.at_step(selected["step"]).with_calibration(selected.get("calibration", {}))
    objective = restore_reference(recipe, objective, summary, device)
    return FinishedRun(path, recipe, objective, model.to(device).eval(), device, names)


def load_finished_recipe(path: Path, registry: Registry) -> Recipe:
    """Load the recipe of a finished run, pinned to the hub commits of the model and data set that the run used.

    Args:
        path: The run directory.
        registry: The installed components.

    Returns:
        The recipe. Its task knows what the run stored of its data, such as the labels, and needs them no more.

    Raises:
        InputError: The folder is not a run directory, or the run has not finished.
    """
    if not (path / "recipe.toml").is_file():
        raise InputError(f"{str(path)!r} is not a run directory: it has no recipe.toml")
    summary = RunDirectory(path).summary()
    status = summary.get("status")
    if status != "done":
        raise InputError(f"{str(path)!r} is {status}; finish it with: {RunDirectory(path).resume_command}")
    recipe = pin_revisions(load_recipe(path / "recipe.toml", registry), recorded_revisions(path) or {})
    state = summary.get("task_state")  # runs of older versions have none, and read their data
    return recipe.model_copy(update={"task": recipe.task.with_data_state(state)}) if state else recipe


@contextmanager
def evaluation_context(run: FinishedRun) -> Iterator[Accelerator]:
    """Set up the device and mixed precision in which the run was evaluated, in one process.

    Args:
        run: The run.

    Yields:
        The accelerator.
    """
    precision = run.recipe.train.mixed_precision
    if precision == "fp16" and run.device.type == "cpu":
        log.warning("the run was evaluated in fp16, which needs a GPU; predicting in %s", run.recipe.model.dtype)
        precision = "no"
    accelerator = make_accelerator(mixed_precision=precision, cpu=run.device.type == "cpu")
    if precision != "no":
        accelerator.prepare_model(run.model, evaluation_mode=True)
    try:
        yield accelerator
    finally:
        accelerator.unwrap_model(run.model, keep_fp32_wrapper=False)
        shutdown(accelerator)
