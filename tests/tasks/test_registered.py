"""Every registered task: documented, and without its answer in the source."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from peftkit.components import Task
from peftkit.components.options.option_docstrings import option_descriptions
from peftkit.data.examples import to_examples
from peftkit.data.tokenized_split import tokenize_examples
from peftkit.errors import InputError, MissingFieldsError
from peftkit.evaluate.evaluator import evaluate
from peftkit.plugins import Entry, load_registry
from peftkit.recipe import load_recipe
from peftkit.tasks.dataset_task import DatasetTask
from peftkit.tasks.hub_suites.harness_task import HarnessTask
from peftkit.tasks.hub_suites.hub_task import HubTask
from peftkit.tasks.hub_suites.metamath import MetaMathGsm8k
from peftkit.testing import check_task
from tests.evaluate.test_evaluator import bind_input_blind_model
from tests.tasks.conftest import Write, examinations, questions, tweets

ROWS = 200
OTHERS = (HubTask, HarnessTask, MetaMathGsm8k)
TASKS = [e for e in load_registry().all("task").values() if not issubclass(e.component, OTHERS)]
"""All but the tasks of suites, which ``hub_suites/test_hub_task.py`` walks over, and those of lm-evaluation-harness,
which ``inference/test_harness_evaluation.py`` trains on where the library is installed."""
WITH_CANDIDATES = ("classification", "multiple_choice")
RANKED = [e for e in TASKS if issubclass(e.component, Task) and e.component.kind in WITH_CANDIDATES]
MODELS = {
    "chat": "pocket-decoder",
    "plain_text": "pocket-decoder",
    "text_pairs": "pocket-encoder",
    "text_similarity": "pocket-encoder",
    "token_tagging": "pocket-encoder",
}
"""Models for the tasks that not every kind of model supports."""


def tags_of(text: str) -> list[str]:
    return ["B-LONG" if len(word) > 4 else "O" for word in text.split()]


def span_of(row: Any) -> dict[str, Any]:
    answers = {"text": [row["question"].split()[0]], "answer_start": [0]}
    return {"question": "which word is first", "context": row["question"], "answers": answers}


def options_for(name: str, write: Write) -> list[str]:
    """Overrides that give the task rows, unless it is built in."""
    hub = {
        "tweet_eval": tweets(ROWS),
        "ag_news": tweets(ROWS),
        "commonsense_qa": questions(ROWS),
        "race": examinations(ROWS),
        "race_distractors": examinations(ROWS),
    }
    generic = {
        "text_classification": tweets(ROWS),
        "multiple_choice": [{**r, "choices": r["options"]} for r in examinations(ROWS)],
        "chat": [{"prompt": r["question"], "completion": r["answer"]} for r in examinations(ROWS)],
        "plain_text": [{"text": r["text"]} for r in tweets(ROWS)],
        "text_regression": [{"text": r["text"], "target": i % 7} for i, r in enumerate(tweets(ROWS))],
        "text_pairs": [{"anchor": r["question"], "positive": r["answer"]} for r in examinations(ROWS)],
        "text_similarity": [
            {"sentence1": r["text"], "sentence2": "a sea", "score": i % 7 / 6} for i, r in enumerate(tweets(ROWS))
        ],
        "text_multi_label": [{"text": r["text"], "labels": ["a", "b"][: i % 3]} for i, r in enumerate(tweets(ROWS))],
        "token_tagging": [{"tokens": r["text"].split(), "ner_tags": tags_of(r["text"])} for r in tweets(ROWS)],
        "span_qa": [span_of(r) for r in examinations(ROWS)],
        "text_generation": [{"source": r["question"], "target": r["answer"]} for r in examinations(ROWS)],
        "distractor_generation": [{**r, "distractors": ["w", "v"]} for r in examinations(ROWS)],
    }
    rows: Any = (hub | generic).get(name)
    if rows is None:
        return []
    for split in ("train", "validation", "test"):
        path = write(f"data/{split}.jsonl", rows)
    return [f"task.path={path.parent}"]


def recipe_for(entry: Entry, write: Write, tmp_path: Path) -> Any:
    file = tmp_path / "x.toml"
    model = MODELS.get(entry.name, "pocket-t5")
    file.write_text(f'[model]\nname = "{model}"\n[method]\nname = "full"\n', encoding="utf-8")
    return load_recipe(file, load_registry(), [f"task.name={entry.name}", *options_for(entry.name, write)])


@pytest.mark.parametrize("entry", RANKED, ids=lambda e: e.name)
def test_an_input_blind_model_scores_chance(entry: Entry, write: Write, tmp_path: Path) -> None:
    recipe = recipe_for(entry, write, tmp_path)
    objective = bind_input_blind_model(recipe)
    rows = recipe.task.load()["test"]
    examples = to_examples(recipe.task, "test", rows, range(len(rows)))[:ROWS]
    split = tokenize_examples(objective, "test", examples, range(len(examples)), training=False)
    accuracy = evaluate(torch.nn.Linear(1, 1), split, recipe, objective, Accelerator(cpu=True)).values["accuracy"]
    chance = sum(1 / len(e.candidates) for e in examples) / len(examples)
    half = 2.576 * math.sqrt(chance * (1 - chance) / len(examples))  # the 99 % interval
    assert chance - half <= accuracy <= chance + half


@pytest.mark.parametrize("entry", TASKS, ids=lambda e: e.name)
def test_the_source_does_not_contain_the_answer(entry: Entry, write: Write, tmp_path: Path) -> None:
    recipe = recipe_for(entry, write, tmp_path)
    rows = recipe.task.load()["test"]
    for example in to_examples(recipe.task, "test", rows, range(len(rows))):
        if example.candidates:
            assert example.target in example.candidates
            if recipe.task.kind == "multiple_choice":  # all choices are in the source
                shown = [re.search(rf"(?<!\w){re.escape(c)}(?!\w)", example.source) for c in example.candidates]
                assert all(shown) or not shown[example.candidates.index(example.target)]
        if example.truncatable_span is not None:
            start, end = example.truncatable_span
            assert 0 <= start <= end <= len(example.source)


@pytest.mark.parametrize("entry", TASKS, ids=lambda e: e.name)
def test_every_task_declares_its_kind_metrics_and_options(entry: Entry) -> None:
    component = entry.component
    assert issubclass(component, Task)
    assert component.metrics
    registry = load_registry()
    values = [v for name in component.metrics for v in registry.find("metric", name).component().value_names]  # type: ignore[call-arg,attr-defined]
    assert component.selection_metric in [*values, "loss"]
    undocumented = [k for k, text in option_descriptions(component).items() if k != "name" and not text]
    assert not undocumented
    if entry.name in ("tweet_eval", "ag_news", "commonsense_qa", "race", "race_distractors"):
        assert component.source
        assert component.licence
        assert "Prompt: " in (component.__doc__ or "")


@pytest.mark.parametrize("entry", TASKS, ids=lambda e: e.name)
def test_every_task_passes_check_task(entry: Entry, write: Write, tmp_path: Path) -> None:
    check_task(recipe_for(entry, write, tmp_path).task)


ANSWERS = {
    "wordnet_topic": ["category"],
    "wordnet_mcq": ["answer"],
    "wordnet_distractors": ["distractors"],
    "tweet_eval": ["label"],
    "ag_news": ["label"],
    "commonsense_qa": ["answerKey"],
    "race": ["answer"],
    "text_classification": ["label"],
    "multiple_choice": ["answer"],
    "text_generation": ["target"],
    "span_qa": ["answers"],
    "text_multi_label": ["labels"],
    "text_pairs": ["positive"],
    "text_regression": ["target"],
    "text_similarity": ["score"],
    "token_tagging": ["ner_tags"],
    "distractor_generation": ["distractors"],
}


@pytest.mark.parametrize("name", ANSWERS)
def test_to_prompt_needs_no_answer_and_names_missing_fields(name: str, write: Write, tmp_path: Path) -> None:
    task = recipe_for(load_registry().all("task")[name], write, tmp_path).task
    for row in list(task.load()["test"])[:20]:
        example, bare = task.to_example(row), {key: row[key] for key in row if key not in ANSWERS[name]}
        prompt = task.to_prompt(bare)
        assert (prompt.source, prompt.candidates, prompt.truncatable_span) == (
            example.source,
            example.candidates,
            example.truncatable_span,
        )
    with pytest.raises(MissingFieldsError) as error:
        task.to_prompt({})
    assert error.value.fields
    assert not {*error.value.fields} & {*ANSWERS[name]}
    only = {field: value_of(row, field) for field in error.value.fields}
    assert task.to_prompt(only).source == example.source


def value_of(row: Any, field: str) -> Any:
    for part in field.split("."):
        row = row[part]
    return row


def test_race_distractors_takes_the_answer_as_a_label_or_a_text(write: Write, tmp_path: Path) -> None:
    task = recipe_for(load_registry().all("task")["race_distractors"], write, tmp_path).task
    row = next(iter(task.load()["test"]))
    right = row["options"]["ABCD".index(row["answer"])]
    source = task.to_example(row).source
    assert task.to_prompt(row).source == source
    written = {"article": row["article"], "question": row["question"], "answer": right}
    assert task.to_prompt(written).source == source
    with pytest.raises(MissingFieldsError, match="options: missing"):
        task.to_prompt({**written, "answer": row["answer"]})


GROUPED = {"race", "race_distractors", "span_qa", "text_pairs", "wordnet_mcq"}
CONTEXTS = {"span_qa": "context", "text_pairs": "anchor"}
"""Columns whose equal texts make a group; articles in RACE."""


@pytest.mark.parametrize("entry", TASKS, ids=lambda e: e.name)
def test_rows_that_share_a_context_are_a_group(entry: Entry, write: Write, tmp_path: Path) -> None:
    task = recipe_for(entry, write, tmp_path).task
    rows = list(task.load()["test"])[:50]
    groups = [task.to_example(row).group for row in rows]
    if entry.name not in GROUPED:
        assert set(groups) == {""}
    elif entry.name == "wordnet_mcq":
        shared = Counter(groups)
        assert all(shared[group] in (1, 2, 3, 4, 5) for group in groups)
        assert all(group == ", ".join(sorted(row["choices"])) for group, row in zip(groups, rows, strict=True))
    else:
        assert groups == [row[CONTEXTS.get(entry.name, "article")] for row in rows]


@pytest.mark.parametrize("name", [name for name in ANSWERS if name.startswith(("text_", "multiple", "distractor_"))])
def test_group_column_sets_the_groups(name: str, write: Write, tmp_path: Path) -> None:
    file = tmp_path / "y.toml"
    model = MODELS.get(name, "pocket-t5")
    file.write_text(f'[model]\nname = "{model}"\n[method]\nname = "full"\n', encoding="utf-8")
    options = options_for(name, write)
    folder = tmp_path / "data"
    for path in folder.iterdir():
        rows = [json.loads(line) | {"shop": i // 3} for i, line in enumerate(path.read_text().splitlines())]
        write(f"data/{path.name}", rows)
    task = load_recipe(file, load_registry(), [f"task.name={name}", *options, "task.group_column=shop"]).task
    assert [task.to_example(row).group for row in list(task.load()["test"])[:7]] == ["0", "0", "0", "1", "1", "1", "2"]
    wrong = load_recipe(file, load_registry(), [f"task.name={name}", *options, "task.group_column=shot"]).task
    with pytest.raises(InputError, match=r"group_column: there is no column 'shot' \(did you mean 'shop'\?\)"):
        wrong.load()


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_columns_that_do_not_exist_are_reported_before_a_model_is_loaded(
    name: str, write: Write, tmp_path: Path
) -> None:
    """The number of a head's outputs comes from the labels, so that they may not be missing without a word."""
    entry = next(entry for entry in TASKS if entry.name == name)
    recipe = recipe_for(entry, write, tmp_path)
    columns = dict(recipe.task.column_options()) if isinstance(recipe.task, DatasetTask) else {}
    overrides = [f"task.name={name}", *options_for(name, write)]
    for option in columns.keys() & type(recipe.task).model_fields.keys():
        wrong = load_recipe(tmp_path / "x.toml", load_registry(), [*overrides, f"task.{option}=no_such"]).task
        with pytest.raises(InputError, match=r"there is no column 'no_such'"):
            load_with_labels(wrong, recipe.task.labels)


def load_with_labels(task: Task, labels: Sequence[str]) -> None:
    assert tuple(task.labels) == tuple(labels)
    task.load()
