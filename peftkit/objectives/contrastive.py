"""Vectors of texts that are trained to find the documents of queries, with negatives from the whole batch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from peftkit.answer_texts.text_normalization import collapse_blanks
from peftkit.components import Example, Prediction, Task
from peftkit.components.family_services import Batch
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import Row
from peftkit.errors import RowError
from peftkit.objectives.sentence_embedding import VectorObjective, model_prompts

if TYPE_CHECKING:
    from torch import Tensor, nn

QUERIES_AT_A_TIME = 256
"""How many queries are compared with all documents at a time."""


class ContrastiveEmbedding(VectorObjective):
    """Vectors by contrast: an anchor's positive against all other documents of the batch (van den Oord et al., 2018).

    The loss is sentence-transformers' ``MultipleNegativesRankingLoss``. Negatives are the positives of the other rows
    of the optimizer step and all hard negatives, from all processes and microbatches. Texts that equal the anchor or
    one of its positives are no negatives of it, nor are positives of an equal anchor.
    """

    name: Literal["contrastive_embedding"] = "contrastive_embedding"

    scale: float = Field(default=20.0, gt=0)
    """What similarities are multiplied with before the softmax: one divided by the temperature. Use 1 with `dot`."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """How vectors are compared."""
    symmetric: bool = False
    """Whether anchors are contrasted for each positive too; the loss is the mean of both directions
    (``MultipleNegativesSymmetricRankingLoss``)."""
    query_prompt: str | None = None
    """What is put before anchors, such as `query: `; if unset, the prompt `query` of the model's sentence-transformers
    configuration, if there is one."""
    document_prompt: str | None = None
    """What is put before documents, such as `passage: `; if unset, the model's prompt `document` or `passage`."""

    task_kind = "embedding"
    scored_values = ("ranking",)

    @property
    def compares_rows(self) -> bool:
        """Return true, since rows are negatives of each other."""
        return True

    @property
    def similarity_name(self) -> str:
        """The name of the similarity in sentence-transformers."""
        return self.similarity

    def prompts(self, context: ObjectiveContext) -> dict[str, str]:
        """Return the prompts of anchors and of documents."""
        known = model_prompts(context)
        query = known.get("query", "") if self.query_prompt is None else self.query_prompt
        document = known.get("document") or known.get("passage", "")
        return {"query": query, "document": document if self.document_prompt is None else self.document_prompt}

    def compared_vectors(self, vectors: Tensor) -> Tensor:
        """Return the vectors, of length 1 for cosine similarity."""
        return super().compared_vectors(vectors) if self.similarity == "cosine" else vectors

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize anchors, positives and hard negatives; ``identities`` are equal for equal texts.

        Raises:
            RowError: A text has no tokens, or the first document is not the target.
        """
        if any(example.target not in ("", *example.documents[:1]) for example in examples):
            raise RowError("documents", "the first one must be the target")
        prompts = self.prompts(context)
        texts = [(example.source, *example.documents) for example in examples]
        prompted = [
            [f"{prompts['document' if number else 'query']}{text}" for number, text in enumerate(row)] for row in texts
        ]
        rows = self.tokenize_rows(prompted, context)
        return [{**row, "identities": [*map(_identity, each)]} for row, each in zip(rows, texts, strict=True)]

    def collate(self, rows: Sequence[Row], context: ObjectiveContext) -> dict[str, Tensor]:
        """Stack the texts of all rows; labels are the identities of the texts, of shape (texts,)."""
        import torch

        labels = torch.tensor([identity for row in rows for identity in row["identities"]])
        return {**context.family.collate_texts([row["texts"] for row in rows]), "labels": labels}

    def num_targets(self, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the number of rows."""
        import torch

        return torch.tensor(len(batch["choices"]))

    def loss_of_outputs(self, outputs: Tensor, batch: Batch, context: ObjectiveContext, rows: range) -> Tensor:
        """Return the cross-entropies of the rows' positives among the documents of all rows, in nats."""
        import torch

        counts: list[int] = batch["choices"].tolist()
        anchors = [*accumulate(counts, initial=0)][:-1]
        positives = [start + 1 for start in anchors]
        negatives = [start + i for start, count in zip(anchors, counts, strict=True) for i in range(2, count)]
        relevant = _find_relevant(batch["labels"], anchors, positives, [*positives, *negatives], rows)
        positive = torch.zeros_like(relevant)
        positive[range(len(rows)), rows] = True
        queries, documents = outputs[anchors[rows.start : rows.stop]], outputs[[*positives, *negatives]]
        loss = _cross_entropy(self.scale * queries @ documents.T, relevant, positive)
        if not self.symmetric:
            return loss
        # Which anchors a positive is relevant to does not follow from the rows of this process.
        both = _find_relevant(batch["labels"], anchors, positives, positives, range(len(counts)))
        scores = self.scale * outputs[positives[rows.start : rows.stop]] @ outputs[anchors].T
        other = _cross_entropy(scores, both.T[rows.start : rows.stop], positive[:, : len(counts)])
        return (loss + other) / 2

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Compute vectors; documents of all rows are ranked by ``complete_predictions``."""
        predictions: list[Prediction] = []
        for vectors in self.predict_vectors(model, rows, context):
            compared = self.compared_vectors(vectors)
            prediction: Prediction = {"vectors": compared.numpy()}
            if not has_targets:
                prediction["embedding"] = self.exported_vector(vectors[0], context)
                if len(vectors) > 1:
                    prediction["similarity"] = float(compared[0] @ compared[1])
            predictions.append(prediction)
        return predictions

    def complete_predictions(
        self, predictions: Sequence[Prediction], examples: Sequence[Example], *, has_targets: bool
    ) -> list[Prediction]:
        """Rank the documents of all rows for each anchor; the prediction is the most similar one.

        The loss is the cross-entropy of the positive among all documents of the split, in which the anchor's other
        positives are left out.
        """
        import numpy as np

        documents: dict[str, tuple[str, Any]] = {}
        for prediction, example in zip(predictions, examples, strict=True):
            for text, vector in zip(example.documents, prediction["vectors"][1:], strict=True):
                documents.setdefault(collapse_blanks(text), (text, vector))
        known = {key: {k: v for k, v in p.items() if k != "vectors"} for key, p in enumerate(predictions)}
        if not documents:
            return [*known.values()]
        number_of = {key: number for number, key in enumerate(documents)}
        texts = [text for text, _ in documents.values()]
        matrix = np.stack([vector for _, vector in documents.values()]).astype(np.float64)
        queries = [collapse_blanks(example.source) for example in examples]
        targets = [number_of.get(collapse_blanks(example.target), -1) for example in examples]
        relevant: dict[str, set[int]] = {}
        for query, target in zip(queries, targets, strict=True):
            relevant.setdefault(query, set()).add(target)
        rows_of_query = Counter(queries)
        for start in range(0, len(examples), QUERIES_AT_A_TIME):
            part = range(start, min(start + QUERIES_AT_A_TIME, len(examples)))
            vectors = np.stack([predictions[i]["vectors"][0] for i in part]).astype(np.float64)
            for i, scores in zip(part, vectors @ matrix.T, strict=True):
                known[i]["prediction"] = texts[int(scores.argmax())]
                if has_targets:
                    right = relevant[queries[i]]
                    known[i] |= {"loss": self._loss_among(scores, targets[i], right), "tokens": 1}
                    known[i]["ranking"] = {"ranks": rank(scores, right), "rows_of_query": rows_of_query[queries[i]]}
        return [*known.values()]

    def _loss_among(self, scores: Any, target: int, relevant: set[int]) -> float:
        """Return the cross-entropy of a document, of scores of shape (documents,)."""
        import numpy as np

        logits = self.scale * (scores - scores[target])
        logits[[*(relevant - {target})]] = -np.inf
        return float(np.logaddexp.reduce(logits))

    def answer(self, example: Example) -> str:
        """Return a short text that is the same for equal positives."""
        return f"{_identity(example.target):x}"

    def answer_text(self, answer: str, example: Example) -> str:
        """Return the positive, if it is that of the answer."""
        return example.target if answer == self.answer(example) else ""

    def categories(self, task: Task, example: Example) -> Sequence[str]:
        """Return none, because positives are texts."""
        return ()

    def describe_constant_answer(self, answer: str) -> tuple[str, str]:
        """Describe that all positives are the same text."""
        return "the positive is the same text", "use rows with different positives"


def rank(scores: Any, relevant: set[int]) -> list[int]:
    """Return the ranks of relevant documents, from 1, where equal scores of others come first.

    Args:
        scores: The score of each document, of shape (documents,).
        relevant: The indices of the relevant documents.
    """
    import numpy as np

    chosen = sorted(scores[[*relevant]], reverse=True)
    others = np.sort(np.delete(scores, [*relevant]))
    above = len(others) - np.searchsorted(others, chosen, side="left")
    return [int(each) + number for number, each in enumerate(above, 1)]


def _identity(text: str) -> int:
    """Return a number that is the same for texts that differ in white space only."""
    digest = hashlib.blake2b(collapse_blanks(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _find_relevant(
    identities: Tensor, anchors: Sequence[int], positives: Sequence[int], documents: Sequence[int], rows: range
) -> Tensor:
    """Find the documents that are no negatives of rows.

    Args:
        identities: Numbers that are equal for equal texts, of shape (texts,).
        anchors: The index of each row's anchor.
        positives: The index of each row's positive.
        documents: The indices of the documents.
        rows: The rows.

    Returns:
        Truth values of shape (rows, documents).
    """
    import torch

    of_documents, of_anchors = identities[documents], identities[anchors]
    is_positive = identities[positives][:, None] == of_documents
    # Rows with equal anchors have the same positives: they are collected in the first of them.
    first = (of_anchors[:, None] == of_anchors).int().argmax(1)
    collected = torch.zeros_like(is_positive, dtype=torch.int32).index_add_(0, first, is_positive.int())
    chosen = [*rows]
    return (collected[first[chosen]] > 0) | (of_anchors[chosen][:, None] == of_documents)


def _cross_entropy(scores: Tensor, relevant: Tensor, target: Tensor) -> Tensor:
    """Return the summed cross-entropies of each row's own column, among those that are not relevant.

    Args:
        scores: Of shape (rows, columns).
        relevant: The columns that are no negatives, of shape (rows, columns).
        target: The column of each row, of shape (rows, columns).
    """
    logits = scores.masked_fill(relevant & ~target, float("-inf"))
    return (logits.logsumexp(1) - (scores * target).sum(1)).sum()
