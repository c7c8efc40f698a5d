"""Reads WordNet 3.0's database files (Debian package ``wordnet-base``; format: wndb(5WN))."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEFAULT_FOLDER = Path("/usr/share/wordnet")  # of Debian's package

NOUN_CATEGORIES = {  # lexnames(5WN): number of the lexicographer file -> category of its nouns
    4: "act",
    5: "animal",
    6: "artifact",
    7: "attribute",
    8: "body",
    9: "cognition",
    10: "communication",
    11: "event",
    12: "feeling",
    13: "food",
    14: "group",
    15: "location",
    16: "motive",
    17: "object",
    18: "person",
    19: "phenomenon",
    20: "plant",
    21: "possession",
    22: "process",
    23: "quantity",
    24: "relation",
    25: "shape",
    26: "state",
    27: "substance",
    28: "time",
}


@dataclass(frozen=True, slots=True)
class Synset:
    """A set of synonyms; ``id`` is its part of speech and offset, unique in the database."""

    id: str
    lexicographer_file: int
    lemmas: tuple[str, ...]
    hypernyms: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]

    @property
    def category(self) -> str | None:
        """The lexicographer category of a noun; None for other parts of speech and for top-level nouns."""
        return NOUN_CATEGORIES.get(self.lexicographer_file)


def tokens(text: str) -> list[str]:
    """The lower-case alphabetic words of a text."""
    return re.findall(r"[a-z]+", text.lower())


def read(folder: Path = DEFAULT_FOLDER) -> dict[str, Synset]:
    """Read all 117,659 synsets by id, in the order of the files.

    Raises:
        FileNotFoundError: the database is not installed (``apt-get install wordnet-base``).
    """
    return {synset.id: synset for part in ("noun", "verb", "adj", "adv") for synset in _part(folder / f"data.{part}")}


def _part(path: Path) -> Iterator[Synset]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):  # the licence at the top of each file
            continue
        record, gloss = line.split(" | ", 1)
        fields = record.split()
        pos = "a" if fields[2] == "s" else fields[2]
        words = int(fields[3], 16)
        lemmas = tuple(re.sub(r"\(.*\)$", "", fields[4 + 2 * i]).replace("_", " ") for i in range(words))
        start = 4 + 2 * words
        pointers = [fields[start + 1 + 4 * i : start + 5 + 4 * i] for i in range(int(fields[start]))]
        definition, *rest = re.split(r';?\s*"', gloss.strip(), maxsplit=1)
        yield Synset(
            id=f"{pos}{fields[0]}",
            lexicographer_file=int(fields[1]),
            lemmas=lemmas,
            hypernyms=tuple(f"{p[2]}{p[1]}" for p in pointers if p[0] in ("@", "@i")),
            definition=definition.strip(" ;"),
            examples=tuple(e.strip() for e in re.findall(r'"([^"]+)"', '"' + rest[0])) if rest else (),
        )
