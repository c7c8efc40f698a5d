"""Digests of a run's inputs: rows, files of the base model, files named in the recipe, source code of plugins.

They are saved with every checkpoint; ``peftkit.train.resume`` compares them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from peftkit.cache import cache_folder
from peftkit.components import Component, Objective
from peftkit.data.pipeline import PreparedData, prepare_data
from peftkit.data.row_digests import digest_parts
from peftkit.errors import InputError, comma_separated
from peftkit.models import BoundObjective, ModelFamily
from peftkit.models.load import load_objective
from peftkit.plugins import Registry
from peftkit.plugins.entry_points import BUILTIN_DISTRIBUTION
from peftkit.recipe import Recipe
from peftkit.recipe.resolve import model_path
from peftkit.run_directory import RunDirectory

TOKENIZER_FILES = (".json", ".txt", ".model", ".spm", ".codes", ".bpe", ".tokenizer", ".tiktoken", ".jinja")
"""Extensions of the files of tokenizers."""
MODEL_FILES = (".safetensors", ".py", ".gguf", *TOKENIZER_FILES)
"""Extensions of the files in a model's folder that determine its output."""
WITHOUT_EFFECT = ("generation_config.json", "README.txt", "LICENSE.txt", "trainer_state.json", "all_results.json")
"""Files with these extensions that no run depends on."""
MODEL_SUFFIX = " of the model"
"""Ends the names of inputs that are files of the base model."""

Inputs = Mapping[str, str]
"""Digest by the name of the input."""


def input_digests(recipe: Recipe, registry: Registry, objective: BoundObjective, data: PreparedData) -> dict[str, str]:
    """Returns the digests of everything that a run reads.

    Args:
        recipe: The recipe.
        registry: The installed components.
        objective: The objective, with the model family.
        data: The prepared data.
    """
    digests = {f"the rows of {split}": value for split, value in data.row_digests.items()}
    digests |= {
        f"{name}{MODEL_SUFFIX}": value for name, value in model_digests(recipe.model.name, objective.family).items()
    }
    digests |= {f"the file {path}": file_digest(path) for path in sorted(named_files(recipe))}
    digests |= {
        f"the code of {name}": value for name, value in code_digests(recipe, registry, objective.component).items()
    }
    return digests


def compute_input_digests(recipe: Recipe, registry: Registry, accelerator: Accelerator) -> dict[str, str]:
    """Computes the digests of everything that a run of the recipe would read now, without loading weights.

    Args:
        recipe: The recipe, with pinned hub commits.
        registry: The installed components.
        accelerator: The accelerator; all of its processes must call this function.

    Raises:
        PeftkitError: An input cannot be read.
    """
    _, objective = load_objective(recipe)
    return input_digests(recipe, registry, objective, prepare_data(recipe, objective, accelerator))


def recorded_input_digests(path: Path) -> Inputs:
    """Reads the digests that a run recorded at its start; empty for runs of older versions."""
    try:
        recorded = RunDirectory(path).environment().get("inputs")
    except InputError:
        return {}
    return recorded if isinstance(recorded, Mapping) else {}


def check_model_files(path: Path, family: ModelFamily, name: str) -> None:
    """Checks that the base model of a finished run has not changed.

    Args:
        path: The run directory.
        family: The model family, with config.
        name: Name of the model in the recipe.

    Raises:
        InputError: Files of the model have changed.
    """
    began = {key: value for key, value in recorded_input_digests(path).items() if key.endswith(MODEL_SUFFIX)}
    now = {f"{file}{MODEL_SUFFIX}": value for file, value in model_digests(name, family).items()}
    if began and (different := changed_inputs(began, now)):
        raise InputError(
            f"{str(path)!r} was trained on a different base model, {name!r} differs in {comma_separated(different)}; "
            "restore its files, or set model.name in the run's recipe.toml to a folder that has them"
        )


def changed_inputs(began: Inputs, now: Inputs) -> list[str]:
    """Lists the inputs that were changed, added or removed.

    Args:
        began: Digests of the inputs that the run was started with.
        now: Digests of the current inputs.

    Returns:
        Names of inputs, with "(new)" or "(missing)" where an input is on one side only.
    """
    return [
        name + ("" if name in began and name in now else " (missing)" if name in began else " (new)")
        for name in sorted({*began, *now})
        if began.get(name) != now.get(name)
    ]


def model_digests(name: str, family: ModelFamily) -> dict[str, str]:
    """Returns the digest of each file of a local model, or the commit of a model on the hub.

    Args:
        name: Name of the model in the recipe.
        family: The model family, with config.
    """
    folder = Path(model_path(name))
    if not folder.is_dir():
        commit = getattr(family.config, "_commit_hash", None)
        return {"the commit": str(commit)} if commit else {}
    files = (file for file in folder.iterdir() if file.suffix in MODEL_FILES and file.name not in WITHOUT_EFFECT)
    return {file.name: file_digest(file) for file in sorted(files) if file.is_file()}


def named_files(recipe: Recipe, *, of_the_task: bool = False) -> set[Path]:
    """Returns the files named in the recipe, and all files of the folders named in it.

    Args:
        recipe: The recipe.
        of_the_task: Whether to include the files of every task; otherwise only of those that are streaming, since the
            rows of others have digests.
    """
    tables = recipe.model_dump(mode="json", exclude={"run", "model", "track"})
    if not (of_the_task or recipe.task.is_streaming):
        del tables["task"]
    files: set[Path] = set()
    for text in _strings(tables):
        with suppress(OSError, ValueError):  # not a path, such as a long prompt
            path = Path(text)
            if path.is_file():
                files.add(path)
            elif (of_the_task or os.sep in text) and path.is_dir():
                files |= {file for file in path.rglob("*") if file.is_file()}
    return files


def code_digests(recipe: Recipe, registry: Registry, objective: Objective | None = None) -> dict[str, str]:
    """Returns the digest of the source code of each plugin distribution that the recipe uses.

    Args:
        recipe: The recipe.
        registry: The installed components.
        objective: The objective of the run; None for the one that the recipe names.
    """
    objective = objective or recipe.objective
    used = {type(component) for component in (recipe.task, recipe.method, objective, *recipe.metric, *recipe.callback)}
    digests = {}
    for entry in registry.entries:
        if entry.distribution != BUILTIN_DISTRIBUTION and entry.component in used:  # which builds the class
            modules = {
                entry.component.__module__,
                *_top_level_modules(entry.distribution),
                *_base_class_modules(entry.component),
            }
            digests[entry.distribution] = digest_parts(part for module in sorted(modules) for part in _sources(module))
    return digests


def _top_level_modules(distribution: str) -> list[str]:
    """Returns the modules and packages that a distribution lists in ``top_level.txt``."""
    with suppress(PackageNotFoundError):
        return (metadata.distribution(distribution).read_text("top_level.txt") or "").split()
    return []


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
