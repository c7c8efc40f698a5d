"""What all methods of the adapters library have in common, and how one is made from a configuration of the library."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import ConfigDict, Field, create_model

from peftkit import Context, Method, Refusal, Situation
from peftkit.errors import InputError, one_line
from peftkit.model_names import changed_options
from peftkit_adapters.reader import Option, options

if TYPE_CHECKING:
    from torch import Tensor, nn

M = TypeVar("M", bound="AdapterMethod")
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
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
KINDS: Mapping[str, Any] = {
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
"""What an option may be, where the library says it in prose only, or fails on what it does not know."""
BLOCKS = ("leave_out", "layers")
"""The options that number the model's blocks."""


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


class AdapterMethod(Method):
    """A method of the adapters library: its options are the fields of a configuration, by the same names."""

    model_config = ConfigDict(
        use_attribute_docstrings=False
    )  # it would look for them in the sources of each class made

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
    loaded_by: ClassVar[Literal["adapters", "peftkit"]] = "adapters"
    configuration: ClassVar[str]
    """The library's name of the configuration."""
    without: ClassVar[frozenset[str]] = frozenset()
    """Options of the configuration that do nothing here, or that make it another method."""
    kinds: ClassVar[Mapping[str, Any]] = {}
    """What options may be, where it is not what the library's other configurations take by that name."""
    place: ClassVar[str] = ""
    """What it adds to a model, in words, where that cannot be added twice."""
    eager: ClassVar[bool] = False
    """Whether it needs attention that takes a mask for the prefix: other implementations leave the prefix out."""
    contextual: ClassVar[bool] = False
    """Whether its layers read what the library prepares once for a whole pass."""
    cached: ClassVar[bool] = True
    """Whether an encoder-decoder generates with its cache as it does without."""

    def refuses(self, situation: Situation) -> list[str]:
        """The reasons, with remedies, why the method cannot be used so, or not in this environment."""
        reasons = [*unusable(), *super().refuses(situation)]
        if self.contextual and situation.gradient_checkpointing:
            reasons.append(
                "when a block is computed once more, the library no longer knows what it has prepared for the pass; "
                "set train.gradient_checkpointing = false"
            )
        return reasons

    def parts(self) -> Sequence[AdapterMethod]:
        """The methods that this one is put together from; mostly itself alone."""
        return (self,)

    def places(self) -> Sequence[str]:
        """What it adds to the model, in words; the library adds each of them once."""
        return (self.place,)

    def configured(self) -> str:
        """The library's name of the configuration."""
        return self.configuration

    def config(self) -> Any:
        """The library's configuration; an option that is unset is left to the library."""
        import adapters

        return getattr(adapters, self.configured())(**self.options())

    def value(self, option: str) -> Any:
        """An option, the library's default where it is unset; None where there is none."""
        if (own := getattr(self, option, None)) is not None:
            return own
        known = options(self.configured()).get(option)
        return known.default if known else None

    def options(self) -> dict[str, Any]:
        """What the configuration is made with."""
        return self.model_dump(exclude={"name"}, mode="json", exclude_none=True)

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Adds the adapter in place; it learns and, on an encoder, its head.

        Raises:
            InputError: the library cannot be used in this environment, or not with this model and these options.
        """
        adapted, plain, config = cast(Any, model), type(model), copy.deepcopy(model.config)
        try:
            import adapters

            adapters.init(adapted)
            if any(part.eager for part in self.parts()):
                adapted.set_attn_implementation("eager")
            self._check_blocks(adapted)
            before = _state(adapted)
            adapted.add_adapter(ADAPTER, config=self.config())
        except InputError:
            raise
        except Exception as error:  # options that do not fit raise errors of any type in the library
            if isinstance(error, RuntimeError) and any(parameter.is_meta for parameter in model.parameters()):
                raise  # it draws on weights, which are not here
            reason = "; ".join(unusable()) or one_line(error)
            changed = f"; its options are {options}" if (options := changed_options(self)) else ""
            raise InputError(f"{self.name!r} cannot be applied to {plain.__name__}: {reason}{changed}") from error
        # Or it would warn, while it activates the adapter, that none is active.
        adapted.adapters_config.active_setup = adapters.Stack(ADAPTER)
        adapted.train_adapter(ADAPTER)
        added = _state(adapted) - before
        for part in self.parts():
            part.settle(adapted)
        if not _learns(adapted) & added:
            raise InputError(f"{self.name!r} adds nothing to {plain.__name__} that learns; leave fewer blocks out")
        if context.model_kind == "decoder" or (
            context.model_kind == "encoder-decoder" and not all(part.cached for part in self.parts())
        ):
            adapted.generation_config.use_cache = False
        adapted.peftkit_added, adapted.peftkit_plain = added, (plain, config)
        return model

    def settle(self, model: nn.Module) -> None:
        """What is to be put right once the adapter is in the model."""

    def merge(self, model: nn.Module) -> nn.Module:
        """No adapter is an update of the model's own weights, but for LoRA and IA3.

        Raises:
            InputError: always, unless the method can.
        """
        raise InputError(f"{self.name!r} cannot be merged: what it learns is no update of the model's own weights")

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes the library's own form, which ``load_adapter`` reads, with what the library leaves out of it."""
        from adapters.loading import AdapterLoader, PredictionHeadLoader

        adapted, added = cast(Any, model), _added(model)
        state, backbone = model.state_dict(), f"{adapted.base_model_prefix}."
        # The library's file of the head holds what lies beside the backbone; BERT's pooler lies in it.
        inside = {name for name in _learns(model) - added if name.startswith(backbone)}
        tensors = {name: state[name].detach().cpu().contiguous().clone() for name in added | inside}
        loader = AdapterLoader(adapted, use_safetensors=True)
        # By itself it forgets tensors that lie in no block, and fails on those that several blocks share.
        loader.weights_helper.state_dict = lambda filter_func: tensors
        loader.save(str(folder), ADAPTER)
        if interface := getattr(adapted.base_model, "adapter_interface", None):
            interface._save(str(folder), adapted.config)
        if _learns(model) - added - inside:
            PredictionHeadLoader(adapted, error_on_missing=False, use_safetensors=True).save(str(folder), ADAPTER)

    def saved_bytes(self, model: nn.Module) -> int:
        """With what the library keeps beside what learns."""
        state = model.state_dict()
        return sum(state[name].numel() * state[name].element_size() for name in _learns(model) | _added(model))

    def load(self, model: nn.Module, folder: Path) -> None:
        """Reads the library's own form into a model that ``apply`` has prepared, whatever the adapter is called there.

        Raises:
            ValueError: the files' tensors are not those of the model.
        """
        from safetensors.torch import load_file

        name = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["name"]
        # Not load_adapter: over an adapter of the same name it makes new parameters, which no optimizer knows.
        tensors: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            tensors |= {key.replace(f".{name}.", f".{ADAPTER}."): value for key, value in load_file(file).items()}
        expected, state = _learns(model) | _added(model), model.state_dict()
        for key in tensors.keys() - expected:
            if key in state and state[key].equal(tensors[key]):  # a head that was saved, and has never learnt
                del tensors[key]
        if different := sorted(tensors.keys() ^ expected):
            raise ValueError(f"{folder}: {len(different)} tensors do not match the model, such as {different[0]}")
        model.load_state_dict(tensors, strict=False)

    def _check_blocks(self, model: Any) -> None:
        there = [number for number, _ in model.iter_layers()]
        for part in self.parts():
            for option in BLOCKS:
                named = getattr(part, option, ())
                if not isinstance(named, str) and (unknown := sorted(set(named) - set(there))):
                    raise InputError(
                        f"{part.name!r}: {option} names block {unknown[0]}, and the model has blocks "
                        f"{min(there)} to {max(there)}"
                    )
            factors = getattr(part, "reduction_factor", None)
            for key in factors if isinstance(factors, dict) else ():
                if key != "default" and key not in map(str, there):
                    raise InputError(
                        f"{part.name!r}: reduction_factor names block {key!r}, and the model has blocks "
                        f'{min(there)} to {max(there)}; all others are "default"'
                    )


def _state(model: nn.Module) -> frozenset[str]:
    """The names of the model's tensors, each once, though several modules may share it."""
    own = model.state_dict()
    return frozenset(name for name, _ in (*model.named_parameters(), *model.named_buffers()) if name in own)


def _added(model: nn.Module) -> frozenset[str]:
    """The names of what the adapter has added to the model's state."""
    return cast("frozenset[str]", cast(Any, model).peftkit_added)


def _learns(model: nn.Module) -> frozenset[str]:
    return frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def made(base: type[M], name: str, text: str, own: Mapping[str, Any] | None = None, **defaults: Any) -> type[M]:
    """The method that a configuration of the library declares.

    Args:
        base: the class that names the configuration; the fields that it has itself go before the library's.
        name: the method's name.
        text: what ``peftkit show`` says of it.
        own: fields beside the library's, as ``create_model`` takes them.
        defaults: defaults other than the library's.
    """
    known = (o for o in options(base.configuration).values() if o.name not in base.without | base.model_fields.keys())
    fields = {**{o.name: _field(o, {**KINDS, **base.kinds}, defaults) for o in known}, **(own or {})}
    made = create_model(
        "".join(word.capitalize() for word in name.split("_")),
        __base__=base,
        __module__=base.__module__,
        __doc__=text,
        **cast(Any, {**fields, "name": (Literal[name], name)}),
    )
    if not fields:
        # Without the library its options are unknown: the one thing to say is that it is missing.
        made.model_config["extra"] = "ignore"
    return made


def _field(option: Option, kinds: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    kind, default = kinds.get(option.name, option.type), defaults.get(option.name, option.default)
    return (kind if default is not None else kind | None, Field(default, description=option.help))
