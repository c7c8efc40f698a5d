"""Tasks of lm-evaluation-harness as tasks to train on: their documents, prompts and answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from peftkit.components import Example, Task, TaskKind
from peftkit.errors import InputError
from peftkit.harness.load_tasks import load_harness_tasks
from peftkit.tasks.sources.splitting import hold_out

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

HARNESS_KEYS = ("harness_task", "harness_include_path", "harness_document")
"""Keys of ``Example.extra``, which metrics of the library's scores read."""


class HarnessTask(Task):
    """Base class of tasks of lm-evaluation-harness."""

    task: str = Field(min_length=1)
    """Name of the task in lm-evaluation-harness, or the path of its YAML file."""
    include_path: str | None = None
    """A folder of YAML files with further tasks."""
    num_fewshot: int = Field(default=0, ge=0)
    """Solved examples in every prompt, in training too."""
    delimiter: str = " "
    """The task's `target_delimiter`, between prompt and answer; decoders need `objective.join` to be the same text."""
    dev_fraction: float = Field(default=0.1, gt=0, lt=1)
    """The share of the training documents that become dev, if the task has one split to evaluate, which is test."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of the documents that are held out."""

    source: ClassVar[str] = (
        "lm-evaluation-harness (Gao et al., 2024), https://github.com/EleutherAI/lm-evaluation-harness"
    )
    licence: ClassVar[str] = "that of the task's data"
    output_type: ClassVar[str]
    """The kind of task in the library."""
    other_task: ClassVar[str]
    """The task of peftkit for another kind."""

    def data_files(self) -> Sequence[Path]:
        """Return the files of the tasks, if they are not the library's own."""
        return [Path(self.include_path)] if self.include_path else []

    def load(self) -> DatasetDict:
        """Load the documents and build the prompts.

        Raises:
            InputError: The library or the task is missing, the task has no documents to train on, or it is of another
                kind.
        """
        from datasets import DatasetDict

        [task] = self._load_one()
        if not task.has_training_docs():
            raise InputError(f"the harness task {self.task!r} has no documents to train on; use it with peftkit eval")
        train = self._rows(task, task.training_docs())
        has_dev, has_test = task.has_validation_docs(), task.has_test_docs()
        if has_dev and has_test:
            dev, test = self._rows(task, task.validation_docs()), self._rows(task, task.test_docs())
        else:
            test = self._rows(task, task.test_docs() if has_test else task.validation_docs())
            train, dev = hold_out(train, round(self.dev_fraction * len(train)), self.split_seed, None)
        return DatasetDict(train=train, dev=dev, test=test)

    def _load_one(self) -> list[Any]:
        tasks = [*load_harness_tasks([self.task], self.include_path).values()]
        if len(tasks) != 1:
            raise InputError(f"the harness task {self.task!r} is a group of {len(tasks)}; train on one of them")
        config = tasks[0].config
        if self.output_type != tasks[0].OUTPUT_TYPE:
            text = f"the harness task {self.task!r} is of the kind {tasks[0].OUTPUT_TYPE!r}, not {self.output_type!r}"
            raise InputError(f"{text}; try the task {self.other_task!r}")
        if getattr(tasks[0], "multiple_input", 0):
            raise InputError(
                f"the harness task {self.task!r} has several prompts for an answer; use it with peftkit eval"
            )
        if config.target_delimiter != self.delimiter:
            text = f"the harness task {self.task!r} joins prompt and answer by {config.target_delimiter!r}"
            raise InputError(f"{text}; set task.delimiter, and objective.join for a decoder, to this text")
        return tasks

    def _rows(self, task: Any, documents: Iterable[Any]) -> Dataset:
        """Return a row for each document: its prompt, its answer, and the document for the task's scores."""
        from datasets import Dataset

        rows = []
        for document in documents:
            document = task._process_doc(document)
            prompt = task.fewshot_context(document, self.num_fewshot)
            rows.append(
                {"prompt": prompt, "document": json.dumps(document, default=str), **self._answer(task, document)}
            )
        if not rows:
            raise InputError(f"a split of the harness task {self.task!r} has no documents")
        return Dataset.from_list(rows)

    def _answer(self, task: Any, document: Any) -> dict[str, Any]:
        """Return the columns of the answer."""
        raise NotImplementedError

    def _extra(self, row: Mapping[str, Any]) -> dict[str, str]:
        return dict(zip(HARNESS_KEYS, (self.task, self.include_path or "", row["document"]), strict=True))


class HarnessChoice(HarnessTask):
    """A multiple-choice task of lm-evaluation-harness: prompt → one of the document's choices.

    With ``evaluate.candidate_end = false``, log-likelihoods are those of the library.
    """

    name: Literal["harness_choice"] = "harness_choice"

    kind: ClassVar[TaskKind] = "multiple_choice"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "harness_choice_score")
    selection_metric: ClassVar[str] = "accuracy"
    output_type: ClassVar[str] = "multiple_choice"
    other_task: ClassVar[str] = "harness_text"

    def _answer(self, task: Any, document: Any) -> dict[str, Any]:
        """Return the choices, and the right one.

        Raises:
            InputError: There is none, or there are several.
        """
        choices, answer = [str(choice) for choice in task.doc_to_choice(document)], task.doc_to_target(document)
        if isinstance(answer, str) and answer in choices:
            answer = choices.index(answer)
        if not isinstance(answer, int) or not 0 <= answer < len(choices):
            raise InputError(f"the harness task {self.task!r} has no single right choice in {document!r}")
        return {"choices": choices, "answer": answer}

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The prompt → the right choice."""
        choices = tuple(row["choices"])
        return Example(row["prompt"], choices[row["answer"]], choices, extra=self._extra(row))

    def to_prompt(self, row: Mapping[str, Any]) -> Example:
        """The prompt and the choices, for prediction."""
        choices = tuple(row["choices"])
        return Example(row["prompt"], choices[0], choices)


class HarnessText(HarnessTask):
    """A task of lm-evaluation-harness that generates: prompt → the document's answer.

    Set ``evaluate.stop`` and ``evaluate.max_new_tokens`` to the task's ``until`` and ``max_gen_toks``.
    """

    name: Literal["harness_text"] = "harness_text"

    kind: ClassVar[TaskKind] = "generation"
    metrics: ClassVar[tuple[str, ...]] = ("harness_text_score",)
    selection_metric: ClassVar[str] = "harness_text_score"
    output_type: ClassVar[str] = "generate_until"
    other_task: ClassVar[str] = "harness_choice"

    def _answer(self, task: Any, document: Any) -> dict[str, Any]:
        """Return the answers; the first one is trained on."""
        target = task.doc_to_target(document)
        if isinstance(target, int) and task.config.doc_to_choice is not None:
            target = task.doc_to_choice(document)[target]
        return {"answers": [str(each) for each in (target if isinstance(target, list) else [target])]}

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The prompt → the first answer."""
        return Example(row["prompt"], row["answers"][0], references=tuple(row["answers"]), extra=self._extra(row))
