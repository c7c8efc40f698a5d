"""The base class of fine-tuning methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from peftkit.components.component import Component
from peftkit.components.model_parts.head_parameters import unfreeze_head
from peftkit.components.search_space import MATRICES, PublishedRate, SearchSpace
from peftkit.components.types import ApplyContext, ModelKind, OptionProblem, RunSpec, Side

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftkit.components.preset import Preset


class Method(Component):
    """A fine-tuning method.

    Subclasses implement ``apply``, which selects or adds the trainable parameters. Everything else has defaults.
    """

    supports_quantized_base: ClassVar[bool] = False
    """Whether it can train on top of 4-bit or 8-bit weights, which cannot be trained themselves."""
    merge_tolerance: ClassVar[float] = 1e-5
    """The largest allowed difference in logits before and after merging, in float32."""
    mergeable: ClassVar[bool] = True
    """Whether ``merge`` can merge it into a model's weights; False if it rejects every model."""
    stochastic_because: ClassVar[str] = ""
    """Why results depend on the microbatch size, if the forward pass is random even without dropout; usually empty."""
    search_space: ClassVar[SearchSpace] = MATRICES
    """The default search space of a sweep's ``[tune]`` table; see ``peftkit.components.search_space``."""
    published_rates: ClassVar[tuple[PublishedRate, ...]] = ()
    """Published learning rates of the method, which ``search_space`` must contain."""
    tiny_options: ClassVar[Mapping[str, Any]] = {}
    """Options for test models with a hidden size of 32, where the defaults do not fit."""
    recipe_keys: ClassVar[Mapping[str, Any]] = {}
    """Keys of other tables that the method sets, such as ``model.quantization``; a recipe cannot set them otherwise."""
    also_called: ClassVar[tuple[str, ...]] = ()
    """Further names and descriptions, by which it is suggested for an unknown name."""
    preset: ClassVar[Preset | None] = None
    """The preset that the class was built from, if it was."""
    loaded_by: ClassVar[Literal["transformers", "peft", "adapters", "peftkit"]] = "peftkit"
    """The library that can load the files that ``save`` writes."""

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used in a recipe.

        Args:
            spec: The settings of the recipe and the model's config.

        Returns:
            One message per reason, with the remedy; empty if the method can be used.
        """
        reasons = super().incompatible_with(spec)
        if spec.quantization and not self.supports_quantized_base:
            reasons.append(
                f"it does not support {spec.quantization.removesuffix('bit')}-bit weights; remove "
                "model.quantization, or use lora"
            )
        return reasons

    def find_option_problems(self, model_kind: ModelKind | None) -> Sequence[OptionProblem]:
        """Find options that the library which implements the method rejects whatever the model.

        `peftkit check` and runs call this, while `incompatible_with` is also called by commands that must be quick.

        Args:
            model_kind: The kind of model, or None if it is not known yet.

        Returns:
            The problems; empty by default.
        """
        return ()

    def search_space_for(self, model_kind: ModelKind | None) -> SearchSpace:
        """Return the search space of ``[tune]`` for a kind of model, by default ``search_space``.

        A method that trains only an encoder's classification head returns an empty one, because the head's learning
        rate is tuned separately.

        Args:
            model_kind: The kind of model, or None if it is not known yet.

        Returns:
            The search space, by recipe key.
        """
        return type(self).search_space

    def virtual_tokens(self, model_kind: ModelKind) -> Mapping[Side, int]:
        """Return the number of positions that the method uses for trained vectors, by default none.

        Texts are truncated to the remaining positions.

        Args:
            model_kind: The kind of model. An encoder has the side ``encoder``, a decoder the side ``decoder``, an
                encoder-decoder both.

        Returns:
            The number of positions by side.
        """
        return {}

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Prepare the model so that exactly the parameters to train have ``requires_grad``.

        The classification head (``context.head_parameters``) is unfrozen afterwards in any case.

        Args:
            model: The loaded model, all of whose parameters require gradients.
            context: The settings of the run.

        Returns:
            The model to train: the same object or a wrapper around it.
        """
        raise NotImplementedError

    def auxiliary_loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Compute the method's auxiliary loss, which is added to the mean loss of a step and not recorded.

        Args:
            model: The model after its forward pass over the batch.
            batch: The microbatch by argument name: ``input_ids`` and ``attention_mask`` of shape (batch, length), and
                ``labels`` of shape (batch, target length), or (batch,) for an encoder. The losses of all microbatches
                and processes of a step are averaged.

        Returns:
            A scalar, or None if there is no auxiliary loss.
        """
        return None

    def after_backward(self, model: nn.Module, step: int) -> None:
        """Run after the last backward pass of an optimizer step, while the gradients are in place.

        Args:
            model: The model being trained.
            step: The number of the optimizer step, counted from 1.
        """

    def before_step(self, model: nn.Module, step: int) -> None:
        """Run after gradients are clipped, before ``optimizer.step()``, to change the gradients that it reads.

        Args:
            model: The model being trained.
            step: The number of the optimizer step, counted from 1.
        """

    @property
    def microbatch_dependence(self) -> str:
        """Why results depend on the microbatch size with these options, by default ``stochastic_because``."""
        return type(self).stochastic_because

    @property
    def reads_gradients(self) -> bool:
        """Whether ``after_backward`` or ``before_step`` reads gradients, by default whether the class has either."""
        cls = type(self)
        return cls.after_backward is not Method.after_backward or cls.before_step is not Method.before_step

    def after_step(self, model: nn.Module, step: int) -> None:
        """Run after ``optimizer.step()``, before the gradients are cleared.

        Args:
            model: The model being trained.
            step: The number of the optimizer step, counted from 1.
        """

    @property
    def can_disable_adapter(self) -> bool:
        """Whether ``disable_adapter`` turns a trained model into its base model, by default not.

        Losses that compare the model with its base model then need no second one. It is verified in every run.
        """
        return False

    def disable_adapter(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return a context in which the model computes what its base model does, for ``can_disable_adapter``.

        Args:
            model: The model that ``apply`` returned, or a copy of it.
        """
        return nullcontext()

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the state, other than trained parameters, that a resumed run needs.

        An example is what ``after_step`` accumulates.

        Args:
            model: The model being trained.

        Returns:
            Tensors of any shape by name; empty by default.
        """
        return {}

    def load_state_dict(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Restore the state that ``state_dict`` returned.

        Args:
            model: The model being trained.
            state: Tensors of any shape by name, as from ``state_dict``.
        """

    def lr_multiplier(self, parameter: str) -> float:
        """Return the factor by which a parameter's learning rate is multiplied.

        Args:
            parameter: The name of the parameter in the model that ``apply`` returned.

        Returns:
            The factor, 1 by default.
        """
        return 1.0

    def load_into(self, model: nn.Module, folder: Path, context: ApplyContext) -> nn.Module:
        """Load the files of ``save`` onto a fresh base model, by default with ``apply`` and ``load``.

        Args:
            model: The base model without the method.
            folder: The folder that ``save`` wrote to.
            context: The settings of the run.

        Returns:
            The trained model: the same object or a wrapper around it.

        Raises:
            ValueError: The files do not belong to this method.
        """
        prepared = self.apply(model, context)
        unfreeze_head(prepared, context.head_parameters)
        self.load(prepared, folder)
        return prepared

    def merge(self, model: nn.Module) -> nn.Module:
        """Merge the trained weights into the base model.

        Args:
            model: The trained model.

        Returns:
            The base model with changed weights and without modules of the method. The default returns the same object,
            which suits methods that add no modules.

        Raises:
            InputError: The method cannot be merged; the message is the reason.
        """
        return model

    def may_lack_gradient(self, parameter: str) -> bool:
        """Return whether a trained parameter may have no gradient in the first steps.

        Args:
            parameter: The name of the parameter.

        Returns:
            False by default.
        """
        return False

    def may_change(self, tensor: str) -> bool:
        """Return whether a tensor without a gradient may change during training.

        Args:
            tensor: The name of the parameter or buffer.

        Returns:
            False by default.
        """
        return False

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the trained parameters as safetensors, by default to ``trainable.safetensors``.

        Args:
            model: The trained model.
            folder: An empty folder.
        """
        from safetensors.torch import save_file

        tensors = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}
        save_file(tensors, folder / "trainable.safetensors", metadata={"format": "pt"})

    def checkpoint_bytes(self, model: nn.Module) -> int:
        """Return the size of the tensors that ``save`` writes, which ``peftkit cost`` shows.

        Args:
            model: The model that the method was applied to; its tensors may be on ``meta``.

        Returns:
            The size in bytes, by default that of all trained parameters.
        """
        return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Load the files of ``save`` into a model prepared by ``apply``.

        Args:
            model: The model that ``apply`` returned.
            folder: The folder that ``save`` wrote to.

        Raises:
            ValueError: The tensors in the file are not those that the model trains.
        """
        import torch
        from safetensors.torch import load_file

        tensors = load_file(folder / "trainable.safetensors")
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if tensors.keys() != trained.keys():
            mismatched = sorted(tensors.keys() ^ trained.keys())
            raise ValueError(f"{folder}: {len(mismatched)} tensors do not match the model, such as {mismatched[0]}")
        with torch.no_grad():
            for key, parameter in trained.items():
                parameter.copy_(tensors[key])
