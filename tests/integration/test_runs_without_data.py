"""A finished run predicts, exports, merges and loads after its data are gone, from any folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import peftkit
from peftkit import Task
from peftkit.components import Objective
from peftkit.inference.export import export
from peftkit.inference.finished_run import load_finished_recipe, load_finished_run
from peftkit.inference.predict import predict
from peftkit.inference.save_merged import save_merged
from peftkit.plugins import Registry, load_registry
from peftkit.run_directory import RunDirectory
from peftkit.tasks.dataset_task import DatasetTask
from peftkit.train.run import run
from tests.tasks.conftest import Write, write
from tests.tasks.test_registered import ANSWERS, TASKS, options_for
from tests.tiny_runs import CHAT_TEMPLATE, ONE_EVALUATION, Make

QUICK = (
    *ONE_EVALUATION,
    "train.budget.steps=1",
    "task.max_rows=9",
    "evaluate.max_new_tokens=4",
    "method.name=lora",
)
QUICK_CASES = ("text_classification-encoder", "text_multi_label-decoder", "token_tagging-encoder")
"""Cases that the quick loop runs: labels that are found in the data, of each class that finds them."""
__all__ = ["write"]
OPTIONS = {"chat": (f"objective={{name = 'chat_completion', chat_template = {json.dumps(CHAT_TEMPLATE)}}}",)}


def cases() -> list[Any]:
    """Each generic task, with the kinds of models that a built-in objective of its kind supports."""
    objectives = [e.component for e in load_registry().all("objective").values() if e.distribution == "peftkit"]
    parameters = []
    for entry in TASKS:
        component = entry.component
        if entry.distribution != "peftkit" or not issubclass(component, DatasetTask) or component.hub_id:
            continue  # the tasks of plugins are tested by the plugins; WordNet is part of the package
        kinds = {
            kind
            for objective in objectives
            if issubclass(objective, Objective) and objective.task_kind == component.kind
            for kind in objective.families
        }
        for number, kind in enumerate(sorted(kinds, reverse=True)):
            case = f"{entry.name}-{kind}"
            marks = [] if case in QUICK_CASES else [pytest.mark.slow, *([pytest.mark.exhaustive] if number else [])]
            parameters.append(pytest.param(entry.name, kind, id=case, marks=marks))
    return parameters


@pytest.mark.parametrize(("name", "kind"), cases())
def test_a_run_without_its_data_predicts_exports_merges_and_loads(
    name: str,
    kind: str,
    make: Make,
    registry: Registry,
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = [f"task.name={name}", *options_for(name, write), *QUICK, *OPTIONS.get(name, ())]
    recipe = make(kind, *options)
    path = run(recipe, registry, quiet=True)
    assert path is not None
    stored, rows = RunDirectory(path).predictions("test"), recipe.task.load()["test"]
    answers = ANSWERS.get(name, ())
    inputs = [{key: rows[p["index"]][key] for key in rows.column_names if key not in answers} for p in stored]

    shutil.rmtree(tmp_path / "data")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    finished = load_finished_run(path, registry)
    predicted = list(predict(finished, inputs))
    assert len(predicted) == len(stored) == 9
    if name != "text_pairs":  # whose predictions are places among the documents of a split
        assert [p["prediction"] for p in predicted] == [p["prediction"] for p in stored]
    export(path, registry, tmp_path / "exported")
    assert load_finished_recipe(tmp_path / "exported", registry).task.labels == finished.recipe.task.labels
    model, _ = peftkit.load_model(tmp_path / "exported")
    assert type(model) is type(finished.model)
    save_merged(finished, tmp_path / "merged")
    for folder in (tmp_path / "exported", tmp_path / "merged"):
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert ("SentenceTransformer(" in card) == (folder / "modules.json").is_file(), "the card is that of the files"


OWN_ROWS = ("preference_pairs", "unpaired_preference")
"""Tasks whose tests have rows of their own."""


@pytest.mark.parametrize(
    "entry",
    [e for e in TASKS if issubclass(e.component, DatasetTask) and e.name not in OWN_ROWS],
    ids=lambda e: e.name,
)
def test_a_task_with_recorded_state_reads_no_data(
    entry: Any, make: Make, registry: Registry, write: Write, tmp_path: Path
) -> None:
    kind = "decoder" if entry.name in ("chat", "plain_text") else "encoder"
    if entry.name in ("text_generation", "distractor_generation", "race_distractors"):
        kind = "encoder-decoder"
    task = make(kind, f"task.name={entry.name}", *options_for(entry.name, write), *OPTIONS.get(entry.name, ())).task
    rows = list(task.load()["test"])[:3]
    labels, prompts = task.labels, [task.to_prompt(row) for row in rows]
    state = json.loads(json.dumps(task.data_state()))
    for file in (tmp_path / "data").iterdir():
        file.write_text("", encoding="utf-8")
    recorded = task.with_data_state(state)
    assert recorded.labels == labels
    assert [recorded.to_prompt(row) for row in rows] == prompts
    assert recorded.data_state() == state


def test_files_to_predict_are_read_like_those_of_training(write: Write, tmp_path: Path) -> None:
    task_class = load_registry().find("task", "text_classification").component
    (tmp_path / "train.csv").write_text("text;label\n" + "a;x\nb;y\n" * 9, encoding="utf-8")
    options = {"path": str(tmp_path / "train.csv"), "delimiter": ";", "dev_fraction": 0.2, "test_fraction": 0.2}
    task: Task = task_class.model_validate(options)
    before = [task.prediction_options(name) for name in ("new.csv", "new.tsv", "new.jsonl")]
    state = task.data_state()
    (tmp_path / "train.csv").unlink()
    recorded = task.with_data_state(state)
    assert [recorded.prediction_options(name) for name in ("new.csv", "new.tsv", "new.jsonl")] == before
    assert before[0].delimiter == ";"
    assert before[1].delimiter is None


def test_runs_of_older_versions_read_their_data(make: Make, registry: Registry, write: Write, tmp_path: Path) -> None:
    options = ["task.name=text_classification", *options_for("text_classification", write), *QUICK]
    path = run(make("encoder", *options), registry, quiet=True)
    assert path is not None
    summary = json.loads((path / "summary.json").read_text())
    labels = load_finished_recipe(path, registry).task.labels
    assert [*labels] == summary.pop("task_state")["labels"]
    (path / "summary.json").write_text(json.dumps(summary))
    assert load_finished_recipe(path, registry).task.labels == labels
