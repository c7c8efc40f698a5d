"""The base class of the methods of the adapters library, and how to build one from a configuration class."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import Field, create_model

from peftkit import ApplyContext, Incompatibility, Method, RunSpec
from peftkit.components.model_parts.module_name_checks import format_changed_options
from peftkit.components.options.library_options import Option, python_type
from peftkit.errors import InputError, summarize_error
from peftkit_adapters.config_options import config_options

if TYPE_CHECKING:
    from torch import Tensor, nn

M = TypeVar("M", bound="AdapterMethod")
ADAPTER = "peftkit"
"""The name of the adapter in the model and in its files."""
MODEL_TYPES = (
    *("albert", "bart", "bert", "bert-generation", "deberta-v2", "distilbert", "electra", "encoder-decoder", "gemma2"),
    *("gemma3_text", "gpt2", "gptj", "llama", "mbart", "mistral", "mt5", "plbart", "qwen2", "qwen3", "roberta", "t5"),
    "xlm-roberta",
)
"""The text models that adapters 1.3 supports without changing their outputs."""
ALTERED = ("deberta", "modernbert", "xmod")
"""The models whose outputs change when the library is initialized."""
REMEDY = 'install peftkit-adapters into a separate environment: pip install peftkit-adapters "transformers>=4.57,<5"'
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
OPTION_TYPES: Mapping[str, Any] = {
    "reduction_factor": Positive | dict[str, Positive],
    "inv_adapter_reduction_factor": Positive,
    "non_linearity": Literal["relu", "gelu", "gelu_new", "leakyrelu", "linear", "sigmoid", "silu", "swish", "tanh"],
    "init_weights": Literal["mam_adapter", "bert", "houlsby"],
    "scaling": float | Literal["learned", "channel"],
    "residual_before_ln": bool | Literal["post_add"],
    "dropout": Annotated[float, Field(ge=0, lt=1)],
    "stochastic_depth": Annotated[float, Field(ge=0, lt=1)],
    "attn_matrices": tuple[Literal["q", "k", "v"], ...],
    "phm_c_init": Literal["normal", "uniform"],
    "hypercomplex_nonlinearity": Literal["phm", "glorot-normal", "glorot-uniform", "normal"],
    **dict.fromkeys(
        ("r", "alpha", "prefix_length", "bottleneck_size", "phm_dim", "phm_rank"), Annotated[int, Field(gt=0)]
    ),
    **dict.fromkeys(("prefix_positions", "suffix_positions"), Annotated[int, Field(ge=0)]),
}
"""Types of options that the library documents in prose only, or that it does not validate."""
BLOCKS = ("leave_out", "layers")
"""The options that are indices of blocks."""


def why_unavailable() -> list[str]:
    """Return the reasons why the adapters library does not work with the installed versions."""
    try:
        version("adapters")
    except PackageNotFoundError:
        return [f"the adapters library is not installed; {REMEDY}"]
    installed = version("transformers")
    if int(installed.split(".")[0]) >= 5:
        return [f"the adapters library needs transformers 4.57 and cannot be imported with {installed}; {REMEDY}"]
    return []


class AdapterMethod(Method):
    """A method of the adapters library, whose options are the fields of one of its configuration classes."""

    incompatibilities: ClassVar[tuple[Incompatibility, ...]] = (
        Incompatibility(
            lambda s: bool(s.model_type) and s.model_type not in (*MODEL_TYPES, *ALTERED),
            "the adapters library does not support this model type",
            f"use one of {', '.join(MODEL_TYPES)}, or another method",
        ),
        Incompatibility(
            lambda s: s.model_type in ALTERED,
            "the adapters library changes the outputs of this model type before training",
            f"use one of {', '.join(MODEL_TYPES)}, or another method",
        ),
    )
    mergeable: ClassVar[bool] = False
    loaded_by: ClassVar[Literal["adapters", "peftkit"]] = "adapters"
    configuration: ClassVar[str]
    """The name of the library's configuration class."""
    excluded_options: ClassVar[frozenset[str]] = frozenset()
    """Options of the configuration that have no effect, or that select another method."""
    option_types: ClassVar[Mapping[str, Any]] = {}
    """Types of options, where they differ from ``OPTION_TYPES``."""
    slot: ClassVar[str] = ""
    """A description of what the method adds to a model, if that can be added only once."""
    needs_eager_attention: ClassVar[bool] = False
    """Whether it needs eager attention, because other implementations ignore the mask of a prefix."""
    uses_forward_context: ClassVar[bool] = False
    """Whether its layers use the context that the library prepares once for each forward pass."""
    supports_cache: ClassVar[bool] = True
    """Whether encoder-decoders generate the same text with and without their KV cache."""

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used in a recipe or in this environment."""
        reasons = [*why_unavailable(), *super().incompatible_with(spec)]
        if self.uses_forward_context and spec.gradient_checkpointing:
            reasons.append(
                "the library's forward context is lost when gradient checkpointing recomputes a block; "
                "set train.gradient_checkpointing = false"
            )
        return reasons

    def parts(self) -> Sequence[AdapterMethod]:
        """Return the methods that this one combines; by default only itself."""
        return (self,)

    def slots(self) -> Sequence[str]:
        """Return descriptions of what it adds to the model; the library can add each only once."""
        return (self.slot,)

    def config_class(self) -> str:
        """Return the name of the library's configuration class for the selected options."""
        return self.configuration

    def config(self) -> Any:
        """Build the library's configuration; unset options have the library's defaults."""
        import adapters

        return getattr(adapters, self.config_class())(**self.options())

    def value(self, option: str) -> Any:
        """Return the value of an option, or the library's default if it is unset."""
        if (value := getattr(self, option, None)) is not None:
            return value
        declared = config_options(self.config_class()).get(option)
        return declared.default if declared else None

    def options(self) -> dict[str, Any]:
        """Return the arguments of the configuration."""
        return self.model_dump(exclude={"name"}, mode="json", exclude_none=True)

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Add the adapter to the model in place, trained together with an encoder's head.

        Raises:
            InputError: The library does not work in this environment, or rejects the options for this model.
        """
        adapted, base_class, config = cast(Any, model), type(model), copy.deepcopy(model.config)
        try:
            import adapters

            adapters.init(adapted)
            if any(part.needs_eager_attention for part in self.parts()):
                adapted.set_attn_implementation("eager")
            self._check_blocks(adapted)
            before = _state_names(adapted)
            adapted.add_adapter(ADAPTER, config=self.config())
        except InputError:
            raise
        except Exception as error:  # the library raises exceptions of any type for invalid options
            if isinstance(error, RuntimeError) and any(parameter.is_meta for parameter in model.parameters()):
                raise  # the method needs the values of weights, which meta tensors do not have
            reason = "; ".join(why_unavailable()) or summarize_error(error)
            changed = f"; its options: {options}" if (options := format_changed_options(self)) else ""
            raise InputError(f"{self.name!r} cannot be applied to {base_class.__name__}: {reason}{changed}") from error
        # Otherwise train_adapter would warn that no adapter is active.
        adapted.adapters_config.active_setup = adapters.Stack(ADAPTER)
        adapted.train_adapter(ADAPTER)
        added = _state_names(adapted) - before
        for part in self.parts():
            part.fix_up(adapted)
        if not _trained_names(adapted) & added:
            changed = f"; its options: {options}" if (options := format_changed_options(self)) else ""
            raise InputError(
                f"{self.name!r} adds no trainable parameters to {base_class.__name__}; leave fewer blocks out{changed}"
            )
        if context.model_kind == "decoder" or (
            context.model_kind == "encoder-decoder" and not all(part.supports_cache for part in self.parts())
        ):
            adapted.generation_config.use_cache = False
        adapted.peftkit_added, adapted.peftkit_base = added, (base_class, config)
        return model

    def fix_up(self, model: nn.Module) -> None:
        """Fix up the model after the adapter was added."""

    @property
    def can_disable_adapter(self) -> bool:
        """Whether the library can run the model without its adapter: always."""
        return True

    @contextmanager
    def disable_adapter(self, model: nn.Module) -> Iterator[None]:
        """Run the model with no active adapter."""
        config = cast(Any, model).adapters_config
        active, config.active_setup = config.active_setup, None
        warnings = logging.getLogger("adapters.model_mixin")  # warns of adapters that are not active, in every pass
        level = warnings.level
        warnings.setLevel(logging.ERROR)
        try:
            yield
        finally:
            config.active_setup = active
            warnings.setLevel(level)

    def merge(self, model: nn.Module) -> nn.Module:
        """Reject merging; only LoRA and IA3 update the model's weights.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{self.name!r} cannot be merged: it does not update the model's weights")

    def save(self, model: nn.Module, folder: Path) -> None:
        """Save the adapter for ``load_adapter``, including tensors that the library leaves out."""
        from adapters.loading import AdapterLoader, PredictionHeadLoader

        adapted, added = cast(Any, model), _added_names(model)
        state, backbone = model.state_dict(), f"{adapted.base_model_prefix}."
        # The library saves the head without parts inside the backbone, such as BERT's pooler.
        inside_backbone = {name for name in _trained_names(model) - added if name.startswith(backbone)}
        tensors = {name: state[name].detach().cpu().contiguous().clone() for name in added | inside_backbone}
        loader = AdapterLoader(adapted, use_safetensors=True)
        # The library leaves out tensors outside blocks, and fails on tensors that blocks share.
        loader.weights_helper.state_dict = lambda filter_func: tensors
        loader.save(str(folder), ADAPTER)
        if interface := getattr(adapted.base_model, "adapter_interface", None):
            interface._save(str(folder), adapted.config)
        if _trained_names(model) - added - inside_backbone:
            PredictionHeadLoader(adapted, error_on_missing=False, use_safetensors=True).save(str(folder), ADAPTER)

    def checkpoint_bytes(self, model: nn.Module) -> int:
        """Return the size of the adapter's trained and frozen tensors."""
        state = model.state_dict()
        return sum(
            state[name].numel() * state[name].element_size() for name in _trained_names(model) | _added_names(model)
        )

    def load(self, model: nn.Module, folder: Path) -> None:
        """Load the files of ``save`` into a model prepared by ``apply``, under any name of the adapter.

        Raises:
            ValueError: The tensors in the files are not those of the model.
        """
        from safetensors.torch import load_file

        name = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["name"]
        # Not load_adapter, which replaces the parameters that an optimizer holds.
        tensors: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            tensors |= {key.replace(f".{name}.", f".{ADAPTER}."): value for key, value in load_file(file).items()}
        expected, state = _trained_names(model) | _added_names(model), model.state_dict()
        for key in tensors.keys() - expected:
            if key in state and state[key].equal(tensors[key]):  # a saved head that was not trained
                del tensors[key]
        if mismatched := sorted(tensors.keys() ^ expected):
            raise ValueError(f"{folder}: {len(mismatched)} tensors do not match the model, such as {mismatched[0]}")
        model.load_state_dict(tensors, strict=False)

    def _check_blocks(self, model: Any) -> None:
        blocks = [index for index, _ in model.iter_layers()]
        for part in self.parts():
            for option in BLOCKS:
                indices = getattr(part, option, ())
                if not isinstance(indices, str) and (unknown := sorted(set(indices) - set(blocks))):
                    raise InputError(
                        f"{part.name!r}: {option} names block {unknown[0]}, but the model has blocks "
                        f"{min(blocks)} to {max(blocks)}"
                    )
            factors = getattr(part, "reduction_factor", None)
            for key in factors if isinstance(factors, dict) else ():
                if key != "default" and key not in map(str, blocks):
                    raise InputError(
                        f"{part.name!r}: reduction_factor names block {key!r}, but the model has blocks "
                        f'{min(blocks)} to {max(blocks)}, and "default" for the others'
                    )
                if key in map(str, getattr(part, "leave_out", ())):
                    raise InputError(
                        f"{part.name!r}: reduction_factor names block {key!r}, which leave_out leaves out; remove one"
                    )


def _state_names(model: nn.Module) -> frozenset[str]:
    """Return the names of the model's saved tensors, without duplicates of shared ones."""
    state = model.state_dict()
    return frozenset(name for name, _ in (*model.named_parameters(), *model.named_buffers()) if name in state)


def _added_names(model: nn.Module) -> frozenset[str]:
    """Return the names of the tensors that the adapter added."""
    return cast("frozenset[str]", cast(Any, model).peftkit_added)


def _trained_names(model: nn.Module) -> frozenset[str]:
    return frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def make_method(
    base: type[M], name: str, text: str, extra_fields: Mapping[str, Any] | None = None, **defaults: Any
) -> type[M]:
    """Build the class of a method from a configuration class of the library.

    Args:
        base: The base class, which names the configuration; its own fields have precedence over the library's.
        name: The name of the method.
        text: The description of the method.
        extra_fields: Fields in addition to the library's, as in ``create_model``.
        **defaults: Defaults that differ from the library's.
    """
    excluded = base.excluded_options | base.model_fields.keys()
    declared = [option for option in config_options(base.configuration).values() if option.name not in excluded]
    types = {**OPTION_TYPES, **base.option_types}
    fields = {**{option.name: _field(option, types, defaults) for option in declared}, **(extra_fields or {})}
    method = create_model(
        "".join(word.capitalize() for word in name.split("_")),
        __base__=base,
        __module__=base.__module__,
        __doc__=text,
        **cast(Any, {**fields, "name": (Literal[name], name)}),
    )
    if not fields:
        # Options are unknown without the library, and the error to report is that it is missing.
        method.model_config["extra"] = "ignore"
    return method


def _field(option: Option, types: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    kind = types.get(option.name) or python_type(option.type, lambda *nested: Any)
    default = defaults.get(option.name, option.default)
    if isinstance(default, list):
        default = tuple(default)
    if type(default) is int and ["float"] in (option.type, *option.type[1:]):
        default = float(default)
    return (kind if default is not None else kind | None, Field(default, description=option.help))
