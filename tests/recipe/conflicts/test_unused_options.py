"""An option that changes nothing is refused, whichever table it is in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peftkit.components import Objective
from peftkit.errors import RecipeError
from peftkit.plugins import Registry, load_registry
from peftkit.recipe import Recipe, load_recipe
from peftkit.recipe.conflicts.unused_options import UNUSED_SETTINGS
from peftkit.recipe.tables.evaluate_config import EvaluateConfig

MODELS = {"encoder": "pocket-encoder", "decoder": "pocket-decoder", "encoder-decoder": "pocket-t5"}
SET = {"num_beams": "2", "scoring": '"norm"', "stop": '["x"]', "candidate_end": "false", "temperature": "0.5"}
OBJECTIVES: list[tuple[type[Objective], str]] = [
    (entry.component, kind)  # type: ignore[misc]
    for entry in load_registry().all("objective").values()
    if issubclass(entry.component, Objective) and entry.distribution == "peftkit"
    for kind in entry.component.families
]
PATHS = {"path": "rows.jsonl", "dev_fraction": 0.2, "test_fraction": 0.2}


def load(folder: Path, registry: Registry, kind: str, task: str, *lines: str) -> Recipe:
    file = folder / "x.toml"
    text = f'[model]\nname = "{MODELS[kind]}"\n[method]\nname = "full"\n[task]\nname = "{task}"\n'
    built_in = task.startswith("wordnet")
    text += "" if built_in else 'path = "rows.jsonl"\ndev_fraction = 0.2\ntest_fraction = 0.2\n'
    file.write_text(text + "\n".join(lines), encoding="utf-8")
    return load_recipe(file, registry)


def task_of(kind: str, registry: Registry) -> str:
    """A generic task of a kind."""
    tasks = (entry for entry in registry.all("task").values() if entry.component.kind == kind)  # type: ignore[attr-defined]
    no_others = ("harness_choice", "harness_text")  # which need another library's files
    return next(e.name for e in tasks if not getattr(e.component, "hub_id", "") and e.name not in no_others)


@pytest.mark.parametrize("setting", UNUSED_SETTINGS)
@pytest.mark.parametrize(("objective", "kind"), OBJECTIVES, ids=lambda value: getattr(value, "__name__", value))
def test_settings_that_no_objective_uses_are_refused(
    setting: str, objective: type[Objective], kind: str, registry: Registry, folder: Path
) -> None:
    assert objective.used_settings is not None, "built-in objectives declare what they use"
    task, name = task_of(objective.task_kind, registry), objective.model_fields["name"].default
    lines = [f'[objective]\nname = "{name}"', f"[evaluate]\n{setting} = {SET[setting]}"]
    if setting in objective.used_settings:
        assert load(folder, registry, kind, task, *lines).evaluate.model_fields_set
        return
    with pytest.raises(RecipeError, match=f"evaluate.{setting}: has no effect, because '{name}' .*; leave it out"):
        load(folder, registry, kind, task, *lines)
    default = EvaluateConfig.model_fields[setting].default  # as in the recipe of a run, which has all keys
    value = json.dumps(default)
    assert load(folder, registry, kind, task, lines[0], f"[evaluate]\n{setting} = {value}")


@pytest.mark.parametrize(
    ("kind", "task", "lines", "words"),
    [
        (
            "encoder",
            "wordnet_topic",
            ['[[evaluate.set]]\nname = "a"\nsplit = "dev"\nexamples = 3\nat_end_only = true'],
            "set[0].examples: the set 'a': has no effect, because at_end_only",
        ),
        (
            "encoder",
            "text_similarity",
            ['[objective]\nname = "similarity_embedding"\nscale = 5.0'],
            "objective.scale: has no effect, because loss_function is",
        ),
        (
            "encoder",
            "text_similarity",
            ['[objective]\nname = "similarity_embedding"\nscale = 5.0\nloss_function = "cosent"'],
            "",
        ),
        (
            "encoder",
            "span_qa",
            ['[objective]\nname = "span_qa_head"\nnull_score_diff_threshold = 1.0'],
            "null_score_diff_threshold: has no effect, because task.allow_no_answer is false",
        ),
        (
            "encoder",
            "span_qa",
            ["allow_no_answer = true", '[objective]\nname = "span_qa_head"\nnull_score_diff_threshold = 1.0'],
            "",
        ),
        (
            "decoder",
            "text_generation",
            [
                '[[metric]]\nname = "exact_match"',
                '[[metric]]\nname = "extracted_match"\nextract = ["boxed"]\npattern = "x"',
            ],
            "extract: has no effect, because pattern finds the answer",
        ),
    ],
)
def test_options_without_effect_are_refused(
    kind: str, task: str, lines: list[str], words: str, registry: Registry, folder: Path
) -> None:
    if not words:
        assert load(folder, registry, kind, task, *lines)
        return
    with pytest.raises(RecipeError) as error:
        load(folder, registry, kind, task, *lines)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("text_classification", {"path": "x", "split_seed": 1}, "split_seed: has no effect, because no rows are held"),
        ("text_classification", {"path": "x", "split_seed": 1, "max_rows": 3}, ""),
        ("text_classification", {"path": "x", "max_bad": 3}, "max_bad: has no effect"),
        ("text_classification", {"path": "x", "symmetric": True}, "symmetric: has no effect"),
        ("multiple_choice", {"path": "x", "split_seed": 1, "shuffle_choices": True}, ""),
        (
            "multiple_choice",
            {"path": "x", "prompt": "{question}", "choice_labels_column": "letters", "answer_is": "index"},
            "choice_labels_column: has no effect, because the prompt shows no choices",
        ),
        (
            "multiple_choice",
            {"path": "x", "prompt": "{question}", "choice_labels_column": "letters", "answer_is": "label"},
            "",
        ),
        ("text_regression", {"path": "x", "target_columns": ["a", "b"], "target_column": "c"}, "target_column: has no"),
        (
            "text_multi_label",
            {"path": "x", "label_columns": ["a", "b"], "label_delimiter": ";"},
            "label_delimiter: has",
        ),
        ("token_tagging", {"path": "x", "scheme": "none", "repair_tags": True}, "repair_tags: has no effect"),
        ("token_tagging", {"path": "x", "word_field": 1}, "word_field: has no effect"),
        ("span_qa", {"path": "x", "file_format": "squad", "context_column": "c"}, "context_column: has no effect"),
        ("chat", {"path": "x", "messages_column": "m", "prompt_column": "p"}, "prompt_column: has no effect"),
        ("chat", {"path": "x", "prompt": "{a}"}, "prompt: has no effect"),
        (
            "distractor_generation",
            {"path": "x", "choices_column": "c", "distractors_column": "d"},
            "distractors_column",
        ),
    ],
)
def test_options_of_tasks_without_effect_are_refused(
    task: str, options: dict[str, Any], words: str, registry: Registry
) -> None:
    task_class = registry.find("task", task).component
    if not words:
        assert task_class.model_validate(options)
        return
    with pytest.raises(ValueError, match=words):
        task_class.model_validate(options)


GENERATED_PROBE = '[[probe]]\nname = "texts"\n[probe.task]\nname = "text_generation"\npath = "texts.jsonl"\n'
RANKED_PROBE = '[[probe]]\nname = "ranked"\n[probe.task]\nname = "multiple_choice"\npath = "choices.jsonl"\n'


@pytest.mark.parametrize("setting", UNUSED_SETTINGS)
def test_settings_that_only_a_probe_uses_are_accepted(setting: str, registry: Registry, folder: Path) -> None:
    generates = "generates" in UNUSED_SETTINGS[setting]
    task, probe, other = ("wordnet_mcq", GENERATED_PROBE, RANKED_PROBE)
    if not generates:
        task, probe, other = ("text_generation", RANKED_PROBE, GENERATED_PROBE)
    lines = f"[evaluate]\n{setting} = {SET[setting]}\n"
    assert load(folder, registry, "decoder", task, lines + probe)
    with pytest.raises(RecipeError, match=f"evaluate.{setting}: has no effect"):
        load(folder, registry, "decoder", task, lines + other)
