"""Loads encoders with a new classification head, or with the one of the checkpoint."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from peftkit.components import Head, Method
from peftkit.components.model_parts.head_parameters import find_head_parameters
from peftkit.errors import InputError, Problem, RecipeError, comma_separated
from peftkit.models.checkpoints.loading_report import LoadingReport, check_loading, read_report
from peftkit.models.checkpoints.model_files import checkpoint_keys
from peftkit.models.heads.id2label import (
    architecture_name,
    checkpoint_labels,
    head_suffixes,
    labels_fit,
    match_labels,
)
from peftkit.recipe import Recipe

PRETRAINED = ("Model", "ForMaskedLM", "ForPreTraining", "ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Suffixes of architectures without a task head. Parameters outside their backbone, such as ModernBERT's prediction
head, are pre-trained."""
LEGACY = ((".gamma", ".weight"), (".beta", ".bias"))
"""Suffixes of layer norm parameters in old checkpoints, and what they are called now."""
LoadModel = Callable[..., tuple[nn.Module, Mapping[str, Any]]]
"""Loads the model with a config; returns it with the loading info of transformers."""


@dataclass(frozen=True)
class LoadedHead:
    """The classification head of a loaded model.

    Attributes:
        parameters: names of its parameters; every method trains and saves them.
        num_new: number of its parameters (elements) that are not in the checkpoint.
        kept: whether it is the checkpoint's head.
        notice: a message for the user; may be empty.
        labels: labels of the checkpoint's head; empty if it has no head that scores whole texts.
    """

    parameters: tuple[str, ...] = ()
    num_new: int = 0
    kept: bool = False
    notice: str = ""
    labels: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the entry of ``loading.json``."""
        return {
            "kept": self.kept,
            "new": self.num_new,
            "parameters": [*self.parameters],
            "checkpoint_labels": [*self.labels],
        }


def set_labels(config: Any, labels: Collection[str], outputs: int, problem_type: str = "") -> None:
    """Set the labels in a model's config.

    Args:
        config: the config; it is changed in place.
        labels: the labels; if empty, only the number of outputs is set.
        outputs: number of outputs of the head.
        problem_type: the kind of loss of transformers; empty to let it infer one.
    """
    config.num_labels = outputs
    config.problem_type = problem_type or None
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}


def without_pooler(recipe: Recipe, auto_class: Any, config: Any) -> dict[str, bool]:
    """Return the option with which a model is built without a pooler, which is of no use without a head.

    Args:
        recipe: the recipe.
        auto_class: the class of transformers that builds models without a head.
        config: the model's config.

    Raises:
        RecipeError: the recipe has settings of a head.
    """
    keys = {"model.keep_head": recipe.model.keep_head, "train.head_learning_rate": recipe.train.head_learning_rate}
    text = f"has no effect, because models have no head for {recipe.task.kind} tasks; leave it out"
    if problems := [Problem(recipe.model.name, None, key, text) for key, value in keys.items() if value]:
        raise RecipeError(problems)
    model_class = auto_class._model_mapping.get(type(config), None)
    classes = model_class if isinstance(model_class, tuple) else (model_class,)
    option = "add_pooling_layer"
    has_option = all(each is not None and option in inspect.signature(each.__init__).parameters for each in classes)
    return {option: False} if has_option else {}


def load_with_head(
    recipe: Recipe, config: Any, needed: Head, load: LoadModel
) -> tuple[nn.Module, LoadedHead, LoadingReport]:
    """Load an encoder with a new classification head, or with the checkpoint's if ``model.keep_head`` is set.

    Args:
        recipe: the recipe.
        config: the checkpoint's config; afterwards it has the task's labels.
        needed: the head that the objective needs.
        load: loads the model.

    Returns:
        The model, its head, and the loading report.

    Raises:
        ModelError: weights outside a new head are missing, or the checkpoint has no head that can be kept.
    """
    labels, outputs = needed.labels, needed.outputs
    head_labels, architecture = checkpoint_labels(config), architecture_name(config)
    if recipe.model.keep_head:
        output_indices = match_labels(recipe, config, needed)
        set_labels(config, (), len(head_labels))
        model, report = load(config)
        loading = read_report(model, report)
        check_loading(recipe.model.name, model, loading, report)
        _select_outputs(model, output_indices)
        set_labels(config, labels, outputs, needed.problem_type)
        set_labels(model.config, labels, outputs, needed.problem_type)
        kept = tuple(_names_outside_backbone(model))
        label_list = comma_separated(head_labels)
        notice = f"the classification head of {recipe.model.name} is kept; its labels are {label_list}"
        return model, LoadedHead(kept, kept=True, notice=notice, labels=tuple(head_labels)), loading
    replaced = has_task_head(config)
    set_labels(config, labels, outputs, needed.problem_type)
    torch.manual_seed(recipe.run.effective_init_seed)  # loading initializes the weights of a new head
    model, report = load(config)
    loading = read_report(model, report)
    outside_backbone, notice = _names_outside_backbone(model), ""
    check_loading(recipe.model.name, model, loading, report, {*outside_backbone, *_pooler_names(model)})
    missing = {*loading.missing, *loading.mismatched}
    if replaced:
        torch.manual_seed(recipe.run.effective_init_seed)
        _reinitialize_head(model)
        missing |= set(outside_backbone)
        notice = _replacement_notice(recipe, needed, architecture, head_labels)
    kept_labels = tuple(head_labels) if architecture.endswith(head_suffixes(needed)) else ()
    return model, replace(_new_head(model, missing, notice), labels=kept_labels), loading


def detect_head(recipe: Recipe, model: nn.Module, config: Any, path: str) -> LoadedHead:
    """Determine the head's parameters from the names in the checkpoint's files, without loading weights.

    Args:
        recipe: the recipe.
        model: the model built from its config; its tensors may be on ``meta``.
        config: the checkpoint's config, before the task's labels were set.
        path: a local folder, or the name of a model on the hub.

    Returns:
        The head. For a hub model that is not in the cache, all parameters outside the backbone and poolers.
    """
    if recipe.model.keep_head:
        return LoadedHead(tuple(_names_outside_backbone(model)), kept=True)
    return _new_head(model, parameters_not_in_checkpoint(model, config, path, recipe.model.revision), "")


def parameters_not_in_checkpoint(model: nn.Module, config: Any, path: str, revision: str | None = None) -> set[str]:
    """Return the names of the parameters that are not in a checkpoint's files; see ``detect_head``.

    Args:
        model: the model built from its config; its tensors may be on ``meta``.
        config: the checkpoint's config, before the task's labels were set.
        path: a local folder, or the name of a model on the hub.
        revision: the revision of a hub model.
    """
    names = [name for name, _ in model.named_parameters()]
    outside_backbone = set(_names_outside_backbone(model))
    stored_names = checkpoint_keys(path, revision)
    if stored_names is None:
        return outside_backbone if has_task_head(config) else outside_backbone | set(_pooler_names(model))
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    stripped = {_modern_name(key).removeprefix(prefix) for key in stored_names}
    missing = {name for name in names if name.removeprefix(prefix) not in stripped}
    return missing | outside_backbone if has_task_head(config) else missing


def has_task_head(config: Any) -> bool:
    """Whether a checkpoint was saved with a task head, such as for classification or tagging."""
    return any(not str(name).endswith(PRETRAINED) for name in config.architectures or ())


def check_saves_head(method: Method, model: nn.Module, head: LoadedHead) -> None:
    """Check that a method's ``save`` includes the classification head.

    Args:
        method: the method.
        model: the model with the method applied.
        head: the model's head.

    Raises:
        InputError: a parameter of the head is in none of the files that it writes.
    """
    if not head.parameters:
        return
    with tempfile.TemporaryDirectory() as folder:
        method.save(model, Path(folder))
        tensors = [
            (key, value) for file in Path(folder).glob("*.safetensors") for key, value in load_file(file).items()
        ]
    for name, parameter in find_head_parameters(model, head.parameters).items():
        value, last = parameter.detach().cpu(), name.rpartition(".")[2]
        if not any(key.rpartition(".")[2] == last and value.equal(tensor) for key, tensor in tensors):
            raise InputError(
                f"{method.name!r} does not save {name!r}, a parameter of the classification head, so the trained model "
                "would be lost; use another method, or an encoder-decoder or decoder"
            )


def _new_head(model: nn.Module, names: Iterable[str], notice: str) -> LoadedHead:
    new = set(names)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters() if name in new}
    return LoadedHead(tuple(sizes), sum(sizes.values()), notice=notice)


def _replacement_notice(recipe: Recipe, needed: Head, architecture: str, head_labels: list[str]) -> str:
    """Return the notice that a new head replaces the checkpoint's."""
    notice = f"the head of {recipe.model.name} ({architecture}) is replaced by a new one"
    if not architecture.endswith(head_suffixes(needed)):
        return notice
    fits = labels_fit(needed.labels, head_labels)
    remedy = "set model.keep_head = true to keep it" if fits else "they differ from the task's"
    return f"{notice}; its labels are {comma_separated(head_labels)}; {remedy}"


def _select_outputs(model: Any, indices: list[int]) -> None:
    """Keep the head's outputs with these indices, in this order."""
    if indices == list(range(model.config.num_labels)):
        return
    head_modules = {name.rpartition(".")[0] for name in _names_outside_backbone(model)}
    layers = [m for key, m in model.named_modules() if key in head_modules and isinstance(m, nn.Linear)]
    last = [layer for layer in layers if layer.out_features == model.config.num_labels][-1]
    with torch.no_grad():
        last.weight = nn.Parameter(last.weight[indices].clone())
        if last.bias is not None:
            last.bias = nn.Parameter(last.bias[indices].clone())
    last.out_features = model.num_labels = len(indices)


def _reinitialize_head(model: Any) -> None:
    """Initialize the weights outside the backbone as transformers does for a model without a checkpoint."""
    head_modules = {name.rpartition(".")[0] for name in _names_outside_backbone(model)}
    for key, module in model.named_modules():
        if key in head_modules:
            for parameter in module.parameters(recurse=False):
                parameter._is_hf_initialized = False  # otherwise transformers 5 keeps the loaded values
            module._is_hf_initialized = False
            model._init_weights(module)


def _names_outside_backbone(model: nn.Module) -> list[str]:
    """Return the names of the parameters outside the backbone."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    return [name for name, _ in model.named_parameters() if not name.startswith(prefix)]


def _pooler_names(model: nn.Module) -> list[str]:
    """Return the names of the backbone's parameters that only a head uses."""
    return [name for name, _ in model.named_parameters() if ".pooler." in f".{name}"]


def _modern_name(key: str) -> str:
    """Translate the name of a layer norm parameter in an old checkpoint."""
    for old, new in LEGACY:
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key
