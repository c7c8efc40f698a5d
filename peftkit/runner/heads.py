"""An encoder's classification head: which parameters are new, and whether the checkpoint's own head is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from peftkit.components import Method
from peftkit.errors import InputError, ModelError, did_you_mean, listed
from peftkit.head import head_tensors
from peftkit.recipe import Recipe
from peftkit.runner.loading_report import Loading, check_loading, read_report
from peftkit.runner.model_files import checkpoint_keys

PRETRAINED = ("Model", "ForMaskedLM", "ForPreTraining", "ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the architectures of checkpoints end that have no head of a task. What lies beside the backbone of these, such
as ModernBERT's prediction head, is pre-trained."""
SCORES = ("ForSequenceClassification", "ForMultipleChoice")
"""How those end whose head can be kept: one that gives scores of a whole text."""
LEGACY = ((".gamma", ".weight"), (".beta", ".bias"))
"""Names of layer norms' parameters in old checkpoints."""
Load = Callable[..., tuple[nn.Module, Mapping[str, Any]]]
"""Loads the model with a config and further options; returns it with transformers' loading report."""


@dataclass(frozen=True)
class Head:
    """The classification head of a loaded model.

    Attributes:
        parameters: names of all its parameters: every method trains and saves them.
        new: how many numbers of them the checkpoint does not hold.
        kept: whether it is the checkpoint's own head.
        notice: what a user should know about it; may be empty.
        labels: the labels of the checkpoint's own head; none where it has no head that scores whole texts.
    """

    parameters: tuple[str, ...] = ()
    new: int = 0
    kept: bool = False
    notice: str = ""
    labels: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """What ``loading.json`` has of it."""
        return {
            "kept": self.kept,
            "new": self.new,
            "parameters": [*self.parameters],
            "checkpoint_labels": [*self.labels],
        }


def set_labels(config: Any, labels: Collection[str], outputs: int) -> None:
    """Writes the task's labels into a model's config."""
    config.num_labels = outputs
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}


def load_with_head(recipe: Recipe, config: Any, outputs: int, load: Load) -> tuple[nn.Module, Head, Loading]:
    """Loads an encoder with the head that the recipe asks for.

    Args:
        recipe: what to run.
        config: the checkpoint's config; afterwards it has the task's labels.
        outputs: how many numbers the head gives for a text.
        load: loads the model.

    Returns:
        The model, its head, and what the loading report says.

    Raises:
        ModelError: weights are missing that are no part of a new head, or ``model.keep_head`` asks for a head that the
            checkpoint does not hold.
    """
    labels, old, architecture = recipe.task.labels, _labels(config), _architecture(config)
    if recipe.model.keep_head:
        rows = _rows_to_keep(recipe, config, outputs)
        set_labels(config, (), len(old))
        model, report = load(config)
        loading = read_report(model, report)
        check_loading(recipe.model.name, model, loading, report)
        _select_outputs(model, rows)
        set_labels(config, labels, outputs)
        set_labels(model.config, labels, outputs)
        kept = tuple(_beside_backbone(model))
        notice = f"the classification head of {recipe.model.name} is kept; its labels are {listed(old)}"
        return model, Head(kept, kept=True, notice=notice, labels=tuple(old)), loading
    replaced = holds_head(config)
    set_labels(config, labels, outputs)
    torch.manual_seed(recipe.run.effective_init_seed)  # a new head's weights are drawn here
    model, report = load(config)
    loading = read_report(model, report)
    beside, notice = _beside_backbone(model), ""
    check_loading(recipe.model.name, model, loading, report, {*beside, *_poolers(model)})
    missing = {*loading.missing, *loading.mismatched}
    if replaced:
        torch.manual_seed(recipe.run.effective_init_seed)
        _draw_anew(model)
        missing |= set(beside)
        notice = _replaced(recipe, architecture, old)
    its_labels = tuple(old) if architecture.endswith(SCORES) else ()
    return model, replace(_new(model, missing, notice), labels=its_labels), loading


def estimate_head(recipe: Recipe, model: nn.Module, config: Any, path: str) -> Head:
    """Finds the head's parameters by the names in the checkpoint's files, without loading weights.

    Args:
        recipe: what to run.
        model: the model made from its config; its tensors may be on ``meta``.
        config: the checkpoint's config, before the task's labels were written into it.
        path: a local folder, or the name of a model on the hub.

    Returns:
        The head. Of a hub model that has not been fetched it is taken to be what lies beside the backbone, and poolers.
    """
    if recipe.model.keep_head:
        return Head(tuple(_beside_backbone(model)), kept=True)
    return _new(model, new_parameters(model, config, path, recipe.model.revision), "")


def new_parameters(model: nn.Module, config: Any, path: str, revision: str | None = None) -> set[str]:
    """Names of the parameters that a checkpoint's files do not hold; see ``estimate_head``."""
    names = [name for name, _ in model.named_parameters()]
    beside = set(_beside_backbone(model))
    held = checkpoint_keys(path, revision)
    if held is None:
        return beside if holds_head(config) else beside | set(_poolers(model))
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    stripped = {_modern(key).removeprefix(prefix) for key in held}
    missing = {name for name in names if name.removeprefix(prefix) not in stripped}
    return missing | beside if holds_head(config) else missing


def holds_head(config: Any) -> bool:
    """Whether a checkpoint was saved with the head of a task, such as classification or tagging, by its config."""
    return any(not str(name).endswith(PRETRAINED) for name in config.architectures or ())


def check_head_is_saved(method: Method, model: nn.Module, head: Head) -> None:
    """Refuses a method whose ``save`` loses the classification head.

    Raises:
        InputError: the head's weights are in none of the files that it writes.
    """
    if not head.parameters:
        return
    with tempfile.TemporaryDirectory() as folder:
        method.save(model, Path(folder))
        tensors = [
            (key, value) for file in Path(folder).glob("*.safetensors") for key, value in load_file(file).items()
        ]
    for name, parameter in head_tensors(model, head.parameters).items():
        value, last = parameter.detach().cpu(), name.rpartition(".")[2]
        if not any(key.rpartition(".")[2] == last and value.equal(tensor) for key, tensor in tensors):
            raise InputError(
                f"{method.name!r} does not save {name!r}, a parameter of the classification head, so that the trained "
                "model would be lost; use another method, or an encoder-decoder or decoder"
            )


def _new(model: nn.Module, names: Iterable[str], notice: str) -> Head:
    wanted = set(names)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters() if name in wanted}
    return Head(tuple(sizes), sum(sizes.values()), notice=notice)


def _architecture(config: Any) -> str:
    return str((config.architectures or ["no architecture"])[0])


def _labels(config: Any) -> list[str]:
    """The names of a head's outputs."""
    if _architecture(config).endswith("ForMultipleChoice"):
        return ["score"]  # one number for each pair, whatever the config says
    return [str(config.id2label[number]) for number in sorted(config.id2label)]


def _rows_to_keep(recipe: Recipe, config: Any, outputs: int) -> list[int]:
    """The checkpoint's output for each of the task's."""
    if not _architecture(config).endswith(SCORES):
        raise ModelError(
            f"model.keep_head: the checkpoint {recipe.model.name!r} holds no classification head (it is a "
            f"{_architecture(config)}); leave model.keep_head out"
        )
    wanted, there = recipe.task.labels, _labels(config)
    if problem := _labels_problem(config, there):
        raise ModelError(
            f"model.keep_head: {problem} in the config.json of {recipe.model.name!r}, so that it is not certain which "
            "output is which label; correct it, or leave model.keep_head out for a new head"
        )
    if not wanted and len(there) == outputs:
        return [0]
    places = {_normalized(label): number for number, label in enumerate(there)}
    lacking = [label for label in wanted if _normalized(label) not in places]
    if lacking or not wanted:
        what = (
            f"has no label {lacking[0]!r}{did_you_mean(lacking[0], there)}" if lacking else f"has {len(there)} outputs"
        )
        raise ModelError(
            f"model.keep_head: the head of {recipe.model.name!r} {what}, and the task {recipe.task.name!r} needs "
            f"{listed(wanted) if wanted else 'one output'}; the head's labels are {listed(there)}; leave "
            "model.keep_head out for a new head"
        )
    return [places[_normalized(label)] for label in wanted]


def _labels_problem(config: Any, labels: list[str]) -> str:
    """Why a config does not say which output is which label; empty where it does."""
    if _architecture(config).endswith("ForMultipleChoice"):
        return ""
    numbers = sorted(int(number) for number in config.id2label)
    if numbers != list(range(len(numbers))):
        return f"id2label has the numbers {listed([str(number) for number in numbers])}"
    names = [_normalized(label) for label in labels]
    if twice := [label for label, name in zip(labels, names, strict=True) if names.count(name) > 1]:
        return f"id2label has {listed(twice)}, which are one label but for case and blanks,"
    numbered = {str(label): int(number) for label, number in (getattr(config, "label2id", None) or {}).items()}
    for number, label in enumerate(labels):
        if numbered.get(label, number) != number:
            return f"id2label says that {label!r} is {number}, and label2id that it is {numbered[label]},"
    return ""


def _replaced(recipe: Recipe, architecture: str, old: list[str]) -> str:
    """The notice of a head that is replaced."""
    notice = f"the head of {recipe.model.name} ({architecture}) is replaced by a new one"
    if not architecture.endswith(SCORES):
        return notice
    known, labels = {_normalized(label) for label in old}, recipe.task.labels
    fits = all(_normalized(label) in known for label in labels) if labels else len(old) == 1
    remedy = "model.keep_head = true keeps it" if fits else "they are not the task's"
    return f"{notice}; its labels are {listed(old)}; {remedy}"


def _normalized(label: str) -> str:
    return " ".join(label.casefold().split())


def _select_outputs(model: Any, rows: list[int]) -> None:
    """Puts the head's outputs into the order of the task's labels, and drops the others."""
    if rows == list(range(model.config.num_labels)):
        return
    beside = {name.rpartition(".")[0] for name in _beside_backbone(model)}
    layers = [m for key, m in model.named_modules() if key in beside and isinstance(m, nn.Linear)]
    last = [layer for layer in layers if layer.out_features == model.config.num_labels][-1]
    with torch.no_grad():
        last.weight = nn.Parameter(last.weight[rows].clone())
        if last.bias is not None:
            last.bias = nn.Parameter(last.bias[rows].clone())
    last.out_features = model.num_labels = len(rows)


def _draw_anew(model: Any) -> None:
    """Draws the weights beside the backbone as transformers does for a model without a checkpoint."""
    beside = {name.rpartition(".")[0] for name in _beside_backbone(model)}
    for key, module in model.named_modules():
        if key in beside:
            for parameter in module.parameters(recurse=False):
                parameter._is_hf_initialized = False  # or transformers 5 would keep what was loaded
            module._is_hf_initialized = False
            model._init_weights(module)


def _beside_backbone(model: nn.Module) -> list[str]:
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    return [name for name, _ in model.named_parameters() if not name.startswith(prefix)]


def _poolers(model: nn.Module) -> list[str]:
    """Parameters in the backbone that only a head reads."""
    return [name for name, _ in model.named_parameters() if ".pooler." in f".{name}"]


def _modern(key: str) -> str:
    for old, new in LEGACY:
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key
