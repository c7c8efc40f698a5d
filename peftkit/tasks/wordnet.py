"""Tasks on WordNet's definitions, whose data are part of the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftkit.components import Example, Task
from peftkit.tasks.columns import get_texts

if TYPE_CHECKING:
    from datasets import DatasetDict

DATA_DIR = Path(__file__).parents[1] / "assets" / "wordnet"
WORDS_OF_FOLDERS = {"mcq_far": "answer", "mcq_sisters": "answer", "distractors": "word"}
"""Folders of rows that name the noun, and the column of the noun."""


class WordNet(Task):
    """Base class of all tasks on WordNet 3.0 (Miller, 1995; Fellbaum, 1998)."""

    source = "WordNet 3.0, Princeton University, https://wordnet.princeton.edu"
    licence = "WordNet 3.0 licence (peftkit/assets/wordnet/LICENSE)"


class WordNetTask(WordNet):
    """Base class of the tasks with a folder of rows, which are noun synsets."""

    def _folder(self) -> Path:
        raise NotImplementedError

    def load(self) -> DatasetDict:
        """Loads the three splits; no synset is in two splits, across all WordNet tasks."""
        import pyarrow.parquet as pq
        from datasets import Dataset, DatasetDict

        files = {split: self._folder() / f"{split}.parquet" for split in ("train", "dev", "test")}
        return DatasetDict({split: Dataset(pq.read_table(file)) for split, file in files.items()})


class WordNetTopic(WordNetTask):
    """Definition → the noun's lexicographer category, one of ten.

    10,200 / 500 / 1,000 rows, balanced. Definitions contain neither a lemma of the noun nor the category's name.
    Prompt: ``topic: <definition>``; verbalisers are the names of the categories.
    """

    name: Literal["wordnet_topic"] = "wordnet_topic"

    kind = "classification"
    metrics = (
        "accuracy",
        "balanced_accuracy",
        "precision_macro",
        "recall_macro",
        "f1_macro",
        "matthews_correlation",
    )
    selection_metric = "accuracy"

    @property
    def labels(self) -> tuple[str, ...]:
        """The ten categories."""
        return (
            "act",
            "animal",
            "artifact",
            "cognition",
            "communication",
            "location",
            "person",
            "plant",
            "state",
            "substance",
        )

    def _folder(self) -> Path:
        return DATA_DIR / "topic"

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """``topic: <definition>`` → category."""
        return Example(f"topic: {row['gloss']}", row["category"], self.labels)


class WordNetMcq(WordNetTask):
    """Definition → the word it defines, one of five.

    10,500 / 500 / 1,000 rows, in groups of five that share five choices. Each choice is the answer once, so the
    accuracy of input-blind baselines is exactly 20 %. Prompt: ``choose: <definition>``; the words are ranked by
    likelihood and not shown in the prompt.
    """

    name: Literal["wordnet_mcq"] = "wordnet_mcq"
    distractors: Literal["far", "sisters"] = "far"
    """Wrong choices from other categories (`far`), or sister terms with the same hypernym (`sisters`, harder)."""

    kind = "multiple_choice"
    metrics = ("accuracy",)
    selection_metric = "accuracy"

    def _folder(self) -> Path:
        return DATA_DIR / f"mcq_{self.distractors}"

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """``choose: <definition>`` → the word, one of five; rows with the same choices are a group."""
        # get_texts rejects a CSV cell, which is a string; tuple() would split it into characters.
        choices = tuple(get_texts(row, ["choices"])) if "choices" in row else (row["choices"],)
        return Example(f"choose: {row['gloss']}", row["answer"], choices, group=", ".join(sorted(choices)))


class WordNetGlosses(WordNet):
    """Words and their definitions as running text, such as a probe of what the pocket models know of WordNet.

    Nouns of the tasks that name them, each once. Those of ``dev`` and ``test`` are in no training split of a WordNet
    task, and the pocket models were pre-trained without them; ``train`` was part of their pre-training. Text:
    ``define: <word> <definition>``, as in pre-training; encoder-decoders read ``define: <word>`` and predict the
    definition.
    """

    name: Literal["wordnet_glosses"] = "wordnet_glosses"

    kind = "language_modeling"
    metrics = ("bits_per_byte", "perplexity")
    selection_metric = "bits_per_byte"

    def load(self) -> DatasetDict:
        """Loads the three splits, joined from those of the other tasks."""
        import pyarrow.parquet as pq
        from datasets import Dataset, DatasetDict

        splits = {}
        for split in ("train", "dev", "test"):
            words: dict[str, dict[str, str]] = {}
            for folder, key in WORDS_OF_FOLDERS.items():
                table = pq.read_table(DATA_DIR / folder / f"{split}.parquet", columns=["synset", "gloss", key])
                for row in table.to_pylist():
                    words.setdefault(row["synset"], {"word": row[key], "gloss": row["gloss"]})
            splits[split] = Dataset.from_list([{"synset": synset, **row} for synset, row in words.items()])
        return DatasetDict(splits)

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """``define: <word> <definition>``."""
        return Example(f"define: {row['word']} {row['gloss']}", row["gloss"])


class WordNetDistractors(WordNetTask):
    """Word and definition → three distractors, which are sister terms of the word.

    10,500 / 500 / 1,000 rows. Prompt: ``distractors: <word>; <definition>``; the target is the three words separated by
    ``; ``.
    """

    name: Literal["wordnet_distractors"] = "wordnet_distractors"

    kind = "generation"
    metrics = ("distractor_match", "distractor_novelty", "distractor_distinctness", "bleu", "rouge")
    selection_metric = "distractor_f1"

    def _folder(self) -> Path:
        return DATA_DIR / "distractors"

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """``distractors: <word>; <definition>`` → ``a; b; c``."""
        target = "; ".join(row["distractors"])
        return Example(f"distractors: {row['word']}; {row['gloss']}", target, extra={"answer": row["word"]})
