"""Digests of inputs: a run resumes only with the rows, the model and the code it was started with."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from peftkit.data.input_digests import input_digests
from peftkit.data.input_files import MODEL_FILES, code_digests, file_digest
from peftkit.data.pipeline import prepare_data
from peftkit.distributed.accelerator import make_accelerator, shutdown
from peftkit.errors import InputError, RunError
from peftkit.inference.finished_run import load_finished_run
from peftkit.models.load_base_model import load_objective
from peftkit.plugins import BASE_CLASSES, Entry, Registry
from peftkit.recipe import Recipe
from peftkit.run_directory import RunDirectory
from peftkit.train.resume import check_inputs
from peftkit.train.run import run
from tests.tiny_runs import Make


@dataclass
class Files:
    """A model's folder and the files of three splits."""

    folder: Path
    recipe: Callable[..., Recipe]

    def rows(self, split: str) -> list[str]:
        return (self.folder / f"{split}.csv").read_text().splitlines()

    def write(self, split: str, rows: list[str]) -> None:
        (self.folder / f"{split}.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def files(make: Make, models: dict[str, Path], tmp_path: Path) -> Files:
    shutil.copytree(models["decoder"], tmp_path / "model")
    created = Files(tmp_path, lambda *o: make("decoder", *_overrides(tmp_path), *o))
    for split, number in (("train", 24), ("dev", 8), ("test", 8)):
        created.write(split, ["text,label", *(f"thing {split} {i},{('red', 'blue')[i % 2]}" for i in range(number))])
    return created


def _overrides(folder: Path) -> tuple[str, ...]:
    paths = {split: str(folder / f"{split}.csv") for split in ("train", "dev", "test")}
    return (
        f'model.name="{folder / "model"}"',
        "task.name=text_classification",
        "task.path={" + ", ".join(f'{split} = "{path}"' for split, path in paths.items()) + "}",
        "method.name=lora",
    )


def digests(recipe: Recipe, registry: Registry) -> dict[str, str]:
    accelerator = make_accelerator(cpu=True)
    try:
        _, objective = load_objective(recipe)
        return input_digests(recipe, registry, objective, prepare_data(recipe, objective, accelerator))
    finally:
        shutdown(accelerator)


def another_row(files: Files, split: str) -> None:
    first, second, *rest = files.rows(split)
    files.write(split, [first, second.replace("thing", "ding"), *rest])


def another_label(files: Files, split: str) -> None:
    first, second, *rest = files.rows(split)
    files.write(split, [first, second.replace("red", "blue"), *rest])


def without_a_row(files: Files, split: str) -> None:
    files.write(split, files.rows(split)[:-1])


def another_order(files: Files, split: str) -> None:
    first, *rest = files.rows(split)
    files.write(split, [first, *reversed(rest)])


def another_weight(files: Files, name: str) -> None:
    path = files.folder / "model" / name
    tensors = load_file(path)
    key = next(iter(tensors))
    tensors[key] = tensors[key] + torch.ones(())
    save_file(tensors, path, metadata={"format": "pt"})


def another_key(files: Files, name: str) -> None:
    path = files.folder / "model" / name
    path.write_text(json.dumps({**json.loads(path.read_text()), "of_nobody": 1}))


def another_blank(files: Files, name: str) -> None:
    path = files.folder / "model" / name
    path.write_text(f"{path.read_text()}\n")


def remote_code(files: Files, name: str) -> None:
    (files.folder / "model" / name).write_text("CHANGED = True")


CHANGES: dict[str, tuple[Callable[[Files, str], None], str]] = {
    **{
        f"{change.__name__} {split}": (change, split)
        for change in (another_row, another_label, without_a_row, another_order)
        for split in ("train", "dev", "test")
    },
    "weights": (another_weight, "model.safetensors"),
    **{name: (another_key, name) for name in ("config.json", "tokenizer_config.json")},
    "tokenizer": (another_blank, "tokenizer.json"),
    "code": (remote_code, "modeling_own.py"),
}


INITIAL_DIGESTS: dict[str, str] = {}


@pytest.fixture(autouse=True)
def without_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ending an Accelerator collects garbage, which takes half a second."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_an_input_is_detected(change: str, files: Files, registry: Registry) -> None:
    recipe = files.recipe()
    if not INITIAL_DIGESTS:  # digests contain no path
        INITIAL_DIGESTS.update(digests(recipe, registry))
    check_inputs(files.folder, INITIAL_DIGESTS, INITIAL_DIGESTS)
    times = {path: path.stat().st_mtime_ns for path in (files.folder / "model").iterdir()}
    do, name = CHANGES[change]
    do(files, name)
    for path, time in times.items():  # as rsync, tar and cp -p leave them
        os.utime(path, ns=(time, time))
    expected = f"the rows of {name}" if name in ("train", "dev", "test") else f"{name} of the model"
    with pytest.raises(InputError, match=rf"started with different inputs: .*{expected}"):
        check_inputs(files.folder, INITIAL_DIGESTS, digests(recipe, registry))


def test_rows_are_digested_once(make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make("decoder")
    _, objective = load_objective(recipe)
    data = prepare_data(recipe, objective, Accelerator(cpu=True))
    first = input_digests(recipe, registry, objective, data)
    monkeypatch.delattr("peftkit.data.pipeline.digest_examples")
    monkeypatch.delattr("peftkit.data.pipeline.digest_rows")
    assert input_digests(recipe, registry, objective, data) == first


def test_unrelated_changes_keep_the_digests(files: Files, registry: Registry) -> None:
    recipe = files.recipe()
    initial = digests(recipe, registry)
    for path in files.folder.rglob("*"):
        os.utime(path)
    (files.folder / "model" / "README.md").write_text("words")
    (files.folder / "train.csv").write_text("\r\n".join(files.rows("train")))
    assert digests(recipe, registry) == initial


def test_files_named_in_the_recipe_are_inputs(files: Files, registry: Registry, make: Make) -> None:
    config = files.folder / "deepspeed.json"
    config.write_text("{}")
    recipe = files.recipe(f"train.deepspeed.config={config}", "train.deepspeed.stage=2", "train.optimizer=adamw")
    initial = digests(recipe, registry)
    config.write_text('{"steps_per_print": 1}')
    with pytest.raises(InputError, match=r"different inputs: the file .*deepspeed\.json"):
        check_inputs(files.folder, initial, digests(recipe, registry))


def test_files_of_a_stream_are_inputs(files: Files, registry: Registry) -> None:
    recipe = files.recipe("task.streaming=true", 'task.label_names=["red", "blue"]')
    initial = digests(recipe, registry)
    another_row(files, "train")
    with pytest.raises(InputError, match=r"different inputs: the file .*train\.csv"):
        check_inputs(files.folder, initial, digests(recipe, registry))


def test_code_of_other_distributions_is_an_input(make: Make, registry: Registry, tmp_path: Path) -> None:
    assert set(code_digests(make("decoder", "method.name=quiet"), registry)) == {"tests"}
    assert code_digests(make("decoder", "method.name=lora", "task.name=wordnet_topic"), registry) == {}


def test_file_digests_depend_on_the_content_not_the_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    stat, first = path.stat(), file_digest(path)
    assert file_digest(path) == first
    path.write_text("two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_digest(path) != first


@pytest.fixture
def stopped(files: Files, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> tuple[Recipe, Path]:
    """A run that failed at its third step."""
    from peftkit.train.trainer import Trainer

    account = Trainer._record_step

    def failing(self: Trainer, *arguments: Any) -> None:
        if self.progress.step == 2:
            raise RunError("power failure")
        account(self, *arguments)

    recipe = files.recipe("train.checkpoint.every=1 steps")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_record_step", failing)
        with pytest.raises(RunError, match="power failure"):
            run(recipe, registry)
    (path,) = Path(recipe.run.output).iterdir()
    return recipe, path


def test_a_run_resumes_only_with_the_same_rows(
    stopped: tuple[Recipe, Path], files: Files, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, path = stopped
    rows, before = files.rows("train"), {f: f.read_bytes() for f in path.rglob("*") if f.is_file()}
    without_a_row(files, "train")
    for resume in (str(path), ""):
        with pytest.raises(InputError, match="different inputs: the rows of train; restore them"):
            run(recipe, registry, resume=resume)
    assert {f: f.read_bytes() for f in path.rglob("*") if f.is_file()} == before
    files.write("train", rows)
    environment = json.loads((path / "environment.json").read_text())
    environment["packages"]["torch"] = "1.0"
    (path / "environment.json").write_text(json.dumps(environment))
    assert run(recipe, registry, resume=str(path)) == path
    assert "packages that changed since the start: torch " in capsys.readouterr().out
    assert RunDirectory(path).summary()["status"] == "done"
    assert len(RunDirectory(path).environment()["resumed"]) == 1


def test_a_finished_run_is_not_loaded_with_another_model(files: Files, registry: Registry) -> None:
    path = run(files.recipe("train.budget.steps=2"), registry)
    assert path
    load_finished_run(path, registry)
    another_weight(files, "model.safetensors")
    with pytest.raises(InputError, match=r"a different base model, .* differs in model\.safetensors of the model"):
        load_finished_run(path, registry)


@pytest.mark.parametrize("change", ["another_row test", "weights", "tokenizer"])
def test_a_finished_run_with_other_inputs_is_not_reused(
    change: str, files: Files, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = files.recipe("train.budget.steps=1", "evaluate.every=100%")
    path = run(recipe, registry)
    assert path
    assert run(recipe, registry, resume="") == path
    assert "already finished" in capsys.readouterr().out
    before = {f: f.read_bytes() for f in path.rglob("*") if f.is_file()}
    changed, file = CHANGES[change]
    changed(files, file)
    for resume in (str(path), ""):
        with pytest.raises(InputError, match="was started with different inputs: "):
            run(recipe, registry, resume=resume)
    assert {f: f.read_bytes() for f in path.rglob("*") if f.is_file()} == before


COMPONENTS = {
    "task": "class Own(Task):\n    'A.'\n    name: Literal['own'] = 'own'\n",
    "method": "class Own(Method):\n    'A.'\n    name: Literal['own'] = 'own'\n",
    "objective": "class Own(Objective):\n    'A.'\n    name: Literal['own'] = 'own'\n",
    "metric": "class Own(Metric):\n    'A.'\n    name: Literal['own'] = 'own'\n",
    "callback": "class Own(Callback):\n    'A.'\n    name: Literal['own'] = 'own'\n",
    "meter": "class Own(Meter):\n    'A.'\n    name: Literal['own'] = 'own'\n",
}
"""The source of a component of each kind; meters are the only ones that a recipe does not name."""


@pytest.mark.parametrize("kind", COMPONENTS)
def test_the_code_of_every_kind_of_component_is_an_input(
    kind: Any, make: Make, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"own_{kind}"
    imports = "from typing import Literal\nfrom peftkit import Callback, Meter, Method, Metric, Objective, Task\n"
    (tmp_path / f"{module}.py").write_text(imports + COMPONENTS[kind])
    monkeypatch.syspath_prepend(tmp_path)
    component = importlib.import_module(module).Own
    larger = Registry((*registry.entries, Entry(kind, "own", component, "own", "1.0")), (), registry.distributions)
    named = component.model_construct(name="own")
    recipe = make("decoder")
    if kind != "meter":
        recipe = recipe.model_copy(update={kind: (named,) if kind in ("metric", "callback") else named})
    initial = code_digests(recipe, larger)
    (tmp_path / f"{module}.py").write_text("CHANGED = True\n" + imports + COMPONENTS[kind])
    assert code_digests(recipe, larger)["own"] != initial["own"]
    del sys.modules[module]


def test_there_are_no_other_kinds_of_components() -> None:
    assert BASE_CLASSES.keys() == COMPONENTS.keys()
    assert BASE_CLASSES.keys() - Recipe.model_fields.keys() == {"meter"}


def test_the_files_of_every_tokenizer_of_transformers_are_inputs() -> None:
    folder = Path(transformers.__file__).parent / "models"
    names: set[str] = set()
    for module in folder.glob("*/tokenization_*.py"):
        for table in re.findall(r"VOCAB_FILES_NAMES = \{(.*?)\}", module.read_text(encoding="utf-8"), re.DOTALL):
            names |= set(re.findall(r':\s*"([^"]+\.\w+)"', table))
    assert {"source.spm", "vocab.txt", "bpe.codes"} <= names
    assert {name for name in names if not name.endswith((*MODEL_FILES, ".pkl"))} == set()


LISTS_OF_MODULES = {
    "top_level.txt": "own_itself\nown_beside\n",
    "RECORD": "own_itself.py,,\nown_beside.py,,\nown-1.0.dist-info/METADATA,,\n../../bin/own,,\n",
}
"""Where a distribution lists its modules; only setuptools writes ``top_level.txt``."""


@pytest.mark.parametrize("listed", LISTS_OF_MODULES)
@pytest.mark.parametrize("where", ["itself", "beside", "base"])
def test_all_code_of_a_plugin_is_an_input(
    where: str, listed: str, make: Make, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The component's module, another module of its distribution, and the module of a base class."""
    base = (
        "from peftkit import Method\nclass Base(Method):\n    def apply(self, model, context):\n        return model\n"
    )
    source = "from typing import Literal\nimport own_beside\nfrom own_base import Base\n"
    source += "class Own(Base):\n    'Trains all.'\n    name: Literal['own'] = 'own'\n"
    for name, text in {"base": base, "itself": source, "beside": "NUMBER = 1\n"}.items():
        (tmp_path / f"own_{name}.py").write_text(text)
    info = tmp_path / "own-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (info / listed).write_text(LISTS_OF_MODULES[listed])
    monkeypatch.syspath_prepend(tmp_path)
    component = importlib.import_module("own_itself").Own
    larger = Registry((*registry.entries, Entry("method", "own", component, "own", "1.0")), (), registry.distributions)
    recipe = make("decoder")
    recipe = recipe.model_copy(update={"method": component()})
    initial = code_digests(recipe, larger)
    with (tmp_path / f"own_{where}.py").open("a") as file:
        file.write("# changed\n")
    assert code_digests(recipe, larger).keys() == initial.keys() >= {"own"}
    assert code_digests(recipe, larger)["own"] != initial["own"]
    for name in ("own_itself", "own_beside", "own_base"):
        del sys.modules[name]
