"""How text is generated at evaluation, in the words of ``GenerationConfig`` of transformers."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from peftkit.recipe.tables.config_table import ConfigTable


class GenerationKeys(ConfigTable):
    """Keys of ``evaluate`` about generated text."""

    max_new_tokens: int = Field(default=48, gt=0)
    """The largest number of generated tokens."""
    num_beams: int = Field(default=1, gt=0)
    """Beams of beam search; 1 is greedy."""
    stop: tuple[str, ...] = ()
    """Texts that end a generated text; the first of them is removed with what follows."""
    temperature: float = Field(default=0.0, ge=0)
    """Temperature of sampling; 0 generates the most likely tokens. Samples depend on `run.seed`, the step, the prompt
    and the number of the sample only."""
    top_k: int = Field(default=0, ge=0)
    """Sample among this many most likely tokens; 0 for all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample among the most likely tokens whose probabilities add up to this (nucleus sampling)."""
    num_return_sequences: int = Field(default=1, gt=0)
    """Texts sampled for each row. Scores of texts are means over them; `maj_at_k` and `pass_at_k` score them
    together."""

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        if not all(texts):
            raise ValueError("an empty text ends every text")
        return texts

    @model_validator(mode="after")
    def _check_sampling(self) -> GenerationKeys:
        for key in ("top_k", "top_p", "num_return_sequences"):
            if not self.temperature and getattr(self, key) != type(self).model_fields[key].default:
                text = "{key} needs sampling; set temperature, such as temperature = 1.0"
                raise PydanticCustomError("sampling", text, {"key": key})
        if self.temperature and self.num_beams > 1:
            raise PydanticCustomError("sampling", "num_beams is for greedy search; with temperature it must be 1")
        return self
