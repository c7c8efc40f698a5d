"""Loads a model, its tokenizer and its family, and applies a method."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedTokenizerBase

from peftkit.components import ApplyContext, ModelKind
from peftkit.components.model_parts.head_parameters import unfreeze_head
from peftkit.components.model_parts.module_name_checks import check_names
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import ObjectiveSettings
from peftkit.errors import ModelError, Problem, RecipeError, RunError
from peftkit.hub_commits import ask_hub
from peftkit.models import FAMILIES, BoundObjective, ModelFamily
from peftkit.models.bound_objective import transformers_class
from peftkit.models.checkpoints.causality import check_bidirectional, check_causality
from peftkit.models.checkpoints.custom_code import check_architecture, check_tokenizer_code
from peftkit.models.checkpoints.execution_settings import check_quantization, reset_execution_settings
from peftkit.models.checkpoints.forward_check import check_forward
from peftkit.models.checkpoints.generation_settings import reset_generation_config
from peftkit.models.checkpoints.load_errors import check_vocabulary, explain_load_errors
from peftkit.models.checkpoints.loading_report import LoadingReport, check_loading, check_tied_weights, read_report
from peftkit.models.checkpoints.model_files import check_checkpoint_files, read_model_file, stored_tensors
from peftkit.models.checkpoints.quantization import quantization_options
from peftkit.models.checkpoints.text_models import is_text_model_config, load_text_model, text_model_config
from peftkit.models.checkpoints.transformers_versions import load_tokenizer, restore_rope_fields
from peftkit.models.gradient_checkpointing import drop_input_gradients, enable_gradient_checkpointing
from peftkit.models.heads.classification_head import LoadedHead, detect_head, load_with_head, set_labels, without_pooler
from peftkit.models.lengths.length_limits import check_training_multiple, fix_attention_type
from peftkit.models.lengths.positions import count_positions, fit_lengths
from peftkit.models.method_errors import check_weights, explain_method_errors, weighted_layers
from peftkit.models.parameter_counts import count_parameters
from peftkit.models.reference_model import expected_reference
from peftkit.recipe import Recipe
from peftkit.recipe.conflicts.find_conflicts import find_conflicts
from peftkit.recipe.model_names import architectures_problem, is_local_model, model_path
from peftkit.recipe.recipe_file import format_key

GetBatches = Callable[[int], Sequence[Mapping[str, Tensor]]]
"""Returns a number of batches of training rows, as tensors of shape (rows, length)."""


@dataclass(frozen=True)
class LoadedBase:
    """A pre-trained model before a method is applied.

    Attributes:
        model: the model.
        objective: the objective of the run, with the model's family.
        kind: its architecture.
        head: its classification head.
        loading: missing and unexpected weights of the checkpoint.
        ignored_generation: generation settings of the checkpoint that have no effect.
    """

    model: nn.Module
    objective: BoundObjective
    kind: ModelKind
    head: LoadedHead = field(default_factory=LoadedHead)
    loading_report: LoadingReport = field(default_factory=LoadingReport)
    ignored_generation_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> ModelFamily:
        """The model family, with tokenizer and config."""
        return self.objective.family

    def record(self) -> dict[str, Any]:
        """Return the content of ``loading.json``: the loading report and the model's config."""
        config: Any = self.family.config
        return {
            **self.loading_report.record(),
            "head": self.head.record(),
            **self.objective.component.model_settings(self.objective.context),
            "config": json.loads(config.to_json_string()),
        }


def load_objective(recipe: Recipe) -> tuple[ModelKind, BoundObjective]:
    """Load the config and the tokenizer, but not the weights.

    Raises:
        RunError: the hub cannot be reached.
        ModelError: the config or the tokenizer cannot be loaded.
        RecipeError: the recipe is incompatible with the model's config.
    """
    path, options = _path_and_options(recipe)
    name, revision = recipe.model.name, recipe.model.revision
    check_checkpoint_files(name, path, revision)
    with explain_load_errors(name, path, revision):
        config = AutoConfig.from_pretrained(path, **options)
        check_tokenizer_code(name, config.to_dict(), path, options)
    kind = _check_architecture(recipe, config)
    config = text_model_config(name, kind, config, path, revision)
    restore_rope_fields(name, config)
    reset_execution_settings(config)
    check_quantization(name, config, recipe.model.quantization, recipe.model.dtype)
    with explain_load_errors(name, path, revision):
        tokenizer = load_tokenizer(path, options)
    check_vocabulary(name, tokenizer)
    return kind, bind_objective(recipe, kind, config, tokenizer)


def load_base(recipe: Recipe) -> LoadedBase:
    """Load the recipe's model and tokenizer, always with an explicit dtype.

    Raises:
        RunError: the hub cannot be reached, or this machine cannot run quantized models.
        ModelError: the model or its tokenizer cannot be loaded, or the checkpoint does not fit the model.
        RecipeError: the recipe is incompatible with the model's config.
    """
    kind, objective = load_objective(recipe)
    family, needed_head = objective.family, objective.component.head(recipe.task)
    path, options = _path_and_options(recipe)
    if recipe.model.quantization:
        options |= quantization_options(recipe)
    options |= {
        **_init_options(recipe),
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    auto_class = getattr(transformers, objective.auto_class)
    bare = {} if needed_head is None or needed_head.outputs else without_pooler(recipe, auto_class, family.config)

    def load(config: Any) -> tuple[nn.Module, Mapping[str, Any]]:
        model_and_report: tuple[nn.Module, Mapping[str, Any]]
        with explain_load_errors(recipe.model.name, path, recipe.model.revision):
            if is_text_model_config(config):
                model_and_report = load_text_model(path, config, options)
            else:
                model_and_report = auto_class.from_pretrained(path, config=config, **options, **bare)
        return model_and_report

    torch.manual_seed(recipe.run.effective_init_seed)
    if needed_head is not None and needed_head.outputs:
        model, head, loading = load_with_head(recipe, family.config, needed_head, load)
    else:
        model, report = load(family.config)
        head, loading = LoadedHead(), read_report(model, report)
        check_loading(recipe.model.name, model, loading, report)
    if needed_head is None or needed_head.outputs:  # otherwise the outputs are vectors
        generates = objective.component.generates and needed_head is None
        passes = {"head": needed_head is not None, "generates": generates}
        check_forward(recipe.model.name, kind, model, family, **passes)
    if needed_head is None:  # otherwise no token is predicted
        check_causality(recipe.model.name, kind, model)
    if not is_text_model_config(family.config):
        check_tied_weights(recipe.model.name, model, partial(stored_tensors, path, recipe.model.revision))
    if recipe.model.quantization:
        from peft import prepare_model_for_kbit_training

        # Norms in float32; apply_method enables gradient checkpointing, for quantized models as for others.
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    # For all tasks: transformers 4 does not save models with contradictory generation settings.
    ignored = reset_generation_config(model, family) if family.can_generate and needed_head is None else {}
    return LoadedBase(model, objective, kind, head, loading, ignored if objective.component.generates else {})


def init_random_base(recipe: Recipe, device: torch.device | str) -> LoadedBase:
    """Build the recipe's model with random weights, without loading any.

    A quantized model has its weights in float32 here, as the activations of one that is trained have; the matrix
    products are the same, and ``quantized_weights`` are those that would be quantized.

    Args:
        recipe: the recipe.
        device: the device of the weights; on ``meta`` they have shapes only.

    Raises:
        RunError: the hub cannot be reached.
        ModelError: the config or the tokenizer cannot be loaded.
        RecipeError: the recipe is incompatible with the model's config.
    """
    kind, objective = load_objective(recipe)
    family, needed_head = objective.family, objective.component.head(recipe.task)
    checkpoint_config = copy.deepcopy(family.config)
    has_head = needed_head is not None and bool(needed_head.outputs)
    auto_class = getattr(transformers, objective.auto_class)
    options = {"trust_remote_code": recipe.model.trust_remote_code, **_init_options(recipe)}
    if needed_head is not None and has_head:
        set_labels(family.config, needed_head.labels, needed_head.outputs, needed_head.problem_type)
    elif needed_head is not None:
        options |= without_pooler(recipe, auto_class, family.config)
    torch.manual_seed(recipe.run.effective_init_seed)
    if recipe.model.quantization:  # what is not quantized is trained in float32: see load_base
        options["dtype"] = torch.float32
    with torch.device(device):
        model = auto_class.from_config(family.config, **options)
    path, _ = _path_and_options(recipe)
    head = detect_head(recipe, model, checkpoint_config, path) if has_head else LoadedHead()
    return LoadedBase(model, objective, kind, head)


def _init_options(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's dtype and attention implementation as arguments of ``from_pretrained``."""
    attention = {"attn_implementation": recipe.model.attention} if recipe.model.attention else {}
    return {"dtype": getattr(torch, recipe.model.dtype), **attention}


def _path_and_options(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """Return where the model is loaded from, as a folder or hub name, and with which options."""
    options: dict[str, Any] = {"trust_remote_code": recipe.model.trust_remote_code}
    if recipe.model.revision:
        options["revision"] = recipe.model.revision
    if not is_local_model(recipe.model.name):
        ask_hub("model", recipe.model.name)
    return str(model_path(recipe.model.name)), options


def _check_architecture(recipe: Recipe, config: Any) -> ModelKind:
    """Return the model's architecture.

    Raises:
        ModelError: the config has none, or the installed transformers does not know it, or it makes an encoder causal.
        RecipeError: the recipe is incompatible with it.
    """
    described = config.to_dict()
    if problem := architectures_problem(described.get("architectures")):
        raise ModelError(f"the config of {recipe.model.name!r} is invalid: {problem}")
    kind = recipe.trained_kind(described)
    if kind is None:
        raise ModelError(
            f"the config of {recipe.model.name!r} has no architecture, so it is unknown whether the model is an "
            'encoder or a decoder; add "architectures" to its config.json'
        )
    auto_class, trusted = FAMILIES[kind].auto_class, recipe.model.trust_remote_code
    check_architecture(recipe.model.name, described, auto_class, trusted=trusted)
    if kind == "encoder":
        check_bidirectional(recipe.model.name, config)
    check_conflicts(recipe, described)
    return kind


def check_conflicts(recipe: Recipe, config: Mapping[str, Any]) -> None:
    """Check that a recipe fits a model.

    Args:
        recipe: the recipe.
        config: the model's config, as a dict.

    Raises:
        RecipeError: it does not.
    """
    if conflicts := find_conflicts(recipe, config):
        raise RecipeError([Problem(recipe.model.name, None, format_key(path), text) for path, text in conflicts])


def bind_objective(recipe: Recipe, kind: ModelKind, config: Any, tokenizer: PreTrainedTokenizerBase) -> BoundObjective:
    """Bind the objective of a recipe to the family of a model.

    Args:
        recipe: the recipe.
        kind: the model's architecture.
        config: the model's config.
        tokenizer: its tokenizer.

    Raises:
        RecipeError: special tokens are missing.
    """
    # Suppress the tokenizer's warning about long texts: peftkit truncates them and reports how many.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    options = {"trust_remote_code": recipe.model.trust_remote_code}
    family_class, objective = FAMILIES[kind], recipe.objective_for(kind)
    auto_class = transformers_class(objective, recipe.task, family_class, config.to_dict())
    positions = count_positions(config, kind, auto_class, **options)
    lengths = fit_lengths(recipe, kind, positions, generates=objective.generates)
    virtual = recipe.method.virtual_tokens(kind).get("encoder", 0)
    fix_attention_type(recipe.model.name, config, lengths.source + virtual)
    padded_to, padded = recipe.train.pad_to_multiple_of, lengths.padded.encoder
    check_training_multiple(recipe.model.name, config, padded_to, lengths.source, padded)
    family = family_class(
        tokenizer,
        config,
        lengths.source,
        lengths.target,
        lengths.padded.encoder,
        lengths.padded.decoder,
        pad_to_multiple_of=recipe.train.pad_to_multiple_of,
        all_logits=recipe.train.all_logits,
        source_remedy=lengths.source_remedy,
        target_remedy=lengths.target_remedy,
        read_model_file=cache(partial(read_model_file, str(model_path(recipe.model.name)), recipe.model.revision)),
    )
    if problems := family.special_token_problems():
        raise RecipeError(Problem(recipe.model.name, None, "model.name", text) for text in problems)
    evaluate = recipe.evaluate
    shared = {each.name: getattr(evaluate, each.name) for each in fields(ObjectiveSettings) if each.name != "seed"}
    settings = ObjectiveSettings(**shared, seed=recipe.run.seed)
    context = ObjectiveContext(family, kind, tokenizer, config, recipe.task, settings)
    bound = BoundObjective(objective, family, context, auto_class)
    return bound.with_reference(expected_reference(family, recipe)) if objective.needs_reference else bound


def apply_method(recipe: Recipe, base: LoadedBase, steps: int | None, batches: GetBatches | None = None) -> nn.Module:
    """Apply the recipe's method to a model.

    Args:
        recipe: the recipe.
        base: the loaded model; it may be changed in place.
        steps: number of optimizer steps that the budget allows; None if unknown.
        batches: returns batches of training rows, for methods with a data-driven initialization.

    Returns:
        The model, with ``requires_grad`` set on exactly the parameters to train.

    Raises:
        RunError: no parameter is trainable, or the model does not support gradient checkpointing.
        InputError: an option does not fit the model, or a module of the method lacks the weight that it replaces.
    """
    context = ApplyContext(
        model_kind=base.kind,
        task_kind=base.objective.component.task_kind,
        seed=recipe.run.effective_init_seed,
        steps=steps,
        gradient_checkpointing=recipe.train.gradient_checkpointing,
        batches=batches,
        head_parameters=base.head.parameters,
        auto_class=base.objective.auto_class,
    )
    if recipe.train.gradient_checkpointing:
        enable_gradient_checkpointing(base.model)
    torch.manual_seed(recipe.run.effective_init_seed)
    check_names(recipe.method, base.model)
    layers = weighted_layers(base.model)
    with explain_method_errors(recipe.method, "cannot be applied", base.model):
        model = apply_in_model_dtype(recipe, lambda: recipe.method.apply(base.model, context))
    check_weights(recipe.method, layers)
    drop_input_gradients(base.model)
    unfreeze_head(model, base.head.parameters)
    trainable, total = count_parameters(model)
    if not trainable:
        raise RunError(f"the method {recipe.method.name!r} trains none of the model's {total:,} parameters")
    return model


def apply_in_model_dtype(recipe: Recipe, wrap: Callable[[], nn.Module]) -> nn.Module:
    """Apply a method so that its parameters are in float64 if the model's are.

    Methods create parameters in torch's default dtype or in float32, which loses precision beside float64, or fails.

    Args:
        recipe: the recipe.
        wrap: applies the method and returns the model.
    """
    if recipe.model.dtype != "float64":
        return wrap()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return wrap().to(torch.float64)
    finally:
        torch.set_default_dtype(before)
