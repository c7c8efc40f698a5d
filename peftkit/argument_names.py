"""Names arguments in messages as the caller writes them: ``--resume`` on the command line, ``resume`` in Python."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

PYTHON_NAMES = {"set": "overrides"}
"""Parameters of the Python interface that have another name than the option of the command line; in the others, dashes
are underscores."""
_on_command_line: ContextVar[bool] = ContextVar("on_command_line", default=False)


@contextmanager
def command_line() -> Iterator[None]:
    """Name arguments as options of the command line within the context."""
    token = _on_command_line.set(True)
    try:
        yield
    finally:
        _on_command_line.reset(token)


def on_command_line() -> bool:
    """Return whether a command runs; otherwise the caller is Python code."""
    return _on_command_line.get()


def format_argument(name: str, *values: str, repeatable: bool = False) -> str:
    """Format an argument as the caller writes it.

    Args:
        name: The name of the option without dashes.
        values: Its values; none for the name alone.
        repeatable: Whether the option is repeated for several values, which Python code passes as a list.

    Returns:
        ``--pool hardware --pool plugins``, or in Python ``pool=["hardware", "plugins"]``.
    """
    if on_command_line():
        return " ".join([f"--{name} {shlex.quote(value)}" for value in values] or [f"--{name}"])
    name = PYTHON_NAMES.get(name, name.replace("-", "_"))
    if not values:
        return name
    return f"{name}={json.dumps([*values] if repeatable else values[0], ensure_ascii=False)}"
