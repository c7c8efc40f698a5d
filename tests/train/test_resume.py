"""Runs that are killed and resumed end bit-identical to uninterrupted ones."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftkit.errors import InputError, PeftkitError, RunError, RunInterrupted
from peftkit.macs.mac_counter import MacCounter
from peftkit.monitor import collect_env
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, load_recipe
from peftkit.run_directory import RunDirectory
from peftkit.run_directory.lock import lock_run_directory
from peftkit.testing.processes import run_processes
from peftkit.train.build_mac_counter import make_mac_counter
from peftkit.train.checkpoint import state_digest
from peftkit.train.run import run
from tests.tiny_runs import Make
from tests.train.test_trainer import rows_of

OPTIONS = (
    "task.rows=96",
    "train.budget.steps=24",
    "evaluate.every=6 steps",
    "train.checkpoint.every=2 steps",
    "evaluate.dev_examples=6",
    "evaluate.test_examples=6",
)


def outcome(path: Path) -> dict[str, Any]:
    """The deterministic results of a finished run."""
    rows = rows_of(path)
    summary = RunDirectory(path).summary()
    kept = ("status", "selected", "final", "steps", "samples", "tokens", "epoch")
    files = sorted(
        f for folder in ("model", "predictions", "probes") for f in (path / folder).rglob("*") if f.is_file()
    )
    files.append(path / "examples.parquet")
    weights = {f.relative_to(path).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    return {"rows": rows, "weights": weights, **{key: summary[key] for key in kept}}


def last_weights(path: Path) -> str:
    """The hash of the last checkpoint's weights."""
    newest = max((path / "checkpoints").glob("step-*"))
    return hashlib.sha256((newest / "trainable.safetensors").read_bytes()).hexdigest()


def only(recipe: Recipe) -> Path:
    """The only finished run; a kill at the start leaves an empty directory."""
    [path] = [path for path in Path(recipe.run.output).iterdir() if (path / "summary.json").is_file()]
    return path


KILLS = 3
ADALORA = ("method.init_r=6", "method.target_r=2", "method.tinit=4")
PROBE = 'probe=[{name = "choices", examples = 5, task = {name = "colour_choice"}}]'
VARIANTS: dict[str, tuple[int, str, *tuple[str, ...]]] = {
    "full": (1, "encoder-decoder", "method.name=full", "train.optimizer=adafactor", "train.schedule=cosine"),
    "lora": (
        1,
        "encoder",
        "method.name=lora",
        "train.gradient_accumulation_steps=2",
        "train.batch_size=4",
        "train.workers=1",
    ),
    "adalora": (1, "decoder", "method.name=adalora", *ADALORA, "task.streaming=true"),
    "probes": (2, "decoder", "method.name=prefix_tuning", "train.batch_size=4", PROBE, "run.resample_train=bootstrap"),
}
AT_NIGHT: dict[str, tuple[int, str, *tuple[str, ...]]] = {
    "prefix_tuning": (1, "decoder", "method.name=prefix_tuning", "train.workers=1"),
    "vera": (1, "encoder", "method.name=vera", "train.schedule=cosine"),
    "bootstrap": (2, "decoder", "method.name=lora", "train.batch_size=4", "run.resample_train=bootstrap"),
    "stream": (1, "decoder", "method.name=lora", "task.streaming=true"),
    "adalora alone": (1, "decoder", "method.name=adalora", *ADALORA),
    "two processes": (2, "encoder-decoder", "method.name=lora", "train.batch_size=4"),
}
"""Variants with fewer settings at once; those of ``VARIANTS`` have each of them."""


@pytest.mark.slow
@pytest.mark.one_line
@pytest.mark.parametrize("variant", [*VARIANTS, *(pytest.param(v, marks=pytest.mark.exhaustive) for v in AT_NIGHT)])
def test_a_run_killed_at_random_steps_equals_an_uninterrupted_one(
    variant: str, make: Make, registry: Registry, tmp_path: Path
) -> None:
    processes, kind, *options = (VARIANTS | AT_NIGHT)[variant]
    recipe = make(kind, *OPTIONS, "train.budget.steps=16", "evaluate.every=8 steps", *options)
    run_processes(recipe, registry, processes, resume="")
    whole = only(recipe)
    expected, weights = outcome(whole), last_weights(whole)
    shutil.rmtree(whole)
    rng = random.Random(variant)
    kills = [run_processes(recipe, registry, processes, kill_at=rng.randint(1, 50), resume="") for _ in range(KILLS)]
    assert any(kills)
    run_processes(recipe, registry, processes, resume="")
    path = only(recipe)
    assert outcome(path) == expected
    assert last_weights(path) == weights
    assert not [f for f in path.rglob("*") if ".tmp" in f.name or ".old" in f.name]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_the_run_and_prints_the_resume_command(
    number: int, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make("decoder", *OPTIONS, "train.checkpoint.every=off", "method.name=lora")
    whole = run(recipe, registry)
    assert whole is not None
    from peftkit.train.trainer import Trainer

    step = Trainer._step

    def signalled(self: Trainer, batches: Any) -> None:
        step(self, batches)
        if self.progress.step == 9 and not self.state.resumed_after_steps:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Trainer, "_step", signalled)
    before = signal.getsignal(number)
    with pytest.raises(RunInterrupted, match=r"saved after step 9; resume with: (.*)$") as caught:
        run(recipe, registry)
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) is before
    path = max(Path(recipe.run.output).iterdir(), key=lambda p: p.stat().st_mtime)
    assert json.loads((path / "summary.json").read_text())["status"] == "interrupted"
    command = str(caught.value).partition("resume with: ")[2]
    assert command == f"peftkit.run({str(path / 'recipe.toml')!r}, resume={str(path)!r})"
    assert run(load_recipe(path / "recipe.toml", registry), registry, resume=str(path)) == path
    assert outcome(path) == outcome(whole)
    assert RunDirectory(path).summary()["resumed_after_steps"] == [9]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The directory of the stopped run, and of its backup."""
    folder = tmp_path_factory.mktemp("stopped")
    return folder / "runs", folder / "kept"


@pytest.fixture
def stopped(
    make: Make, registry: Registry, outputs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> tuple[Recipe, Path]:
    """A run that failed at step 13; trained once and restored for each test."""
    from peftkit.train.trainer import Trainer

    output, kept = outputs
    recipe = make("decoder", *OPTIONS, "method.name=lora", "train.checkpoint.keep=2", f"run.output={output}")
    if kept.exists():
        shutil.rmtree(output)
        [path] = shutil.copytree(kept, output).iterdir()
        return recipe, path
    account = Trainer._record_step

    def failing(self: Trainer, *arguments: Any) -> None:
        if self.progress.step == 12:
            raise RunError("power failure")
        account(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_record_step", failing)
        with pytest.raises(RunError, match="power failure"):
            run(recipe, registry)
    [path] = shutil.copytree(output, kept).iterdir()
    return recipe, output / path.name


def test_the_requested_number_of_checkpoints_is_kept(stopped: tuple[Recipe, Path]) -> None:
    names = sorted(p.name for p in (stopped[1] / "checkpoints").iterdir())
    assert names == ["step-00000010", "step-00000012"]


@pytest.mark.one_line
@pytest.mark.parametrize("file", ["trainable.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_is_skipped_and_logged(
    file: str, damage: str, stopped: tuple[Recipe, Path], registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, path = stopped
    victim = path / "checkpoints" / "step-00000012" / file
    content = bytearray(victim.read_bytes())
    if damage == "cut":
        victim.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
        victim.write_bytes(content)
    else:
        victim.unlink()
    if (file, damage) == ("state.json", "flipped"):
        victim.write_bytes(b"\xff" + bytes(content))
    run(recipe, registry, resume="")
    assert "step-00000012 is damaged" in caplog.text
    assert RunDirectory(path).summary()["resumed_after_steps"] == [10]


def test_a_resumed_run_adds_its_counting_time_to_the_earlier_one(
    stopped: tuple[Recipe, Path], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, path = stopped
    state = json.loads((path / "checkpoints" / "step-00000012" / "state.json").read_text())["state"]
    earlier_seconds: list[float] = []

    def note(*arguments: Any) -> MacCounter:
        counter = make_mac_counter(*arguments)
        earlier_seconds.append(counter.seconds)
        return counter

    monkeypatch.setattr("peftkit.train.run.make_mac_counter", note)
    run(recipe, registry, resume="")
    summary = RunDirectory(path).summary()
    assert summary["resumed_after_steps"] == [12]
    assert summary["counting_seconds"] >= state["counting_seconds"] + earlier_seconds[0] > earlier_seconds[0] > 0


def test_a_different_environment_is_recorded_on_resume(
    stopped: tuple[Recipe, Path], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, path = stopped
    first = RunDirectory(path).environment()
    monkeypatch.setattr(collect_env, "_processor", lambda: "another one")
    run(recipe, registry, resume="")
    recorded = RunDirectory(path).environment()
    [other] = recorded.pop("resumed")
    assert recorded == first
    assert other["hardware"] == first["hardware"] | {"processor": "another one"}


def test_a_run_that_starts_over_records_only_the_new_environment(
    stopped: tuple[Recipe, Path], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, path = stopped
    shutil.rmtree(path / "checkpoints")
    (path / "environment.json").unlink()  # as if killed before it was written
    monkeypatch.setattr(collect_env, "_processor", lambda: "another one")
    run(recipe, registry, resume="")
    recorded = RunDirectory(path).environment()
    assert "resumed" not in recorded
    assert recorded["hardware"]["processor"] == "another one"


def test_a_finished_run_is_not_repeated(make: Make, registry: Registry) -> None:
    recipe = make("decoder", "train.budget.steps=2")
    path = run(recipe, registry)
    assert path is not None
    written = (path / "summary.json").stat().st_mtime_ns
    assert run(recipe, registry, resume="") == path
    assert (path / "summary.json").stat().st_mtime_ns == written


def test_resume_without_a_run_starts_one(make: Make, registry: Registry) -> None:
    path = run(make("decoder", "train.budget.steps=2"), registry, resume="")
    assert path is not None
    assert RunDirectory(path).summary()["resumed_after_steps"] == []


def test_resuming_a_run_of_another_recipe_is_an_error(
    stopped: tuple[Recipe, Path], make: Make, registry: Registry
) -> None:
    options = (f"run.output={stopped[0].run.output}", "train.checkpoint.keep=2", "train.batch_size=4")
    other = make("decoder", *OPTIONS, "method.name=lora", *options)
    with pytest.raises(InputError, match=r"a run of another recipe, which differs in train\.batch_size; to resume it"):
        run(other, registry, resume=str(stopped[1]))
    with pytest.raises(InputError, match="is not a run directory"):
        run(other, registry, resume="nowhere")


def test_a_run_without_per_example_results_is_not_resumed(stopped: tuple[Recipe, Path], registry: Registry) -> None:
    """Like runs of older versions."""
    recipe, path = stopped
    shutil.rmtree(path / "examples")
    with pytest.raises(InputError, match="no results per example of the evaluation at step 0; restore"):
        run(recipe, registry, resume=str(path))


def test_a_run_directory_is_locked(stopped: tuple[Recipe, Path], registry: Registry) -> None:
    recipe, path = stopped
    held = lock_run_directory(path)
    try:
        with pytest.raises(RunError, match="is in use by another process"):
            run(recipe, registry, resume="")
    finally:
        held.release()
    assert run(recipe, registry, resume="") == path


def test_resuming_with_another_number_of_processes_is_an_error(
    stopped: tuple[Recipe, Path], registry: Registry
) -> None:
    recipe, path = stopped
    for file in (path / "checkpoints").glob("*/state.json"):
        document = json.loads(file.read_text())
        document["state"]["processes"] = 2
        document["sha256"]["state"] = state_digest(document["state"])
        file.write_text(json.dumps(document))
    with pytest.raises(RunError, match="started with 2 processes and cannot be resumed with 1"):
        run(recipe, registry, resume="")


FILES = (
    "recipe.toml",
    "environment.json",
    "evaluations.jsonl",
    "model",
    "predictions/dev.jsonl",
    "checkpoints",
    "examples",
    "selected",
    ".lock",
)


@pytest.mark.slow
@pytest.mark.one_line
@given(
    st.lists(
        st.tuples(st.sampled_from(FILES), st.sampled_from(("cut", "flip", "gone", "junk"))), min_size=1, max_size=3
    ),
    st.randoms(use_true_random=False),
)
@settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_a_corrupted_run_directory_resumes_or_is_an_error(
    stopped: tuple[Recipe, Path],
    outputs: tuple[Path, Path],
    registry: Registry,
    damages: list[tuple[str, str]],
    rng: random.Random,
) -> None:
    recipe, path = stopped
    output, kept = outputs
    shutil.rmtree(output)
    shutil.copytree(kept, output)
    for name, damage in damages:
        files = [f for f in [path / name, *(path / name).rglob("*")] if f.is_file()]
        for file in rng.sample(files, min(2, len(files))):
            spoil(file, damage, rng)
    try:
        run(recipe, registry, resume=str(path))
    except PeftkitError:
        pass
    else:
        rows = RunDirectory(path).evaluations()
        assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
        assert RunDirectory(path).summary()["status"] == "done"


def spoil(file: Path, damage: str, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "junk":
        file.write_bytes(rng.randbytes(rng.randrange(200)))
    elif damage == "cut":
        file.write_bytes(content[: rng.randrange(len(content) + 1)])
    elif content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
