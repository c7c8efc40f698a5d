"""Unidiomatic words and names in code, tests and documents, and the field's terms for them."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORDS = {
    r"\btells?\b|\btold\b": "reports, records, shows, prints",
    r"\blearnt\b": "trained, learned",
    r"\bbegun\b": "started",
    r"\bgoes on\b|\bgo on\b|\bgoing on\b|\bgone on\b|\bwent on\b": "continues, resumes",
    r"\bfor want of\b": "because, without",
    r"\bfill(s|ed|ing)? up\b": "pad",
    r"\bwidths?\b(?=.*\b(batch|pad|token|text))": "padded lengths",
    r"\brows a pass\b|\bpasse?s? (over|through) the (data|rows)\b": "microbatch size, epochs",
    r"\bwhat learns\b|\bthat learn\b|\bsomething learns\b": "trainable parameters",
    r"\bdo(es)? not read\b(?!.*(file|column|disk|config))|\bread nothing\b|\breads nothing\b": "input-blind",
    r"\b(the|a|one|whole|open|close)[ _]world\b": "process group, launch",
    r"\brehears\w*\b": "dry run",
    r"\bledgers?\b": "MAC counter",
    r"\bcannot be used so\b": "is incompatible with",
    r"\bdraws? on\b": "needs, uses",
    r"\bin (the|a|an) \w+ author's words\b|\bother words\b": "equivalent",
    r"\bcannot be had\b|\bcan be had\b": "is not available",
    r"\bof its own doing\b|\bown doing\b": "by itself",
    r"\bknow(s)? of each other\b": "are in one process group",
    r"\bwhat (is|was|has|have|had) (been )?(found|made|given|asked)\b": "a noun that says what it is",
    r"\bso many\b|\bas it (is|was|stands|stood) (there|written)\b": "n",
    r"\bis at (work|fault)\b|\bat fault\b": "fails because of",
    r"\bmay be meant\b|\bwas meant\b": "did you mean",
    r"\bothers of\b|\bthose of\b.*\bthose of\b": "a plain sentence",
    r"\bas they come\b|\bas it comes\b": "one at a time",
    r"\bthe like\b|\balike\b": "equal, the same",
}
"""Patterns of unidiomatic words, and their replacements."""
NOT_NAMES = {"told", "found", "made", "own", "of", "ours", "theirs", "those", "whose"}
"""Names of variables that do not describe their values."""


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of prose: all of a document, comments and strings of code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or token.type == getattr(tokenize, "FSTRING_MIDDLE", -1):
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line


def paths(*patterns: str) -> list[Path]:
    files = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return [
        path
        for path in files
        if "assets" not in path.parts and path.name not in ("test_terminology.py", "CHANGELOG.md")
    ]


CODE = paths("peftkit/**/*.py", "plugins/**/*.py", "scripts/**/*.py", "tests/**/*.py")
DOCUMENTS = [path for path in paths("README.md", "CONTRIBUTING.md", "docs/**/*.md") if path.parent.name != "results"]


@cache
def all_prose() -> list[tuple[Path, int, str]]:
    return [(path, number, line) for path in (*CODE, *DOCUMENTS) for number, line in prose(path)]


@pytest.mark.parametrize("pattern", WORDS)
def test_prose_uses_the_fields_terms(pattern: str) -> None:
    search = re.compile(pattern, flags=re.IGNORECASE).search
    places = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:90]}" for path, number, line in all_prose() if search(line)
    ]
    assert not places, f"write {WORDS[pattern]}:\n" + "\n".join(places)


def test_names_describe_their_values() -> None:
    places = [
        f"{path.relative_to(ROOT)}:{token.start[0]}: {token.string}"
        for path in CODE
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.NAME and token.string in NOT_NAMES
    ]
    assert not places, "\n".join(places)


def test_identifiers_report_and_do_not_tell() -> None:
    places = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:90]}"
        for path in paths("tests/**/*.py", "plugins/*/tests/**/*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"(?:\b|_)told(?:\b|_)|_tells?_", line)
    ]
    assert not places, "write report, record, show or print:\n" + "\n".join(places)
