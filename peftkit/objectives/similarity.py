"""Vectors of texts that are trained on scored pairs: their cosine is the score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from peftkit.answer_texts.number_texts import format_number
from peftkit.components import Example, Prediction, Task
from peftkit.components.family_services import Batch
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import Row
from peftkit.objectives.regression import RegressionObjective, read_targets
from peftkit.objectives.sentence_embedding import VectorObjective

if TYPE_CHECKING:
    from torch import Tensor, nn


class SimilarityEmbedding(VectorObjective, RegressionObjective):
    """Vectors of the two texts of scored pairs, compared by cosine.

    The evaluation loss is the squared difference of cosine and score, whatever the training loss is.
    """

    name: Literal["similarity_embedding"] = "similarity_embedding"

    loss_function: Literal["cosine_similarity", "cosent"] = "cosine_similarity"
    """The squared difference of cosine and score (sentence-transformers' ``CosineSimilarityLoss``), or the order of the
    pairs of the whole batch (``CoSENTLoss``; Su, 2022)."""
    scale: float = Field(default=20.0, gt=0)
    """What differences of cosines are multiplied with by `cosent`."""
    prompt: str = ""
    """What is put before both texts."""

    task_kind = "text_similarity"

    def options_without_effect(self, task: Task) -> Mapping[str, str]:
        """Return the scale, which only the loss of the whole batch has."""
        return {} if self.compares_rows else {"scale": "loss_function is 'cosine_similarity', which has no scale"}

    @property
    def compares_rows(self) -> bool:
        """Return whether pairs of the batch are compared with each other."""
        return self.loss_function == "cosent"

    def prompts(self, context: ObjectiveContext) -> dict[str, str]:
        """Return the prompt of both texts."""
        return {"query": self.prompt, "document": self.prompt}

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize both texts of each pair, or the source of a single text."""
        scores = read_targets(examples, context.task)
        texts = [[f"{self.prompt}{text}" for text in (e.source_pair or (e.source,))] for e in examples]
        rows = self.tokenize_rows(texts, context)
        return [{**row, "score": score} for row, (score,) in zip(rows, scores, strict=True)]

    def collate(self, rows: Sequence[Row], context: ObjectiveContext) -> dict[str, Tensor]:
        """Stack the texts of all rows; labels are the scores, of shape (rows,)."""
        import torch

        labels = torch.tensor([row["score"] for row in rows], dtype=torch.get_default_dtype())
        return {**context.family.collate_texts([row["texts"] for row in rows]), "labels": labels}

    def num_targets(self, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the number of pairs."""
        import torch

        return torch.tensor(len(batch["choices"]))

    def loss(self, model: nn.Module, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the loss of the pairs of a batch."""
        return self.loss_of_outputs(self.outputs(model, batch, context), batch, context, range(len(batch["choices"])))

    def loss_of_outputs(self, outputs: Tensor, batch: Batch, context: ObjectiveContext, rows: range) -> Tensor:
        """Return the loss of pairs; that of ``cosent`` is one of all pairs, times their number, for the first rows."""
        import torch

        cosines, scores = (outputs[0::2] * outputs[1::2]).sum(-1), batch["labels"].to(outputs.dtype)
        if not self.compares_rows:
            return (cosines - scores)[rows.start : rows.stop].square().sum()
        if rows.start:
            return cosines.sum() * 0
        differences = self.scale * (cosines[:, None] - cosines[None])
        higher = scores[:, None] < scores[None]  # the second has the higher score, and should have the higher cosine
        logits = differences.masked_fill(~higher, float("-inf")).flatten()
        return len(cosines) * torch.cat([logits.new_zeros(1), logits]).logsumexp(0)

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Predict the cosine of each pair, or the vector of a single text."""
        predictions: list[Prediction] = []
        for row, vectors in zip(rows, self.predict_vectors(model, rows, context), strict=True):
            prediction: Prediction = {}
            if len(vectors) > 1:
                first, second = self.compared_vectors(vectors.double())
                cosine = float(first @ second)
                prediction = {"prediction": format_number(cosine), "values": [cosine]}
                if has_targets:
                    prediction |= {"loss": (cosine - row["score"]) ** 2, "tokens": 1}
            if not has_targets:
                prediction["embeddings"] = [self.exported_vector(vector, context) for vector in vectors]
            predictions.append(prediction)
        return predictions
