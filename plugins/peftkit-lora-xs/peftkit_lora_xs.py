"""LoRA-XS for peftkit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field

from peftkit import Context, Method, PublishedRate, hookimpl
from peftkit.errors import InputError

if TYPE_CHECKING:
    from torch import nn

QUERY_AND_VALUE = (
    *("q", "v", "q_proj", "v_proj", "q_lin", "v_lin", "query", "value", "query_proj", "value_proj"),
    *("c_attn", "Wqkv"),
)
"""What the projections are called in the architectures of transformers; GPT-2 and ModernBERT have them in one."""
OUTPUTS = frozenset({"lm_head"})
FILE = "lora_xs.safetensors"


class LoraXs(Method):
    """Learns a small square matrix between fixed singular directions of each layer (LoRA-XS, Bałazy et al., 2024)."""

    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate(
            (1e-4, 5e-4, 1e-3),
            "Bałazy et al. (2024): scripts/run_glue.py in MohammadrezaBanaei/LoRA-XS",
        ),
        PublishedRate((2e-3,), "Bałazy et al. (2024): scripts/run_commonsense_tuning.sh in MohammadrezaBanaei/LoRA-XS"),
        PublishedRate((4e-3,), "Bałazy et al. (2024): scripts/run_math_tuning.sh in MohammadrezaBanaei/LoRA-XS"),
    )

    name: Literal["lora_xs"] = "lora_xs"
    r: int = Field(default=16, gt=0)
    """How many singular directions of each layer are used; the matrix is as wide and as high."""
    alpha: float = Field(default=16.0, gt=0)
    """Scales the update by alpha/r."""
    target_modules: tuple[str, ...] | str | None = None
    """The layers that are updated: names, a regular expression for whole names, or `all-linear` without the head; unset
    for the query and value projections."""

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Puts the update beside each of those layers, which stay fixed as all the rest does.

        Raises:
            InputError: there are no such layers, or one is smaller than the rank.
        """
        from peftkit_lora_xs_layers import XsLinear

        model.requires_grad_(False)
        head = {parameter.rpartition(".")[0] for parameter in context.head_parameters}
        chosen = [key for key, module in linear_layers(model) if key not in head and self._wants(key)]
        if not chosen:
            leaves = sorted({key.rsplit(".", 1)[-1] for key, _ in linear_layers(model)})
            raise InputError(f"{self.name!r} finds no layer for {self.target_modules!r}; there are {', '.join(leaves)}")
        for name in self.target_modules if isinstance(self.target_modules, tuple) else ():
            if not any(key == name or key.endswith(f".{name}") for key in chosen):
                raise InputError(f"method.target_modules: {name!r} is no linear layer, or the classification head")
        for key in chosen:
            owner, _, leaf = key.rpartition(".")
            layer = cast(Any, model.get_submodule(key))
            smaller = min(layer.weight.shape)
            if self.r > smaller:
                raise InputError(f"method.r = {self.r}, and {key} has only {smaller} singular directions; lower it")
            setattr(model.get_submodule(owner), leaf, XsLinear(layer, self.r, self.alpha / self.r))
        return model

    def _wants(self, key: str) -> bool:
        wanted = QUERY_AND_VALUE if self.target_modules is None else self.target_modules
        if wanted == "all-linear":
            return OUTPUTS.isdisjoint(key.split("."))
        if isinstance(wanted, str):
            return re.fullmatch(wanted, key) is not None
        return any(key == name or key.endswith(f".{name}") for name in wanted)

    def merge(self, model: nn.Module) -> nn.Module:
        """Adds the updates to the layers' own weights."""
        from peftkit_lora_xs_layers import XsLinear

        for key, module in list(model.named_modules()):
            if isinstance(module, XsLinear):
                owner, _, leaf = key.rpartition(".")
                setattr(model.get_submodule(owner), leaf, module.merged())
        return model

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes the matrices, the directions that they lie between, and an encoder's head."""
        from safetensors.torch import save_file

        save_file({k: v.detach().cpu().contiguous() for k, v in _kept(model)}, folder / FILE, metadata={"format": "pt"})

    def saved_bytes(self, model: nn.Module) -> int:
        """With the directions."""
        return sum(tensor.numel() * tensor.element_size() for _, tensor in _kept(model))

    def load(self, model: nn.Module, folder: Path) -> None:
        """Reads what ``save`` wrote into a model that ``apply`` has prepared.

        Raises:
            ValueError: the file's tensors are not those of the model.
        """
        import torch
        from safetensors.torch import load_file

        stored, own = load_file(folder / FILE), dict(_kept(model))
        if different := sorted(stored.keys() ^ own.keys()):
            raise ValueError(f"{folder}: {len(different)} tensors do not match the model, such as {different[0]}")
        with torch.no_grad():
            for key, tensor in own.items():
                tensor.copy_(stored[key])


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers by name, those of GPT-2 among them, which hold their weights transposed."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return ((key, module) for key, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D))


def _kept(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """What learns, and the fixed directions."""
    yield from ((key, p) for key, p in model.named_parameters() if p.requires_grad)
    yield from ((key, b) for key, b in model.named_buffers() if key.endswith((".xs_left", ".xs_right")))


@hookimpl
def register_methods() -> Sequence[type[Method]]:
    """The methods of this distribution."""
    return [LoraXs]
