"""Renders prompt templates. Fields are names of columns, dots select nested fields, and nothing is evaluated."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator

FIELD = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*")


def parse(template: str) -> Iterator[tuple[str, str | None]]:
    """Yields each literal text with the field that follows it, or None at the end.

    Raises:
        ValueError: A brace is unmatched, or a field is not a name.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error}; double a brace to write it literally") from error
    for literal, field, spec, conversion in parsed:
        if field is not None and (spec or conversion or not FIELD.fullmatch(field)):
            expression = field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise ValueError(f"{{{expression}}} is not a valid field; use names, such as {{text}} or {{choices.text}}")
        yield literal, field


def fields(template: str) -> list[str]:
    """Returns the names of the fields, in order."""
    return [field for _, field in parse(template) if field is not None]


def render(template: str, value: Callable[[str], str], truncatable_field: str) -> tuple[str, tuple[int, int] | None]:
    """Renders a template.

    Args:
        template: The template.
        value: Returns the text of a field.
        truncatable_field: Name of the field that may be truncated.

    Returns:
        The text, and the start and end of the truncatable field in it; None if the template does not have it.
    """
    text, span = "", None
    for literal, field in parse(template):
        text += literal
        if field is not None:
            start = len(text)
            text += value(field)
            span = (start, len(text)) if field == truncatable_field else span
    return text, span
