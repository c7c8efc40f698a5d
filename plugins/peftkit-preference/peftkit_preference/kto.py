"""The objective for single completions that are desirable or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from peftkit import Example, ModelKind, ObjectiveContext, RowError, Task
from peftkit.components.family_services import Batch
from peftkit.components.types import Prediction, Row
from peftkit_preference.conversations import PreferenceObjective
from peftkit_preference.pair_objectives import GENERATING, TIE
from peftkit_preference.preference_losses import kto_loss
from peftkit_preference.preference_tasks import DESIRABLE, UNDESIRABLE

if TYPE_CHECKING:
    from torch import Tensor, nn


class Kto(PreferenceObjective):
    """Kahneman-Tversky optimization (KTO, Ethayarajh et al., 2024), for completions that are desirable or not.

    The reward of a completion is ``beta`` times how much more likely it is than under the base model. It is compared
    with an estimate of the KL divergence from the base model: the mean, but at least 0, of how much more likely the
    completions of other prompts are, over all rows of a step, whatever the number of processes and of accumulated
    batches is. Each training row has the completion of the nearest row before it with another prompt for that. Losses
    on dev and test leave the estimate out, since a row of theirs has no step.
    """

    name: Literal["kto"] = "kto"

    beta: float = Field(default=0.1, gt=0)
    """How much the model is kept near the base model; more keeps it nearer."""
    desirable_weight: float = Field(default=1.0, gt=0)
    """Weight of the losses of desirable completions."""
    undesirable_weight: float = Field(default=1.0, gt=0)
    """Weight of the losses of undesirable completions."""

    task_kind = "unpaired_preference"
    families: ClassVar[tuple[ModelKind, ...]] = GENERATING
    used_settings = ()
    needs_reference = True

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize prompts and completions; to train, also the completion of another prompt."""
        rows = [{**row, "desirable": False} for row in self._tokenize_completions(examples, context)]
        for row, example in zip(rows, examples, strict=True):
            row["desirable"] = example.target == DESIRABLE
        if training:
            others = self._tokenize_completions(_with_other_completions(examples), context)
            for row, other in zip(rows, others, strict=True):
                row["candidates"] = [*row["candidates"], *other["candidates"]]
                row["length"] = row["length"] + len(other["candidates"][0])
        return rows

    def _tokenize_completions(self, examples: Sequence[Example], context: ObjectiveContext) -> list[Any]:
        completions = []
        for example in examples:
            if example.source_pair is None:
                raise RowError("completion", "is needed beside the prompt")
            prompt, completion = example.source_pair
            completions.append(replace(example, source=prompt, target=completion, candidates=(), truncatable_span=None))
        return self.tokenize_completions(completions, context, ranked=False)

    def collate(self, rows: Sequence[Row], context: ObjectiveContext) -> dict[str, Tensor]:
        """Make a text of each completion, with what is known of the base model."""
        import torch

        desirable = torch.tensor([row["desirable"] for row in rows])
        texts = context.family.collate_candidates(rows)
        texts["input_tokens"] = context.family.num_tokens(texts)
        return {**texts, **context.reference.collate(rows), "desirable": desirable}

    def num_targets(self, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the number of rows."""
        return batch["choices"].new_tensor(len(batch["choices"]))

    def batch_statistics(self, model: nn.Module, batch: Batch, context: ObjectiveContext) -> dict[str, Tensor]:
        """Sum how much more likely the completions of other prompts are than under the base model."""
        others = _select(batch, 1)
        ratios = self._log_ratios(model, others, context)[0]
        return {"kl_sum": ratios.sum(), "kl_rows": ratios.new_tensor(len(ratios))}

    def loss(self, model: nn.Module, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the loss, summed over the rows."""
        ratios, _ = self._log_ratios(model, _select(batch, 0), context)
        kl = (batch["kl_sum"] / batch["kl_rows"]).clamp(min=0)
        return self._losses(ratios, batch["desirable"], kl).sum()

    def _losses(self, ratios: Tensor, desirable: Tensor, kl: Tensor | float) -> Tensor:
        weights = self.desirable_weight, self.undesirable_weight
        return kto_loss(self.beta * ratios, desirable, self.beta * kl, weights)

    def _log_ratios(self, model: nn.Module, batch: Batch, context: ObjectiveContext) -> tuple[Tensor, Tensor]:
        """Return how much more likely texts are than under the base model, and below which number they are equal."""
        reference = context.reference.loglikelihoods(model, batch)
        sums, _ = context.family.target_loglikelihoods(model, batch)
        return sums - reference, TIE * (sums.detach().abs() + reference.abs())

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Predict that completions with a positive reward are desirable; empty if the reward is 0."""
        batch = context.to_device(self.collate(rows, context))
        ratios, precisions = self._log_ratios(model, batch, context)
        losses = self._losses(ratios, batch["desirable"], 0.0).tolist()
        predictions: list[Prediction] = []
        for reward, precision, probability, loss in zip(
            (self.beta * ratios).tolist(),
            (self.beta * precisions).tolist(),
            (self.beta * ratios).sigmoid().tolist(),
            losses,
            strict=True,
        ):
            decided = not abs(reward) <= precision
            prediction: Prediction = {"prediction": _label(reward) if decided else ""}
            prediction["values"] = {"reward": reward if decided else 0.0}
            if has_targets:
                prediction |= {"loss": loss, "tokens": 1}
            else:
                prediction["desirable_probability"] = probability
            predictions.append(prediction)
        return predictions

    def possible_answers(self, task: Task, examples: Sequence[Example]) -> Sequence[str]:
        """Return both labels."""
        return (DESIRABLE, UNDESIRABLE)


def _label(reward: float) -> str:
    """Return the label of a reward; empty if it is not a number."""
    return DESIRABLE if reward > 0 else UNDESIRABLE if reward < 0 else ""


def _with_other_completions(examples: Sequence[Example]) -> list[Example]:
    """Give each example the completion of the nearest one before it, in a circle, that has another prompt."""
    pairs = [example.source_pair or ("", "") for example in examples]
    number, others = len(pairs), []
    for index, example in enumerate(examples):
        prompt, completion = pairs[index]
        before = (pairs[(index - step) % number] for step in range(1, number))
        other = next((text for other_prompt, text in before if other_prompt != prompt), completion)
        others.append(replace(example, source_pair=(prompt, other)))
    return others


def _select(batch: Batch, number: int) -> dict[str, Tensor]:
    """Return the first or the second text of each row, with tensors of shape (texts, length) and (texts,)."""
    texts = len(batch["input_ids"])
    return {key: value[number::2] for key, value in batch.items() if value.ndim and len(value) == texts}
