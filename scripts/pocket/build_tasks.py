"""Builds the built-in WordNet tasks: ``python scripts/pocket/build_tasks.py``.

The rows of each task are synsets. A synset is in one split only, across all tasks, so that neither training rows of
a task nor the pocket models' pre-training text contain test rows of another. Multiple-choice rows come in groups of
five synsets that share their five choices: each choice is correct exactly once per group, hence an input-blind model
scores exactly one fifth.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import wordnet
from wordnet import Synset

from peftkit.tasks.wordnet import DATA_DIR as OUT
from peftkit.tasks.wordnet import WordNetTopic

SEED = 42
CHOICES = 5
TOPICS = WordNetTopic().labels
TOPIC_ROWS = {"test": 100, "dev": 50, "train": 1020}  # per category
GROUPS = {"test": 200, "dev": 100, "train": 2100}  # of five rows, for each kind of distractor
FAR_MINIMUM_USE = (
    4  # number of glosses in which the word of a far choice occurs, since small models do not know rarer words
)

Splits = dict[str, list[dict[str, Any]]]


def gives_itself_away(synset: Synset) -> bool:
    """Whether the definition contains a lemma of the synset, whole or in part, singular or plural."""
    words = set(wordnet.tokens(synset.definition))
    words |= {w[:-1] for w in words if w.endswith("s")} | {w[:-2] for w in words if w.endswith("es")}
    return any(len(part) > 2 and part in words for lemma in synset.lemmas for part in wordnet.tokens(lemma))


def eligible_nouns(synsets: Iterable[Synset]) -> list[Synset]:
    """Nouns with a category and a unique definition of 3 words or more that contains no lemma."""
    synsets = list(synsets)
    count = Counter(s.definition.lower() for s in synsets)
    return [
        s
        for s in synsets
        if s.id[0] == "n"
        and s.category
        and count[s.definition.lower()] == 1
        and len(wordnet.tokens(s.definition)) >= 3
        and not gives_itself_away(s)
    ]


def names_category(synset: Synset) -> bool:
    """Whether the definition contains the name of the synset's category, singular or plural."""
    words = set(wordnet.tokens(synset.definition))
    return bool({str(synset.category) + ending for ending in ("", "s", "es")} & words)


def is_plain(synset: Synset) -> bool:
    """Whether the first lemma is a single lower-case word, as choices are."""
    lemma = synset.lemmas[0]
    return lemma.isascii() and lemma.isalpha() and lemma.islower() and len(lemma) > 2


def disjoint(group: Sequence[Synset], synset: Synset) -> bool:
    """Whether the synset shares no lemma with the group; otherwise two choices could be correct."""
    taken = {lemma.lower() for s in group for lemma in s.lemmas}
    return not taken & {lemma.lower() for lemma in synset.lemmas}


def sister_groups(nouns: Iterable[Synset], rng: random.Random) -> list[list[Synset]]:
    """Groups of five synsets with the same direct hypernym, each synset in at most one group."""
    families: defaultdict[str, list[Synset]] = defaultdict(list)
    for synset in nouns:
        if is_plain(synset) and synset.hypernyms:
            families[synset.hypernyms[0]].append(synset)
    groups = []
    for _, family in sorted(families.items()):
        rng.shuffle(family)
        group: list[Synset] = []
        for synset in family:
            if disjoint(group, synset):
                group.append(synset)
            if len(group) == CHOICES:
                groups.append(group)
                group = []
    rng.shuffle(groups)
    return groups


def far_groups(nouns: Sequence[Synset], number: int, rng: random.Random) -> list[list[Synset]]:
    """``number`` groups of five synsets of five categories, each synset in at most one group."""
    by_category: defaultdict[str, list[Synset]] = defaultdict(list)
    for synset in rng.sample(list(nouns), len(nouns)):
        by_category[str(synset.category)].append(synset)
    groups = []
    while len(groups) < number:
        # Drawing categories in proportion to their remaining synsets keeps the last groups as mixed as the first.
        names = [name for name, left in by_category.items() if left]
        if len(names) < CHOICES:
            raise SystemExit(f"only {len(groups)} far groups of {number}")
        names.sort(key=lambda name: rng.random() ** (1 / len(by_category[name])), reverse=True)
        group: list[Synset] = []
        for name in names:
            if disjoint(group, by_category[name][-1]):
                group.append(by_category[name].pop())
            if len(group) == CHOICES:
                break
        if len(group) == CHOICES:
            groups.append(group)
    return groups


class Assignment:
    """The split of each synset across all tasks: the first assignment counts."""

    def __init__(self) -> None:
        self.split_of: dict[str, str] = {}

    def allows(self, synset: Synset, split: str) -> bool:
        return self.split_of.get(synset.id, split) == split

    def assign(self, synsets: Iterable[Synset], split: str) -> None:
        for synset in synsets:
            if not self.allows(synset, split):
                raise SystemExit(f"{synset.id} would be in {self.split_of[synset.id]} and {split}")
            self.split_of[synset.id] = split


def choice_rows(groups: Iterable[Sequence[Synset]], rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    for group in groups:
        choices = [s.lemmas[0] for s in group]
        for synset in group:
            order = rng.sample(choices, len(choices))
            rows.append({"synset": synset.id, "gloss": synset.definition, "choices": order, "answer": synset.lemmas[0]})
    rng.shuffle(rows)
    return rows


def distractor_rows(groups: Iterable[Sequence[Synset]], rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    for group in groups:
        for synset in group:
            others = [s.lemmas[0] for s in group if s is not synset]
            rows.append(
                {
                    "synset": synset.id,
                    "word": synset.lemmas[0],
                    "gloss": synset.definition,
                    "distractors": sorted(rng.sample(others, 3)),
                }
            )
    rng.shuffle(rows)
    return rows


def build(synsets: dict[str, Synset]) -> dict[str, Splits]:
    """Build the rows of every task, by task and split."""
    rng = random.Random(SEED)
    nouns = eligible_nouns(synsets.values())
    use = Counter(word for s in synsets.values() for word in set(wordnet.tokens(" ".join((s.definition, *s.examples)))))
    assignment = Assignment()
    tasks: dict[str, Splits] = {"mcq_sisters": {}, "distractors": {}, "mcq_far": {}, "topic": {}}

    groups = sister_groups(nouns, rng)
    if len(groups) < sum(GROUPS.values()):
        raise SystemExit(f"only {len(groups)} sister groups")
    for split, number in GROUPS.items():
        taken, groups = groups[:number], groups[number:]
        assignment.assign((s for group in taken for s in group), split)
        tasks["mcq_sisters"][split] = choice_rows(taken, rng)
        tasks["distractors"][split] = distractor_rows(taken, rng)

    usual = [s for s in nouns if is_plain(s) and use[s.lemmas[0]] >= FAR_MINIMUM_USE]
    far_taken: set[str] = set()
    for split, number in GROUPS.items():
        free = [s for s in usual if assignment.allows(s, split) and s.id not in far_taken]
        taken = far_groups(free, number, rng)
        far_taken |= {s.id for group in taken for s in group}
        assignment.assign((s for group in taken for s in group), split)
        tasks["mcq_far"][split] = choice_rows(taken, rng)

    unnamed = [s for s in nouns if not names_category(s)]
    topic_taken: set[str] = set()
    for split, number in TOPIC_ROWS.items():
        rows = []
        for topic in TOPICS:
            free = [
                s for s in unnamed if s.category == topic and s.id not in topic_taken and assignment.allows(s, split)
            ]
            if len(free) < number:
                raise SystemExit(f"only {len(free)} synsets of {topic} for {split}")
            chosen = rng.sample(free, number)
            topic_taken |= {s.id for s in chosen}
            assignment.assign(chosen, split)
            rows += [{"synset": s.id, "gloss": s.definition, "category": topic} for s in chosen]
        rng.shuffle(rows)
        tasks["topic"][split] = rows
    return tasks


def main() -> None:
    """Write ``<out>/<task>/<split>.parquet``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wordnet", type=Path, default=wordnet.DEFAULT_FOLDER, help="folder of the database files")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to")
    options = parser.parse_args()
    for task, splits in build(wordnet.read(options.wordnet)).items():
        for split, rows in splits.items():
            folder = options.out / task
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet", compression="zstd")
            print(f"{task}/{split}: {len(rows)} rows")


if __name__ == "__main__":
    main()
