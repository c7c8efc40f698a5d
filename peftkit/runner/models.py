"""Loads the model, its tokenizer and its form, and applies the method."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedTokenizerBase

from peftkit.components import Context, ModelKind
from peftkit.errors import ModelError, Problem, RecipeError, RunError, did_you_mean
from peftkit.head import train_head
from peftkit.model_names import check_names
from peftkit.recipe import Recipe
from peftkit.recipe.check import findings
from peftkit.recipe.names import model_kind, model_path
from peftkit.recipe.source import dotted
from peftkit.runner.forms import FORMS, Form
from peftkit.runner.generation import set_plain_generation, set_plain_outputs
from peftkit.runner.heads import Head, estimate_head, load_with_head, set_labels
from peftkit.runner.loading_report import Loading, check_loading, check_tied, read_report
from peftkit.runner.method_errors import explain_method_errors
from peftkit.runner.model_files import check_files, explain_load_errors, stored_tensors
from peftkit.runner.positions import count_positions, fit_lengths
from peftkit.runner.text_models import is_part, load_text_part, text_part
from peftkit.runner.versions import load_tokenizer, restore_positions

UNQUANTIZED = ("lm_head", "classifier", "score", "pre_classifier", "pooler")
"""Heads, which are new or tied to embeddings."""
Batches = Callable[[int], Sequence[Mapping[str, Tensor]]]


@dataclass(frozen=True)
class Base:
    """The pre-trained model before any method is applied."""

    model: nn.Module
    form: Form
    kind: ModelKind
    head: Head = field(default_factory=Head)
    loading: Loading = field(default_factory=Loading)
    """What the checkpoint lacks, and what of it was left out."""
    ignored_generation: Mapping[str, Any] = field(default_factory=dict)
    """The checkpoint's settings of generation, which have no effect."""

    def record(self) -> dict[str, Any]:
        """The content of ``loading.json``: how the load went, and the config that the model was made from."""
        config: Any = self.form.config
        return {**self.loading.record(), "head": self.head.record(), "config": json.loads(config.to_json_string())}


def load_form(recipe: Recipe) -> tuple[ModelKind, Form]:
    """Loads the config and the tokenizer and leaves the weights where they are.

    Raises:
        RunError: the hub cannot be reached.
        ModelError: the config or the tokenizer cannot be loaded.
        RecipeError: the model's config, known only now, shows a combination that is refused.
    """
    path, options = _source(recipe)
    name, revision = recipe.model.name, recipe.model.revision
    check_files(name, path, revision)
    with explain_load_errors(name, path, revision):
        config = AutoConfig.from_pretrained(path, **options)
    kind = _kind(recipe, config)
    config = text_part(name, kind, config, path, revision)
    restore_positions(name, config)
    set_plain_outputs(config)
    _refuse_quantized(recipe, config)
    with explain_load_errors(name, path, revision):
        tokenizer = load_tokenizer(path, options)
    return kind, _form(recipe, kind, config, tokenizer)


def load_base(recipe: Recipe) -> Base:
    """Loads model and tokenizer as the recipe says, the dtype always explicit.

    Raises:
        RunError: the hub cannot be reached, or quantised weights cannot be computed with here.
        ModelError: the model or its tokenizer cannot be loaded, or is not what the checkpoint holds.
        RecipeError: the model's config, known only now, shows a combination that is refused.
    """
    kind, form = load_form(recipe)
    path, options = _source(recipe)
    if recipe.model.quantization:
        options |= _quantized(recipe)
    options |= {**_made(recipe), "use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    auto_class = getattr(transformers, form.auto_class)

    def load(config: Any) -> tuple[nn.Module, Mapping[str, Any]]:
        loaded: tuple[nn.Module, Mapping[str, Any]]
        with explain_load_errors(recipe.model.name, path, recipe.model.revision):
            if is_part(config):
                loaded = load_text_part(path, config, options)
            else:
                loaded = auto_class.from_pretrained(path, config=config, **options)
        return loaded

    torch.manual_seed(recipe.run.effective_init_seed)
    if kind == "encoder":
        loaded, head, loading = load_with_head(recipe, form.config, _outputs(recipe, form), load)
    else:
        loaded, report = load(form.config)
        head, loading = Head(), read_report(loaded, report)
        check_loading(recipe.model.name, loaded, loading, report)
    if not is_part(form.config):
        check_tied(recipe.model.name, loaded, partial(stored_tensors, path, recipe.model.revision))
    if recipe.model.quantization:
        from peft import prepare_model_for_kbit_training

        # Norms in float32; recomputed activations are turned on below, for quantised models as for others.
        loaded = prepare_model_for_kbit_training(loaded, use_gradient_checkpointing=False)
    # Also where nothing is generated: transformers 4 saves no model whose settings contradict each other.
    ignored = set_plain_generation(loaded, form) if form.generates else {}
    return Base(loaded, form, kind, head, loading, ignored if form.task_kind == "generation" else {})


def blank_base(recipe: Recipe, device: torch.device | str) -> Base:
    """The same model with weights of chance, of which nothing is loaded; on ``meta`` it has shapes alone.

    A quantised model has its weights in the recipe's dtype here: it computes the same products.

    Raises:
        RunError: the config or the tokenizer cannot be loaded.
        RecipeError: the model's config, known only now, shows a combination that is refused.
    """
    kind, form = load_form(recipe)
    saved = copy.deepcopy(form.config)
    if kind == "encoder":
        set_labels(form.config, recipe.task.labels, _outputs(recipe, form))
    torch.manual_seed(recipe.run.effective_init_seed)
    trusted = {"trust_remote_code": recipe.model.trust_remote_code}
    with torch.device(device):
        made = getattr(transformers, form.auto_class).from_config(form.config, **trusted, **_made(recipe))
    head = estimate_head(recipe, made, saved, _source(recipe)[0]) if kind == "encoder" else Head()
    return Base(made, form, kind, head)


def _outputs(recipe: Recipe, form: Form) -> int:
    """How many numbers a classification head gives for a text."""
    return len(recipe.task.labels) if form.task_kind == "classification" else 1


def _made(recipe: Recipe) -> dict[str, Any]:
    """How the recipe wants the model made."""
    attention = {"attn_implementation": recipe.model.attention} if recipe.model.attention else {}
    return {"dtype": getattr(torch, recipe.model.dtype), **attention}


def _quantized(recipe: Recipe) -> dict[str, Any]:
    """What a model is loaded with whose frozen weights are of few bits.

    Raises:
        RunError: there is no GPU, or no bitsandbytes.
    """
    if not torch.cuda.is_available():
        raise RunError(
            f"model.quantization = {recipe.model.quantization!r} needs a GPU: bitsandbytes computes with weights of "
            "few bits there; leave it out on a CPU"
        )
    if find_spec("bitsandbytes") is None:
        raise RunError("bitsandbytes is not installed: pip install 'peftkit[quant]'")
    dtype = getattr(torch, recipe.model.dtype)
    if recipe.model.quantization == "4bit":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if dtype == torch.float32 else dtype,
            llm_int8_skip_modules=[*UNQUANTIZED],
        )
    else:
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=[*UNQUANTIZED])
    return {"quantization_config": config, "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))}}


def _source(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    options: dict[str, Any] = {"trust_remote_code": recipe.model.trust_remote_code}
    if recipe.model.revision:
        options["revision"] = recipe.model.revision
    return str(model_path(recipe.model.name)), options


def _refuse_quantized(recipe: Recipe, config: Any) -> None:
    """Refuses weights that were saved with few bits, unless the recipe asks for the same."""
    given = getattr(config, "quantization_config", None)
    if not given:
        return
    described: Mapping[str, Any] = given if isinstance(given, dict) else given.to_dict()
    way = str(described.get("quant_method", "")).rpartition(".")[2].lower() or "an unknown way"
    bits = "4bit" if described.get("load_in_4bit") else "8bit" if described.get("load_in_8bit") else ""
    if way in ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit") and bits == recipe.model.quantization:
        return
    same = f', or set model.quantization = "{bits}", as they were saved' if bits else ""
    raise ModelError(
        f"the weights of {recipe.model.name!r} were saved quantised (by {way}), and the recipe wants "
        f"{recipe.model.quantization or recipe.model.dtype}; name the checkpoint that they were made from{same}"
    )


def _kind(recipe: Recipe, config: Any) -> ModelKind:
    described = config.to_dict()
    kind = model_kind(described)
    if kind is None:
        raise ModelError(
            f"the config of {recipe.model.name!r} names no architecture, so it cannot be told whether it is an "
            'encoder or a decoder; add "architectures" to its config.json'
        )
    architecture = str(config.architectures[0]) if config.architectures else ""
    known = hasattr(transformers, architecture) or described.get("auto_map")
    if kind == "encoder" and not known:
        near = did_you_mean(architecture, dir(transformers))
        raise ModelError(
            f"the installed transformers {transformers.__version__} knows no architecture {architecture!r}, which the "
            f"config of {recipe.model.name!r} names{near}; correct its config.json, or install a version that knows it"
        )
    found = findings(recipe, described)
    if found:
        raise RecipeError([Problem(recipe.model.name, None, dotted(path), text) for path, text in found])
    return kind


def _form(recipe: Recipe, kind: ModelKind, config: Any, tokenizer: PreTrainedTokenizerBase) -> Form:
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = (
        True  # cut and counted here
    )
    options = {"trust_remote_code": recipe.model.trust_remote_code}
    form = FORMS[kind]
    lengths = fit_lengths(recipe, kind, count_positions(config, kind, form.auto_class, **options))
    made = form(
        tokenizer,
        config,
        type(recipe.task).kind,
        lengths.source,
        lengths.target,
        lengths.widest.encoder,
        lengths.widest.decoder,
    )
    if problems := made.token_problems():
        raise RecipeError(Problem(recipe.model.name, None, "model.name", text) for text in problems)
    return made


def apply_method(recipe: Recipe, base: Base, steps: int | None, batches: Batches | None = None) -> nn.Module:
    """Applies the recipe's method; what comes back trains exactly what should learn.

    Args:
        recipe: what to run.
        base: the loaded model.
        steps: how many steps the budget allows, None if that is not known.
        batches: gives so many batches of training rows to a method that begins with some.

    Raises:
        RunError: the method left nothing to train, or the model cannot recompute its activations.
        InputError: an option names something that the model does not have, or does not fit it.
    """
    context = Context(
        model_kind=base.kind,
        task_kind=base.form.task_kind,
        seed=recipe.run.effective_init_seed,
        steps=steps,
        gradient_checkpointing=recipe.train.gradient_checkpointing,
        batches=batches,
        head_parameters=base.head.parameters,
    )
    if recipe.train.gradient_checkpointing:
        if not getattr(base.model, "supports_gradient_checkpointing", True):
            raise RunError(
                f"train.gradient_checkpointing: {type(base.model).__name__} does not support it in the installed "
                "transformers; leave it out"
            )
        options = {"use_reentrant": False}  # the reentrant form loses gradients of frozen models in silence
        base.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)  # type: ignore[operator]
    torch.manual_seed(recipe.run.effective_init_seed)
    check_names(recipe.method, base.model)
    with explain_method_errors(recipe.method, "cannot be applied", base.model):
        model = keep_float64(recipe, lambda: recipe.method.apply(base.model, context))
    train_head(model, base.head.parameters)
    trainable, total = parameters(model)
    if not trainable:
        raise RunError(f"the method {recipe.method.name!r} trains none of the model's {total:,} parameters")
    return model


def keep_float64(recipe: Recipe, wrap: Callable[[], nn.Module]) -> nn.Module:
    """Wrap a model so that a method's parameters are in float64 where the model's are.

    Methods make them in torch's default precision, or in float32; beside float64 that loses digits, or is refused.
    """
    if recipe.model.dtype != "float64":
        return wrap()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return wrap().to(torch.float64)
    finally:
        torch.set_default_dtype(before)


def parameters(model: nn.Module) -> tuple[int, int]:
    """The numbers of trainable and of all parameters."""
    counts = [(_size(p), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in counts if trained), sum(n for n, _ in counts)


def _size(parameter: nn.Parameter) -> int:
    """How many numbers it stands for."""
    # DeepSpeed leaves of a sharded weight a piece or nothing, and its size beside it.
    number = int(getattr(parameter, "ds_numel", parameter.numel()))
    # bitsandbytes packs two numbers of four bits into each byte, and bytes into elements of any type.
    packed = type(parameter).__name__ == "Params4bit"
    return number * 2 * parameter.element_size() if packed else number


def folder_bytes(folder: Path) -> int:
    """The size of all files below a folder."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
