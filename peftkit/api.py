"""The Python interface, re-exported by ``peftkit``; torch is imported when a function is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(path: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the trained model of a finished run: the base model with the method, its trained parameters and the head.

    Works for every method, also for those whose files no other library reads.

    Args:
        path: The run directory.

    Returns:
        The model in evaluation mode, on the GPU if there is one, and its tokenizer.

    Raises:
        InputError: The folder is not a finished run, or its files do not fit the model.
        RunError: The base model cannot be loaded.
    """
    from peftkit.inference.finished_run import load_finished_run
    from peftkit.plugins import load_registry

    finished = load_finished_run(Path(path), load_registry())
    return finished.model, finished.family.tokenizer  # type: ignore[return-value]
