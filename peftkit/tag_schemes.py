"""Schemes of tags that mark entities word by word, such as IOB2: checks of tags, and the entities that they mark.

Entities are those that seqeval finds: in its default mode, which is that of the CoNLL-2000 evaluation, and in its
strict mode, which accepts only what a scheme allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

SchemeName = Literal["IOB2", "IOB1", "IOBES", "BILOU", "none"]
SCHEMES: tuple[SchemeName, ...] = get_args(SchemeName)
SCHEME_KEY = "tag_scheme"
"""Key of ``Example.extra`` with the scheme of the tags."""
OUTSIDE = "O"
"""The tag of words outside of all entities."""
Entity = tuple[str, int, int]
"""Type of an entity, and the indices of its first word and of the one after its last."""
Pattern = tuple[str, str, Literal["same", "different", "any"]]
"""Prefixes of the previous tag, those of a tag, and whether their types are the same."""


@dataclass(frozen=True)
class _Patterns:
    """How seqeval reads a scheme in strict mode."""

    start: tuple[Pattern, ...]
    inside: tuple[Pattern, ...]
    end: tuple[Pattern, ...]


ALL = "IOBESUL"
STRICT: dict[str, _Patterns] = {
    "IOB1": _Patterns(
        (("OB", "I", "any"), ("I", "I", "different"), ("IB", "B", "same")),
        (("BI", "I", "same"),),
        (("IB", "I", "different"), ("IB", "O", "any"), ("I", "B", "any"), ("B", "B", "same")),
    ),
    "IOB2": _Patterns(
        ((ALL, "B", "any"),),
        (("BI", "I", "same"),),
        (("IB", "OB", "any"), ("IB", "I", "different")),
    ),
    "IOBES": _Patterns(((ALL, "BS", "any"),), (("BI", "IE", "same"),), (("SE", ALL, "any"),)),
    "BILOU": _Patterns(((ALL, "BU", "any"),), (("BI", "IL", "same"),), (("UL", ALL, "any"),)),
}
PREFIXES: dict[str, str] = {"IOB1": "IB", "IOB2": "IB", "IOBES": "IBES", "BILOU": "BILU"}
"""Prefixes of each scheme, besides O."""
AS_IOBES = {"L": "E", "U": "S"}
"""Prefixes of BILOU that IOBES calls otherwise."""


def tag_problem(tag: str, scheme: SchemeName) -> str:
    """Describe why a tag is none of a scheme; empty if it is one.

    Args:
        tag: The tag.
        scheme: The scheme.
    """
    if scheme == "none" or tag == OUTSIDE:
        return ""
    prefixes = PREFIXES[scheme]
    if len(tag) > 2 and tag[1] == "-" and tag[0] in prefixes:
        return ""
    allowed = ", ".join(f"{prefix}-TYPE" for prefix in prefixes)
    return f"is none of {scheme}, which has O, {allowed}"


def guess_scheme(sentences: Sequence[Sequence[str]]) -> tuple[SchemeName, int]:
    """Find the scheme that tags follow.

    Args:
        sentences: The tags of each sentence.

    Returns:
        The scheme that most sentences follow, ``none`` if the tags mark no entities, and the number of sentences that
        break it.
    """
    tags = {tag for sentence in sentences for tag in sentence}
    fitting = [each for each in SCHEMES if each != "none" and not any(tag_problem(tag, each) for tag in tags)]
    if not fitting or tags <= {OUTSIDE}:
        return "none", 0
    broken = {each: sum(repair_tags(tags, each) != [*tags] for tags in sentences) for each in fitting}
    scheme = min(fitting, key=lambda each: broken[each])
    return scheme, broken[scheme]


def repair_tags(tags: Sequence[str], scheme: SchemeName) -> list[str]:
    """Write the entities of tags as a scheme demands, such as B-PER for an I-PER that starts an entity.

    Args:
        tags: The tags of a sentence, each of the scheme.
        scheme: The scheme.

    Returns:
        The tags; equal to the given ones if those are valid.
    """
    if scheme == "none":
        return list(tags)
    repaired = [OUTSIDE] * len(tags)
    for kind, start, end in lenient_entities([AS_IOBES.get(tag[0], tag[0]) + tag[1:] for tag in tags]):
        previous = repaired[start - 1][2:] if start else ""
        repaired[start:end] = _write(kind, end - start, scheme, follows_same=previous == kind)
    return repaired


def _write(kind: str, length: int, scheme: SchemeName, *, follows_same: bool) -> list[str]:
    """Return the tags of an entity."""
    inside, last, single = "I", "I", "B"
    first = "B"
    if scheme == "IOB1":
        first = single = "B" if follows_same else "I"
    elif scheme in ("IOBES", "BILOU"):
        last, single = ("E", "S") if scheme == "IOBES" else ("L", "U")
    prefixes = [single] if length == 1 else [first, *[inside] * (length - 2), last]
    return [f"{prefix}-{kind}" for prefix in prefixes]


def entities(tags: Sequence[str], scheme: SchemeName) -> list[Entity]:
    """Find the entities of predicted tags, also where they break the scheme.

    Args:
        tags: The tags of a sentence.
        scheme: The scheme; without one, each word whose tag is not O is an entity.
    """
    if scheme == "none":
        return [(tag, i, i + 1) for i, tag in enumerate(tags) if tag != OUTSIDE]
    return lenient_entities([AS_IOBES.get(tag[0], tag[0]) + tag[1:] for tag in tags])


def lenient_entities(tags: Sequence[str]) -> list[Entity]:
    """Find entities like seqeval's default mode.

    Args:
        tags: The tags of a sentence.
    """
    chunks: list[Entity] = []
    previous, previous_type, first = OUTSIDE, "", 0
    for i, tag in enumerate([*tags, OUTSIDE]):
        prefix, kind = tag[0], tag[1:].split("-", maxsplit=1)[-1] or "_"
        changes = previous_type != kind
        ends = previous in "ES" or (previous in "BI" and prefix in "BSO")
        if ends or (previous not in "O." and changes):
            chunks.append((previous_type, first, i))
        starts = prefix in "BS" or (previous in "EO" and prefix in "EI") or (previous == "S" and prefix in "EI")
        if starts or (prefix not in "O." and changes):
            first = i
        previous, previous_type = prefix, kind
    return chunks


def strict_entities(tags: Sequence[str], scheme: SchemeName) -> list[Entity]:
    """Find entities like seqeval's strict mode: those that are written as the scheme demands.

    Args:
        tags: The tags of a sentence, each of the scheme.
        scheme: The scheme; without one, each word whose tag is not O is an entity.
    """
    if scheme == "none":
        return entities(tags, scheme)
    patterns, chunks = STRICT[scheme], list[Entity]()
    extended = [*tags, OUTSIDE]
    i, previous = 0, OUTSIDE
    while i < len(extended):
        if _matches(patterns.start, previous, extended[i]):
            end = i + 1
            while _matches(patterns.inside, extended[end - 1], extended[end]):
                end += 1
            if _matches(patterns.end, extended[end - 1], extended[end]):
                chunks.append((_type(extended[i]), i, end))
            i = end
        else:
            i += 1
        previous = extended[i - 1]
    return chunks


def _matches(patterns: Sequence[Pattern], previous: str, tag: str) -> bool:
    for before, now, types in patterns:
        if previous[0] in before and tag[0] in now:
            same = _type(previous) == _type(tag)
            if types == "any" or same == (types == "same"):
                return True
    return False


def _type(tag: str) -> str:
    return tag[1:].strip("-") or "_"
