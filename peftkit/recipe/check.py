"""What a recipe asks for that cannot work, found before any model is loaded."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peftkit.components import Component, ModelKind, Situation
from peftkit.errors import did_you_mean, listed
from peftkit.recipe.tables import Recipe

BUILT_IN_MODELS = ("pocket-t5", "pocket-decoder", "pocket-encoder")
ASSETS = Path(__file__).parents[1] / "assets"
_NEEDS_MORE = {"LBFGS": "needs a closure", "SparseAdam": "takes sparse gradients only"}

Finding = tuple[tuple[str | int, ...], str]
"""The path of a key and what is wrong with it."""


def model_path(name: str) -> str:
    """What ``from_pretrained`` takes for a model's name: a built-in's folder, else the name as it is."""
    return str(ASSETS / name) if name in BUILT_IN_MODELS else name


def model_config(name: str) -> Mapping[str, Any]:
    """The model's ``config.json`` as far as it lies on this machine; empty for a hub model not yet fetched."""
    path = Path(model_path(name)) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def model_kind(config: Mapping[str, Any]) -> ModelKind | None:
    """The kind that a model's config means, None where it does not say.

    An encoder-decoder says so; otherwise the architecture it was saved as decides: ``…ForCausalLM`` and
    ``…LMHeadModel`` are decoders, everything else that names an architecture is an encoder.
    """
    if config.get("is_encoder_decoder"):
        return "encoder-decoder"
    for architecture in config.get("architectures") or ():
        return "decoder" if str(architecture).endswith(("ForCausalLM", "LMHeadModel")) else "encoder"
    return None


def situation(recipe: Recipe, config: Mapping[str, Any]) -> Situation:
    """What the recipe asks of its components, with the model's config as far as it is known."""
    return Situation(
        model_kind=model_kind(config),
        task_kind=type(recipe.task).kind,
        gradient_checkpointing=recipe.train.gradient_checkpointing,
        mixed_precision=recipe.train.mixed_precision,
        config=config,
    )


def findings(recipe: Recipe, config: Mapping[str, Any]) -> list[Finding]:
    """Everything about the recipe that would not do what it says."""
    found = [*_model(recipe, config), *_optimizer(recipe), *_metrics(recipe), *_budget(recipe)]
    asked = situation(recipe, config)
    components: list[tuple[str, Component]] = [("task", recipe.task), ("method", recipe.method)]
    for key, component in components:
        found += [((key,), f"{component.name!r} cannot be used so: {text}") for text in component.refuses(asked)]
    if asked.model_kind == "encoder" and asked.task_kind == "generation":
        text = f"{recipe.task.name!r} generates text, which an encoder cannot; use an encoder-decoder or a decoder"
        found.append((("task",), text))
    return found


def _model(recipe: Recipe, config: Mapping[str, Any]) -> list[Finding]:
    name = recipe.model.name
    if config or name in BUILT_IN_MODELS:
        return []
    path = Path(name)
    hub = name.count("/") <= 1 and not name.startswith((".", "/", "~")) and not path.is_dir()
    if hub and ("/" in name or not did_you_mean(name, BUILT_IN_MODELS)):
        return []
    reason = "is a folder without a readable config.json" if path.is_dir() else "is no folder"
    text = f"{name!r} {reason} and no built-in model ({listed(BUILT_IN_MODELS)}){did_you_mean(name, BUILT_IN_MODELS)}"
    return [(("model", "name"), text)]


def _optimizer(recipe: Recipe) -> list[Finding]:
    name = recipe.train.optimizer
    known = torch_optimizers()
    if name.lower() in ("adafactor", "adamw") or not known:
        return []
    by_lower = {k.lower(): k for k in known}
    if name.lower() not in by_lower:
        options = ["adafactor", "adamw", *known]
        guess = did_you_mean(name, options)
        return [(("train", "optimizer"), f"no optimizer is called {name!r}; known: {listed(options)}{guess}")]
    if reason := _NEEDS_MORE.get(by_lower[name.lower()]):
        return [(("train", "optimizer"), f"{name!r} {reason}, which no fine-tuning step gives; use adamw")]
    return []


@cache
def torch_optimizers() -> tuple[str, ...]:
    """The names in ``torch.optim``, read from its source: importing torch would take longer than the check."""
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return ()
    try:
        tree = ast.parse((Path(spec.submodule_search_locations[0]) / "optim" / "__init__.py").read_text())
    except (OSError, SyntaxError):
        return ()
    imported = (a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names)
    return tuple(sorted({name for name in imported if name[0].isupper() and name != "Optimizer"}))


def _metrics(recipe: Recipe) -> list[Finding]:
    kind = type(recipe.task).kind
    found: list[Finding] = []
    names = [m.name for m in recipe.metric]
    for index, metric in enumerate(recipe.metric):
        if kind not in type(metric).kinds:
            fit = listed(type(metric).kinds)
            found.append((("metric", index), f"{metric.name!r} scores {fit}, and {recipe.task.name!r} is {kind}"))
        if metric.name in names[:index]:
            found.append((("metric", index), f"{metric.name!r} is named twice"))
    return found


def _budget(recipe: Recipe) -> list[Finding]:
    if recipe.train.mixed_precision == "fp16" and recipe.model.dtype != "float32":
        text = "fp16 autocast needs float32 weights to scale their gradients; set model.dtype = \"float32\""
        return [(("train", "mixed_precision"), text)]
    return []
