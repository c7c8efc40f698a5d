"""The passes of the base model that losses on preferences need: where they come from, and what they cost."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from torch import Tensor, nn

from peftkit.components import StepStats
from peftkit.components.types import Row
from peftkit.data.pipeline import PreparedData
from peftkit.errors import RunError
from peftkit.macs.interpolated_counts import StepMacs
from peftkit.macs.mac_counter import MacCounter
from peftkit.models import BoundObjective
from peftkit.models.heads.token_losses import tolerance
from peftkit.models.load_base_model import LoadedBase, init_random_base, load_base
from peftkit.models.reference_model import (
    DisabledAdapter,
    StoredReference,
    Values,
    base_loglikelihoods,
    batches_of_texts,
    values_dtype,
)
from peftkit.recipe import Recipe

log = logging.getLogger(__name__)
PROBED_ROWS = 4
"""Rows on which a model without its adapter is compared with the base model."""
DISABLED, STORED = "disabled adapter", "before training"
"""Where the log-likelihoods of the base model come from, as in ``summary.json``."""


class ReferencePasses:
    """Gives the objective of a run its base model, if it compares with that.

    If the method can disable its adapter, the base model is the trained model without it: no second model is needed.
    That is verified on a few rows, and that nothing that is trained takes part. Otherwise all log-likelihoods of the
    base model are computed once before training. Those of training rows are part of the cost.

    It is created before the method is applied.

    Args:
        recipe: The recipe of the run.
        base: The base model.
        data: The data of the run.
        accelerator: The Accelerator of the run.

    Raises:
        RunError: They would have to be computed before training, but the training rows are streamed.
    """

    cost: StepStats | None = None
    """What the passes before training cost; None if there are none."""

    def __init__(self, recipe: Recipe, base: LoadedBase, data: PreparedData, accelerator: Accelerator) -> None:
        self.recipe, self.objective, self.data, self.accelerator = recipe, base.objective, data, accelerator
        self.needed = base.objective.component.needs_reference
        self._stored: StoredReference | None = None
        self._probed_batches: list[tuple[list[bytes], list[Row]]] = []
        self._probe: Values = {}
        if self.needed and recipe.method.can_disable_adapter:
            rows = [*islice(iter(data.train), PROBED_ROWS)]
            self._probed_batches = [*batches_of_texts(rows, recipe.evaluate.batch_size)]
            self._probe = self._compute(base.model, self._probed_batches, everywhere=True)
        elif self.needed:
            self._store(base.model)

    def bind(self, model: nn.Module) -> BoundObjective:
        """Return the objective of the run with its base model.

        Args:
            model: The model with the method applied, not yet wrapped.
        """
        if not self.needed:
            return self.objective
        disabled = DisabledAdapter(self.objective.family, self.recipe.method, self.accelerator.autocast)
        if self._stored is None and (problem := self._problem(model, disabled)):
            log.warning(
                "%s without its adapter is not the base model (%s); log-likelihoods of the base model are computed "
                "before training",
                self.recipe.method.name,
                problem,
            )
            self._store(load_base(self.recipe).model)
        return self.objective.with_reference(self._stored or disabled)

    def check_end(self, model: nn.Module) -> None:
        """Check after training that the model without its adapter is still the base model.

        Args:
            model: The trained model.

        Raises:
            RunError: It is not.
        """
        train = self.recipe.train
        if not self._probe or self._stored is not None or train.deepspeed.used or train.fsdp:
            return
        reference = DisabledAdapter(self.objective.family, self.recipe.method, self.accelerator.autocast)
        if problem := self._difference(model, reference):
            raise RunError(
                f"the method {self.recipe.method.name!r} changed the base model in training ({problem}), which the "
                "loss compares with; this is a bug of the method"
            )

    def record(self) -> dict[str, Any]:
        """Return the entry of a run's summary; empty without a base model."""
        if not self.needed:
            return {}
        if self.cost is None:
            return {"reference": {"from": DISABLED}}
        return {"reference": {"from": STORED, "gmacs": self.cost.forward_macs / 1e9}}

    def _problem(self, model: nn.Module, reference: DisabledAdapter) -> str:
        """Describe why the model without its adapter is not the base model; empty if it is."""
        try:
            if self._trained_parameters_in_use(model, reference):
                return "something that is trained takes part"
            return self._difference(model, reference)
        except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, KeyError) as error:
            return f"it fails: {type(error).__name__}: {error}"

    def _difference(self, model: nn.Module, reference: DisabledAdapter) -> str:
        device = next(model.parameters()).device
        allowed = tolerance(model, device)
        for keys, texts in self._probed_batches:
            batch = {name: tensor.to(device) for name, tensor in self.objective.family.collate(texts).items()}  # type: ignore[arg-type]
            values = reference.loglikelihoods(model, batch).tolist()
            for key, value in zip(keys, values, strict=True):
                if not abs(value - self._probe[key]) <= allowed * max(1.0, abs(self._probe[key])):
                    return f"a log-likelihood is {value:.6g} instead of {self._probe[key]:.6g}"
        return ""

    def _trained_parameters_in_use(self, model: nn.Module, reference: DisabledAdapter) -> bool:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        _, texts = self._probed_batches[0]
        device = next(model.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in self.objective.family.collate(texts[:1]).items()}  # type: ignore[arg-type]
        was_training = model.training
        model.eval()
        try:
            with self.recipe.method.disable_adapter(model), torch.enable_grad():
                for parameter in trained:
                    parameter.requires_grad_(True)
                total = self.objective.family.target_loglikelihoods(model, batch)[0].sum()
                if not total.requires_grad:
                    return False
                gradients = torch.autograd.grad(total, trained, allow_unused=True)
        finally:
            model.train(was_training)
        return any(gradient is not None for gradient in gradients)

    def _store(self, model: nn.Module) -> None:
        """Compute the log-likelihoods of all rows; those of training rows are part of the cost."""
        rows, size = self.data.train, self.recipe.evaluate.batch_size
        if not isinstance(rows, Dataset):
            raise RunError(
                f"with {self.recipe.method.name!r}, log-likelihoods of the base model are computed before training, "
                "which is impossible for streamed rows; set task.streaming = false, or use a method whose adapter can "
                "be disabled, such as lora"
            )
        started, device = time.perf_counter(), next(model.parameters()).device
        model.to(self.accelerator.device)
        values = self._compute(model, [*batches_of_texts(_texts(rows), size)])
        seconds = [time.perf_counter() - started]
        broadcast_object_list(seconds)  # budgets must end at the same step on all processes
        macs = count_reference_passes(self.recipe, rows)._asdict()
        self.cost = StepStats(samples=0, input_tokens=0, target_tokens=0, seconds=seconds[0], **macs)
        splits = (*self.data.curve_splits, *self.data.final_splits)
        evaluated = [*batches_of_texts([row for split in splits for row in split.rows], size)]
        values |= self._compute(model, evaluated)
        model.to(device)
        self._stored = StoredReference(values, values_dtype(self.recipe))

    def _compute(
        self, model: nn.Module, batches: Sequence[tuple[list[bytes], list[Row]]], *, everywhere: bool = False
    ) -> Values:
        """Compute log-likelihoods of texts, distributed over the processes unless each computes all."""
        accelerator = self.accelerator
        assigned = batches if everywhere else batches[accelerator.process_index :: accelerator.num_processes]
        with accelerator.autocast():
            values = base_loglikelihoods(model, self.objective.family, assigned)
        if not everywhere and accelerator.num_processes > 1:
            values = {key: value for part in gather_object([values]) for key, value in part.items()}
        return values


def restore_reference(
    recipe: Recipe, objective: BoundObjective, recorded: Mapping[str, Any], device: torch.device
) -> BoundObjective:
    """Return the objective of a finished run with its base model, which is loaded if it is a second one.

    Args:
        recipe: The recipe.
        objective: The objective.
        recorded: What ``ReferencePasses.record`` returned.
        device: The device of the model.
    """
    if not objective.component.needs_reference:
        return objective
    if recorded.get("reference", {}).get("from") != STORED:
        return objective.with_reference(DisabledAdapter(objective.family, recipe.method))
    models: list[nn.Module] = []

    def compute(rows: Sequence[Row]) -> Values:
        if not models:
            models.append(load_base(recipe).model.to(device))
        batches = [*batches_of_texts(rows, recipe.evaluate.batch_size)]
        return base_loglikelihoods(models[0], objective.family, batches)

    return objective.with_reference(StoredReference({}, values_dtype(recipe), compute))


def count_reference_passes(recipe: Recipe, rows: Dataset) -> StepMacs:
    """Count the passes over the training rows before training, which compute the log-likelihoods of the base model.

    Args:
        recipe: The recipe.
        rows: The training rows.
    """
    base = init_random_base(recipe, "meta")
    family = base.family

    def passes(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            family.target_loglikelihoods(model, batch)
        return torch.zeros((), device=next(model.parameters()).device, requires_grad=True)

    counter, total = MacCounter(base.model, passes), StepMacs(0, 0, 0)
    for _, texts in batches_of_texts(_texts(rows), recipe.evaluate.batch_size):
        total = total.plus(counter.count(family.collate(texts)))  # type: ignore[arg-type]
    return total


def macs_before_training(recipe: Recipe, data: PreparedData) -> int:
    """Return the multiply-accumulates that passes before training are expected to cost.

    Args:
        recipe: The recipe.
        data: The training rows.
    """
    needed = data.objective.component.needs_reference and not recipe.method.can_disable_adapter
    return count_reference_passes(recipe, data.train).forward_macs if needed and isinstance(data.train, Dataset) else 0


def _texts(rows: Iterable[Row]) -> list[Row]:
    return [{"source": row["source"], "candidates": row["candidates"]} for row in rows]
