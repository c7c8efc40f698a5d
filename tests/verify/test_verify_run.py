"""Recomputed values of a run, and reasons for values that cannot be recomputed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftkit.errors import RunError
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from peftkit.verify import reload, verify_run
from tests.tiny_runs import Make
from tests.verify.changes import SUMMARY, in_json, in_lines, names, set_to


def test_an_untouched_run_agrees(original: Path, registry: Registry) -> None:
    verification = verify_run(original, registry)
    assert names(verification) == []
    assert verification.notes == ()
    agree = {check.group for check in verification.with_status("agrees")}
    assert agree == {"files", "recipe", "data", "baselines", "selection", "curve", "model", "work"} | {
        "selected dev",
        "selected test",
    }
    assert {check.group for check in verification.with_status("not recomputable")} == {"measured", "curve"}
    measured = {check.name: check.reason for check in verification.checks if check.group == "measured"}
    assert measured["train_seconds"] == "time is measured during training"
    assert measured["peak_host_bytes"] == "memory is measured during training"
    assert {*RunDirectory(original).summary()["cost"]} <= {
        check.name for check in verification.checks if check.group in ("work", "measured")
    }
    values = {*RunDirectory(original).summary()["selected"]["test"]}
    assert values <= {check.name for check in verification.with_status("agrees") if check.group == "selected test"}
    assert {f"test {value}" for value in values} <= {
        c.name for c in verification.with_status("agrees") if c.group == "model"
    }
    assert verification.verdict == f"all {len(verification.with_status('agrees'))} recomputed values agree"


def test_a_changed_row_is_detected_and_reported_once(original: Path, registry: Registry) -> None:
    file = original.parents[1] / "dev.jsonl"
    before = file.read_text()
    try:
        file.write_text(before.replace('"blood"', '"blond"', 1))
        verification = verify_run(original, registry)
        assert names(verification) == [("data", "rows_digests dev"), ("data", "train_overlap dev")]
        reasons = {check.reason for check in verification.with_status("not recomputable")}
        assert "the rows of dev have changed since the run" in reasons
        assert any(
            check.group == "selected dev" and check.name == "accuracy" for check in verification.with_status("agrees")
        )
        file.write_text(before.replace('"red"', '""', 1))
        verification = verify_run(original, registry)
        assert ("data", "files") in names(verification), "the row is invalid"
        file.unlink()
        verification = verify_run(original, registry)
        assert names(verification) == []
        assert any("the rows cannot be read" in check.reason for check in verification.with_status("not recomputable"))
    finally:
        file.write_text(before)


def test_the_model_is_not_checked_without_load_model(
    original: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(reload, "load_finished_run", refuse)
    verification = verify_run(original, registry, load_model=False)
    [check] = [check for check in verification.checks if check.group == "model"]
    assert (check.status, check.reason) == ("not recomputable", "not checked, as requested")


@pytest.mark.one_line
@pytest.mark.parametrize(
    ("missing", "group", "reason"),
    [
        ("model", "model", "model is missing"),
        ("examples.parquet", "curve", "per-example results are not stored"),
        ("predictions/test.jsonl", "predictions", "predictions/test.jsonl is missing"),
        ("evaluations.jsonl", "work", "evaluations.jsonl is missing"),
        ("recipe.toml", "run", "recipe.toml is missing"),
        ("summary.json", "run", "summary.json is missing: the run has not finished"),
    ],
)
def test_missing_files_are_not_recomputable(
    missing: str, group: str, reason: str, copied: Path, registry: Registry
) -> None:
    path = copied / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    verification = verify_run(copied, registry, load_model=missing == "model")
    assert (group, reason) in {(check.group, check.reason) for check in verification.with_status("not recomputable")}
    assert [each for each in names(verification) if each != ("files", "recipe.toml")] == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_to("status", to="interrupted"), "the run is interrupted, not done"),
        (
            lambda document: document.update(imported={"from": "peft-by-time"}),
            "the results are imported from peft-by-time, without data or model",
        ),
    ],
)
def test_unfinished_and_imported_runs_are_not_recomputable(
    change: Callable[[Any], None], reason: str, copied: Path, registry: Registry
) -> None:
    in_json(SUMMARY, change)(copied)
    verification = verify_run(copied, registry)
    assert [(check.group, check.reason) for check in verification.checks] == [("run", reason)]
    assert verification.verdict == f"nothing could be recomputed: {reason}"


def test_an_unavailable_base_model_is_not_recomputable(
    copied: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RunError("the model 'x' cannot be loaded")

    monkeypatch.setattr(reload, "load_finished_run", fail)
    verification = verify_run(copied, registry)
    [check] = [check for check in verification.checks if check.group == "model"]
    assert check.status == "not recomputable"
    assert "'x' cannot be loaded" in check.reason


def test_another_environment_widens_tolerances_with_a_note(copied: Path, registry: Registry) -> None:
    in_json("environment.json", set_to("hardware", "processor", to="another"))(copied)
    in_json("environment.json", set_to("packages", "transformers", to="1.0"))(copied)
    in_lines("predictions/test.jsonl", 0, set_to("log_likelihoods", to=lambda v: [v[0] - 1e-4, *v[1:]]))(copied)
    verification = verify_run(copied, registry)
    assert ("model", "test log-likelihoods, largest difference") not in names(verification)
    [note] = verification.notes
    assert "processor another, now " in note
    assert "transformers 1.0, now " in note
    work = {check.name: check for check in verification.checks if check.group == "work"}
    assert work["gmacs"].tolerance == pytest.approx(0.01 * work["gmacs"].stored)
    assert work["input_tokens"].tolerance < 1e-6
    assert work["elementwise_gops"].reason == "other library versions call other operations"


def test_the_constant_baseline_of_older_runs_is_not_compared(copied: Path, registry: Registry) -> None:
    def older(summary: Any) -> None:
        del summary["file_digests"]
        summary["baselines"]["constant"]["test"]["accuracy"] = 0.1

    in_json("summary.json", older)(copied)
    verification = verify_run(copied, registry, load_model=False)
    assert verification.with_status("differs") == []
    assert ("baselines", "constant") in [
        (check.group, check.name) for check in verification.with_status("not recomputable")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("encoder-decoder", ("task.name=colour_text", "method.name=prefix_tuning")),
        ("decoder", ("task.name=colour_choice", "method.name=adalora", "run.resample_train=bootstrap")),
        ("decoder", ("method.name=lora", "task.streaming=true", "model.dtype=bfloat16")),
        ("decoder", ("train.early_stopping.patience=2", "train.learning_rate=1e-30", "evaluate.every=1 steps")),
        (
            "encoder-decoder",
            ("method.name=lora", "method.init_lora_weights=eva", "evaluate.scoring=norm", "evaluate.dev_examples=6"),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_runs_of_every_kind_agree(kind: str, options: tuple[str, ...], make: Make, registry: Registry) -> None:
    path = run(make(kind, "train.budget.steps=4", *options), registry)
    assert path is not None
    verification = verify_run(path, registry)
    assert names(verification) == []
    kinds = {check.group for check in verification.with_status("agrees")}
    assert {"model", "curve", "selected test"} <= kinds
    reasons = {check.reason for check in verification.with_status("not recomputable")}
    streamed = "task.streaming=true" in options
    assert ("work" not in kinds) == streamed == ("the training rows are streamed" in reasons)
