"""Scores of lm-evaluation-harness, computed by its tasks from predictions of peftkit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

from peftkit.components import Example, Metric, TaskKind
from peftkit.errors import InputError
from peftkit.harness.load_tasks import load_harness_tasks
from peftkit.harness.score_names import numbers_among, value_name
from peftkit.metrics.base import mean


class _HarnessScore(Metric):
    """Base class: the task's first score under the name of the metric, and all of them as its parts."""

    is_mean_of_examples: ClassVar[bool] = True

    def compute(
        self, predictions: Sequence[Any], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Score predictions; see ``Metric.compute``.

        Args:
            predictions: What is scored, one for each example.
            references: Not used.
            examples: Examples of a harness task.

        Raises:
            InputError: The examples are of another task.
        """
        rows = self.compute_per_example(predictions, references, examples)
        return {name: mean([row[name] for row in rows]) for name in rows[0]}

    def compute_per_example(
        self, predictions: Sequence[Any], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> list[dict[str, float]]:
        """Score each prediction by its document; see ``Metric.compute_per_example``.

        Args:
            predictions: What is scored, one for each example.
            references: Not used.
            examples: Examples of a harness task.

        Raises:
            InputError: The examples are of another task.
        """
        if not all("harness_document" in example.extra for example in examples):
            raise InputError(f"{self.name} scores the tasks harness_choice and harness_text")
        task = _load_task(examples[0].extra["harness_task"], examples[0].extra["harness_include_path"])
        documents = [json.loads(example.extra["harness_document"]) for example in examples]
        rows = []
        for scores in self._score(task, documents, predictions):
            numbers = dict(numbers_among(scores))
            if not numbers:
                raise InputError(f"the harness task {task.task_name!r} has no score that is a mean over examples")
            first = next(iter(numbers.values()))
            rows.append({self.name: first, **{f"{self.name}.{name}": value for name, value in numbers.items()}})
        return rows

    def _score(self, task: Any, documents: Sequence[Any], predictions: Sequence[Any]) -> Iterable[dict[str, Any]]:
        """Score each prediction with the library."""
        raise NotImplementedError


class HarnessChoiceScore(_HarnessScore):
    """The scores of a multiple-choice task of lm-evaluation-harness, such as acc_norm, from log-likelihoods.

    Nothing is said about whether a choice would be generated greedily: such scores are 0.
    """

    name: Literal["harness_choice_score"] = "harness_choice_score"

    kinds: ClassVar[tuple[TaskKind, ...]] = ("multiple_choice",)
    input: ClassVar[str] = "log_likelihoods"

    def _score(self, task: Any, documents: Sequence[Any], predictions: Sequence[Any]) -> Iterable[dict[str, Any]]:
        for document, sums in zip(documents, predictions, strict=True):
            yield task.process_results(document, [(value, False) for value in sums])


class HarnessTextScore(_HarnessScore):
    """The scores of a task of lm-evaluation-harness that generates, by its filters of answers."""

    name: Literal["harness_text_score"] = "harness_text_score"

    kinds: ClassVar[tuple[TaskKind, ...]] = ("generation",)

    def _score(self, task: Any, documents: Sequence[Any], predictions: Sequence[Any]) -> Iterable[dict[str, Any]]:
        from lm_eval.api.instance import Instance

        instances = [
            Instance("generate_until", document, ("", {}), 0, resps=[text])
            for document, text in zip(documents, predictions, strict=True)
        ]
        for each in task._filters:
            each.apply(instances)
        for document, instance in zip(documents, instances, strict=True):
            scores: dict[str, Any] = {}
            for name, answer in instance.filtered_resps.items():
                results = task.process_results(document, [answer])
                scores |= {value_name(metric, name): value for metric, value in results.items()}
            yield scores


@lru_cache(maxsize=4)
def _load_task(name: str, include_path: str) -> Any:
    """Load a task once in a process."""
    return next(iter(load_harness_tasks([name], include_path or None).values()))
