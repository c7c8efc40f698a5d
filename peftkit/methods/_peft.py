"""What all methods have in common that the peft library implements."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from pydantic import model_validator

from peftkit.components import Context, Method, ModelKind, Situation
from peftkit.errors import InputError, listed, one_line

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn

TASK_TYPES: Mapping[ModelKind, str] = {
    "encoder-decoder": "SEQ_2_SEQ_LM",
    "decoder": "CAUSAL_LM",
    "encoder": "SEQ_CLS",
}
HEADS = ("classifier", "score")
"""The classification heads that peft trains and saves by itself."""


class PeftMethod(Method):
    """A method of the peft library: its options are the fields of peft's configuration, by the same names."""

    peft_type: ClassVar[str]
    """peft's name of the method, a member of ``peft.PeftType``."""

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
        known = default_targets(self.peft_type)
        unset = "target_modules" in type(self).model_fields and self._option("target_modules") is None
        if unset and known and situation.model_type and situation.model_type not in known:
            reasons.append(
                f"peft knows no default target_modules for a {situation.model_type!r} model; "
                'name the modules, or set target_modules = "all-linear"'
            )
        return reasons

    def config(self, model: nn.Module, context: Context) -> PeftConfig:
        """peft's configuration of the method for this model; an option that is unset is left to peft."""
        import peft

        options = self.model_dump(mode="json", exclude={"name"}, exclude_none=True)
        if context.model_kind == "encoder" and (heads := head_modules(model)):
            options["modules_to_save"] = [*options.get("modules_to_save", ()), *heads]
        make = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(self.peft_type)]
        return make(task_type=TASK_TYPES[context.model_kind], inference_mode=False, **options)

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Wraps the model into a ``PeftModel`` that trains the method's weights and, on an encoder, its head.

        Raises:
            InputError: the options do not fit the model, in peft's words.
        """
        import peft

        try:
            with warnings.catch_warnings():
                # peft finds out by itself which layers hold their weights transposed, and there is no option to set.
                warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
                return cast("nn.Module", peft.get_peft_model(cast(Any, model), self.config(model, context)))
        except ValueError as error:
            there = f"; its modules are {listed(leaves(model))}" if "not found in the base model" in str(error) else ""
            reason = one_line(error).rstrip(".")
            raise InputError(f"{self.name!r} cannot be applied to {type(model).__name__}: {reason}{there}") from error

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes peft's own form, which ``PeftModel.from_pretrained`` reads."""
        # Never the embeddings: "auto" would ask the hub whether the vocabulary has grown, and peftkit grows none.
        cast("PeftModel", model).save_pretrained(str(folder), save_embedding_layers=False)

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


def head_modules(model: nn.Module) -> list[str]:
    """The modules beside an encoder's backbone that hold new weights, but for those that peft trains anyway."""
    backbone = getattr(model, "base_model_prefix", "")
    children = {name for name, child in model.named_children() if any(True for _ in child.parameters())}
    return sorted(children - {backbone, *HEADS})


def leaves(model: nn.Module) -> list[str]:
    """The names, without what they lie in, of the modules that hold weights of two dimensions."""
    return sorted(
        {
            n.rsplit(".", 1)[-1]
            for n, m in model.named_modules()
            if getattr(m, "weight", None) is not None and m.weight.ndim == 2
        }
    )  # type: ignore[union-attr,operator]


@cache
def default_targets(peft_type: str) -> frozenset[str]:
    """The model types for which peft chooses ``target_modules``, read from its source: importing it takes seconds."""
    spec = find_spec("peft")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    source = Path(spec.submodule_search_locations[0]) / "utils" / "constants.py"
    tables: dict[str, set[str]] = {}
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=table)], value=ast.Dict(keys=keys)):
                tables[table] = {str(key.value) for key in keys if isinstance(key, ast.Constant)}
            case ast.Assign(
                targets=[ast.Name(id=table)],
                value=ast.Call(func=ast.Attribute(value=ast.Name(id=origin), attr="copy")),
            ):
                tables[table] = set(tables.get(origin, ()))
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(id=table), slice=ast.Constant(value=key))]):
                tables.setdefault(table, set()).add(str(key))
    return frozenset(tables.get(f"TRANSFORMERS_MODELS_TO_{peft_type}_TARGET_MODULES_MAPPING", ()))
