from __future__ import annotations

import pytest

from peftkit.tasks.prompt_templates import fields, render


def test_fields_are_filled_and_the_contexts_place_is_reported() -> None:
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
def test_whatever_is_more_than_a_name_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="is not a valid field; use names"):
        fields(template)


@pytest.mark.parametrize("template", ["{", "}", "{text", "text}"])
def test_lone_braces_are_refused_with_the_remedy(template: str) -> None:
    with pytest.raises(ValueError, match="double a brace"):
        fields(template)


def test_dots_go_into_tables_and_never_to_attributes() -> None:
    from peftkit.errors import RowError
    from peftkit.tasks.columns import get_text

    row = {"text": "x"}
    with pytest.raises(RowError, match="there is no such field"):
        render("{text.upper}", lambda field: get_text(row, field), "text")
    with pytest.raises(ValueError, match="is not a valid field"):
        fields("{text.__class__}")
