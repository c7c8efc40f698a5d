"""Full fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from peftkit.components import Between, Context, Method, Search

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class Full(Method):
    """Train every weight: the baseline that the other methods are measured against (Howard and Ruder, 2018).

    Only what the architecture itself keeps fixed, such as sinusoidal positions, stays as it is.
    """

    name: Literal["full"] = "full"
    loaded_by: ClassVar[Literal["transformers"]] = "transformers"
    search: ClassVar[Search] = {"train.learning_rate": Between(1e-5, 3e-3, log=True)}

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Leaves the model as it is: all of its weights learn."""
        return model

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes the whole model, in the form that transformers' ``from_pretrained`` reads."""
        cast("PreTrainedModel", model).save_pretrained(folder)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Reads back the whole model.

        Raises:
            RuntimeError: the folder holds another architecture.
        """
        target = cast("PreTrainedModel", model)
        # transformers reads its own files: shards, tied weights and layouts that differ between its versions.
        saved = type(target).from_pretrained(folder, dtype=target.dtype)
        target.load_state_dict(saved.state_dict())
