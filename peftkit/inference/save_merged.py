"""Saves a finished run as a model without the method, whose weights ``Method.merge`` has changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from peftkit.errors import RunError
from peftkit.inference.export import check_empty
from peftkit.inference.finished_run import FinishedRun
from peftkit.inference.model_card import model_card
from peftkit.models.checkpoints.generation_settings import copy_generation_config
from peftkit.models.checkpoints.transformers_versions import write_compatible_files
from peftkit.models.method_errors import merge_problem


def save_merged(run: FinishedRun, out: Path) -> float:
    """Merge the trained weights and save the model for ``from_pretrained``.

    Args:
        run: The run; its model is modified in place.
        out: A folder that is empty or does not exist.

    Returns:
        The largest difference of the merged model's logits from those before, on a few tokens.

    Raises:
        InputError: The method does not support merging, or the folder is not empty.
        RunError: The merged model has extra weights or different logits.
    """
    check_empty(out)
    merged, difference = merge_model(run)
    _untie(merged, run.family.config)
    cast(Any, merged).save_pretrained(out)
    run.family.tokenizer.save_pretrained(out)
    write_compatible_files(out)
    copy_generation_config(run.recipe.model.name, run.recipe.model.revision, out)
    run.objective.component.export(out, run.objective.context)
    (out / "README.md").write_text(model_card(run.path, run.recipe, merged=True), encoding="utf-8")
    return difference


def merge_model(run: FinishedRun) -> tuple[nn.Module, float]:
    """Merge the trained weights into the model.

    Args:
        run: The run; its model is modified in place.

    Returns:
        The merged model, and the largest difference of its logits from those before, on a few tokens.

    Raises:
        InputError: The method does not support merging.
        RunError: The merged model has extra weights or different logits.
    """
    method = run.recipe.method
    before = _logits(run, run.model)
    merged = method.merge(run.model)
    if problem := merge_problem(method, merged.state_dict(), run.base_weight_names):
        raise RunError(problem)
    difference = (_logits(run, merged) - before).abs().max().item()
    tolerance = method.merge_tolerance * max(1.0, before.abs().max().item())
    if not difference <= tolerance:
        raise RunError(f"the merged model has different logits: they differ by {difference:.1e}")
    return merged, difference


def _untie(merged: nn.Module, config: Any) -> None:
    """Set ``tie_word_embeddings`` to false in the config if the output layer was trained apart from the embedding.

    Raises:
        RunError: The model does not support untied embeddings.
    """
    model: Any = merged
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    text = model.config.get_text_config()
    if head is None or not text.tie_word_embeddings or torch.equal(head.weight, embedding.weight):
        return
    if getattr(config, "is_encoder_decoder", False):
        raise RunError(
            "the output layer was trained apart from the embedding, but this architecture ties them; remove both from "
            "modules_to_save and target_modules, or load the run with peftkit.load_model"
        )
    model.config.tie_word_embeddings = text.tie_word_embeddings = False


def _logits(run: FinishedRun, model: nn.Module) -> torch.Tensor:
    """All logits of a few tokens, of shape (numbers,), or the hidden states of a model without a head."""
    ids = torch.arange(4, 12, device=run.device)[None]
    inputs: Mapping[str, torch.Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if run.objective.auto_class == "AutoModelForSeq2SeqLM":
        inputs = {**inputs, "decoder_input_ids": ids}
    with torch.inference_mode():
        output = model.eval()(**inputs)
    # A head for spans has logits of starts and of ends.
    logits = [value for key, value in output.items() if key.endswith("logits")] or [output.last_hidden_state]
    return torch.cat([each.float().flatten() for each in logits])
