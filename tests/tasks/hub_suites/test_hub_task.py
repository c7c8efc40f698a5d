"""Every dataset of the suites, loaded from local folders in the hub's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from peftkit.components import Task
from peftkit.components.options.option_docstrings import option_descriptions
from peftkit.data.examples import to_examples
from peftkit.errors import InputError, PluginError, RowError
from peftkit.plugins import load_registry
from peftkit.recipe import Recipe, dump_recipe, load_recipe
from peftkit.tasks.hub_suites import SUITES, suite_tasks
from peftkit.tasks.hub_suites.hub_task import HubSet, HubSuite, HubTask, suite_task
from peftkit.tasks.hub_suites.reasoning_suites import read_instructions
from peftkit.tasks.hub_suites.text_suites import join_triples
from peftkit.tasks.sources import data_source
from peftkit.tasks.text_tasks.text_regression import TextRegression
from peftkit.testing import check_task
from tests.tasks.hub_suites.hub_rows import EXAMPLES, ROWS, SPLITS, instructed

EVALUATED_ONLY = [(s.name, subset) for s in SUITES for subset, each in s.sets.items() if each.evaluation_only]
EVERY = [(suite.name, subset) for suite in SUITES for subset in suite.sets]


def write_copy(name: str, subset: str, folder: Path) -> Any:
    """Writes a local copy in the layout of the hub; returns the task on it, from the registry."""
    registered = load_registry().find("task", name).component
    built = registered.class_for({"subset": subset})
    config = built.model_fields["config"].default or ""
    rows = ROWS[name, subset]()
    for split in SPLITS.get((name, subset), ("train", "validation", "test")):
        (folder / config).mkdir(exist_ok=True, parents=True)
        rows.to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
    options = {"name": name, "path": str(folder), **({"subset": subset} if subset else {})}
    return built.model_validate(options)


def test_every_dataset_has_rows_to_test_it() -> None:
    assert {*EVERY} == {*ROWS}
    assert {*EXAMPLES} < {*ROWS}
    for suite, lazy in zip(SUITES, suite_tasks(), strict=True):
        assert lazy.component.model_fields["name"].default == lazy.name == suite.name
        assert (lazy.component.__doc__ or "").startswith(lazy.summary)


@pytest.mark.parametrize(
    ("name", "subset"), [each for each in EVERY if each not in EVALUATED_ONLY], ids=lambda value: value
)
def test_a_local_copy_is_loaded_with_the_splits_columns_and_labels_of_the_dataset(
    name: str, subset: str, tmp_path: Path
) -> None:
    task = write_copy(name, subset, tmp_path / "copy")
    assert task.name == name
    splits = task.load()
    assert {*splits} == {"train", "dev", "test"}
    assert len(splits["test"]) == 60
    held_out = task.dev_fraction is not None
    assert len(splits["train"]) + len(splits["dev"]) == (60 if held_out else 120)
    if held_out and task.test_split is not None:
        assert task.test_split.startswith("validation"), "test is the published validation split"
    examples = to_examples(task, "test", splits["test"], range(60))
    for example in examples:
        assert not example.candidates or example.target in example.candidates
    if (name, subset) in EXAMPLES:
        assert (examples[0].source, examples[0].target) == EXAMPLES[name, subset]
    check_task(type(task).model_validate(task.model_dump()))
    assert task.find_data_problems() == []
    assert len({*task.labels}) == len(task.labels)


@pytest.mark.parametrize(("name", "subset"), EVERY, ids=lambda value: value)
def test_every_dataset_has_its_metric_source_licence_and_sizes(name: str, subset: str) -> None:
    registry = load_registry()
    task: Any = registry.find("task", name).component.class_for({"subset": subset})
    values = [v for each in task.metrics for v in registry.find("metric", each).component().value_names]  # type: ignore[call-arg,attr-defined]
    assert task.selection_metric in values
    assert task.source.endswith(f"https://huggingface.co/datasets/{task.hub_id}")
    assert task.licence
    assert "Prompt: " in task.__doc__
    assert [key for key, text in option_descriptions(task).items() if key != "name" and not text] == []
    sizes = task.published_sizes.get(task.model_fields["config"].default or "", {})
    assert {*sizes} <= {*SPLITS.get((name, subset), ("train", "validation", "test"))}
    assert sizes or name == "web_nlg"


def test_published_sizes_are_checked_on_the_hub_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = write_copy("glue", "rte", tmp_path / "copy")
    assert task._data_source().sizes == ()
    on_hub = type(task).model_validate({})
    source = on_hub._data_source()
    assert dict(source.sizes) == {"train": 2490, "validation": 277, "test": 3000}
    rows = Dataset.from_dict({"label": [0] * 2489})
    with pytest.raises(
        InputError, match=r"'nyu-mll/glue' \(rte\) has 2,489 rows in split 'train', but 2,490 were publi"
    ):
        data_source.check_sizes(source, {"train": rows})
    web_nlg = load_registry().find("task", "web_nlg").component.model_validate({})
    assert web_nlg._data_source().data_dir == "release_v2.1"  # type: ignore[attr-defined]
    assert web_nlg.model_copy(update={"path": "x"})._data_source().data_dir == ""  # type: ignore[attr-defined]


RECIPE = '[model]\nname = "pocket-encoder"\n[method]\nname = "lora"\n[task]\nname = "glue"\n'


def load(folder: Path, *overrides: str) -> Recipe:
    (folder / "x.toml").write_text(RECIPE)
    return load_recipe(folder / "x.toml", load_registry(), overrides)


@pytest.mark.parametrize(
    ("subset", "kind", "metric"),
    [
        ("cola", "classification", "matthews_correlation"),
        ("mrpc", "classification", "f1"),
        ("stsb", "regression", "pearson"),
    ],
)
def test_the_subset_decides_the_kind_the_metrics_and_the_defaults(
    subset: str, kind: str, metric: str, tmp_path: Path
) -> None:
    recipe = load(tmp_path, f"task.subset={subset}")
    assert (type(recipe.task).kind, recipe.selection_metric) == (kind, metric)
    assert metric in [value for each in recipe.metric for value in each.value_names]
    (tmp_path / "again.toml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "again.toml", load_registry()) == recipe
    assert isinstance(recipe.task, TextRegression) == (subset == "stsb")


def test_the_second_validation_split_of_mnli_is_an_evaluation_set(tmp_path: Path) -> None:
    task = write_copy("glue", "mnli", tmp_path / "copy")
    overrides = (f"task.path={tmp_path / 'copy'}", "task.subset=mnli")
    recipe = load(tmp_path, *overrides, 'evaluate.set=[{name="mismatched", split="validation_mismatched"}]')
    [each] = recipe.evaluation_tasks
    assert len(each.task.load()[each.split]) == 60
    assert each.task.describe_row(each.split, 4).endswith("validation_mismatched-00000-of-00001.parquet, row 5")
    assert each.task.labels == task.labels == ("entailment", "neutral", "contradiction")


@pytest.mark.parametrize(("name", "subset"), EVALUATED_ONLY, ids=lambda value: value)
def test_rows_to_evaluate_only_are_an_evaluation_set_of_another_task(name: str, subset: str, tmp_path: Path) -> None:
    write_copy(name, subset, tmp_path / "copy")
    trained = "chat" if subset == "chat" else "text_generation"
    table = {"name": name, "path": str(tmp_path / "copy"), **({"subset": subset} if subset else {})}
    fields = ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
    decoder = "model.name=pocket-decoder"
    recipe = load(
        tmp_path, decoder, f"task.name={trained}", "task.path=x", f'evaluate.set=[{{name="x", task={{{fields}}}}}]'
    )
    [each] = recipe.evaluation_tasks
    rows = each.task.load()[each.split]
    assert len(rows) == 60
    examples = to_examples(each.task, each.split, rows, range(60))
    assert {example.has_answer for example in examples} == {name == "math500"}
    metrics = 'metric=[{name="rouge"}]'
    chosen = [f"task.subset={subset}"] if subset else []
    with pytest.raises(InputError, match="has rows to evaluate only; train on another task"):
        load(tmp_path, decoder, f"task.name={name}", *chosen, metrics, "evaluate.selection_metric=loss")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instruction_id_list": ["punctuation:no_coma", "x"]}, "unknown instruction 'punctuation:no_coma' .did you"),
        ({"instruction_id_list": []}, "must be a list of instructions"),
        ({"kwargs": [{}]}, "must be a list with a table for each of the 2 instructions"),
        ({"kwargs": [{}, {"num_words": 3}]}, "length_constraints:number_words: relation is missing"),
        ({"kwargs": [{}, {"num_words": 3, "relation": "at most"}]}, "must be 'less than' or 'at least', not 'at most'"),
    ],
)
def test_invalid_instructions_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match=message):
        read_instructions({**instructed(0), **changes})


def test_an_unknown_subset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"task\.subset: must be one of 'cola', .*, not 'mnlu' \(did you mean 'mnli'\?\)"
    ):
        load(tmp_path, "task.subset=mnlu")


def test_a_table_with_an_unknown_option_is_an_error() -> None:
    wrong = HubSet(base=TextRegression, path="a/b", metric="mse", options={"txt": "x"})
    suite = HubSuite(name="x", summary="x", paper="x", licence="x", note="x", sets={"": wrong})
    with pytest.raises(PluginError, match="x: TextRegression has no option 'txt'"):
        suite_task(suite)


@pytest.mark.parametrize("value", [[], [[]], [["a", 1]], None, 5])
def test_triples_must_be_texts(value: Any) -> None:
    with pytest.raises(RowError, match="must be lists of triples"):
        join_triples(value)


def test_suites_are_tasks_of_the_registry() -> None:
    tasks = {name: entry.component for name, entry in load_registry().all("task").items()}
    for suite in SUITES:
        task = tasks[suite.name]
        assert issubclass(task, HubTask)
        assert issubclass(task, Task)
        assert {*task.subset_tasks} == {*suite.sets}
