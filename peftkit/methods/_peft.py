"""What all methods have in common that the peft library implements."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from peftkit.components import Context, Method, ModelKind, Side, Situation
from peftkit.errors import InputError, listed, one_line
from peftkit.head import covering_modules
from peftkit.methods._configs import constants
from peftkit.model_names import ModulePatterns, changed_options, is_named, naming_options

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import Tensor, nn

TASK_TYPES: Mapping[ModelKind, str] = {
    "encoder-decoder": "SEQ_2_SEQ_LM",
    "decoder": "CAUSAL_LM",
    "encoder": "SEQ_CLS",
}
CONV1D = ("gpt2", "openai-gpt")
"""The models whose linear layers hold their weights transposed."""


class Part(BaseModel):
    """Options that belong together: one of peft's configurations inside another."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    made_by: ClassVar[tuple[str, str]]
    """The module and the name of peft's class."""

    def made(self) -> Any:
        """peft's own object."""
        module, name = self.made_by
        return getattr(import_module(module), name)(**self.model_dump(exclude_none=True))


class PeftMethod(Method):
    """A method of the peft library: its options are the fields of peft's configuration, by the same names."""

    loaded_by: ClassVar[Literal["peft", "peftkit"]] = "peft"
    merge_tolerance: ClassVar[float] = 1e-4
    peft_type: ClassVar[str]
    """peft's name of the method, a member of ``peft.PeftType``."""
    without: ClassVar[frozenset[str]] = frozenset()
    """Options of peft's configuration that do nothing here, or that peftkit gives itself."""
    given: ClassVar[Mapping[str, Any]] = {}
    """Options of peft's configuration that are always so."""
    linear_only: ClassVar[bool] = False
    """Whether it cannot be put beside layers that hold their weights transposed."""
    own_targets: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Default ``target_modules`` by type of model, where peft has none."""

    @model_validator(mode="after")
    def _blocks_of_named_modules(self) -> Self:
        if isinstance(self._option("target_modules"), str) and self._option("layers_to_transform") is not None:
            raise ValueError(
                "layers_to_transform goes with a list of target_modules only; put the blocks into the expression"
            )
        return self

    def refuses(self, situation: Situation) -> list[str]:
        """The reasons, with remedies, why the method cannot be used so."""
        reasons = super().refuses(situation)
        if self.linear_only and situation.model_type in CONV1D:
            reasons.append(
                f"peft's {self.name} does not know the transposed layers of {situation.model_type!r}; use lora, ia3, "
                "vera or another method that does"
            )
            return reasons
        known = default_targets(self.peft_type) | self.own_targets.keys()
        unset = "target_modules" in type(self).model_fields and self._option("target_modules") is None
        if unset and known and situation.model_type and situation.model_type not in known:
            reasons.append(
                f"peft knows no default target_modules for a {situation.model_type!r} model; "
                'name the modules, or set target_modules = "all-linear"'
            )
        return reasons

    def config(self, model: nn.Module, context: Context) -> PeftConfig:
        """peft's configuration of the method for this model."""
        import peft

        make = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(self.peft_type)]
        options = self.options(model, context)
        return make(task_type=TASK_TYPES[context.model_kind], inference_mode=False, **options)

    def options(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """What peft's configuration is made with; an option that is unset is left to peft."""
        options = self.model_dump(mode="json", exclude={"name"}, exclude_none=True)
        options |= self.given
        options |= {key: value.made() for key, value in self if isinstance(value, Part)}
        if "target_modules" in type(self).model_fields and self._option("target_modules") is None:
            kind = str(getattr(model.config, "model_type", ""))
            if kind not in default_targets(self.peft_type) and kind in self.own_targets:
                options["target_modules"] = list(self.own_targets[kind])
        if "modules_to_save" in type(self).model_fields and (heads := covering_modules(model, context.head_parameters)):
            options["modules_to_save"] = [*options.get("modules_to_save", ()), *heads]
        return options

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Wraps the model into a ``PeftModel`` that trains the method's weights and, on an encoder, its head.

        Raises:
            InputError: the options do not fit the model, in peft's words.
        """
        import peft
        import torch

        try:
            with warnings.catch_warnings():
                # peft finds out by itself which layers hold their weights transposed, and there is no option to set.
                warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
                wrapped = peft.get_peft_model(cast(Any, model), self.config(model, context))
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # options that do not fit raise errors of any type in peft
            if any(p.is_meta for p in model.parameters()) and isinstance(error, NotImplementedError | RuntimeError):
                raise  # it draws on weights, which are not here
            lost = ("not found in the base model", "No `target_modules` passed", "No modules were targeted")
            remedy = f'; set target_modules to some of {listed(leaves(model))}, or to "all-linear"'
            there = remedy if any(text in str(error) for text in lost) else ""
            reason = one_line(error).rstrip(".")
            changed = f"; its options are {options}" if (options := changed_options(self)) else ""
            raise InputError(
                f"{self.name!r} cannot be applied to {type(model).__name__}: {reason}{there}{changed}"
            ) from error
        if problems := list(self._without_effect(wrapped.base_model)):
            raise InputError("\n".join(f"method.{text}" for text in problems))
        return cast("nn.Module", wrapped)

    def _without_effect(self, tuner: Any) -> Iterator[str]:
        """What is wrong with each entry that matches something, but nothing that the method changes."""
        targeted = [*getattr(tuner, "targeted_module_names", ()), *getattr(tuner, "targeted_parameter_names", ())]
        if self._option("layers_pattern") and self._option("layers_to_transform") is None:
            yield "layers_pattern: goes with layers_to_transform, which is not set; leave it out"
        if not targeted:
            return
        for option in ("target_modules", "feedforward_modules", "target_parameters"):
            entries = self._option(option)
            for entry in entries if isinstance(entries, tuple) else ():
                if not any(is_named(key, entry) for key in targeted):
                    yield (
                        f"{option}: {entry!r} matches only what is left out, by exclude_modules, modules_to_save, "
                        "layers_to_transform or as the classification head; leave it out here"
                    )
        blocks = self._option("layers_to_transform")
        for number in [blocks] if isinstance(blocks, int) else blocks or ():
            if not any(number in map(int, re.findall(r"(?<=\.)\d+(?=\.)", f".{key}.")) for key in targeted):
                yield f"layers_to_transform: block {number} has none of the target_modules"
        for option, marker in naming_options(type(self)).items():
            if isinstance(marker, ModulePatterns):
                table = self._option(option) or {}
                yield from (f"{option}: {text}" for text in marker.unused(table, targeted))
                for key, value in table.items():
                    if isinstance(value, int | float) and value <= 0:
                        yield f"{option}: {key!r} is {value}, with which nothing is learnt there; set it above 0"

    def merge(self, model: nn.Module) -> nn.Module:
        """Folds the update into the layers that it lies beside.

        Raises:
            InputError: peft cannot, since what was learnt is no update of weights.
        """
        reason = "what it learns is no update of the model's own weights"
        base = cast(Any, model).base_model
        try:
            if hasattr(base, "merge_and_unload"):
                # First, since peft's merging fails on a head of several layers.
                _unwrap(base.model)
                return cast("nn.Module", base.merge_and_unload(progressbar=False))
        except NotImplementedError:
            pass
        except (ValueError, AttributeError, TypeError) as error:
            reason = f"peft says {one_line(error)}"
        raise InputError(f"{self.name!r} cannot be merged: {reason}")

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes peft's own form, which ``PeftModel.from_pretrained`` reads."""
        # Never the embeddings: "auto" would ask the hub whether the vocabulary has grown, and peftkit grows none.
        cast("PeftModel", model).save_pretrained(str(folder), save_embedding_layers=False)

    def saved_bytes(self, model: nn.Module) -> int:
        """With what peft saves beside it, such as VeRA's projections."""
        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(cast("PeftModel", model), save_embedding_layers=False)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    def load(self, model: nn.Module, folder: Path) -> None:
        """Reads peft's own form into a model that ``apply`` has prepared.

        Raises:
            ValueError: the file's tensors are not those of the method.
        """
        from peft import get_peft_model_state_dict, set_peft_model_state_dict
        from peft.utils import SAFETENSORS_WEIGHTS_NAME
        from safetensors.torch import load_file

        tensors = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
        # peft passes over tensors that it misses or does not know.
        expected = get_peft_model_state_dict(cast("PeftModel", model), save_embedding_layers=False)
        if different := sorted(tensors.keys() ^ expected.keys()):
            raise ValueError(f"{folder}: {len(different)} tensors do not match the model, such as {different[0]}")
        set_peft_model_state_dict(cast("PeftModel", model), tensors)

    def _option(self, name: str) -> Any:
        return getattr(self, name, None)


class PromptMethod(PeftMethod):
    """A method that puts learnt vectors before those of the text."""

    without: ClassVar[frozenset[str]] = frozenset(
        {"token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"}
    )
    before_embeddings: ClassVar[bool] = True
    """Whether the vectors are put before the text's embeddings, and not into the cache of each layer."""

    num_virtual_tokens: int = Field(default=20, gt=0)
    """How many vectors are learnt."""

    def options(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """peft's options, with the width of the embeddings that the vectors are put before."""
        options = super().options(model, context)
        if options.get("prompt_tuning_init") == "TEXT":
            here, given = str(getattr(model.config, "_name_or_path", "")), options.get("tokenizer_name_or_path")
            if given is None or given == Path(here).name:  # the model's own, by the name that a recipe has for it
                options["tokenizer_name_or_path"] = here
        if self.before_embeddings:
            # peft takes the width of the layers, which differs in ALBERT and ELECTRA, and finds neither in DistilBERT.
            loaded = cast(Any, model)
            options["token_dim"] = loaded.get_input_embeddings().weight.shape[1]
            options["num_attention_heads"] = getattr(loaded.config, "num_attention_heads", 1)
        return options

    def virtual_tokens(self, model_kind: ModelKind) -> Mapping[Side, int]:
        """The vectors before the text: before an encoder-decoder's source, or in the cache of its decoder."""
        side: Side = "encoder" if model_kind == "encoder" else "decoder"
        if model_kind == "encoder-decoder" and self.before_embeddings:
            side = "encoder"
        return {side: self.num_virtual_tokens}

    def made_by_network(self) -> bool:
        """Whether a network makes the vectors while training: peft saves what it makes, and not the network."""
        return False

    def saved_bytes(self, model: nn.Module) -> int:
        """The vectors, and the network that makes them if there is one; on ``meta`` without what it makes."""
        trained = Method.saved_bytes(self, model)
        try:
            return super().saved_bytes(model) + (trained if self.made_by_network() else 0)
        except NotImplementedError:  # peft looks at the values
            return trained

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes peft's own form, and beside it the network that makes the vectors, which peft leaves out."""
        super().save(model, folder)
        if self.made_by_network():
            Method.save(self, model, folder)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Reads what ``save`` wrote.

        Raises:
            ValueError: the file's tensors are not those of the method.
        """
        if self.made_by_network():
            Method.load(self, model, folder)
        else:
            super().load(model, folder)


def _unwrap(model: nn.Module) -> None:
    """Puts what was trained in full into the place of peft's wrappers."""
    from peft.utils import ModulesToSaveWrapper

    for key, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            owner, _, name = key.rpartition(".")
            setattr(model.get_submodule(owner), name, module.modules_to_save[module.active_adapter])


def rows_of(arguments: Mapping[str, Any]) -> Tensor:
    """The first of a forward pass's arguments that has rows."""
    for key in ("input_ids", "decoder_input_ids", "inputs_embeds", "attention_mask"):
        if arguments.get(key) is not None:
            return cast("Tensor", arguments[key])
    raise ValueError("a forward pass without rows")


def leaves(model: nn.Module) -> list[str]:
    """The names, without what they lie in, of the modules that hold weights of two dimensions."""
    return sorted(
        {
            n.rsplit(".", 1)[-1]
            for n, m in model.named_modules()
            if getattr(m, "weight", None) is not None and m.weight.ndim == 2
        }
    )  # type: ignore[union-attr,operator]


def default_targets(peft_type: str) -> frozenset[str]:
    """The model types for which peft chooses ``target_modules``."""
    names = (f"TRANSFORMERS_MODELS_TO_{n}_TARGET_MODULES_MAPPING" for n in (peft_type, peft_type.replace("_", "")))
    return next((table for name in names if (table := constants().get(name))), frozenset())
