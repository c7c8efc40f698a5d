"""What runs of the same model and task have in common: base model, tokenized data, baselines, first evaluation.

A process loads them once and forks for each run. Only what loading alone determines is shared: what draws random
numbers, such as the weights of a new head, each run makes for itself.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed

from peftkit.components import ModelKind
from peftkit.data.input_files import file_states
from peftkit.data.pipeline import PreparedData, prepare_data
from peftkit.distributed.accelerator import make_accelerator, shutdown
from peftkit.evaluate.baselines import BaselineScores, compute_baselines
from peftkit.evaluate.initial_evaluation import StartEvaluations
from peftkit.models.checkpoints.revisions import pin_revisions, resolve_revisions
from peftkit.models.load_base_model import LoadedBase, load_base
from peftkit.recipe import Recipe

OF_THE_RUN = ("run", "track", "method", "callback")
"""Tables of a recipe that loading does not depend on; but for the seeds of some data, and for virtual tokens."""
OF_THE_TRAINING: Mapping[str, tuple[str, ...]] = {
    "train": (
        *("learning_rate", "head_learning_rate", "optimizer", "optimizer_options", "weight_decay", "schedule"),
        *("warmup_ratio", "max_grad_norm", "on_nan", "budget", "checkpoint", "early_stopping"),
    ),
    "evaluate": ("every", "at_start"),
}
"""Keys of the other tables that loading does not depend on."""
KINDS: tuple[ModelKind, ...] = ("encoder", "decoder", "encoder-decoder")


@dataclass
class SharedInputs:
    """What a run does not need to load again; None where it has to. A run changes the model."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """What it was loaded for (see ``input_settings``)."""
    base: LoadedBase | None = None
    data: PreparedData | None = None
    baselines: dict[int, BaselineScores] = field(default_factory=dict)
    """The scores of the input-blind baselines, by the seed of the run."""
    start_evaluations: StartEvaluations = field(default_factory=StartEvaluations, compare=False)
    """The evaluations before training of earlier runs."""

    def for_recipe(self, recipe: Recipe) -> SharedInputs:
        """Return what a run of a recipe can use: these inputs, or nothing if they were loaded for other settings.

        Args:
            recipe: The recipe, with pinned revisions.
        """
        return self if self.settings == input_settings(recipe) else SharedInputs()

    def add_baselines(self, recipe: Recipe) -> None:
        """Compute the baselines for the seed of a recipe, unless they are known.

        Args:
            recipe: The recipe.
        """
        if self.data is not None and recipe.run.seed not in self.baselines:
            self.baselines[recipe.run.seed] = compute_baselines(recipe, self.data)


def pin(recipe: Recipe) -> Recipe:
    """Return a recipe with the revisions of its model and data that a new run would read."""
    return pin_revisions(recipe, resolve_revisions(recipe))


def load_shared_inputs(recipe: Recipe) -> SharedInputs:
    """Load what runs of a recipe's model and task have in common, on the CPU.

    Args:
        recipe: The recipe of one of the runs, with pinned revisions.

    Raises:
        PeftkitError: Model or data cannot be loaded. A run of the recipe reports the same error.
    """
    shared = SharedInputs(input_settings(recipe))
    if recipe.model.quantization or recipe.train.deepspeed.used or recipe.train.fsdp:
        return shared  # these load on the device, or sharded
    accelerator = make_accelerator(cpu=True)
    try:
        set_seed(recipe.run.seed)
        base = load_base(recipe)
        if _drew_nothing(recipe.run.seed, recipe.run.effective_init_seed):
            shared.base = base
        set_seed(recipe.run.seed)
        data = prepare_data(recipe, base.objective, accelerator)
        shared.data = data
        _ = data.digests, data.row_digests, data.truncated, data.train_overlap  # which it keeps
        shared.add_baselines(recipe)
        if not _drew_nothing(recipe.run.seed, recipe.run.seed):
            return SharedInputs(shared.settings, shared.base)
    finally:
        shutdown(accelerator)
    return shared


def _drew_nothing(seed: int, torch_seed: int) -> bool:
    """Return whether the global random number generators are as they were when they got these seeds.

    Args:
        seed: The seed of Python's and numpy's.
        torch_seed: The seed of torch's.
    """
    python, numpys = random.Random(seed).getstate(), np.random.RandomState(seed % 2**32).get_state()  # noqa: S311
    now = np.random.get_state()
    return (
        random.getstate() == python
        and all(np.array_equal(a, b) for a, b in zip(numpys, now, strict=True))
        and torch.equal(torch.Generator().manual_seed(torch_seed).get_state(), torch.get_rng_state())
    )


def input_settings(recipe: Recipe) -> dict[str, Any]:
    """Return everything that loading a recipe's model and data depends on, and the state of the files that it reads.

    Args:
        recipe: The recipe, with pinned revisions.
    """
    tables = {key: value for key, value in recipe.model_dump(mode="json").items() if key not in OF_THE_RUN}
    for table, keys in OF_THE_TRAINING.items():
        tables[table] = {key: value for key, value in tables[table].items() if key not in keys}
    if recipe.run.resample_train is not None or recipe.task.is_streaming:
        tables["run"] = recipe.run.model_dump(mode="json", exclude={"name", "output"})
    virtual = {kind: dict(recipe.method.virtual_tokens(kind)) for kind in KINDS}
    return {**tables, "virtual_tokens": virtual, "files": file_states(recipe)}
