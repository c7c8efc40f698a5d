"""What a library raises because of a method's options, as an error of the recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from peftkit.components import Method
from peftkit.errors import InputError, PeftkitError, one_line
from peftkit.model_names import changed_options
from peftkit.runner.memory import ran_out
from peftkit.runner.signals import Stop


@contextmanager
def explain_method_errors(
    method: Method, what: str, model: nn.Module | None = None, *, remedy: str = ""
) -> Iterator[None]:
    """Within it, an error of a method whose options were set is the recipe's, and names them.

    With all options as by default it cannot be theirs, and goes on as it is, unless there is another remedy.

    Args:
        method: the method with its options.
        what: what fails, such as ``cannot be applied``.
        model: the model; without weights it may fail for that reason alone.
        remedy: what helps where no option was set.

    Raises:
        InputError: the method fails.
    """
    try:
        yield
    except (PeftkitError, Stop, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        changed = changed_options(method)
        weightless = model is not None and any(parameter.is_meta for parameter in model.parameters())
        if not (changed or remedy) or weightless or (isinstance(error, RuntimeError) and ran_out(error)):
            raise
        hint = f"its options are {changed}" if changed else remedy
        raise InputError(f"method.name: {method.name!r} {what}: {one_line(error)}; {hint}") from error
