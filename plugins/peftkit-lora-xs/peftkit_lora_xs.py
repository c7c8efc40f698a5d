"""The LoRA-XS method for peftkit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field

from peftkit import ApplyContext, Method, PublishedRate, hookimpl
from peftkit.errors import InputError

if TYPE_CHECKING:
    from torch import nn

QUERY_AND_VALUE = (
    *("q", "v", "q_proj", "v_proj", "q_lin", "v_lin", "query", "value", "query_proj", "value_proj"),
    *("c_attn", "Wqkv"),
)
"""Names of the query and value projections in transformers; GPT-2 and ModernBERT fuse them with the keys."""
OUTPUTS = frozenset({"lm_head"})
FILE = "lora_xs.safetensors"


class LoraXs(Method):
    """A small square matrix between fixed singular directions of each layer (LoRA-XS, Bałazy et al., 2024)."""

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
    """The rank: the number of singular directions, and the size of the square matrix."""
    alpha: float = Field(default=16.0, gt=0)
    """The update is scaled by alpha/r."""
    target_modules: tuple[str, ...] | str | None = None
    """The layers to update: names, a regular expression for full names, or `all-linear`, which leaves out the head; by
    default the query and value projections."""

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Freeze the model and add an update to each target layer.

        Raises:
            InputError: No layer matches, or a layer is smaller than the rank.
        """
        from peftkit_lora_xs_layers import XsLinear

        model.requires_grad_(False)
        head = {parameter.rpartition(".")[0] for parameter in context.head_parameters}
        targets = [key for key, module in linear_layers(model) if key not in head and self._is_target(key)]
        if not targets:
            leaves = sorted({key.rsplit(".", 1)[-1] for key, _ in linear_layers(model)})
            names = ", ".join(leaves)
            raise InputError(f"method.target_modules: no layer matches {self.target_modules!r}; available: {names}")
        for name in self.target_modules if isinstance(self.target_modules, tuple) else ():
            if not any(key == name or key.endswith(f".{name}") for key in targets):
                raise InputError(
                    f"method.target_modules: {name!r} is not a linear layer, or is the classification head"
                )
        for key in targets:
            owner, _, leaf = key.rpartition(".")
            layer = cast(Any, model.get_submodule(key))
            max_rank = min(layer.weight.shape)
            if self.r > max_rank:
                raise InputError(f"method.r = {self.r}, but {key} has only {max_rank} singular directions; lower it")
            setattr(model.get_submodule(owner), leaf, XsLinear(layer, self.r, self.alpha / self.r))
        return model

    def _is_target(self, key: str) -> bool:
        entries = QUERY_AND_VALUE if self.target_modules is None else self.target_modules
        if entries == "all-linear":
            return OUTPUTS.isdisjoint(key.split("."))
        if isinstance(entries, str):
            return re.fullmatch(entries, key) is not None
        return any(key == name or key.endswith(f".{name}") for name in entries)

    def merge(self, model: nn.Module) -> nn.Module:
        """Merge the updates into the weights of the layers."""
        from peftkit_lora_xs_layers import XsLinear

        for key, module in list(model.named_modules()):
            if isinstance(module, XsLinear):
                owner, _, leaf = key.rpartition(".")
                setattr(model.get_submodule(owner), leaf, module.merged())
        return model

    def save(self, model: nn.Module, folder: Path) -> None:
        """Save the trained matrices, the singular directions, and an encoder's head."""
        from safetensors.torch import save_file

        save_file(
            {k: v.detach().cpu().contiguous() for k, v in _saved_tensors(model)},
            folder / FILE,
            metadata={"format": "pt"},
        )

    def checkpoint_bytes(self, model: nn.Module) -> int:
        """Return the size of the trained parameters and the singular directions."""
        return sum(tensor.numel() * tensor.element_size() for _, tensor in _saved_tensors(model))

    def load(self, model: nn.Module, folder: Path) -> None:
        """Load the file of ``save`` into a model prepared by ``apply``.

        Raises:
            ValueError: The tensors in the file are not those of the model.
        """
        import torch
        from safetensors.torch import load_file

        stored, expected = load_file(folder / FILE), dict(_saved_tensors(model))
        if mismatched := sorted(stored.keys() ^ expected.keys()):
            raise ValueError(f"{folder}: {len(mismatched)} tensors do not match the model, such as {mismatched[0]}")
        with torch.no_grad():
            for key, tensor in expected.items():
                tensor.copy_(stored[key])


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the linear layers by name, including GPT-2's layers with transposed weights."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return ((key, module) for key, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D))


def _saved_tensors(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the trained parameters and the fixed singular directions."""
    yield from ((key, p) for key, p in model.named_parameters() if p.requires_grad)
    yield from ((key, b) for key, b in model.named_buffers() if key.endswith((".xs_left", ".xs_right")))


@hookimpl
def register_methods() -> Sequence[type[Method]]:
    """Register the methods of this distribution."""
    return [LoraXs]
