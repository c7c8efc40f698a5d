"""Checks that the classes which load a checkpoint are those that it names, and not similar ones of transformers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from peftkit.errors import ModelError, did_you_mean

log = logging.getLogger(__name__)
AUTO_MAP = "auto_map"
"""The key of a config that names classes in files of the checkpoint, by the auto class that loads them."""


def check_architecture(name: str, described: Mapping[str, Any], auto_class: str, *, trusted: bool) -> None:
    """Reject a checkpoint whose model class transformers lacks, or replaces by its own.

    Args:
        name: the model, as in the recipe.
        described: its config, as a dict.
        auto_class: name of the transformers class that loads it.
        trusted: whether code of the checkpoint is run.

    Raises:
        ModelError: the model would be another one.
    """
    code = described.get(AUTO_MAP) or {}
    architecture = str((described.get("architectures") or [""])[0])
    if not trusted:
        named = {key: value for key, value in code.items() if key in ("AutoConfig", "AutoModel", auto_class)}
        _check_code(name, "model", named.values())
    comes_with_it = trusted and ("AutoConfig" in code or auto_class in code)
    if architecture and not hasattr(transformers, architecture) and not comes_with_it:
        suggestion = did_you_mean(architecture, dir(transformers))
        raise ModelError(
            f"the installed transformers {transformers.__version__} does not support the architecture "
            f"{architecture!r} of {name!r}{suggestion}; correct its config.json, or install a version that does"
        )
    if architecture and not comes_with_it:
        _check_model_type(name, architecture, str(described.get("model_type", "")))


def _check_model_type(name: str, architecture: str, model_type: str) -> None:
    """Reject a checkpoint whose ``model_type`` selects other classes than the one that it names."""
    config_class = getattr(getattr(transformers, architecture), "config_class", None)
    named_type = getattr(config_class, "model_type", "")
    if named_type and model_type not in ("", named_type) and architecture not in _classes_of(model_type):
        raise ModelError(
            f"the config.json of {name!r} names the architecture {architecture!r} of the model_type {named_type!r}, "
            f"but has the model_type {model_type!r}, whose classes would load it; correct one of the two"
        )


def _classes_of(model_type: str) -> set[str]:
    """Return the names of the classes that transformers' auto classes load for a type."""
    mappings = (value for key, value in vars(modeling_auto).items() if key.endswith("_MAPPING_NAMES"))
    names = [mapping[model_type] for mapping in mappings if model_type in mapping]
    return {each for group in names for each in ([group] if isinstance(group, str) else group)}


def check_tokenizer_code(name: str, described: Mapping[str, Any], path: str, options: Mapping[str, Any]) -> None:
    """Reject a checkpoint whose tokenizer class transformers would replace by its own.

    Args:
        name: the model, as in the recipe.
        described: its config, as a dict.
        path: a local folder, or the name of a model on the hub.
        options: further arguments of ``from_pretrained``.

    Raises:
        ModelError: texts would be tokenized by another class.
    """
    if options.get("trust_remote_code"):
        return
    others = {key: value for key, value in options.items() if key != "trust_remote_code"}
    saved = get_tokenizer_config(path, **others).get(AUTO_MAP) or {}
    saved = saved if isinstance(saved, Mapping) else {"AutoTokenizer": saved}  # as old files have it
    classes = saved.get("AutoTokenizer") or (described.get(AUTO_MAP) or {}).get("AutoTokenizer") or ()
    _check_code(name, "tokenizer", [classes] if isinstance(classes, str) else [each for each in classes if each])


def _check_code(name: str, what: str, classes: Iterable[str]) -> None:
    """Reject classes in files of a checkpoint, unless transformers has adopted them under the same names."""
    for each in classes:
        class_name = str(each).rpartition(".")[2]
        if not hasattr(transformers, class_name):
            raise ModelError(
                f"the {what} of {name!r} is a {class_name} in files that come with it, which transformers would "
                "replace by a class of its own; review the code, then set model.trust_remote_code = true"
            )
        log.info("the %s of %s is the %s of transformers, not of the files that come with it", what, name, class_name)
