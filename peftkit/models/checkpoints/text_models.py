"""Loads only the text model of a multimodal checkpoint."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from peftkit.components import ModelKind
from peftkit.errors import ModelError
from peftkit.models.checkpoints.loading_report import OUTPUT
from peftkit.models.checkpoints.model_files import INDEX, WEIGHTS, checkpoint_keys, weight_map
from peftkit.recipe.model_names import TEXT_MODEL_ARCHITECTURE, text_config

KEYS: Mapping[str, str] = {
    r"^(?:model\.)?(?:language_model|text_model)\.model\.": "model.",
    r"^(?:model\.)?language_model\.lm_head\.": "lm_head.",
    r"^model\.(?:language_model|text_model)\.": "model.",
    r"^language_model\.": "",
}
"""Prefixes of the text model's weights in the various layouts of multimodal checkpoints, and what replaces them."""
OTHER_MODALITIES = ("vision_config", "audio_config", "speech_config", "image_config", "vq_config", "thinker_config")
"""Keys of a config that describe models of other modalities."""


def text_model_config(name: str, kind: ModelKind, config: Any, path: str, revision: str | None = None) -> Any:
    """Return the config of a multimodal checkpoint's text model, or the config itself for a text-only one.

    Args:
        name: the model, as in the recipe.
        kind: its architecture.
        config: its config.
        path: a local folder, or the name of a model on the hub.
        revision: the revision of a hub model.

    Raises:
        ModelError: transformers has no class for its text model.
    """
    described = config.to_dict()
    if text_config(described) is not described:
        text = copy.deepcopy(config.get_text_config(decoder=True))
        if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ModelError(_unsupported_message(name, described, text.model_type))
        text.architectures = [TEXT_MODEL_ARCHITECTURE]
        text._name_or_path = config._name_or_path
        if getattr(text, "use_bidirectional_attention", None):  # PaliGemma's, for the image and its prompt
            text.use_bidirectional_attention = False
        stored_names = checkpoint_keys(path, revision)
        if stored_names is not None and OUTPUT not in map(_text_model_name, stored_names):
            # The config of the whole model may tie embeddings where that of its text model does not.
            text.tie_word_embeddings = config.tie_word_embeddings
        return text
    multimodal = any(described.get(key) for key in OTHER_MODALITIES)
    if kind == "encoder" and multimodal and type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ModelError(_unsupported_message(name, described, config.model_type))
    return config


def is_text_model_config(config: Any) -> bool:
    """Whether ``text_model_config`` extracted the config from a multimodal one."""
    return bool(config.architectures == [TEXT_MODEL_ARCHITECTURE])


def load_text_model(path: str, config: Any, options: Mapping[str, Any]) -> Any:
    """Load the text model of a multimodal checkpoint.

    Args:
        path: a local folder, or the name of a model on the hub.
        config: the config that ``text_model_config`` returned.
        options: further arguments of ``from_pretrained``.

    Returns:
        The result of ``from_pretrained``.
    """
    model_options = {key: value for key, value in options.items() if key not in ("revision", "use_safetensors")}

    def fetch(*names: str) -> Path:
        local = Path(path)
        if local.is_dir():
            return local
        return Path(snapshot_download(path, revision=revision, allow_patterns=[*names]))

    revision = options.get("revision")
    folder = fetch(INDEX, WEIGHTS)
    shards = sorted({*weight_map(folder / INDEX).values()})  # other files of the folder may contain other tensors
    files = [fetch(*shards) / shard for shard in shards] or [folder / WEIGHTS]
    tensors: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, "pt") as stored:
            tensors |= {_text_model_name(key): stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - no mapping
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return model_class.from_pretrained(None, config=config, state_dict=tensors, **model_options)


def _text_model_name(key: str) -> str:
    """Return the name that a tensor of a multimodal checkpoint has in the text model."""
    for pattern, replacement in KEYS.items():
        name, substitutions = re.subn(pattern, replacement, key)
        if substitutions:
            return name
    return key


def _unsupported_message(name: str, described: Mapping[str, Any], text_model_type: str) -> str:
    architecture = str((described.get("architectures") or [described.get("model_type")])[0])
    return (
        f"the model {name!r} cannot be loaded: it is a {architecture}, a multimodal model, and the installed "
        f"transformers cannot load its text model ({text_model_type!r}) separately; use a text model"
    )
