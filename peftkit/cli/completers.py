"""Shell completion of commands, recipe keys and the names of installed components.

A completer is a function of the text typed so far and the arguments before it; it returns texts with their help.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from peftkit.components.options.option_docstrings import option_descriptions
from peftkit.errors import PeftkitError

Completer = Callable[..., Mapping[str, str]]
OPTIMIZERS = "train.optimizer"


def print_completions(parser: argparse.ArgumentParser) -> None:
    """Answers a shell and ends the process."""
    import argcomplete

    logging.getLogger("peftkit").setLevel(logging.ERROR)  # warnings would appear in the line that is typed
    argcomplete.autocomplete(parser, always_complete_options="long")


def complete_with(action: argparse.Action, completer: Completer) -> argparse.Action:
    """Sets the completer of an argument.

    Args:
        action: The argument.
        completer: What completes it.

    Returns:
        The argument.
    """
    action.completer = completer  # type: ignore[attr-defined]
    return action


def component_names(*kinds: str) -> Completer:
    """Creates a completer of component names.

    Args:
        kinds: Kinds of component; none for all.

    Returns:
        The completer.
    """

    def complete(prefix: str, **_: Any) -> dict[str, str]:
        return {
            entry.name: entry.summary
            for entry in _entries()
            if entry.name.startswith(prefix) and (not kinds or entry.kind in kinds)
        }

    return complete


def metric_names(prefix: str, **_: Any) -> dict[str, str]:
    """Completes the scores that installed metrics compute, and the loss.

    Args:
        prefix: The text typed so far.

    Returns:
        The names with their help.
    """
    names = {"loss": "The loss of the targets."}
    for entry in _entries():
        if entry.kind == "metric":
            component: Any = entry.component
            names |= dict.fromkeys(component.values or (entry.name,), entry.summary)
    return {name: text for name, text in names.items() if name.startswith(prefix)}


def model_names(prefix: str, **_: Any) -> dict[str, str]:
    """Completes the built-in models and local folders.

    Args:
        prefix: The text typed so far.

    Returns:
        The names with their help.
    """
    from peftkit.recipe.model_names import BUILT_IN_MODELS

    folder = prefix[: prefix.rfind("/") + 1]
    names = dict.fromkeys(BUILT_IN_MODELS, "built-in model")
    with suppress(OSError):
        names |= {f"{folder}{path.name}/": "folder" for path in Path(folder or ".").iterdir() if path.is_dir()}
    return {name: text for name, text in names.items() if name.startswith(prefix)}


def recipe_overrides(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> dict[str, str]:
    """Completes ``KEY=`` of a recipe, and the values of keys that have a few.

    Args:
        prefix: The text typed so far.
        parsed_args: The arguments before it.

    Returns:
        The texts with their help.
    """
    with suppress(PeftkitError):
        key, equals, value = prefix.partition("=")
        if not equals:
            return {f"{name}=": text for name, text in _recipe_keys(parsed_args) if name.startswith(prefix)}
        return {f"{key}={name}": text for name, text in _values(key, value, parsed_args).items()}
    return {}


def method_options(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> dict[str, str]:
    """Completes ``OPTION=`` of the method that is already typed as NAME.

    Args:
        prefix: The text typed so far.
        parsed_args: The arguments before it.

    Returns:
        The options with their help.
    """
    options = {f"{name}=": text for name, text in _options("method", getattr(parsed_args, "name", None))}
    return {option: text for option, text in options.items() if option.startswith(prefix)}


def _values(key: str, value: str, args: argparse.Namespace) -> Mapping[str, str]:
    from peftkit.recipe.messages.type_names import field_for, literals
    from peftkit.recipe.optimizer_names import torch_optimizers

    if key in ("method.name", "task.name"):
        return component_names(key.removesuffix(".name"))(value)
    if key == "model.name":
        return model_names(value)
    if key == "evaluate.selection_metric":
        return metric_names(value)
    if key == OPTIMIZERS:
        names = sorted({"adafactor", "adamw", *(name.lower() for name in torch_optimizers())})
    else:
        path = tuple(key.split("."))
        kind, _, option = key.partition(".")
        component = _components(args).get(kind)
        field = component.model_fields.get(option) if component else field_for(path, {})
        names = literals(field.annotation) if field else []
    return {name: "" for name in names if name.startswith(value)}


def _recipe_keys(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The keys of a recipe's tables, and the options of its task and method as far as these are known."""
    from pydantic import BaseModel

    from peftkit.recipe.recipe import Recipe

    def keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
        texts = option_descriptions(model)
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel) and name not in ("task", "method"):
                yield from keys(inner, f"{prefix}{name}.")
            elif prefix:
                yield f"{prefix}{name}", texts[name]

    yield from keys(Recipe, "")
    for kind, component in {"task": None, "method": None, **_components(args)}.items():
        yield f"{kind}.name", f"The {kind}."
        if component is not None:
            yield from (
                (f"{kind}.{name}", text) for name, text in _options(kind, component.model_fields["name"].default)
            )


def _components(args: argparse.Namespace) -> dict[str, Any]:
    """The classes of the recipe's task and method, as far as the recipe can be read."""
    from peftkit.recipe.recipe_file import load_raw

    recipe = getattr(args, "recipe", None) or next(iter(getattr(args, "recipes", None) or ()), None)
    with suppress(PeftkitError):
        data = load_raw(Path(recipe), args.overrides or ()).data if recipe else {}
        names = {kind: data.get(kind, {}).get("name") for kind in ("task", "method")}
        return {e.kind: e.component for e in _entries() if names.get(e.kind) == e.name}
    return {}


def _options(kind: str, name: str | None) -> Iterator[tuple[str, str]]:
    for entry in _entries():
        if (entry.kind, entry.name) == (kind, name):
            for option, text in option_descriptions(entry.component).items():
                if option != "name":
                    yield option, " ".join(text.split())


def _entries() -> Any:
    from peftkit import plugins

    try:
        return plugins.load_registry().entries
    except PeftkitError:  # PEFTKIT_PLUGINS is invalid; the command itself reports it
        return ()
