"""What a run began with, by content: rows, the base model's files, files that the recipe names, the code of plugins.

A checkpoint keeps a digest of each, so that a run goes on with what it began with and with nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
from accelerate import Accelerator
from datasets import Dataset

from peftkit.cache import cache_folder
from peftkit.components import Component, Example
from peftkit.errors import InputError, listed
from peftkit.plugins import OWN, Registry
from peftkit.recipe import Recipe
from peftkit.recipe.names import model_path
from peftkit.runner.data import Data, prepare
from peftkit.runner.forms import Form
from peftkit.runner.models import load_form
from peftkit.runs import RunDirectory

MODEL_FILES = (".safetensors", ".json", ".txt", ".model", ".py", ".jinja", ".tiktoken", ".gguf")
"""How the files of a model's folder end that decide what it computes."""
WITHOUT_EFFECT = ("generation_config.json", "README.txt", "LICENSE.txt", "trainer_state.json", "all_results.json")
"""Files of such a folder on which no run depends."""
OF_MODEL = " of the model"
ENCODED = ("source", "candidates", "answer")
LIBRARIES = ("peftkit", "torch", "transformers", "peft", "tokenizers", "datasets", "accelerate")
"""Libraries whose versions may differ when a run goes on, which is shown and recorded."""

Inputs = Mapping[str, str]
"""Digests by the text that names what they are of."""


def input_digests(recipe: Recipe, registry: Registry, form: Form, data: Data) -> dict[str, str]:
    """The digests of everything that a run reads.

    Args:
        recipe: what is run.
        registry: the installed components.
        form: the model's form, with its config and tokenizer.
        data: the rows as they were read.
    """
    digests = {f"the rows of {split}": value for split, value in row_digests(data).items()}
    digests |= {f"{name}{OF_MODEL}": value for name, value in model_digests(recipe.model.name, form).items()}
    digests |= {f"the file {path}": file_digest(path) for path in sorted(named_files(recipe))}
    digests |= {f"the code of {name}": value for name, value in code_digests(recipe, registry).items()}
    return digests


def read_inputs(recipe: Recipe, registry: Registry, accelerator: Accelerator) -> dict[str, str]:
    """The digests of everything that a run of the recipe would read now; weights are not loaded.

    Args:
        recipe: what is run, with the commits of the hub that it keeps to.
        registry: the installed components.
        accelerator: of the processes that read; all of them call this.

    Raises:
        PeftkitError: something of it cannot be read.
    """
    _, form = load_form(recipe)
    return input_digests(recipe, registry, form, prepare(recipe, form, accelerator))


def recorded_inputs(path: Path) -> Inputs:
    """The digests that a run has recorded at its start; none of an older peftkit's."""
    try:
        recorded = RunDirectory(path).environment().get("inputs")
    except InputError:
        return {}
    return recorded if isinstance(recorded, Mapping) else {}


def check_inputs(path: Path, began: Inputs, now: Inputs) -> None:
    """Refuses to go on with other inputs than those that a run began with.

    Args:
        path: the run directory.
        began: the digests of its checkpoint.
        now: the digests of what is there now.

    Raises:
        InputError: they differ.
    """
    if different := changed_inputs(began, now):
        raise InputError(
            f"{str(path)!r} was started with other inputs, they differ in {listed(different)}; restore them to resume "
            "the run, or start a new one without --resume"
        )


def check_model_files(path: Path, form: Form, name: str) -> None:
    """Refuses to put what a run has trained on another base model than its own.

    Args:
        path: the run directory.
        form: the form of the model, with its config.
        name: the model's name in the recipe.

    Raises:
        InputError: the files of the model differ.
    """
    began = {key: value for key, value in recorded_inputs(path).items() if key.endswith(OF_MODEL)}
    now = {f"{file}{OF_MODEL}": value for file, value in model_digests(name, form).items()}
    if began and (different := changed_inputs(began, now)):
        raise InputError(
            f"{str(path)!r} was trained on another base model, {name!r} differs in {listed(different)}; restore its "
            "files, or set model.name in the run's recipe.toml to a folder that holds them"
        )


def changed_inputs(began: Inputs, now: Inputs) -> list[str]:
    """The names of the inputs that differ, with what is new and what is gone.

    Args:
        began: the digests that a run began with.
        now: the digests of what is there now.
    """
    return [
        name + ("" if name in began and name in now else " (gone)" if name in began else " (new)")
        for name in sorted({*began, *now})
        if began.get(name) != now.get(name)
    ]


def changed_versions(began: Mapping[str, str]) -> list[str]:
    """The libraries that have other versions now than when a run was started, with both.

    Args:
        began: the versions by name, from the run's ``environment.json``.
    """
    here = {name: version(name) for name in LIBRARIES if name in began}
    return [f"{name} {here[name]} (started with {began[name]})" for name in here if here[name] != began[name]]


def row_digests(data: Data) -> dict[str, str]:
    """The digest of each split's rows; of a stream the one of its first rows."""
    digests = dict(data.digests)
    if isinstance(data.train, Dataset):
        digests["train"] = _hash(_columns(data.train.select_columns([*ENCODED])))
    for split in data.selected:
        digests[split.name] = _hash(_texts(split.examples))
    return digests


def model_digests(name: str, form: Form) -> dict[str, str]:
    """The digests of the files of a model's folder, or the commit of a model on the hub."""
    folder = Path(model_path(name))
    if not folder.is_dir():
        commit = getattr(form.config, "_commit_hash", None)
        return {"the commit": str(commit)} if commit else {}
    files = (file for file in folder.iterdir() if file.suffix in MODEL_FILES and file.name not in WITHOUT_EFFECT)
    return {file.name: file_digest(file) for file in sorted(files) if file.is_file()}


def named_files(recipe: Recipe) -> set[Path]:
    """The files that the recipe names, and those in folders that it names.

    The rows of a task are known by themselves; where they are streamed, by their files.
    """
    tables = recipe.model_dump(mode="json", exclude={"run", "model", "track"})
    if not recipe.task.streams:
        del tables["task"]
    found: set[Path] = set()
    for text in _strings(tables):
        with suppress(OSError, ValueError):  # no path at all, such as a prompt of a thousand words
            path = Path(text)
            if path.is_file():
                found.add(path)
            elif os.sep in text and path.is_dir():
                found |= {file for file in path.rglob("*") if file.is_file()}
    return found


def code_digests(recipe: Recipe, registry: Registry) -> dict[str, str]:
    """The digests of the sources of the distributions whose components the recipe uses, peftkit's own apart."""
    used = {type(component) for component in (recipe.task, recipe.method, *recipe.metric)}
    digests = {}
    for entry in registry.entries:
        if entry.component in used and entry.distribution != OWN:
            modules = {entry.component.__module__, *_top_level(entry.distribution), *_bases(entry.component)}
            digests[entry.distribution] = _hash(part for module in sorted(modules) for part in _sources(module))
    return digests


def _top_level(distribution: str) -> list[str]:
    """The modules and packages that a distribution installs, as far as it says so."""
    with suppress(PackageNotFoundError):
        return (metadata.distribution(distribution).read_text("top_level.txt") or "").split()
    return []


def _bases(component: type[Component]) -> set[str]:
    """The modules of the classes that a component is derived from, those of peftkit apart."""
    modules = {base.__module__ for base in component.__mro__ if issubclass(base, Component)}
    return {module for module in modules if module.split(".")[0] != OWN}


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, from the cache if the same file was read before.

    The file is known by its place, inode, size and times, of which nobody can set the time of its last change.
    """
    found = path.stat()
    identity = [str(path.resolve()), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    kept = cache_folder() / "digests" / key
    with suppress(OSError):
        text = kept.read_text(encoding="ascii")
        if len(text) == 64:
            return text
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f".{key}.{os.getpid()}")
        temporary.write_text(digest, encoding="ascii")
        temporary.replace(kept)
    return digest


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def _columns(rows: Dataset) -> Iterator[bytes]:
    for table in rows.with_format("arrow").iter(batch_size=1000):
        sink = pa.BufferOutputStream()
        combined = table.combine_chunks().replace_schema_metadata(None)
        with pa.ipc.new_stream(sink, combined.schema) as writer:
            writer.write_table(combined)
        yield sink.getvalue().to_pybytes()


def _texts(examples: Iterable[Example]) -> Iterator[bytes]:
    for e in examples:
        texts = [e.source, e.target, e.candidates, e.references, e.group, sorted(e.extra.items())]
        yield json.dumps(texts, default=str).encode()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _sources(module: str) -> Iterator[bytes]:
    """The sources of the package that a module lies in, or of the module alone."""
    parts = module.split(".")
    above = (find_spec(".".join(parts[:end])) for end in range(1, len(parts) + 1))
    first = next((Path(spec.origin) for spec in above if spec is not None and spec.origin), None)
    if first is None:  # typed at a prompt
        return
    for path in sorted(first.parent.rglob("*.py")) if first.name == "__init__.py" else [first]:
        yield path.name.encode()
        yield path.read_bytes()
