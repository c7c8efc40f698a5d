"""Full fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from peftkit.components import Context, Method, PublishedRate, Search
from peftkit.methods.published import compared
from peftkit.search_space import WEIGHTS

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class Full(Method):
    """Train every weight: the baseline that the other methods are measured against (Howard and Ruder, 2018).

    Only what the architecture itself keeps fixed, such as sinusoidal positions, stays as it is.
    """

    name: Literal["full"] = "full"
    loaded_by: ClassVar[Literal["transformers"]] = "transformers"
    search: ClassVar[Search] = WEIGHTS
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((2e-5, 3e-5, 5e-5), "Devlin et al. (2019): appendix A.3", "Adam"),
        PublishedRate(
            (1e-3,),
            "Raffel et al. (2020): t5/models/gin/learning_rate_schedules/constant_0_001.gin in "
            "google-research/text-to-text-transfer-transformer",
            "Adafactor",
        ),
        compared("full-finetuning/llama-3.2-3B-lr_0.00001", 1e-5),
    )

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
            ValueError: it does not hold all of the weights.
        """
        target = cast("PreTrainedModel", model)
        # transformers reads its own files: shards, tied weights and layouts that differ between its versions.
        loaded: Any = type(target).from_pretrained(folder, dtype=target.dtype, output_loading_info=True)
        saved, report = loaded
        weights = {name for name, _ in saved.named_parameters()}
        if missing := sorted(weights & {str(key) for key in report["missing_keys"]}):
            raise ValueError(f"{folder}: {len(missing)} weights of the model are not there, such as {missing[0]}")
        target.load_state_dict(saved.state_dict())
