"""The training loop end to end."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from peftkit import Method, hookimpl
from peftkit.errors import RunError
from peftkit.plugins import Entry, Registry
from peftkit.recipe import load_recipe
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from tests.tiny_runs import TOPICS, Make

KINDS = ("encoder-decoder", "decoder", "encoder")
MEASURED = ("seconds", "peak_", "host_bytes", "joules")


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The evaluations without measured values."""
    rows = RunDirectory(path).evaluations()
    for row in rows:
        del row["evaluation_seconds"]
        row.pop("probe_seconds", None)
        row["cost"] = {k: v for k, v in row["cost"].items() if not any(word in k for word in MEASURED)}
    return rows


def trained(make: Make, registry: Registry, kind: str, *overrides: str) -> Path:
    path = run(make(kind, *overrides), registry)
    assert path is not None
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["colours", "colour_choice"])
def test_every_model_kind_trains(make: Make, registry: Registry, kind: str, task: str) -> None:
    rate = {"encoder-decoder": 1e-2, "decoder": 1e-2, "encoder": 1e-3}[kind]
    steps = 500 if (kind, task) == ("encoder", "colour_choice") else 120  # pairs need more steps
    options = (f"task.name={task}", f"train.budget.steps={steps}", f"train.learning_rate={rate}")
    path = trained(make, registry, kind, *options)
    summary = RunDirectory(path).summary()
    assert summary["status"] == "done"
    assert summary["selected"]["test"]["accuracy"] == 1.0
    losses = [row["train"]["loss"] for row in RunDirectory(path).evaluations()]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_a_generation_task_trains_and_generates(make: Make, registry: Registry, kind: str) -> None:
    options = (
        "task.name=colour_text",
        "train.budget.steps=60",
        "train.learning_rate=3e-3",
        "evaluate.max_new_tokens=8",
    )
    path = trained(make, registry, kind, *options)
    assert RunDirectory(path).summary()["selected"]["test"]["exact_match"] == 1.0


def test_the_run_directory_has_all_files(make: Make, registry: Registry, tmp_path: Path) -> None:
    recipe = make("encoder-decoder")
    path = run(recipe, registry)
    assert path is not None
    names = {str(f.relative_to(path)) for f in path.rglob("*") if f.is_file()}
    assert {"recipe.toml", "environment.json", "evaluations.jsonl", "summary.json"} <= names
    assert {"predictions/dev.jsonl", "predictions/test.jsonl", "model/model.safetensors"} <= names
    assert not [n for n in names if n.endswith((".tmp", ".bin", ".pt", ".pkl"))]
    assert load_recipe(path / "recipe.toml", registry) == recipe

    rows = RunDirectory(path).evaluations()
    assert [row["step"] for row in rows] == [0, 3, 6]
    assert rows[-1]["samples"] == 48
    assert rows[-1]["epoch"] == 1.0
    assert rows[-1]["tokens"]["target"] == 48 * 2  # a colour and the end mark
    assert rows[0]["train"]["step_loss"] is None
    assert all({"loss", "accuracy", "accuracy_norm"} <= row[s].keys() for row in rows for s in ("train", "dev", "test"))
    assert all(row["cost"]["train_seconds"] >= 0 and row["cost"]["peak_host_bytes"] > 0 for row in rows)

    environment = json.loads((path / "environment.json").read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert (environment["git_commit"] or "").removesuffix(
        "+changes"
    ) == head.stdout.strip()  # empty outside a git repository
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["plugins"]["peftkit"]


def test_the_first_best_dev_checkpoint_is_selected_and_matches_its_predictions(make: Make, registry: Registry) -> None:
    path = trained(make, registry, "decoder", "train.budget.steps=12", "evaluate.every=2 steps")
    rows, summary = RunDirectory(path).evaluations(), RunDirectory(path).summary()
    scores = [row["dev"]["accuracy"] for row in rows]
    assert summary["selected"]["step"] == rows[scores.index(max(scores))]["step"]
    assert summary["final"]["step"] == 12
    for split in ("dev", "test"):
        lines = [json.loads(line) for line in (path / f"predictions/{split}.jsonl").read_text().splitlines()]
        right = sum(line["prediction"] == line["target"] for line in lines)
        assert right / len(lines) == pytest.approx(summary["selected"][split]["accuracy"])
        best = [line["candidates"][max(range(3), key=line["log_likelihoods"].__getitem__)] for line in lines]
        assert best == [line["prediction"] for line in lines]
        loss = sum(line["loss"] for line in lines) / sum(line["tokens"] for line in lines)
        assert loss == pytest.approx(summary["selected"][split]["loss"])


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_curve(make: Make, registry: Registry) -> None:
    first = trained(make, registry, "encoder-decoder", "method.name=lora")
    again = trained(make, registry, "encoder-decoder", "method.name=lora")
    other = trained(make, registry, "encoder-decoder", "method.name=lora", "run.seed=7")
    assert first != again
    assert rows_of(first) == rows_of(again)
    assert rows_of(first) != rows_of(other)
    weights = [load_file(p / "model" / "adapter_model.safetensors") for p in (first, again)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def assert_close(one: Path, other: Path, tolerance: float) -> None:
    for a, b in zip(rows_of(one), rows_of(other), strict=True):
        assert a["samples"] == b["samples"]
        assert a["tokens"] == b["tokens"]
        assert a["cost"]["padding_tokens"] == b["cost"]["padding_tokens"]
        for split in ("train", "dev", "test"):
            assert {k: v for k, v in a[split].items() if v is not None} == pytest.approx(
                {k: v for k, v in b[split].items() if v is not None}, abs=tolerance
            )


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_batches_equal_one_big_batch(make: Make, registry: Registry, kind: str) -> None:
    # SGD: an adaptive optimizer turns rounding into whole steps where a gradient is almost zero.
    options = ("train.optimizer=SGD", "train.learning_rate=0.05", "train.budget.steps=4", *NO_DROPOUT)
    whole = trained(make, registry, kind, *options)
    parts = trained(make, registry, kind, *options, "train.batch_size=2", "train.gradient_accumulation_steps=4")
    assert_close(whole, parts, 1e-5)


NO_DROPOUT = ("method.name=quiet",)


class Recording(Method):
    """Full fine-tuning that records the calls of its hooks."""

    name: Literal["recording"] = "recording"
    _calls: list[tuple[str, int, bool]]

    def model_post_init(self, context: Any) -> None:
        self._calls = []

    def apply(self, model: Any, context: Any) -> Any:
        self._calls.append((f"{context.model_kind} {context.task_kind} {context.seed}", context.steps, True))
        return model

    def after_backward(self, model: Any, step: int) -> None:
        self._calls.append(("backward", step, any(p.grad is not None for p in model.parameters())))

    def after_step(self, model: Any, step: int) -> None:
        self._calls.append(("step", step, any(p.grad is not None for p in model.parameters())))


class BitFit(Method):
    """Train the biases only (Ben Zaken et al., 2022)."""

    name: Literal["bitfit"] = "bitfit"

    def apply(self, model, context):  # type: ignore[no-untyped-def]
        for key, parameter in model.named_parameters():
            parameter.requires_grad = key.endswith("bias")
        return model


class UnusedWeights(Method):
    """Trains weights that the forward pass does not use."""

    name: Literal["deaf"] = "deaf"

    def apply(self, model: Any, context: Any) -> Any:
        model.requires_grad_(False)
        model.unread = torch.nn.Linear(2, 2)
        unread = sum(p.sum() for p in model.unread.parameters())
        model.register_forward_hook(lambda m, a, out: setattr(out, "logits", out.logits + 0 * unread) or out)
        return model


@hookimpl
def register_methods() -> list[type[Method]]:
    return [Recording, BitFit, UnusedWeights]


@pytest.fixture
def registry(registry: Registry) -> Registry:
    entries = tuple(Entry("method", str(m.model_fields["name"].default), m, "tests", "0") for m in register_methods())
    return Registry(registry.entries + entries, registry.failures, registry.distributions)


def test_the_hooks_of_a_method_are_called_at_every_step(make: Make, registry: Registry) -> None:
    recipe = make("decoder", "method.name=recording", "train.budget.steps=2")
    run(recipe, registry)
    assert recipe.method._calls == [  # type: ignore[attr-defined]
        ("decoder classification 42", 2, True),
        ("backward", 1, True),
        ("step", 1, True),
        ("backward", 2, True),
        ("step", 2, True),
    ]


def test_a_minimal_method_trains_counts_and_saves(make: Make, registry: Registry) -> None:
    path = trained(make, registry, "encoder", "method.name=bitfit", "train.budget.steps=4")
    saved = load_file(path / "model" / "trainable.safetensors")
    # The new head must be trained.
    head = {f"{layer}.{name}" for layer in ("classifier", "bert.pooler.dense") for name in ("weight", "bias")}
    assert head <= saved.keys()
    assert all(key.endswith("bias") for key in saved.keys() - head)
    assert RunDirectory(path).summary()["parameters"]["trainable"] == sum(t.numel() for t in saved.values())


@pytest.mark.parametrize("precision", ["bf16"])
def test_mixed_precision_trains(make: Make, registry: Registry, precision: str) -> None:
    path = trained(make, registry, "encoder-decoder", f"train.mixed_precision={precision}", "train.budget.steps=12")
    losses = [row["train"]["loss"] for row in RunDirectory(path).evaluations()]
    assert losses[-1] < losses[0]
    assert load_file(path / "model" / "model.safetensors")["shared.weight"].dtype == torch.float32


def test_fp16_on_a_cpu_is_an_error(make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError, match="needs a GPU"):
        run(make("decoder", "train.mixed_precision=fp16"), registry)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_only_changes_memory(make: Make, registry: Registry, kind: str) -> None:
    options = ("train.optimizer=SGD", "train.learning_rate=0.05", "train.budget.steps=3", "method.name=lora")
    usual = trained(make, registry, kind, *options)
    recomputed = trained(make, registry, kind, *options, "train.gradient_checkpointing=true")
    assert_close(usual, recomputed, 1e-6)


def test_data_workers_do_not_change_results(make: Make, registry: Registry) -> None:
    usual = trained(make, registry, "decoder", "train.budget.steps=3")
    assert rows_of(usual) == rows_of(trained(make, registry, "decoder", "train.budget.steps=3", "train.workers=1"))


@pytest.mark.parametrize(
    ("budget", "steps"),
    [("{samples = 17}", 3), ("{tokens = 1}", 1), ("{epochs = 0.5}", 3), ("{seconds = 1e-6, steps = 9}", 1)],
)
def test_the_first_limit_ends_training_with_an_evaluation(
    make: Make, registry: Registry, budget: str, steps: int
) -> None:
    path = trained(make, registry, "decoder", f"train.budget={budget}", "evaluate.every=100%")
    limited = RunDirectory(path).evaluations()
    # The base recipe also has a limit of 6 steps; the first one reached counts.
    assert limited[-1]["step"] == steps
    assert RunDirectory(path).summary()["steps"] == steps


def test_a_non_finite_loss_ends_the_run(make: Make, registry: Registry, tmp_path: Path) -> None:
    options = ("train.learning_rate=1e30", "train.optimizer=SGD", "train.max_grad_norm=0", "train.budget.steps=9")
    with pytest.raises(RunError, match=r"the loss is (nan|inf|-inf) at step"):
        run(make("encoder-decoder", *options), registry)
    (failed,) = (tmp_path / "runs").iterdir()
    assert RunDirectory(failed).summary()["status"] == "diverged"
    assert rows_of(failed)[0]["step"] == 0


def test_too_few_rows_for_one_step_is_an_error(make: Make, registry: Registry) -> None:
    with pytest.raises(RunError, match="one optimizer step takes 64 rows"):
        run(make("decoder", "train.batch_size=64"), registry)


def test_losses_are_finite_numbers(make: Make, registry: Registry) -> None:
    path = trained(make, registry, "decoder", "train.budget.steps=2")
    assert all(math.isfinite(row[s]["loss"]) for row in rows_of(path) for s in ("train", "dev", "test"))


def test_streaming_data_trains(make: Make, registry: Registry) -> None:
    path = trained(make, registry, "encoder-decoder", "task.streaming=true", "train.budget.steps=60")
    summary = RunDirectory(path).summary()
    assert summary["selected"]["test"]["accuracy"] == 1.0
    assert summary["rows"] == {"train": None, "dev": 12, "test": 12}
    assert summary["rows_dropped_per_epoch"] is None
    assert summary["epoch"] == 9  # epochs of 48 rows, six steps each


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_the_teacher_forced_score_uses_the_most_likely_tokens(make: Make, registry: Registry, kind: str) -> None:
    metrics = 'metric=[{name="accuracy"}, {name="teacher_forced_match"}]'
    path = trained(make, registry, kind, metrics, "train.budget.steps=40", "train.learning_rate=3e-3")
    rows = RunDirectory(path).evaluations()
    lines = [json.loads(line) for line in (path / "predictions/test.jsonl").read_text().splitlines()]
    selected = RunDirectory(path).summary()["selected"]
    right = [
        (line["teacher_forced"] if line["teacher_forced"] in TOPICS else "blue") == line["target"] for line in lines
    ]
    assert selected["test"]["teacher_forced_match"] == pytest.approx(sum(right) / len(right))
    assert "teacher_forced_match_norm" not in rows[0]["test"]
    assert "teacher_forced_match" not in RunDirectory(path).summary()["baselines"]["majority"]["test"]


def test_a_method_whose_weights_get_no_gradient_ends_the_run(make: Make, registry: Registry) -> None:
    with pytest.raises(RunError, match="none of the 2 trainable parameters of 'deaf' has a gradient"):
        run(make("decoder", "method.name=deaf"), registry)
