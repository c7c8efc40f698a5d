"""A run resolves the hub's branches and tags once, records the commits, and keeps to them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import constants

from peftkit.cli import main
from peftkit.errors import InputError
from peftkit.inference.finished_run import load_finished_recipe
from peftkit.models.checkpoints.revisions import pin_revisions, recorded_revisions, resolve_revisions
from peftkit.models.load_base_model import load_base
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, load_recipe
from peftkit.run_directory import RunDirectory
from peftkit.tasks.sources import split_loading
from peftkit.tasks.sources.split_loading import DataSource, load_splits
from peftkit.testing.processes import command, run_processes
from tests.tiny_runs import ONE_EVALUATION, Make, small_task

COMMITS = ("a" * 40, "b" * 40)
ROWS = {"train": 40, "validation": 12, "test": 12}


def tweets(number: int, word: str) -> Dataset:
    return Dataset.from_list([{"text": f"{word} {i}", "label": i % 2} for i in range(number)])


@pytest.fixture
def hub(models: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, with two commits of a model and of a data set; ``main`` is the first, ``v2`` the second."""
    cache = tmp_path / "hub"
    for kind, name in (("models", "tiny"), ("datasets", "tweets")):
        home = cache / f"{kind}--org--{name}"
        (home / "refs").mkdir(parents=True)
        for ref, commit in zip(("main", "v2"), COMMITS, strict=True):
            (home / "refs" / ref).write_text(commit)
            files = home / "snapshots" / commit
            if kind == "models":
                shutil.copytree(models["encoder-decoder"], files)
                config = json.loads((files / "config.json").read_text())
                (files / "config.json").write_text(
                    json.dumps({**config, "dropout_rate": 0.0 if ref == "main" else 0.5})
                )
            else:
                (files / "data").mkdir(parents=True)
                for split, number in ROWS.items():
                    tweets(number, ref).to_parquet(files / "data" / f"{split}-00000-of-00001.parquet")
    split_loading._load_splits.cache_clear()  # loaded by other tests under the same name
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(cache), raising=False)  # transformers 4.57
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def written(tmp_path: Path, *more: str) -> Path:
    """A recipe on the hub's model and data set."""
    path = tmp_path / "hub.toml"
    lines = [
        '[run]\nname = "hub"',
        f'output = "{(tmp_path / "runs").as_posix()}"',
        '[model]\nname = "org/tiny"',
        '[task]\nname = "text_classification"\npath = "org/tweets"\nlabel_names = ["no", "yes"]',
        '[method]\nname = "lora"',
        "[train]\nbatch_size = 4\nbudget = { steps = 4 }\ncheckpoint = { every = '1 steps' }",
        "[evaluate]\nevery = '100%'\ntrain_examples = 4",
        "[track]\nto = []",
        *more,
    ]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def recipe(hub: Path, registry: Registry, tmp_path: Path) -> Recipe:
    return load_recipe(written(tmp_path), registry)


def test_the_commits_of_model_and_data_are_resolved_and_pinned(recipe: Recipe, hub: Path) -> None:
    revisions = resolve_revisions(recipe)
    assert revisions == {"model": COMMITS[0], "data": COMMITS[0]}
    pinned: Any = pin_revisions(recipe, revisions)
    assert (pinned.model.revision, pinned.task.revision) == (COMMITS[0], COMMITS[0])
    assert recipe.model.revision is None, "the requested revision is unchanged"
    later: Any = pin_revisions(recipe, {"model": COMMITS[1], "data": COMMITS[1]})
    assert pinned.task.load()["train"][0]["text"] == "main 0"
    assert later.task.load()["train"][0]["text"] == "v2 0"


@pytest.mark.parametrize("override", ["model.revision=v2", "task.revision=v2"])
def test_a_tag_is_resolved_like_a_branch(override: str, hub: Path, registry: Registry, tmp_path: Path) -> None:
    revisions = resolve_revisions(load_recipe(written(tmp_path), registry, [override]))
    tagged = "model" if override.startswith("model") else "data"
    assert revisions == {"model": COMMITS[0], "data": COMMITS[0], tagged: COMMITS[1]}


def test_local_and_built_in_models_and_data_have_no_commit(make: Make) -> None:
    assert resolve_revisions(make("decoder")) == {}
    assert pin_revisions(make("decoder"), {}) == make("decoder")
    assert resolve_revisions(make("decoder", "model.name=pocket-t5", "task.name=wordnet_topic")) == {}


def test_a_resumed_run_keeps_its_commits(recipe: Recipe, hub: Path, tmp_path: Path) -> None:
    assert recorded_revisions(tmp_path) is None
    RunDirectory(tmp_path).write_json("environment.json", {"revisions": {"model": COMMITS[1]}})
    assert resolve_revisions(recipe, tmp_path) == {"model": COMMITS[1]}
    RunDirectory(tmp_path).write_json("environment.json", {"python": "3.11"})  # no recorded revisions
    assert resolve_revisions(recipe, tmp_path) == {"model": COMMITS[0], "data": COMMITS[0]}


def test_data_of_another_cached_commit_is_rejected(hub: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / COMMITS[1]
    folder.mkdir()
    tweets(4, "other").save_to_disk(folder)
    rows = datasets.load_from_disk(str(folder))
    load = datasets.load_dataset

    def loaded(path: str, *arguments: Any, **options: Any) -> Any:
        if path != "org/tweets":
            return load(path, *arguments, **options)
        return DatasetDict(dict.fromkeys(("train", "validation", "test"), rows))

    monkeypatch.setattr(datasets, "load_dataset", loaded)
    assert load_splits(DataSource("org/tweets", revision=COMMITS[1])).splits["train"][0]["text"] == "other 0"
    missing = "c" * 40
    with pytest.raises(InputError, match=f"commit {missing} was requested, but the cache has commit {COMMITS[1]}"):
        load_splits(DataSource("org/tweets", revision=missing))
    # Its files are in the hub's cache.
    assert load_splits(DataSource("org/tweets", revision=COMMITS[0])).splits["train"][0]["text"] == "main 0"


def test_a_snapshot_without_a_shard_is_rejected(hub: Path) -> None:
    data = hub / "datasets--org--tweets" / "snapshots" / COMMITS[0] / "data"
    (data / "train-00000-of-00001.parquet").rename(data / "train-00000-of-00002.parquet")
    with pytest.raises(InputError, match="cannot load 'org/tweets'"):
        load_splits(DataSource("org/tweets", revision=COMMITS[0]))


def peftkit(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process whose hub cache is the fixture's."""
    return command(partial(main, words))


@pytest.mark.slow
def test_a_run_records_its_commits_and_resumes_and_predicts_with_them(
    hub: Path, registry: Registry, tmp_path: Path
) -> None:
    file = written(tmp_path)
    first = peftkit(str(file))
    assert first.returncode == 0, first.stderr
    [path] = (tmp_path / "runs").iterdir()
    run = RunDirectory(path)
    assert run.environment()["revisions"] == run.summary()["revisions"] == {"model": COMMITS[0], "data": COMMITS[0]}
    assert "revision" not in run.recipe()["model"], "the requested revision is unchanged"
    finished = run.summary()

    # The branch moves; the interrupted run resumes with its original commit.
    for name in ("models--org--tiny", "datasets--org--tweets"):
        (hub / name / "refs" / "main").write_text(COMMITS[1])
    (path / "summary.json").unlink()
    again = peftkit("run", str(file), "--resume", str(path))
    assert again.returncode == 0, again.stderr
    assert run.summary()["revisions"] == {"model": COMMITS[0], "data": COMMITS[0]}
    assert run.summary()["rows_digests"] == finished["rows_digests"]
    opened: Any = load_finished_recipe(path, registry)
    assert (opened.model.revision, opened.task.revision) == (COMMITS[0], COMMITS[0])


def test_config_tokenizer_and_weights_are_loaded_at_the_commit(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    seen: dict[str, str | None] = {}

    def record_revision(name: str) -> None:
        loader = getattr(transformers, name)
        original = loader.from_pretrained

        def load(path: str, *arguments: Any, **options: Any) -> Any:
            if path != "org/tiny":  # loaded by the library from the snapshot folder
                return original(path, *arguments, **options)
            seen[name] = options.get("revision")
            folder = Path(constants.HF_HUB_CACHE) / "models--org--tiny" / "snapshots" / str(options.pop("revision"))
            return original(str(folder), *arguments, **options)

        monkeypatch.setattr(loader, "from_pretrained", load)

    for name in ("AutoConfig", "AutoTokenizer", "AutoModelForSeq2SeqLM"):
        record_revision(name)
    base = load_base(pin_revisions(recipe, {"model": COMMITS[1]}))
    assert set(seen.values()) == {COMMITS[1]}
    assert len(seen) == 3
    assert base.family.config.dropout_rate == 0.5


@pytest.mark.slow
def test_all_processes_use_the_commits_of_the_main_one(
    monkeypatch: pytest.MonkeyPatch, built_in: Callable[..., Recipe], registry: Registry, tmp_path: Path
) -> None:
    def resolved(recipe: Recipe, run_path: Path | None) -> Mapping[str, str]:
        return {"model": f"commit of process {os.environ['RANK']}"}

    def record_commit(recipe: Recipe, revisions: Mapping[str, str]) -> Recipe:
        (tmp_path / f"process {os.environ['RANK']}").write_text(revisions["model"])
        return recipe

    monkeypatch.setattr("peftkit.train.run.resolve_revisions", resolved)
    monkeypatch.setattr("peftkit.train.run.pin_revisions", record_commit)
    short = ("train.budget.steps=1", "train.batch_size=4", *ONE_EVALUATION)
    run_processes(built_in("two", small_task(tmp_path / "rows"), *short), registry, 2)
    assert [(tmp_path / f"process {rank}").read_text() for rank in (0, 1)] == ["commit of process 0"] * 2
