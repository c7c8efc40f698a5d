from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.recipe.toml_lines import KeyPath, key_lines, key_positions, split_assignment

# The text of a value, and its inner keys with their line offsets.
Value = tuple[str, list[tuple[KeyPath, int]]]

SCALARS = (
    *("1", "-1.5e3", "true", "nan", "0xff", "1979-05-27", "1979-05-27 07:32:00", "07:32:00"),
    *('"a # b"', r'"\" [x] = \\"', "'[[x]]'", '""', "''", '""""""'),
    *(
        '"""\n[x]\ny = 1\n"""',
        "'''\n# no comment\n'''",
        '"""a\\\n  "b" ""c"""',
        "'''it''s'''",
        '"""quoted\\""""',
        '"""two"""""',
    ),
)
BLANKS = ("", " ", "\t", "  # [x]\n", "\n\n", "\n# y = 1 ]\n ")

keys = st.one_of(
    st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True).map(lambda key: (key, key)),
    st.sampled_from(
        [('"a.b"', "a.b"), ("'c d'", "c d"), (r'"\u00e9\"["', 'é"['), ("'#'", "#"), ('""', ""), ('"]="', "]=")]
    ),
)
blanks = st.sampled_from(BLANKS)


def scalar(text: str) -> Value:
    return text, []


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Value]) -> Value:
    text, positions = "[", []
    for index, (value, inside) in enumerate(draw(st.lists(inner, max_size=3))):
        text += ("," if index else "") + draw(blanks)
        line = text.count("\n")
        positions += [((index,), line), *(((index, *path), line + below) for path, below in inside)]
        text += value + draw(blanks)
    return text + "]", positions


@st.composite
def inline_tables(draw: st.DrawFn, inner: st.SearchStrategy[Value]) -> Value:
    text, positions = "{", []
    for index, ((written_key, key), (value, inside)) in enumerate(
        draw(st.lists(st.tuples(keys, inner), max_size=3, unique_by=lambda pair: pair[0][1]))
    ):
        text += ", " if index else " "
        line = text.count("\n")
        positions += [((key,), line), *(((key, *path), line + below) for path, below in inside)]
        text += f"{written_key} = {value}"
    return text + " }", positions


values: st.SearchStrategy[Value] = st.recursive(
    st.sampled_from(SCALARS).map(scalar), lambda inner: arrays(inner) | inline_tables(inner), max_leaves=5
)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[KeyPath, int]]:
    """A text of tables and arrays of tables, and the line of every key in it."""
    text, lines = draw(st.sampled_from(["", "\ufeff", "# [x]\n\n"])), {}

    def pairs(table: KeyPath) -> None:
        nonlocal text
        for (written_key, key), (value, inside) in draw(
            st.lists(st.tuples(keys, values), max_size=3, unique_by=lambda pair: pair[0][1])
        ):
            text += draw(st.sampled_from(["", "\n", "  ", "# y = [\n"]))
            line = text.count("\n") + 1
            lines[(*table, key)] = line
            lines.update({(*table, key, *path): line + below for path, below in inside})
            text += f"{written_key} \t= {value} # {key!r}\n"

    pairs(())
    for number in range(draw(st.integers(0, 3))):
        name = f"table {number}"  # no key has this form
        lines[(name,)] = text.count("\n") + 1
        if draw(st.booleans()):
            text += f"['{name}']\n"
            pairs((name,))
        else:
            for index in range(draw(st.integers(1, 3))):
                lines[(name, index)] = text.count("\n") + 1
                text += f'[[ "{name}" ]] # ]]\n'
                pairs((name, index))
                if draw(st.booleans()):
                    line = text.count("\n") + 1
                    lines.update({(name, index, "sub table"): line, (name, index, "sub table", "x"): line})
                    text += f'[ "{name}" . "sub table" . x ]\n'
                    pairs((name, index, "sub table", "x"))
    return text, lines


def paths(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from paths(inner, (*path, key))


@given(documents())
@settings(deadline=None, database=None, max_examples=50)
def test_key_positions_of_generated_documents(document: tuple[str, dict[KeyPath, int]]) -> None:
    text, lines = document
    assert set(paths(tomllib.loads(text.removeprefix("\ufeff")))) == set(lines)
    assert key_positions(text) == lines


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=5)
plain = st.recursive(
    st.one_of(st.booleans(), st.integers(-9, 9), st.floats(), texts, st.dates()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(texts, plain, max_size=4))
@settings(deadline=None, database=None, max_examples=60)
def test_key_positions_has_all_keys_of_written_toml(data: dict[str, Any]) -> None:
    text = tomli_w.dumps(data, multiline_strings=True)
    assert set(key_positions(text)) == set(paths(tomllib.loads(text)))


PIECES = [
    *"[]{}=,.#\"'\n\\ab1 ",
    "[[",
    "]]",
    '"""',
    "'''",
    "a = 1\n",
    "[a]\n",
    "[[b]]\n",
    "b = [",
    "c = {",
    " }",
    "1979-05-27",
]


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
@settings(deadline=None, database=None, max_examples=300)
def test_key_positions_takes_any_text(text: str) -> None:
    positions = key_positions(text)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        assert all(1 <= line <= text.count("\n") + 1 for line in positions.values())
    else:
        assert set(positions) == set(paths(data))


@pytest.mark.parametrize(
    "deep", ["a = " + "[" * 200 + "]" * 200, "a = " + "{a = [" * 90 + "']'" + "]}" * 90, "a." * 900 + "a = 1"]
)
def test_deep_nesting_is_skipped(deep: str) -> None:
    positions = key_positions(f"{deep}\nb = 1\n")
    assert positions[("b",)] == 2
    assert positions[("a",)] == 1
    assert max(map(len, positions)) <= 51


def test_duplicate_keys_have_both_lines() -> None:
    assert key_lines("a = 1\n[b]\na = 1\na = 2\n") == [(("a",), 1), (("b",), 2), (("b", "a"), 3), (("b", "a"), 4)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", (["a"], "1")),
        (' a . "b.c=d" = 1=2', (["a", "b.c=d"], " 1=2")),
        ("a", ([], "")),
        ("=1", ([], "")),
        ("a.=1", ([], "")),
        (".a=1", ([], "")),
        ("a..b=1", ([], "")),
        ('"a=1', ([], "")),
    ],
)
def test_split_assignment(text: str, expected: object) -> None:
    assert split_assignment(text) == expected
