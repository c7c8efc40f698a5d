"""Objectives of encoder-decoders and decoders: the target continues the source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from peftkit.components import Example, ModelKind, Objective, Prediction
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import Row, RunSpec, TokenizedRow
from peftkit.errors import InputError, RowError
from peftkit.example_tables import NORM_SUFFIX
from peftkit.objectives.loglikelihood_ranking import ClassificationObjective, MultipleChoiceObjective

if TYPE_CHECKING:
    from torch import nn

DECODER_OPTIONS = ("join", "train_on")
"""Options of objectives that only matter for decoders."""
GENERATING: tuple[ModelKind, ...] = ("encoder-decoder", "decoder")


class Completion(Objective):
    """Base class of objectives that train a target to follow its source."""

    join: str = " "
    """Text between source and target, for decoders; others read them apart."""

    families: ClassVar[tuple[ModelKind, ...]] = GENERATING

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return why the options do not fit the model."""
        reasons, fields = super().incompatible_with(spec), type(self).model_fields
        for option in DECODER_OPTIONS:
            changed = option in fields and getattr(self, option) != fields[option].default
            if changed and spec.model_kind == "encoder-decoder":
                reasons.append(f"{option} has no effect, because an encoder-decoder reads source and target apart")
        return reasons

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize the sources and the targets; all candidates are tokenized where they are ranked."""
        if any(example.symmetric for example in examples):
            raise InputError("task.symmetric: only encoders read a pair of texts in both orders; leave it out")
        ranked = self.ranks and not training
        rows = context.family.tokenize_completions(examples, ranked=ranked, generated=self.generates, join=self.join)
        return [_without_end(row) for row in rows] if ranked and not context.settings.candidate_end else rows

    def teacher_force(
        self, model: nn.Module, rows: Sequence[Row], examples: Sequence[Example], context: ObjectiveContext
    ) -> list[str]:
        """Return the most likely tokens while the target is fed to the model, as text."""
        ids_by_row = context.family.teacher_forced_ids(model, rows, context.device)
        triples = zip(ids_by_row, examples, rows, strict=True)
        return [_decode_candidate(ids, example, row, context) for ids, example, row in triples]


class LabelRanking(Completion, ClassificationObjective):
    """Classification by likelihood: the label that most likely follows the source."""

    name: Literal["label_ranking"] = "label_ranking"

    prediction_suffixes = ("", NORM_SUFFIX)


class ChoiceRanking(Completion, MultipleChoiceObjective):
    """Multiple choice by likelihood: the candidate that most likely follows the source."""

    name: Literal["choice_ranking"] = "choice_ranking"

    prediction_suffixes = ("", NORM_SUFFIX)


class FreeGeneration(Completion):
    """Free generation: the target is trained to follow the source, and texts are generated."""

    name: Literal["free_generation"] = "free_generation"

    train_on: Literal["completion", "all"] = "completion"
    """What is trained on: the target (`completion`), or `all` of source and target; decoders only."""

    task_kind = "generation"
    generates = True
    used_settings: ClassVar[tuple[str, ...] | None] = ("max_new_tokens", "num_beams", "stop", "temperature")
    scored_values: ClassVar[tuple[str, ...] | None] = ("samples",)

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize the sources and the targets."""
        rows: Sequence[Any] = super().tokenize(examples, context, training=training)
        if self.train_on == "all":  # nothing precedes the first token
            return [{**row, "trained_spans": [[1, len(row["source"]) + len(row["candidates"][0])]]} for row in rows]
        return rows

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Generate a text for each source; the loss is that of its target."""
        predictions: list[Prediction] = [{} for _ in rows]
        if has_targets and self.train_on == "all":
            predictions = score_trained_tokens(model, rows, context)
        elif has_targets:
            scores = context.score_candidates(model, rows)
            for prediction, sums, tokens in zip(predictions, scores.loglikelihoods, scores.num_tokens, strict=True):
                prediction |= {"loss": -sums[0], "tokens": tokens[0]}
        pairs = zip(predictions, context.generate(model, rows), strict=True)
        return [prediction | generated for prediction, generated in pairs]

    def count_unknown_targets(self, rows: Sequence[Row], context: ObjectiveContext) -> int:
        """Return how many targets have the unknown token."""
        return count_unknown_targets(rows, context)


def rewrite_texts(prediction: Prediction, rewrite: Callable[[str], str]) -> Prediction:
    """Return a prediction with other texts: that of ``prediction``, and all ``samples`` if there are any.

    Args:
        prediction: The prediction, of ``ObjectiveContext.generate``.
        rewrite: Returns the text that replaces one.
    """
    if "samples" not in prediction:
        return {**prediction, "prediction": rewrite(prediction["prediction"])}
    texts = [rewrite(text) for text in prediction["samples"]]
    return {**prediction, "prediction": texts[0], "samples": texts}


def score_trained_tokens(model: nn.Module, rows: Sequence[Row], context: ObjectiveContext) -> list[Prediction]:
    """Return the loss of the tokens that each row is trained on, and their number.

    Args:
        model: The model, in evaluation mode.
        rows: The rows.
        context: The context.
    """
    batch = context.to_device(context.family.collate(rows))
    sums, counts = context.family.target_loglikelihoods(model, batch)
    pairs = zip(sums.tolist(), counts.tolist(), strict=True)
    return [{"loss": -loglikelihood, "tokens": int(tokens)} for loglikelihood, tokens in pairs]


def count_unknown_targets(rows: Sequence[Row], context: ObjectiveContext) -> int:
    """Return how many targets have the unknown token.

    Args:
        rows: Rows with a target among their candidates.
        context: The context.
    """
    select = getattr(rows, "select_columns", None)  # of a data set on disk: sources need not be read
    targets = rows if select is None else select(["candidates", "answer"])
    return sum(context.family.contains_unk(row["candidates"][row["answer"]]) for row in targets)


def _without_end(row: TokenizedRow) -> TokenizedRow:
    """Return a row whose candidates lack the end of text, as in lm-evaluation-harness.

    Raises:
        RowError: A candidate has no other token.
    """
    if any(len(ids) < 2 for ids in row["candidates"]):
        raise RowError(
            "candidates", "an empty candidate is the end of text alone, so evaluate.candidate_end must be true"
        )
    return {
        **row,
        "candidates": [ids[:-1] for ids in row["candidates"]],
        "length": row["length"] - len(row["candidates"]),
        "target_tokens": row["target_tokens"] - 1,
    }


def _decode_candidate(ids: list[int], example: Example, row: Row, context: ObjectiveContext) -> str:
    """Return the original text of the candidate with these ids, since decoding may lose case and whitespace."""
    texts = example.candidates if len(row["candidates"]) > 1 else (example.target,)
    matches = (
        text
        for text, candidate_ids in zip(texts, row["candidates"], strict=True)
        if ids[: len(candidate_ids)] == candidate_ids
    )
    return next(matches, None) or str(context.tokenizer.decode(ids, skip_special_tokens=True)).strip()
