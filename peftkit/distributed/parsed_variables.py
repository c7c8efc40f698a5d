"""Checks environment variables that libraries parse, before they are imported and fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, MutableMapping

from peftkit.distributed.environment_variables import BOOLEAN_VALUES
from peftkit.errors import InputError


def _parse_boolean(value: str) -> None:
    if value.strip().lower() not in BOOLEAN_VALUES:
        raise ValueError(value)


PARSED_AT_IMPORT: Mapping[str, tuple[str, Callable[[str], object]]] = {
    **dict.fromkeys(("USE_TORCH_XLA", "HF_HUB_OFFLINE"), ("true or false", _parse_boolean)),
    **dict.fromkeys(("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"), ("a whole number of seconds", int)),
    "HF_DATASETS_IN_MEMORY_MAX_SIZE": ("a number of bytes", float),
}
"""Variables that libraries parse without handling errors, most of them when they are imported: what they must be, and
how they are parsed. Empty ones cannot be parsed either."""


def check_parsed_variables(variables: MutableMapping[str, str] = os.environ) -> None:
    """Check the variables that libraries parse when they are imported, and remove empty ones.

    Args:
        variables: The environment variables.

    Raises:
        InputError: A variable is set to a value that the library cannot parse.
    """
    for name, (description, parse) in PARSED_AT_IMPORT.items():
        value = variables.get(name)
        if value is not None and not value.strip():
            del variables[name]
        elif value is not None:
            try:
                parse(value)
            except ValueError:
                raise InputError(f"{name}: must be {description}, not {value!r}; unset it") from None
