"""Models that bitsandbytes quantizes: how they are loaded, and which of their weights are quantized."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from peftkit.distributed.device_requirements import quantization_problem
from peftkit.errors import RunError
from peftkit.recipe import Recipe

UNQUANTIZED = ("lm_head", "classifier", "score", "pre_classifier", "pooler")
"""Heads, which are new or tied to embeddings, and so stay unquantized."""


def quantized_weights(recipe: Recipe, model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the weights that bitsandbytes quantizes, of a model without quantization: those of frozen linear layers.

    Args:
        recipe: The recipe.
        model: The model, with the method applied.
    """
    if not recipe.model.quantization:
        return
    for name, module in model.named_modules():
        is_linear = isinstance(module, nn.Linear | Conv1D) and not {*UNQUANTIZED} & {*name.split(".")}
        if is_linear and not module.weight.requires_grad:
            yield module.weight


def quantization_options(recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` for a quantized model.

    Raises:
        RunError: there is no GPU, or bitsandbytes is not installed.
    """
    if problem := quantization_problem(recipe.model.quantization):
        raise RunError(problem)
    dtype = getattr(torch, recipe.model.dtype)
    if recipe.model.quantization == "4bit":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if dtype == torch.float32 else dtype,
            llm_int8_skip_modules=[*UNQUANTIZED],
        )
    else:
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=[*UNQUANTIZED])
    return {"quantization_config": config, "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))}}
