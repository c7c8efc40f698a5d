"""Objectives for pairs of a chosen and a rejected completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from peftkit import Example, ModelKind, ObjectiveContext, Task
from peftkit.components.family_services import Batch
from peftkit.components.types import Prediction, Row
from peftkit_preference.conversations import PreferenceObjective
from peftkit_preference.preference_losses import dpo_loss, simpo_loss

if TYPE_CHECKING:
    from torch import Tensor, nn

GENERATING: tuple[ModelKind, ...] = ("encoder-decoder", "decoder")
TIE = 1e-6
"""Rewards are equal if they differ by less than this share of the log-likelihoods that they are computed from."""


class PairObjective(PreferenceObjective):
    """Base class of objectives for pairs: they define the reward of a completion, and the loss of a margin."""

    task_kind = "preference"
    families: ClassVar[tuple[ModelKind, ...]] = GENERATING
    ranks = True
    used_settings = ()

    def rewards(self, model: nn.Module, batch: Batch, context: ObjectiveContext) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the rewards of the completions.

        Args:
            model: The model.
            batch: The batch; its texts have the shape (texts, length).
            context: The context.

        Returns:
            The rewards, the difference below which they are equal, and the log-likelihoods per token, of shape
            (texts,).
        """
        raise NotImplementedError

    def losses(self, margins: Tensor) -> Tensor:
        """Compute the losses of rows.

        Args:
            margins: The reward of the chosen completion less that of the rejected one, of shape (rows,).

        Returns:
            The losses, of shape (rows,).
        """
        raise NotImplementedError

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize the prompts and both completions."""
        return self.tokenize_completions(examples, context, ranked=True)  # type: ignore[return-value]

    def collate(self, rows: Sequence[Row], context: ObjectiveContext) -> dict[str, Tensor]:
        """Make a text of each completion; ``answers`` has the index of each row's chosen one."""
        import torch

        answers = torch.tensor([row["answer"] for row in rows])
        batch = context.family.collate_candidates(rows)
        return {**batch, "answers": answers, "input_tokens": context.family.num_tokens(batch)}

    def num_targets(self, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the number of pairs."""
        return batch["answers"].new_tensor(len(batch["answers"]))

    def loss(self, model: nn.Module, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the loss, summed over the pairs."""
        rewards, _, _ = self.rewards(model, batch, context)
        return self.losses(_margins(rewards, batch["answers"])).sum()

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Predict the completion with the higher reward; empty if both have the same one."""
        batch = context.to_device(self.collate(rows, context))
        rewards, precisions, logps = self.rewards(model, batch, context)
        margins = _margins(rewards, batch["answers"])
        losses, numbers = (
            self.losses(margins).tolist(),
            zip(*(column.view(-1, 2).tolist() for column in (rewards, precisions, logps)), strict=True),
        )
        predictions: list[Prediction] = []
        for example, row, loss, (reward, precision, logp) in zip(examples, rows, losses, numbers, strict=True):
            difference = reward[0] - reward[1]
            decided = abs(difference) > max(precision)  # false if it is not a number
            prediction: Prediction = {"prediction": example.candidates[int(difference < 0)] if decided else ""}
            if has_targets:
                chosen, rejected = row["answer"], 1 - row["answer"]
                values = {
                    "reward_chosen": reward[chosen],
                    "reward_rejected": reward[rejected],
                    "reward_margin": reward[chosen] - reward[rejected],
                    "logps_margin": logp[chosen] - logp[rejected],
                }
                prediction |= {"loss": loss, "tokens": 1, "values": values}
            else:
                first = _sigmoid(difference)
                prediction |= {
                    "completions": [*example.candidates],
                    "rewards": reward,
                    "preference_probabilities": [first, 1 - first],
                }
            predictions.append(prediction)
        return predictions

    def answer(self, example: Example) -> str:
        """Return the index of the chosen completion, whose order says nothing about which one that is."""
        return str(example.candidates.index(example.target))

    def answer_text(self, answer: str, example: Example) -> str:
        """Return the completion with an index."""
        return example.candidates[int(answer)]

    def possible_answers(self, task: Task, examples: Sequence[Example]) -> Sequence[str]:
        """Return both indices."""
        return ("0", "1")


class Dpo(PairObjective):
    """Direct preference optimization with the sigmoid loss (DPO, Rafailov et al., 2023).

    The reward of a completion is ``beta`` times how much more likely it is than under the base model.
    """

    name: Literal["dpo"] = "dpo"

    beta: float = Field(default=0.1, gt=0)
    """How much the model is kept near the base model; more keeps it nearer."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The probability that chosen and rejected were confused (conservative DPO)."""

    needs_reference = True

    def collate(self, rows: Sequence[Row], context: ObjectiveContext) -> dict[str, Tensor]:
        """Make a text of each completion, with what is known of the base model."""
        return {**super().collate(rows, context), **context.reference.collate(rows)}

    def rewards(self, model: nn.Module, batch: Batch, context: ObjectiveContext) -> tuple[Tensor, Tensor, Tensor]:
        """Compare the log-likelihoods of the completions, of texts of shape (texts, length), with the base model's."""
        reference = context.reference.loglikelihoods(model, batch)
        sums, counts = context.family.target_loglikelihoods(model, batch)
        precisions = self.beta * TIE * (sums.detach().abs() + reference.abs())
        return self.beta * (sums - reference), precisions, sums / counts

    def losses(self, margins: Tensor) -> Tensor:
        """Compute the losses of margins of shape (rows,)."""
        return dpo_loss(margins, self.label_smoothing)


class SimPo(PairObjective):
    """Simple preference optimization (SimPO, Meng et al., 2024), without a base model.

    The reward of a completion is ``beta`` times its mean log-likelihood per token.
    """

    name: Literal["simpo"] = "simpo"

    beta: float = Field(default=2.0, gt=0)
    """Factor of the mean log-likelihood per token."""
    gamma_beta_ratio: float = Field(default=0.25, ge=0)
    """The margin that is aimed for, as a share of `beta`: trl's `simpo_gamma` divided by `beta`."""

    def rewards(self, model: nn.Module, batch: Batch, context: ObjectiveContext) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the mean log-likelihoods of texts of shape (texts, length)."""
        sums, counts = context.family.target_loglikelihoods(model, batch)
        means = sums / counts
        return self.beta * means, self.beta * TIE * means.detach().abs(), means

    def losses(self, margins: Tensor) -> Tensor:
        """Compute the losses of margins of shape (rows,)."""
        return simpo_loss(margins, self.beta * self.gamma_beta_ratio)


def _margins(rewards: Tensor, answers: Tensor) -> Tensor:
    """Return the chosen reward less the rejected one, of shape (rows,), from rewards of shape (texts,)."""
    first, second = rewards.view(-1, 2).unbind(1)
    return (first - second) * (1 - 2 * answers)


def _sigmoid(value: float) -> Any:
    """Return the probability that the first of two completions is preferred, given the difference of rewards."""
    import torch

    return torch.tensor(value, dtype=torch.float64).sigmoid().item()
