"""Prompts with named fields. Nothing in them is evaluated: a field is a name, and dots go into tables."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator

FIELD = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*")


def parts(template: str) -> Iterator[tuple[str, str | None]]:
    """Each literal text with the field that follows it, None after the last.

    Raises:
        ValueError: a brace stands alone, or a field is more than a name.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error}; a brace that is meant as such is written twice") from error
    for literal, field, form, conversion in parsed:
        if field is not None and (form or conversion or not FIELD.fullmatch(field)):
            whole = field + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            raise ValueError(f"{{{whole}}} is no field; fields are names, such as {{text}} or {{choices.text}}")
        yield literal, field


def fields(template: str) -> list[str]:
    """The names of the fields, in their order."""
    return [field for _, field in parts(template) if field is not None]


def render(template: str, value: Callable[[str], str], context: str) -> tuple[str, tuple[int, int] | None]:
    """The text, and from and to which character the field ``context`` stands in it; None if it does not."""
    text, span = "", None
    for literal, field in parts(template):
        text += literal
        if field is not None:
            start = len(text)
            text += value(field)
            span = (start, len(text)) if field == context else span
    return text, span
