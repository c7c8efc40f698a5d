"""Sets the log level of the libraries."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from peftkit.cache_folder import use_writable_datasets_cache


def quiet_libraries(level: str) -> None:
    """Limit the output of libraries to a log level, so that it does not break up the printed table."""
    import datasets
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    use_writable_datasets_cache()
    deepspeed = logging.getLogger("DeepSpeed")  # it sets its level and handler on import, which may be later
    deepspeed.addFilter(_redirect_to_stderr)
    if level in ("warning", "error"):
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        warnings.filterwarnings("ignore", module=r"(torch|transformers|peft|accelerate|datasets)\.")
        for name in ("accelerate", "peft", "datasets", "torch"):
            logging.getLogger(name).setLevel(logging.ERROR)
        deepspeed.addFilter(_is_error)


def _redirect_to_stderr(record: logging.LogRecord) -> bool:
    """Send a logger's messages to stderr, since stdout is for results that other programs read."""
    for handler in logging.getLogger(record.name).handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setStream(sys.stderr)
    return True


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
