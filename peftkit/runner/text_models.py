"""The text model in a checkpoint that reads images or sounds too: it is loaded by itself, and the rest is left out."""

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
from peftkit.recipe.names import DECODER, text_config
from peftkit.runner.loading_report import OUTPUT
from peftkit.runner.model_files import INDEX, WEIGHTS, checkpoint_keys, weight_map

KEYS: Mapping[str, str] = {
    r"^(?:model\.)?(?:language_model|text_model)\.model\.": "model.",
    r"^(?:model\.)?language_model\.lm_head\.": "lm_head.",
    r"^model\.(?:language_model|text_model)\.": "model.",
    r"^language_model\.": "",
}
"""Where the names of a text model's weights begin in such checkpoints, of which there are several layouts."""
OTHERS = ("vision_config", "audio_config", "speech_config", "image_config", "vq_config", "thinker_config")


def text_part(name: str, kind: ModelKind, config: Any, path: str, revision: str | None = None) -> Any:
    """The config of the text model alone; of a checkpoint that is no more than one, the config as it is.

    Args:
        name: the model, as the recipe has it.
        kind: what kind of model it is.
        config: its config.
        path: a local folder, or the name of a model on the hub.
        revision: the revision of a hub's model.

    Raises:
        ModelError: transformers has no text model for it.
    """
    described = config.to_dict()
    if text_config(described) is not described:
        text = copy.deepcopy(config.get_text_config(decoder=True))
        if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ModelError(_refusal(name, described, text.model_type))
        text.architectures = [DECODER]
        text._name_or_path = config._name_or_path
        held = checkpoint_keys(path, revision)
        if held is not None and OUTPUT not in map(_plain, held):  # the whole model ties what its text model need not
            text.tie_word_embeddings = config.tie_word_embeddings
        return text
    reads_more = any(described.get(key) for key in OTHERS)
    if kind == "encoder" and reads_more and type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ModelError(_refusal(name, described, config.model_type))
    return config


def is_part(config: Any) -> bool:
    """Whether ``text_part`` has taken the config out of another."""
    return bool(config.architectures == [DECODER])


def load_text_part(path: str, config: Any, options: Mapping[str, Any]) -> Any:
    """Loads the text model alone, by the names that it has by itself.

    Args:
        path: a local folder, or the name of a model on the hub.
        config: what ``text_part`` gave.
        options: further arguments of ``from_pretrained``.

    Returns:
        What ``from_pretrained`` returns.
    """
    further = {key: value for key, value in options.items() if key not in ("revision", "use_safetensors")}

    def fetch(*names: str) -> Path:
        local = Path(path)
        if local.is_dir():
            return local
        return Path(snapshot_download(path, revision=revision, allow_patterns=[*names]))

    revision = options.get("revision")
    folder = fetch(INDEX, WEIGHTS)
    parts = sorted({*weight_map(folder / INDEX).values()})  # other files of the folder may hold other tensors
    files = [fetch(*parts) / part for part in parts] or [folder / WEIGHTS]
    tensors: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, "pt") as stored:
            tensors |= {_plain(key): stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - no mapping
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(None, config=config, state_dict=tensors, **further)


def _plain(key: str) -> str:
    """The name of a tensor in the text model by itself."""
    for pattern, replacement in KEYS.items():
        plain, number = re.subn(pattern, replacement, key)
        if number:
            return plain
    return key


def _refusal(name: str, described: Mapping[str, Any], text: str) -> str:
    architecture = str((described.get("architectures") or [described.get("model_type")])[0])
    return (
        f"the model {name!r} cannot be loaded: it is a {architecture}, which reads more than text, and the installed "
        f"transformers cannot load its text model ({text!r}) by itself; use a text model"
    )
