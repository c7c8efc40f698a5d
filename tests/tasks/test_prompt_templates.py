from __future__ import annotations

import pytest

from peftkit.tasks.prompt_templates import fields, render


def test_render_fills_fields_and_returns_the_span_of_the_context() -> None:
    values = {"question": "who?", "article": "a {text} in braces", "choices.text": "x"}
    text, span = render("{{q}} {question} on {article} ({choices.text})", values.__getitem__, "article")
    assert text == "{q} who? on a {text} in braces (x)"
    assert span is not None
    assert text[span[0] : span[1]] == values["article"]
    assert render("no fields", values.__getitem__, "article") == ("no fields", None)
    assert fields("{a} {b.c}{a}") == ["a", "b.c", "a"]


@pytest.mark.parametrize(
    "template",
    [
        "{}",
        "{0}",
        "{text!r}",
        "{text:>10}",
        "{text[0]}",
        "{a b}",
        "{a.}",
        "{f()}",
        "{text.0}",
        "{1+1}",
        "{text:{width}}",
    ],
)
def test_only_field_names_are_allowed_in_braces(template: str) -> None:
    with pytest.raises(ValueError, match="is not a valid field; use names"):
        fields(template)


@pytest.mark.parametrize("template", ["{", "}", "{text", "text}"])
def test_lone_braces_are_an_error_with_a_remedy(template: str) -> None:
    with pytest.raises(ValueError, match="double a brace"):
        fields(template)


def test_dots_select_nested_fields_and_never_attributes() -> None:
    from peftkit.errors import RowError
    from peftkit.tasks.columns import get_text

    row = {"text": "x"}
    with pytest.raises(RowError, match="there is no such field"):
        render("{text.upper}", lambda field: get_text(row, field), "text")
    with pytest.raises(ValueError, match="is not a valid field"):
        fields("{text.__class__}")
