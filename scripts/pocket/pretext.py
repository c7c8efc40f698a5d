"""The pocket models' pre-training text: pretext tasks over WordNet, none of which is a built-in task.

Synsets in a dev or test split of any built-in task are left out entirely: their definitions, examples, and hypernym
links. Their words still occur in the text of other synsets.
"""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq
import wordnet
from wordnet import Synset

Pair = tuple[str, str]
SENTINELS = 32
DEFINED, CORRUPTED = 0.1, 0.2  # share of synsets in these tasks per epoch, since their long targets are costly
SECOND = 1 / 3  # how often the hypernym of a hypernym is the target
SPAN_RATE, SPAN_LENGTH = (
    0.2,
    2.5,
)  # share of corrupted words, mean span length in words (T5: 0.15 and 3, Raffel et al. 2020)


def held_out(tasks: Path) -> set[str]:
    """The ids of synsets in any dev or test split that build_tasks.py wrote."""
    files = [f for split in ("dev", "test") for f in sorted(tasks.glob(f"*/{split}.parquet"))]
    if not files:
        raise SystemExit(f"no splits below {tasks}: run build_tasks.py first")
    return {id_ for file in files for id_ in pq.read_table(file, columns=["synset"])["synset"].to_pylist()}


def corpus(folder: Path, tasks: Path) -> list[Synset]:
    """The synsets that pre-training may use."""
    synsets = wordnet.read(folder)
    hidden = held_out(tasks)
    texts = {synsets[id_].definition.lower() for id_ in hidden}
    return [s for s in synsets.values() if s.id not in hidden and s.definition.lower() not in texts]


def pairs(synsets: list[Synset], known: dict[str, Synset], rng: random.Random) -> list[Pair]:
    """Build one epoch of (source, target) texts, each synset in every pretext task that applies.

    Args:
        synsets: the synsets to build pairs from.
        known: all synsets by id, including held-out ones, for the lemmas of hypernyms.
        rng: the random number generator.
    """
    texts: list[Pair] = []
    for synset in synsets:
        word = rng.choice(synset.lemmas)
        texts.append((f"word: {synset.definition}", word))
        if rng.random() < DEFINED:
            texts.append((f"define: {word}", synset.definition))
        if synset.hypernyms:
            above = known[rng.choice(synset.hypernyms)]
            if above.hypernyms and rng.random() < SECOND:
                above = known[rng.choice(above.hypernyms)]
            kind = rng.choice(above.lemmas[:2])
            texts.append((f"kind: {synset.definition}", kind))
            texts.append((f"kind of word: {word}", kind))
        if rng.random() < CORRUPTED:
            texts.append(corrupt(" ".join((f"{word}: {synset.definition}", *synset.examples[:2])), rng))
    return texts


def corrupt(text: str, rng: random.Random) -> Pair:
    """Span corruption (Raffel et al., 2020) over words: spans become sentinels, the target lists the spans."""
    words = text.split()[:60]
    source: list[str] = []
    target: list[str] = []
    position = sentinel = 0
    while position < len(words):
        if rng.random() < SPAN_RATE / SPAN_LENGTH and sentinel < SENTINELS:
            length = min(1 + int(rng.expovariate(1 / (SPAN_LENGTH - 1))), 6)
            mark = f"<extra_id_{sentinel}>"
            source.append(mark)
            target += [mark, *words[position : position + length]]
            position += length
            sentinel += 1
        else:
            source.append(words[position])
            position += 1
    if not sentinel:
        return corrupt(text, rng) if len(words) > 1 else (text, text)
    return " ".join(source), " ".join(target)
