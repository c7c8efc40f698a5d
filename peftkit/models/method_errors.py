"""Turns errors that libraries raise because of a method's options into errors of the recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from peftkit.components import Method
from peftkit.components.name_matching import format_changed_options
from peftkit.errors import InputError, PeftkitError, StopRequested, summarize_error
from peftkit.oom import is_oom


@contextmanager
def explain_method_errors(
    method: Method, what: str, model: nn.Module | None = None, *, remedy: str = ""
) -> Iterator[None]:
    """Within the context, raise errors of a method whose options were set as an ``InputError`` that names them.

    With default options the cause lies elsewhere, so the error propagates unchanged unless there is a ``remedy``.

    Args:
        method: the method with its options.
        what: what fails, such as ``cannot be applied``.
        model: the model; errors of a model on ``meta`` propagate, since the missing weights may cause them.
        remedy: advice for the case that no option was set.

    Raises:
        InputError: the method fails.
    """
    try:
        yield
    except (PeftkitError, StopRequested, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        changed = format_changed_options(method)
        weightless = model is not None and any(parameter.is_meta for parameter in model.parameters())
        if not (changed or remedy) or weightless or (isinstance(error, RuntimeError) and is_oom(error)):
            raise
        hint = f"its options are {changed}" if changed else remedy
        raise InputError(f"method.name: {method.name!r} {what}: {summarize_error(error)}; {hint}") from error
