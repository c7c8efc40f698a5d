"""What the methods of an objective are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from peftkit.components.family_services import Batch, FamilyServices, ReferenceModel
from peftkit.components.task import Task
from peftkit.components.types import CandidateScores, ModelKind, ObjectiveSettings, Prediction, Row, RowSampling
from peftkit.errors import PluginError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class ObjectiveContext:
    """What the methods of an objective are given.

    Attributes:
        family: The services of the model's family.
        model_kind: The kind of model.
        tokenizer: The tokenizer of transformers.
        config: The model's config.
        task: The task of the recipe.
        settings: The recipe's settings.
        device: The model's device.
        step: The optimizer steps of the model, which samples depend on.
        cache: Values that live as long as one evaluation, by name.
        reference_model: The base model, for objectives with ``needs_reference``; None where nothing is trained or
            predicted.
    """

    family: FamilyServices
    model_kind: ModelKind
    tokenizer: Any
    config: Any
    task: Task
    settings: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    device: Any = "cpu"
    step: int = 0
    cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    reference_model: ReferenceModel | None = field(default=None, compare=False, repr=False)

    @property
    def reference(self) -> ReferenceModel:
        """The base model.

        Raises:
            PluginError: The objective does not declare that it needs it.
        """
        if self.reference_model is None:
            raise PluginError("an objective that compares with the base model needs needs_reference = True")
        return self.reference_model

    def for_evaluation(self, device: torch.device) -> ObjectiveContext:
        """Return the context of a new evaluation.

        Args:
            device: The model's device.
        """
        return replace(self, device=device, cache={})

    def to_device(self, batch: Batch) -> dict[str, Tensor]:
        """Return a batch on the model's device.

        Args:
            batch: The batch; its texts have the shape (texts, length).

        Returns:
            The batch, whose texts have the shape (texts, length).
        """
        return {key: value.to(self.device) for key, value in batch.items()}

    def generate(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        *,
        stop_ids: Sequence[int] = (),
        max_new_tokens: int | None = None,
    ) -> list[Prediction]:
        """Generate a text for each row, or several samples, up to the first text of ``settings.stop``.

        Args:
            model: The model, in evaluation mode.
            rows: One batch of rows, with the token ids of the prompt as ``source``.
            stop_ids: The ids that end a text; the end of text if empty.
            max_new_tokens: The largest number of generated tokens; that of the settings if None.

        Returns:
            ``prediction``, the text, ``generated_tokens``, and ``samples`` if there are several texts.
        """
        # The criterion of transformers would search the prompt too, so texts are cut when they are generated.
        settings, number = self.settings, max_new_tokens or self.settings.max_new_tokens
        options: dict[str, Any] = {"max_new_tokens": number, "num_beams": settings.num_beams, "stop_ids": stop_ids}
        samples: list[list[str]] = [[] for _ in rows]
        tokens = [0] * len(rows)
        for sample in range(settings.num_return_sequences):
            generated = self.family.generate(model, rows, self.device, sampling=self._sampling(rows, sample), **options)
            for row, each in enumerate(generated):
                samples[row].append(_before_first(each.text, settings.stop))
                tokens[row] += each.tokens
        return [
            {"prediction": texts[0], **({"samples": texts} if len(texts) > 1 else {}), "generated_tokens": number}
            for texts, number in zip(samples, tokens, strict=True)
        ]

    def _sampling(self, rows: Sequence[Row], sample: int) -> RowSampling | None:
        """Return how a batch is sampled; the seeds depend on no other row, nor on where a row stands."""
        settings = self.settings
        if not settings.temperature:
            return None
        key = f"{settings.seed} {self.step} {sample} "
        digests = (blake2b(f"{key}{[*row['source']]}".encode(), digest_size=7).digest() for row in rows)
        seeds = tuple(map(int.from_bytes, digests))
        return RowSampling(settings.temperature, settings.top_k, settings.top_p, seeds)

    def score_candidates(self, model: nn.Module, rows: Sequence[Row]) -> CandidateScores:
        """Score the candidates of a batch of rows.

        The fastest way that gives the right scores is determined once in each evaluation.

        Args:
            model: The model, in evaluation mode.
            rows: One batch of rows.
        """
        if "candidate_scorer" not in self.cache:
            self.cache["candidate_scorer"] = self.family.candidate_scorer(model)
        scores: CandidateScores = self.cache["candidate_scorer"](rows, self.device)
        return scores


def _before_first(text: str, stop: Sequence[str]) -> str:
    """Return the part of a text before the first of some texts."""
    return text[: min([text.index(each) for each in stop if each in text], default=None)].strip() if stop else text
