"""The files that a run reads, and digests of files and of the source code of plugins; imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peftkit.cache_folder import cache_folder
from peftkit.components import Component, Objective
from peftkit.plugins import Registry
from peftkit.plugins.entry_points import BUILTIN_DISTRIBUTION
from peftkit.recipe import Recipe
from peftkit.recipe.model_names import model_path

TOKENIZER_FILES = (".json", ".txt", ".model", ".spm", ".codes", ".bpe", ".tokenizer", ".tiktoken", ".jinja")
"""Extensions of the files of tokenizers."""
MODEL_FILES = (".safetensors", ".py", ".gguf", *TOKENIZER_FILES)
"""Extensions of the files in a model's folder that determine its output."""


def named_files(recipe: Recipe, *, of_the_task: bool = False) -> set[Path]:
    """Returns the files named in the recipe, and all files of the folders named in it.

    Args:
        recipe: The recipe.
        of_the_task: Whether to include the files of every task, evaluation set and probe; otherwise only of streaming
            tasks, since the rows of others have digests.
    """
    tables = recipe.model_dump(mode="json", exclude={"run", "model", "track"})
    tasks = [recipe.task, *(each.task for each in recipe.all_evaluation_tasks)]
    if not of_the_task:
        del tables["evaluate"]["set"], tables["probe"]
        tasks = [recipe.task] if recipe.task.is_streaming else []
        if not tasks:
            del tables["task"]
    files = {file for task in tasks for file in task.data_files() if file.is_file()}
    for text in _strings(tables):
        with suppress(OSError, ValueError):  # not a path, such as a long prompt
            path = Path(text)
            if path.is_file():
                files.add(path)
            elif (of_the_task or os.sep in text) and path.is_dir():
                files |= {file for file in path.rglob("*") if file.is_file()}
    return files


def model_files(folder: Path) -> list[Path]:
    """Returns the files of a local model that determine its output, with the pooling of sentence-transformers.

    Args:
        folder: The folder of the model.
    """
    files = (*folder.iterdir(), *folder.glob("*_Pooling/config.json"))
    return sorted(file for file in files if file.suffix in MODEL_FILES and file.is_file())


def file_states(recipe: Recipe) -> dict[str, list[int]]:
    """Returns what changes when a file of a local model, or one that the recipe names, is written.

    Args:
        recipe: The recipe.
    """
    folder = Path(model_path(recipe.model.name))
    files = {*model_files(folder)} if folder.is_dir() else set[Path]()
    states = {}
    for file in sorted(files | named_files(recipe, of_the_task=True)):
        stat = file.stat()
        states[str(file)] = [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    return states


def code_digests(recipe: Recipe, registry: Registry, objective: Objective | None = None) -> dict[str, str]:
    """Returns the digest of the source code of each plugin distribution that the run uses.

    These are those of the recipe's components and of all meters, since every meter measures every run.

    Args:
        recipe: The recipe.
        registry: The installed components.
        objective: The objective of the run; None for the one that the recipe names.
    """
    objective = objective or recipe.objective
    of_probes = [each for probe in recipe.probes for each in (probe.task.task, *probe.recipe.metric)]
    components = (recipe.task, recipe.method, objective, *recipe.metric, *recipe.callback, *of_probes)
    used = {type(component) for component in components}
    digests = {}
    for entry in registry.entries:
        if entry.distribution == BUILTIN_DISTRIBUTION:
            continue
        if entry.kind == "meter" or entry.component in used:  # the latter builds the class
            modules = {
                entry.component.__module__,
                *_top_level_modules(entry.distribution),
                *_base_class_modules(entry.component),
            }
            digests[entry.distribution] = digest_of(part for module in sorted(modules) for part in _sources(module))
    return digests


def _top_level_modules(distribution: str) -> list[str]:
    """Returns the modules and packages of a distribution, from ``top_level.txt`` or its installed files."""
    try:
        installed = metadata.distribution(distribution)
    except PackageNotFoundError:
        return []
    if listed := (installed.read_text("top_level.txt") or "").split():  # which only setuptools writes
        return listed
    sources = [file for file in installed.files or () if file.suffix == ".py" and file.parts[0] != ".."]
    return sorted({file.parts[0].removesuffix(".py") for file in sources})


def _base_class_modules(component: type[Component]) -> set[str]:
    """Returns the modules of a component's base classes, without those of peftkit."""
    modules = {base.__module__ for base in component.__mro__ if issubclass(base, Component)}
    return {module for module in modules if module.split(".")[0] != BUILTIN_DISTRIBUTION}


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file, cached by its path, inode, size and times.

    The cache is safe because programs cannot set the time of the last status change (``st_ctime``).
    """
    stat = path.stat()
    identity = [str(path.resolve()), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    cached = cache_folder() / "digests" / key
    with suppress(OSError):
        text = cached.read_text(encoding="ascii")
        if len(text) == 64:
            return text
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OSError):
        cached.parent.mkdir(parents=True, exist_ok=True)
        temporary = cached.with_name(f".{key}.{os.getpid()}")
        temporary.write_text(digest, encoding="ascii")
        temporary.replace(cached)
    return digest


def digest_of(parts: Iterable[bytes]) -> str:
    """Returns the SHA-256 of a sequence of byte strings.

    Args:
        parts: The byte strings.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


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
    """Yields the names and sources of all files of a module's top-level package, or of the module alone."""
    parts = module.split(".")
    specs = (find_spec(".".join(parts[:end])) for end in range(1, len(parts) + 1))
    first = next((Path(spec.origin) for spec in specs if spec is not None and spec.origin), None)
    if first is None:  # defined interactively
        return
    for path in sorted(first.parent.rglob("*.py")) if first.name == "__init__.py" else [first]:
        yield path.name.encode()
        yield path.read_bytes()
