"""Three tasks on WordNet's definitions, shipped inside the package: real English, real labels, no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftkit.components import Example, Task
from peftkit.tasks.rows import texts

if TYPE_CHECKING:
    from datasets import DatasetDict

DATA = Path(__file__).parents[1] / "assets" / "wordnet"


class WordNetTask(Task):
    """What the three share: rows are noun synsets of WordNet 3.0 (Miller, 1995; Fellbaum, 1998)."""

    source = "WordNet 3.0, Princeton University, https://wordnet.princeton.edu"
    licence = "WordNet 3.0 licence (kept beside the data: peftkit/assets/wordnet/LICENSE)"

    def _folder(self) -> Path:
        raise NotImplementedError

    def load(self) -> DatasetDict:
        """The three splits; no synset lies in two splits, over all three tasks together."""
        import pyarrow.parquet as pq
        from datasets import Dataset, DatasetDict

        files = {split: self._folder() / f"{split}.parquet" for split in ("train", "dev", "test")}
        return DatasetDict({split: Dataset(pq.read_table(file)) for split, file in files.items()})


class WordNetTopic(WordNetTask):
    """Definition → which of ten lexicographer categories the noun belongs to.

    10,200 / 500 / 1,000 rows, balanced; neither a lemma of the noun nor the category's name stands in the
    definition. Prompt: ``topic: <definition>``; the verbalisers are the categories' own names.
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
    selects = "accuracy"

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
        return DATA / "topic"

    def encode(self, row: Mapping[str, Any]) -> Example:
        """``topic: <definition>`` → category."""
        return Example(f"topic: {row['gloss']}", row["category"], self.labels)


class WordNetMcq(WordNetTask):
    """Definition → which of five words it defines.

    10,500 / 500 / 1,000 rows. Rows come in groups of five that share their five choices, each right once, so
    that a model that does not read the definition scores exactly one fifth. Prompt: ``choose: <definition>``;
    the words are ranked by likelihood and are not shown in the prompt.
    """

    name: Literal["wordnet_mcq"] = "wordnet_mcq"
    distractors: Literal["far", "sisters"] = "far"
    """Wrong choices of other categories, or (hard) sister terms, which have the same hypernym."""

    kind = "multiple_choice"
    metrics = ("accuracy",)
    selects = "accuracy"

    def _folder(self) -> Path:
        return DATA / f"mcq_{self.distractors}"

    def encode(self, row: Mapping[str, Any]) -> Example:
        """``choose: <definition>`` → the word, among five; the rows that share these five are a group."""
        # A cell of CSV is a text, and as a sequence its characters.
        choices = tuple(texts(row, ["choices"])) if "choices" in row else (row["choices"],)
        return Example(f"choose: {row['gloss']}", row["answer"], choices, group=", ".join(sorted(choices)))


class WordNetDistractors(WordNetTask):
    """Word and definition → three plausible wrong answers (sister terms of the word).

    10,500 / 500 / 1,000 rows. Prompt: ``distractors: <word>; <definition>``; the target is the three words
    separated by ``;``.
    """

    name: Literal["wordnet_distractors"] = "wordnet_distractors"

    kind = "generation"
    metrics = ("distractor_match", "distractor_novelty", "distractor_distinctness", "bleu", "rouge")
    selects = "distractor_f1"

    def _folder(self) -> Path:
        return DATA / "distractors"

    def encode(self, row: Mapping[str, Any]) -> Example:
        """``distractors: <word>; <definition>`` → ``a; b; c``."""
        target = "; ".join(row["distractors"])
        return Example(f"distractors: {row['word']}; {row['gloss']}", target, extra={"answer": row["word"]})
