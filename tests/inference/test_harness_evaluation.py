"""lm-evaluation-harness on finished runs, held to peftkit's own numbers under the library's rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import peftkit
from peftkit.compare.comparison import compare
from peftkit.compare.matched_methods import load_groups
from peftkit.errors import InputError
from peftkit.inference.finished_run import FinishedRun, load_finished_run
from peftkit.inference.harness_evaluation import HarnessSettings, evaluate_with_harness
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.run_directory.harness_results import harness_names, read_harness_rows
from peftkit.train.run import run
from peftkit.verify.harness_files import harness_checks
from peftkit.verify.results import run_checks
from tests.harness_files import write_harness_tasks
from tests.tiny_runs import ONE_EVALUATION, Make

pytest.importorskip("lm_eval", reason="needs the extra harness")


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return write_harness_tasks(tmp_path / "harness_tasks")


def trained(make: Make, registry: Registry, tasks: Path, kind: str, name: str, *options: str) -> FinishedRun:
    text = f'task={{name = "{name}", task = "colour_{name.split("_")[1]}", include_path = "{tasks.as_posix()}"}}'
    path = run(make(kind, text, *ONE_EVALUATION, "train.budget.steps=2", *options), registry)
    assert path is not None
    return load_finished_run(path, registry)


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_ranking_without_the_end_gives_the_log_likelihoods_of_the_harness(
    kind: str, method: str, make: Make, registry: Registry, tasks: Path
) -> None:
    from peftkit.inference.harness_model import HarnessModel

    table = {"lora": '{name="lora"}', "prompt_tuning": '{name="prompt_tuning", num_virtual_tokens=3}'}[method]
    finished = trained(make, registry, tasks, kind, "harness_choice", "evaluate.candidate_end=false", f"method={table}")
    model, delimiter = HarnessModel(finished, 5), " " if kind == "decoder" else ""
    for row in RunDirectory(finished.path).predictions("test"):
        requests: list[Any] = [Request(row["source"], delimiter + text) for text in row["candidates"]]
        scores = [score for score, _ in model.loglikelihood(requests, disable_tqdm=True)]
        assert scores == pytest.approx(row["log_likelihoods"], abs=1e-4)


class Request:
    """What the library asks a model."""

    def __init__(self, prompt: str, continuation: str) -> None:
        self.args = prompt, continuation


def test_a_curve_and_the_harness_give_the_same_scores(make: Make, registry: Registry, tasks: Path) -> None:
    finished = trained(make, registry, tasks, "decoder", "harness_choice", "evaluate.candidate_end=false")
    before = {name: weight.clone() for name, weight in finished.model.state_dict().items()}
    results = evaluate_with_harness(finished, ["colour_choice", "colour_text"], HarnessSettings(str(tasks)))
    assert all(weight.equal(before[name]) for name, weight in finished.model.state_dict().items())
    values, directory = results["colour_choice"]["values"], RunDirectory(finished.path)
    measured = directory.summary()["selected"]["test"]
    assert values["acc"] == pytest.approx(measured["accuracy"])
    assert values["acc"] == pytest.approx(measured["harness_choice_score"])
    assert values["acc_norm"] == pytest.approx(measured["harness_choice_score.acc_norm"])
    assert harness_names(finished.path) == ["colour_choice", "colour_text"]
    stored = [row["scores"]["acc"] for row in read_harness_rows(finished.path, "colour_choice")]
    assert stored == [row["scores"]["accuracy"] for row in directory.predictions("test")]

    for row in directory.predictions("test"):
        by_hand = [sum_by_hand(finished, row["source"], f" {text}") for text in row["candidates"]]
        assert row["log_likelihoods"] == pytest.approx(by_hand, abs=1e-4)

    [group], _ = load_groups([finished.path], evaluation_set="colour_choice")
    comparison = compare(group)
    assert (comparison.metric, comparison.test_split) == ("acc", "colour_choice")
    assert any("candidates without the end of text" in remark for remark in group.remarks)


@torch.no_grad()
def sum_by_hand(finished: FinishedRun, prompt: str, text: str) -> float:
    """The log-likelihood of a text after a prompt, from one pass without anything of peftkit or the library."""
    before, whole = (
        finished.family.tokenizer(each, add_special_tokens=False)["input_ids"] for each in (prompt, prompt + text)
    )
    assert whole[: len(before)] == before
    logits = finished.model(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return float(sum(logits[i - 1, whole[i]] for i in range(len(before), len(whole))))


@pytest.mark.parametrize("kind", ["decoder", pytest.param("encoder-decoder", marks=pytest.mark.exhaustive)])
def test_a_task_that_generates_is_scored_as_in_the_harness(
    kind: str, make: Make, registry: Registry, tasks: Path
) -> None:
    stop = ("evaluate.max_new_tokens=4", 'evaluate.stop=["\\n"]')
    finished = trained(make, registry, tasks, kind, "harness_text", *stop, "train.budget.steps=40")
    result = evaluate_with_harness(finished, ["colour_text"], HarnessSettings(str(tasks), batch_size=5))
    measured = RunDirectory(finished.path).summary()["selected"]["test"]["harness_text_score"]
    assert result["colour_text"]["values"]["exact_match"] == pytest.approx(measured)


def test_what_the_harness_cannot_evaluate_is_refused(make: Make, registry: Registry, tasks: Path) -> None:
    finished = trained(make, registry, tasks, "decoder", "harness_choice")
    settings = HarnessSettings(str(tasks))
    with pytest.raises(InputError, match="no such folder of harness tasks"):
        evaluate_with_harness(finished, ["colour_choice"], HarnessSettings("nowhere"))
    (tasks / "test.yaml").write_text((tasks / "colour_text.yaml").read_text().replace("colour_text", "test"))
    with pytest.raises(InputError, match="another evaluation set called 'test'"):
        evaluate_with_harness(finished, ["test"], settings)
    encoder = run(make("encoder", *ONE_EVALUATION, "train.budget.steps=1"), registry)
    assert encoder is not None
    with pytest.raises(InputError, match="evaluates decoders and encoder-decoders"):
        evaluate_with_harness(load_finished_run(encoder, registry), ["colour_choice"], settings)
    for options, words in (
        (
            {"task": "colour_text"},
            "is of the kind 'generate_until', not 'multiple_choice'; try .*'harness_text'",
        ),
        ({"delimiter": "\n"}, "joins prompt and answer by ' '; set task.delimiter"),
    ):
        task = finished.recipe.task.model_copy(update=options)
        with pytest.raises(InputError, match=words):
            task.load()


def test_results_are_verified_and_compared_from_python(
    make: Make, registry: Registry, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peftkit.api.runs.load_registry", lambda: registry)  # with the tests' task
    finished = trained(make, registry, tasks, "decoder", "harness_choice")
    peftkit_run = peftkit.load_run(finished.path)
    results = peftkit_run.eval_harness("colour_choice", include_path=tasks, limit=6)
    assert results["colour_choice"]["num_examples"] == 6
    for options, words in (({"num_fewshot": -1}, "num_fewshot: must be at least 0"), ({"limit": 0}, "limit: must be")):
        with pytest.raises(InputError, match=words):
            peftkit_run.eval_harness(["colour_choice"], include_path=tasks, **options)
    with pytest.raises(InputError, match="name at least one task"):
        peftkit_run.eval_harness([])
    measured = peftkit_run.bench(prompt_tokens=3, new_tokens=2, batch_sizes=[1], rounds=1)
    assert [row["merged"] for row in measured["measurements"]] == [False, True]
    with pytest.raises(InputError, match="new_tokens: must be at least 2, not 1"):
        peftkit_run.bench(new_tokens=1)

    def differing() -> list[str]:
        return [
            each.name
            for each in run_checks("", lambda: harness_checks(finished.path, "colour_choice"))
            if each.status == "differs"
        ]

    assert differing() == []
    file = finished.path / "harness" / "colour_choice.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    changes = {
        "acc": [{**rows[0], "scores": {**rows[0]["scores"], "acc": 1 - rows[0]["scores"]["acc"]}}, *rows[1:]],
        "num_examples": rows[1:],
        "rows in order, each once": [rows[1], *rows[1:]],
    }
    for name, changed in changes.items():
        file.write_text("".join(json.dumps(row) + "\n" for row in changed), encoding="utf-8")
        assert name in differing()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    weights = next((finished.path / "model").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes() + b" ")
    assert differing() == ["digests of the model"]
