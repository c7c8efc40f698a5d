"""The table ``[model]`` of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from peftkit.recipe.model_names import validate_model_name
from peftkit.recipe.tables.config_table import ConfigTable
from peftkit.recipe.tables.intervals import raise_problem


class ModelConfig(ConfigTable):
    """The pre-trained model."""

    name: str = Field(min_length=1)
    """A Hugging Face Hub id, a local folder, or a built-in model: pocket-t5, pocket-decoder, pocket-encoder."""
    dtype: Literal["float64", "float32", "bfloat16", "float16"] = "float32"
    """The dtype that weights are loaded in, whatever they were saved in; float64 is for checks."""
    revision: str | None = None
    """A branch, tag or commit of a Hub model."""
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = None
    """The attention implementation of transformers. Defaults to the choice of transformers."""
    quantization: Literal["4bit", "8bit"] | None = None
    """Quantize frozen weights with bitsandbytes to 4 bits (NF4 of QLoRA, Dettmers et al., 2023) or 8 bits (LLM.int8,
    Dettmers et al., 2022); needs a GPU and a method that adds parameters."""
    trust_remote_code: bool = False
    """Allow code from the Hub model's repository to run."""
    keep_head: bool = False
    """Keep the classification head of an encoder's checkpoint, matched to the task's labels by name, instead of
    initializing a new one."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        return raise_problem(validate_model_name(value), value)
