"""Base classes of the methods that are implemented by peft."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from peftkit.components import ApplyContext, Method, ModelKind, OptionProblem, RunSpec, Side
from peftkit.components.model_parts.head_parameters import covering_modules
from peftkit.components.model_parts.ineffective_options import find_ineffective_options
from peftkit.components.model_parts.module_name_checks import format_changed_options
from peftkit.components.model_parts.overlapping_options import find_overlaps
from peftkit.errors import InputError, comma_separated, summarize_error
from peftkit.methods.peft_config import HEAD_TASK_TYPES, TASK_TYPES, SubConfig, find_rejected_options
from peftkit.methods.peft_schema import constants

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import Tensor, nn

CONV1D = ("gpt2", "openai-gpt")
"""Models whose linear layers have transposed weights."""


class PeftMethod(Method):
    """A method of peft, whose options are the fields of peft's configuration."""

    loaded_by: ClassVar[Literal["peft", "peftkit"]] = "peft"
    merge_tolerance: ClassVar[float] = 1e-4
    peft_type: ClassVar[str]
    """The name of the member of ``peft.PeftType``."""
    excluded_options: ClassVar[frozenset[str]] = frozenset()
    """Fields of peft's configuration that have no effect in peftkit, or that it sets itself."""
    fixed_options: ClassVar[Mapping[str, Any]] = {}
    """Fields of peft's configuration with a fixed value."""
    linear_only: ClassVar[bool] = False
    """Whether it does not support layers with transposed weights."""
    placeholder_options: ClassVar[Mapping[str, Any]] = {}
    """Fields of peft's configuration that depend on the model or the run, with a valid value."""
    default_target_modules: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Default ``target_modules`` by ``model_type``, where peft has none."""

    @model_validator(mode="after")
    def _check_layers_to_transform(self) -> Self:
        if isinstance(self._option("target_modules"), str) and self._option("layers_to_transform") is not None:
            raise ValueError(
                "layers_to_transform needs a list of target_modules; put the blocks into the regular expression instead"
            )
        return self

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used in a recipe, each with its remedy."""
        reasons = super().incompatible_with(spec)
        if self.linear_only and spec.model_type in CONV1D:
            reasons.append(
                f"peft's {self.name} does not support the transposed layers of {spec.model_type!r}; use lora, ia3, "
                "vera or another method"
            )
            return reasons
        model_types = default_targets(self.peft_type) | self.default_target_modules.keys()
        unset = "target_modules" in type(self).model_fields and self._option("target_modules") is None
        if unset and model_types and spec.model_type and spec.model_type not in model_types:
            reasons.append(
                f"peft has no default target_modules for {spec.model_type!r} models; "
                'list the modules, or set target_modules = "all-linear"'
            )
        return reasons

    def find_option_problems(self, model_kind: ModelKind | None) -> list[OptionProblem]:
        """Find options that peft's configuration rejects; imports peft only if it checks one that is set."""
        return find_rejected_options(self, model_kind)

    def config(self, model: nn.Module, context: ApplyContext) -> PeftConfig:
        """Build peft's configuration of the method.

        Args:
            model: The base model.
            context: The settings of the run.
        """
        import peft

        config_class = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(self.peft_type)]
        options = self.options(model, context)
        task_type = HEAD_TASK_TYPES.get(context.auto_class, TASK_TYPES[context.model_kind])
        return config_class(task_type=task_type, inference_mode=False, **options)

    def options(self, model: nn.Module, context: ApplyContext) -> dict[str, Any]:
        """Return the arguments of peft's configuration; unset options have peft's defaults.

        Args:
            model: The base model.
            context: The settings of the run.
        """
        options = self.model_dump(mode="json", exclude={"name"}, exclude_none=True)
        options |= self.fixed_options
        options |= {key: value.build() for key, value in self if isinstance(value, SubConfig)}
        if "target_modules" in type(self).model_fields and self._option("target_modules") is None:
            model_type = str(getattr(model.config, "model_type", ""))
            if model_type not in default_targets(self.peft_type) and model_type in self.default_target_modules:
                options["target_modules"] = list(self.default_target_modules[model_type])
        if "modules_to_save" in type(self).model_fields and (heads := covering_modules(model, context.head_parameters)):
            options["modules_to_save"] = [*options.get("modules_to_save", ()), *heads]
        return options

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Wrap the model into a ``PeftModel`` that trains the method's weights and, on an encoder, its head.

        Raises:
            InputError: peft rejects the options for this model.
        """
        import peft
        import torch

        if problems := list(find_overlaps(self, model, self._default_targets(model))):
            raise InputError("\n".join(f"method.{text}" for text in problems))
        try:
            with warnings.catch_warnings():
                # peft infers it from the layers, and peftkit has no such option.
                warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
                wrapped = peft.get_peft_model(cast(Any, model), self.config(model, context))
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # peft raises exceptions of any type for invalid options
            if any(p.is_meta for p in model.parameters()) and isinstance(error, NotImplementedError | RuntimeError):
                raise  # the method needs the values of weights, which meta tensors do not have
            missing_targets = ("not found in the base model", "No `target_modules` passed", "No modules were targeted")
            remedy = f'; set target_modules to some of {comma_separated(linear_names(model))}, or to "all-linear"'
            suggestion = remedy if any(text in str(error) for text in missing_targets) else ""
            reason = summarize_error(error).rstrip(".")
            changed = f"; its options: {options}" if (options := format_changed_options(self)) else ""
            raise InputError(
                f"{self.name!r} cannot be applied to {type(model).__name__}: {reason}{suggestion}{changed}"
            ) from error
        if problems := list(find_ineffective_options(self, wrapped.base_model)):
            raise InputError("\n".join(f"method.{text}" for text in problems))
        return cast("nn.Module", wrapped)

    def _default_targets(self, model: nn.Module) -> str | Collection[str]:
        """Return the modules that the method changes if ``target_modules`` is not set; empty if peft has no default."""
        import peft.utils

        model_type = str(getattr(model.config, "model_type", ""))
        for name in _default_tables(self.peft_type):
            if targets := getattr(peft.utils, name, {}).get(model_type):
                return cast("str | Collection[str]", targets)
        return self.default_target_modules.get(model_type, ())

    def value_in_layer(self, layer: Any, option: str) -> float | None:
        """Return the value of a numeric option that a layer was made with; None if it keeps none.

        Args:
            layer: A module of the wrapped model.
            option: The option.
        """
        values = getattr(layer, option, None)
        value = values.get("default") if isinstance(values, dict) else None
        return value if isinstance(value, int | float) else None

    @property
    def can_disable_adapter(self) -> bool:
        """Whether peft can disable the adapter, which it cannot if biases of the model are trained."""
        return self._option("bias") in (None, "none")

    @contextmanager
    def disable_adapter(self, model: nn.Module) -> Iterator[None]:
        """Disable the adapter with peft, which changes what is trained and leaves attributes behind."""
        trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        names = ("forward", "prepare_inputs_for_generation")
        before = {name: vars(model)[name] for name in names if name in vars(model)}
        try:
            with cast("PeftModel", model).disable_adapter():
                yield
        finally:
            for name in names:
                vars(model).pop(name, None)
            vars(model).update(before)
            for parameter, required in trained:
                parameter.requires_grad_(required)

    def merge(self, model: nn.Module) -> nn.Module:
        """Merge the updates into the base weights.

        Raises:
            InputError: The method does not update weights, or peft does not support merging it.
        """
        reason = "it does not update the model's weights"
        base = cast(Any, model).base_model
        try:
            if hasattr(base, "merge_and_unload"):
                # First, because merge_and_unload fails on a classification head with several layers.
                _unwrap_saved_modules(base.model)
                return cast("nn.Module", base.merge_and_unload(progressbar=False))
        except NotImplementedError:
            pass
        except (ValueError, AttributeError, TypeError) as error:
            reason = f"peft fails with {summarize_error(error)}"
        raise InputError(f"{self.name!r} cannot be merged: {reason}")

    def save(self, model: nn.Module, folder: Path) -> None:
        """Save the adapter with ``PeftModel.save_pretrained``, with sets such as ``target_modules`` in order."""
        # Without embeddings: "auto" would query the hub for the size of the vocabulary, which peftkit never changes.
        wrapped = cast("PeftModel", model)
        wrapped.save_pretrained(str(folder), save_embedding_layers=False)
        file = folder / "adapter_config.json"
        written = json.loads(file.read_text(encoding="utf-8"))
        sets = {key: value for key, value in vars(wrapped.active_peft_config).items() if isinstance(value, set)}
        ordered = {key: sorted(value) for key, value in sets.items()}
        file.write_text(json.dumps({**written, **ordered}, indent=2, sort_keys=True), encoding="utf-8")

    def checkpoint_bytes(self, model: nn.Module) -> int:
        """Return the size of what peft saves, including frozen tensors such as VeRA's projections."""
        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(cast("PeftModel", model), save_embedding_layers=False)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    def load(self, model: nn.Module, folder: Path) -> None:
        """Load the files of ``save`` into a model prepared by ``apply``.

        Raises:
            ValueError: The tensors in the file are not those of the method.
        """
        from peft import get_peft_model_state_dict, set_peft_model_state_dict
        from peft.utils import SAFETENSORS_WEIGHTS_NAME
        from safetensors.torch import load_file

        tensors = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
        # peft ignores missing and unexpected tensors.
        expected = get_peft_model_state_dict(cast("PeftModel", model), save_embedding_layers=False)
        if mismatched := sorted(tensors.keys() ^ expected.keys()):
            raise ValueError(f"{folder}: {len(mismatched)} tensors do not match the model, such as {mismatched[0]}")
        set_peft_model_state_dict(cast("PeftModel", model), tensors)

    def _option(self, name: str) -> Any:
        return getattr(self, name, None)


class PromptMethod(PeftMethod):
    """A method that prepends trained vectors to those of the text."""

    excluded_options: ClassVar[frozenset[str]] = frozenset(
        {"token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"}
    )
    placeholder_options: ClassVar[Mapping[str, Any]] = {"tokenizer_name_or_path": "tokenizer"}
    prepends_embeddings: ClassVar[bool] = True
    """Whether the vectors are prepended to the input embeddings, and not to the KV cache of each layer."""

    num_virtual_tokens: int = Field(default=20, gt=0)
    """The number of trained vectors."""

    def options(self, model: nn.Module, context: ApplyContext) -> dict[str, Any]:
        """Return peft's options, with the size of the input embeddings."""
        options = super().options(model, context)
        if options.get("prompt_tuning_init") == "TEXT":
            model_folder, tokenizer = (
                str(getattr(model.config, "_name_or_path", "")),
                options.get("tokenizer_name_or_path"),
            )
            if tokenizer is None or tokenizer == Path(model_folder).name:  # a recipe may name a built-in model
                options["tokenizer_name_or_path"] = model_folder
        if self.prepends_embeddings:
            # peft uses the hidden size, which differs in ALBERT and ELECTRA, and finds neither in DistilBERT.
            transformer = cast(Any, model)
            options["token_dim"] = transformer.get_input_embeddings().weight.shape[1]
            options["num_attention_heads"] = getattr(transformer.config, "num_attention_heads", 1)
        return options

    def virtual_tokens(self, model_kind: ModelKind) -> Mapping[Side, int]:
        """Return the number of vectors: of an encoder-decoder, before the source or in the decoder's cache."""
        side: Side = "encoder" if model_kind == "encoder" else "decoder"
        if model_kind == "encoder-decoder" and self.prepends_embeddings:
            side = "encoder"
        return {side: self.num_virtual_tokens}

    def reparameterized(self) -> bool:
        """Return whether a network computes the vectors during training; peft saves its output only."""
        return False

    def checkpoint_bytes(self, model: nn.Module) -> int:
        """Return the size of the vectors and of the network, or on ``meta`` only of the trained parameters."""
        trained = Method.checkpoint_bytes(self, model)
        try:
            return super().checkpoint_bytes(model) + (trained if self.reparameterized() else 0)
        except NotImplementedError:  # peft runs the network, which needs values
            return trained

    def save(self, model: nn.Module, folder: Path) -> None:
        """Save the adapter with peft, and the network that computes the vectors, which peft leaves out."""
        super().save(model, folder)
        if self.reparameterized():
            Method.save(self, model, folder)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Load the files of ``save``.

        Raises:
            ValueError: The tensors in the file are not those of the method.
        """
        if self.reparameterized():
            Method.load(self, model, folder)
        else:
            super().load(model, folder)


def _unwrap_saved_modules(model: nn.Module) -> None:
    """Replace peft's ``ModulesToSaveWrapper`` by the trained modules."""
    from peft.utils import ModulesToSaveWrapper

    for key, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            owner, _, name = key.rpartition(".")
            setattr(model.get_submodule(owner), name, module.modules_to_save[module.active_adapter])


def first_batch_tensor(arguments: Mapping[str, Any]) -> Tensor:
    """Return the first argument of a forward pass whose first dimension is the batch."""
    for key in ("input_ids", "decoder_input_ids", "inputs_embeds", "attention_mask"):
        if arguments.get(key) is not None:
            return cast("Tensor", arguments[key])
    raise ValueError("the arguments of the forward pass have no batch dimension")


def linear_names(model: nn.Module) -> list[str]:
    """Return the last components of the names of modules with two-dimensional weights."""
    return sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if getattr(module, "weight", None) is not None and module.weight.ndim == 2
        }
    )  # type: ignore[union-attr,operator]


def default_targets(peft_type: str) -> frozenset[str]:
    """Return the model types for which peft has default ``target_modules``."""
    return next((table for name in _default_tables(peft_type) if (table := constants().get(name))), frozenset())


def _default_tables(peft_type: str) -> list[str]:
    """Return the names that peft's table of default ``target_modules`` may have."""
    return [f"TRANSFORMERS_MODELS_TO_{n}_TARGET_MODULES_MAPPING" for n in (peft_type, peft_type.replace("_", ""))]
