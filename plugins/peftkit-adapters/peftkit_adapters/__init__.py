"""Methods of the adapters library (AdapterHub) for peftkit.

adapters is imported only when a method is applied: the library pins transformers 4.57, and what needs neither must
work beside any other version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field, model_validator

from peftkit import Context, Method, Refusal, Situation, hookimpl
from peftkit.errors import InputError

if TYPE_CHECKING:
    from torch import nn

ADAPTER = "peftkit"
"""The name under which the adapter lies in the model and in its files."""
MODEL_TYPES = (
    *("albert", "bart", "bert", "bert-generation", "deberta-v2", "distilbert", "electra", "encoder-decoder", "gemma2"),
    *("gemma3_text", "gpt2", "gptj", "llama", "mbart", "mistral", "mt5", "plbart", "qwen2", "qwen3", "roberta", "t5"),
    "xlm-roberta",
)
"""The text models that adapters 1.3 knows and leaves as they were."""
ALTERED = ("deberta", "modernbert", "xmod")
"""Those whose outputs change by merely initialising the library."""
REMEDY = (
    "install peftkit-adapters into an environment of its own, "
    'where pip can choose for it: pip install peftkit-adapters "transformers>=4.57,<5"'
)


def unusable() -> list[str]:
    """Why the adapters library cannot work in this environment, judged by the installed versions alone."""
    try:
        version("adapters")
    except PackageNotFoundError:
        return [f"the adapters library is not installed; {REMEDY}"]
    installed = version("transformers")
    if int(installed.split(".")[0]) >= 5:
        return [f"the adapters library needs transformers 4.57 and cannot be imported with {installed}; {REMEDY}"]
    return []


class ParallelAdapters(Method):
    """Bottleneck layers beside every feed-forward layer (parallel adapters, He et al., 2022).

    Each adds ``scaling · up(f(down(x)))`` to the output of the layer that it lies beside, and begins as nothing at
    all. The options are those of ``adapters.ParBnConfig``. A decoder generates without its cache, which the library
    breaks on Llama and Mistral.
    """

    refusals: ClassVar[tuple[Refusal, ...]] = (
        Refusal(
            lambda s: bool(s.model_type) and s.model_type not in (*MODEL_TYPES, *ALTERED),
            "the adapters library does not know this kind of model, or fails on it",
            f"use one of {', '.join(MODEL_TYPES)}, or another method",
        ),
        Refusal(
            lambda s: s.model_type in ALTERED,
            "the adapters library changes what this kind of model computes, before anything is trained",
            f"use one of {', '.join(MODEL_TYPES)}, or another method",
        ),
    )

    name: Literal["parallel_adapters"] = "parallel_adapters"
    reduction_factor: float = Field(default=8.0, gt=0)
    """How many times narrower than the model the bottleneck is."""
    non_linearity: Literal["relu", "gelu", "gelu_new", "leakyrelu", "linear", "sigmoid", "silu", "tanh"] = "relu"
    """The function in the bottleneck."""
    scaling: float | Literal["learned", "channel"] = 4.0
    """What the output is multiplied by: a number, one that is learnt, or one that is learnt for each channel."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the bottleneck widens."""
    init_weights: Literal["mam_adapter", "bert", "houlsby"] = "mam_adapter"
    """How the weights begin: `mam_adapter` is the paper's, which changes nothing at first."""
    mh_adapter: bool = False
    """Whether there is an adapter beside the attention."""
    output_adapter: bool = True
    """Whether there is an adapter beside the feed-forward layer."""
    leave_out: tuple[int, ...] = ()
    """The numbers of the blocks that get no adapter."""

    @model_validator(mode="after")
    def _somewhere(self) -> ParallelAdapters:
        if not (self.mh_adapter or self.output_adapter):
            raise ValueError("mh_adapter and output_adapter are both false, so that nothing would be trained")
        return self

    def refuses(self, situation: Situation) -> list[str]:
        """The reasons, with remedies, why the method cannot be used so, or not in this environment."""
        return [*unusable(), *super().refuses(situation)]

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Adds the adapters in place; they learn and, on an encoder, its head.

        Raises:
            InputError: the library cannot be used in this environment, or not with this model.
        """
        try:
            import adapters

            adapters.init(cast(Any, model))
        except (ImportError, ValueError) as error:
            reason = "; ".join(unusable()) or str(error)
            raise InputError(f"{self.name!r} cannot be applied to {type(model).__name__}: {reason}") from error
        options = self.model_dump(exclude={"name"}, mode="json")
        adapted = cast(Any, model)
        adapted.add_adapter(ADAPTER, config=adapters.ParBnConfig(**options))
        adapted.train_adapter(ADAPTER)
        if context.model_kind == "decoder":
            adapted.generation_config.use_cache = False
        return model

    def merge(self, model: nn.Module) -> nn.Module:
        """Adapters with a function in the middle are no update of the model's own weights.

        Raises:
            InputError: always.
        """
        raise InputError(f"{self.name!r} cannot be merged: it adds layers, and changes no weights of the model")

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes adapters' own form, as safetensors, which ``load_adapter`` reads; a head only where it was trained."""
        head = any(p.requires_grad and not _own(model)(n) for n, p in model.named_parameters())
        cast(Any, model).save_adapter(str(folder), ADAPTER, with_head=head, use_safetensors=True)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Reads what ``save`` wrote into a model that ``apply`` has prepared.

        Raises:
            ValueError: the files' tensors are not those that the model trains.
        """
        from safetensors.torch import load_file

        # Not load_adapter: over an adapter of the same name it makes new parameters, which no optimizer knows.
        tensors = {key: tensor for file in folder.glob("*.safetensors") for key, tensor in load_file(file).items()}
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        if different := sorted(tensors.keys() ^ trained):
            raise ValueError(f"{folder}: {len(different)} tensors do not match the model, such as {different[0]}")
        model.load_state_dict(tensors, strict=False)


def _own(model: nn.Module) -> Callable[[str], bool]:
    """Whether a parameter's name is one of the adapter's, by the library's own rule."""
    from adapters.loading import AdapterLoader

    return cast(Callable[[str], bool], AdapterLoader(model).filter_func(ADAPTER))


@hookimpl
def register_methods() -> Sequence[type[Method]]:
    """The methods of this distribution."""
    return [ParallelAdapters]
