"""The base model as a reference for losses on preferences: the trained model without its adapter, or stored values."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from peftkit.components import Method
from peftkit.components.family_services import Batch, ReferenceModel
from peftkit.components.types import Row
from peftkit.models.family import ModelFamily
from peftkit.recipe import Recipe

REFERENCE = "reference_loglikelihoods"
"""Key of a batch: the stored log-likelihoods of its texts under the base model, a tensor of shape (texts,)."""
Values = dict[bytes, float]
"""Log-likelihoods of texts in nats, by what identifies a text."""


@dataclass(frozen=True)
class DisabledAdapter:
    """The trained model without its adapter, which computes what its base model does.

    Attributes:
        family: The family of the model.
        method: The method, which can disable its adapter.
        autocast: Returns the context of mixed precision.
    """

    family: ModelFamily
    method: Method
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    def collate(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Return nothing: all is computed with the batch."""
        return {}

    def loglikelihoods(self, model: nn.Module, batch: Batch) -> Tensor:
        """Run the model without its adapter on a batch.

        Args:
            model: The model, which may be wrapped.
            batch: The batch; its texts have the shape (texts, length).

        Returns:
            The sums in nats, of shape (texts,).
        """
        module = extract_model_from_parallel(model)
        with evaluation_mode(module), self.method.disable_adapter(module), self.autocast():
            return self.family.target_loglikelihoods(module, batch)[0]


@dataclass(frozen=True)
class StoredReference:
    """Log-likelihoods of the base model that were computed before the method was applied to it.

    Attributes:
        values: The values by text; None where only the compute is of interest, whatever the values are.
        dtype: The dtype of the values.
        compute: Computes the values of texts that have none; None if there are no such texts.
    """

    values: Values | None
    dtype: torch.dtype = torch.float32
    compute: Callable[[Sequence[Row]], Mapping[bytes, float]] | None = field(default=None, compare=False)

    def collate(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Look up the values of the texts, of shape (texts,)."""
        texts = split_texts(rows)
        if self.values is None:
            return {REFERENCE: torch.zeros(len(texts), dtype=self.dtype)}
        if self.compute is not None and (missing := [text for key, text in texts if key not in self.values]):
            self.values.update(self.compute(missing))
        return {REFERENCE: torch.tensor([self.values[key] for key, _ in texts], dtype=self.dtype)}

    def loglikelihoods(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the values of a batch.

        Args:
            model: Not used.
            batch: The batch; its texts have the shape (texts, length).

        Returns:
            The sums in nats, of shape (texts,).
        """
        return batch[REFERENCE]


def expected_reference(family: ModelFamily, recipe: Recipe, *, stored: bool | None = None) -> ReferenceModel:
    """Return what a run is expected to compare with, without values.

    Args:
        family: The family of the model.
        recipe: The recipe.
        stored: Whether log-likelihoods of the base model are computed before training; None if that is not known.
    """
    if stored is None:
        stored = not recipe.method.can_disable_adapter
    return StoredReference(None, values_dtype(recipe)) if stored else DisabledAdapter(family, recipe.method)


def values_dtype(recipe: Recipe) -> torch.dtype:
    """Return the dtype of log-likelihoods.

    Args:
        recipe: The recipe.
    """
    return torch.float64 if recipe.model.dtype == "float64" else torch.float32


def split_texts(rows: Sequence[Row]) -> list[tuple[bytes, Row]]:
    """Return each candidate of rows as a row of its own, with a digest of its source and target.

    Args:
        rows: Rows as from ``tokenize_completions``.
    """
    texts: list[tuple[bytes, Row]] = []
    for row in rows:
        source = row["source"]
        for candidate in row["candidates"]:
            digest = hashlib.blake2b(array("q", [len(source), *source, *candidate]).tobytes(), digest_size=16)
            texts.append((digest.digest(), {"source": source, "candidates": [candidate], "answer": 0}))
    return texts


def batches_of_texts(rows: Sequence[Row], size: int) -> Iterator[tuple[list[bytes], list[Row]]]:
    """Yield the different texts of rows in batches of similar lengths, whatever the order of the rows is.

    Args:
        rows: Rows as from ``tokenize_completions``.
        size: The number of texts of a batch.

    Yields:
        The digests of the texts, and their rows.
    """
    texts = dict(split_texts(rows))
    lengths = {key: (len(text["source"]), len(text["candidates"][0])) for key, text in texts.items()}
    order = sorted(texts, key=lambda key: (sum(lengths[key]), lengths[key], key))
    for start in range(0, len(order), size):
        keys = order[start : start + size]
        yield keys, [texts[key] for key in keys]


def base_loglikelihoods(
    model: nn.Module, family: ModelFamily, batches: Sequence[tuple[list[bytes], list[Row]]]
) -> Values:
    """Compute the log-likelihoods of texts, without dropout.

    Args:
        model: The base model.
        family: Its family.
        batches: Batches of texts, as from ``batches_of_texts``.
    """
    device, values = next(model.parameters()).device, Values()
    with evaluation_mode(model):
        for keys, texts in batches:
            batch = {name: tensor.to(device) for name, tensor in family.collate(texts).items()}  # type: ignore[arg-type]
            sums, _ = family.target_loglikelihoods(model, batch)
            values.update(zip(keys, sums.tolist(), strict=True))
    return values


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Turn off dropout and gradients.

    Args:
        model: The model.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
