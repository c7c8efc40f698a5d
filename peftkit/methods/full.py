"""Full fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from peftkit.components import ApplyContext, Method, PublishedRate, SearchSpace
from peftkit.components.search_space import WEIGHTS
from peftkit.methods.published_learning_rates import compared

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class Full(Method):
    """Full fine-tuning of all weights: the baseline of the other methods (Howard and Ruder, 2018).

    Only tensors that the architecture keeps fixed, such as sinusoidal positions, are not trained.
    """

    name: Literal["full"] = "full"
    loaded_by: ClassVar[Literal["transformers"]] = "transformers"
    search_space: ClassVar[SearchSpace] = WEIGHTS
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

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Return the model unchanged, with all of its weights trainable."""
        return model

    def save(self, model: nn.Module, folder: Path) -> None:
        """Save the whole model with ``save_pretrained``."""
        cast("PreTrainedModel", model).save_pretrained(folder)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Load the whole model.

        Raises:
            RuntimeError: The folder contains another architecture.
            ValueError: The folder does not contain all of the weights.
        """
        target = cast("PreTrainedModel", model)
        # from_pretrained handles shards, tied weights and layouts that differ between versions of transformers.
        loaded: Any = type(target).from_pretrained(folder, dtype=target.dtype, output_loading_info=True)
        saved, report = loaded
        state = target.state_dict()
        weights = {name for name, _ in saved.named_parameters()} & state.keys()  # not a pooler that was left out
        if missing := sorted(weights & {str(key) for key in report["missing_keys"]}):
            raise ValueError(f"{folder}: {len(missing)} weights of the model are missing, such as {missing[0]}")
        target.load_state_dict({key: value for key, value in saved.state_dict().items() if key in state})
