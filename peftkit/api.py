"""The Python interface; its functions are names of ``peftkit`` itself, and import torch when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(path: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads the trained model of a finished run: the base model with the method, what it trained, and the head.

    It loads every run, also of methods whose files no other library reads.

    Args:
        path: the run directory.

    Returns:
        The model, in evaluation mode and on the GPU where there is one, and its tokenizer.

    Raises:
        InputError: the folder is no finished run, or what it saved does not fit.
        RunError: the base model cannot be loaded.
    """
    from peftkit.plugins import load_registry
    from peftkit.runner.opened import open_run

    opened = open_run(Path(path), load_registry())
    return opened.model, opened.form.tokenizer  # type: ignore[return-value]
