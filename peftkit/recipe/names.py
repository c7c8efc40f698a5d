"""The models and optimizers that a recipe may name, known without importing what implements them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peftkit.components import ModelKind
from peftkit.errors import did_you_mean, listed, one_line

BUILT_IN_MODELS = ("pocket-t5", "pocket-decoder", "pocket-encoder")
ASSETS = Path(__file__).parents[1] / "assets"
HUB_ID = re.compile(r"(?:[A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
"""What a model on a hub may be called."""
GENERATES = ("ForConditionalGeneration", "ForCausalLM")
"""How the architectures end that generate text from images or sounds too."""
NO_TOWERS = frozenset({"text_config", "quantization_config", "task_specific_params", "generation_config"})
"""Parts of a config that are no part of a model beside its text model."""
DECODER = "TextModelForCausalLM"
"""What the text model is called that lies in another."""
_OWN_OPTIMIZERS = ("adafactor", "adamw")
_NEEDS_MORE = {"LBFGS": "needs a closure", "SparseAdam": "takes sparse gradients only"}


def model_path(name: str) -> str:
    """What ``from_pretrained`` takes for a model's name: a built-in's folder, else the name as it is."""
    return str(ASSETS / name) if name in BUILT_IN_MODELS else name


def model_config(name: str) -> Mapping[str, Any]:
    """The model's ``config.json`` as far as it lies on this machine; empty for a hub model not yet fetched."""
    try:
        config = json.loads((Path(model_path(name)) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the text model in a model that reads images or sounds too; of other models the config itself."""
    text = config.get("text_config")
    others = [key for key in config if key.endswith("_config") and key not in NO_TOWERS and config[key]]
    if not isinstance(text, dict) or not others or config.get("is_encoder_decoder"):
        return config
    if not _architecture(config).endswith(GENERATES) or text.get("is_encoder_decoder"):
        return config
    return {
        "vocab_size": config.get("vocab_size"),
        **text,
        "model_type": text.get("model_type", config.get("model_type")),
        "architectures": [DECODER],
    }


def model_kind(config: Mapping[str, Any]) -> ModelKind | None:
    """The kind that a model's config means, None where it does not say.

    An encoder-decoder says so; otherwise the architecture it was saved as decides: ``…ForCausalLM`` and
    ``…LMHeadModel`` are decoders, as is the text model of one that reads images too; everything else that names an
    architecture is an encoder.
    """
    if config.get("is_encoder_decoder"):
        return "encoder-decoder"
    architecture = _architecture(text_config(config))
    if not architecture:
        return None
    return "decoder" if architecture.endswith(("ForCausalLM", "LMHeadModel")) else "encoder"


def _architecture(config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list | tuple) and architectures else ""


def model_problem(name: str) -> str:
    """Why no model can be meant, or nothing; whether a hub has it is seen when it is fetched."""
    if name in BUILT_IN_MODELS:
        return ""
    path = Path(name.replace("\0", "?"))
    if path.is_dir():
        return _folder_problem(name, path)
    if path.is_file():
        return f"{name!r} is a file; name the folder that holds it, with its config.json"
    guess = did_you_mean(name, BUILT_IN_MODELS) if "/" not in name else ""
    if HUB_ID.fullmatch(name) and not guess:
        return ""
    if not guess and path.parent.is_dir():
        guess = did_you_mean(path.name, sorted(p.name for p in path.parent.iterdir() if p.is_dir()))
    return f"{name!r} is no folder, no hub id and no built-in model ({listed(BUILT_IN_MODELS)}){guess}"


def _folder_problem(name: str, folder: Path) -> str:
    """Why a folder is none of a model, or nothing."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        try:
            base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        except (OSError, ValueError, LookupError, TypeError):
            base = None
        remedy = f"its base model, {base!r}" if base else "the model that it was trained on"
        return f"{name!r} is an adapter and no model (adapter_config.json); name {remedy}, or merge them first"
    if (folder / "recipe.toml").is_file() and (folder / "summary.json").is_file():
        return f"{name!r} is a run and no model; write its model into a folder first: peftkit merge {name} FOLDER"
    file = folder / "config.json"
    if not file.is_file():
        gguf = next((file.name for file in sorted(folder.glob("*.gguf"))), None)
        if gguf:
            return f"{name!r} holds GGUF weights only ({gguf}); name the model that they were made from"
        return f"{name!r} is a folder without a config.json, so that no model lies there"
    text = file.read_bytes()
    if text.startswith(b"version https://git-lfs"):
        return f"the config.json of {name!r} is the pointer that git leaves without LFS; run: git lfs pull"
    try:
        read = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return f"the config.json of {name!r} is no readable config.json: {one_line(error)}"
    return "" if isinstance(read, dict) and read else f"the config.json of {name!r} holds no table"


def optimizer_problem(name: str) -> str:
    """Why the optimizer cannot be had, or nothing."""
    known = torch_optimizers()
    by_lower = {k.lower(): k for k in known}
    if name.lower() in _OWN_OPTIMIZERS or not known:
        return ""
    if name.lower() not in by_lower:
        options = [*_OWN_OPTIMIZERS, *(k for k in known if k not in _NEEDS_MORE and k.lower() not in _OWN_OPTIMIZERS)]
        return f"no optimizer is called {name!r}; known: {listed(options)}{did_you_mean(name, options)}"
    if reason := _NEEDS_MORE.get(by_lower[name.lower()]):
        return f"{name!r} {reason}, which no fine-tuning step gives; use adamw"
    return ""


@cache
def torch_optimizers() -> tuple[str, ...]:
    """The names in ``torch.optim``, read from its source: importing torch would take longer than the check."""
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return ()
    try:
        source = (Path(spec.submodule_search_locations[0]) / "optim" / "__init__.py").read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (OSError, SyntaxError):
        return ()
    imported = (a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names)
    return tuple(sorted({name for name in imported if name[0].isupper() and name != "Optimizer"}))
