"""The starting system's data sets: the generic tasks with their columns, prompts and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from peftkit.tasks.data import Place
from peftkit.tasks.generic import DistractorGeneration, MultipleChoice, TextClassification
from peftkit.tasks.rows import AnswerForm

Subset = Literal[
    "emotion",
    "hate",
    "irony",
    "offensive",
    "sentiment",
    "stance_abortion",
    "stance_atheism",
    "stance_climate",
    "stance_feminist",
    "stance_hillary",
    "emoji",
]
STANCE = ("none", "against", "favor")
TWEET_LABELS: Mapping[str, Sequence[str]] = {
    "emotion": ("anger", "joy", "optimism", "sadness"),
    "hate": ("non-hate", "hate"),
    "irony": ("non_irony", "irony"),
    "offensive": ("non-offensive", "offensive"),
    "sentiment": ("negative", "neutral", "positive"),
    **{f"stance_{topic}": STANCE for topic in ("abortion", "atheism", "climate", "feminist", "hillary")},
    # The emoji in words: few vocabularies have them.
    "emoji": (
        "red heart",
        "smiling face with heart eyes",
        "face with tears of joy",
        "two hearts",
        "fire",
        "smiling face with smiling eyes",
        "smiling face with sunglasses",
        "sparkles",
        "blue heart",
        "face blowing a kiss",
        "camera",
        "flag of the United States",
        "sun",
        "purple heart",
        "winking face",
        "hundred points",
        "beaming face with smiling eyes",
        "Christmas tree",
        "camera with flash",
        "winking face with tongue",
    ),
}
VERBALISERS = {
    "non-hate": "not hateful",
    "hate": "hateful",
    "non_irony": "not ironic",
    "irony": "ironic",
    "non-offensive": "not offensive",
}


def _sizes(train: int, validation: int, test: int) -> Mapping[str, int]:
    return {"train": train, "validation": validation, "test": test}


RACE = {
    "all": _sizes(87866, 4887, 4934),
    "high": _sizes(62445, 3451, 3498),
    "middle": _sizes(25421, 1436, 1436),
}


class TweetEval(TextClassification):
    """Tweet → emotion, hate, irony, offence, sentiment, stance or emoji (Barbieri et al., 2020).

    Prompt: ``tweet emotion: <tweet>``, with the subset's name. Verbalisers are the hub's labels; for hate, irony and
    offensive ``not hateful``, ``hateful``, ``not ironic``, ``ironic``, ``not offensive`` and ``offensive``; for emoji
    their names in English. Selected by macro F1, as most subsets are in the paper (sentiment is by recall there).
    """

    name: Literal["tweet_eval"] = "tweet_eval"  # type: ignore[assignment]

    subset: Subset = "emotion"
    """Which of its data sets."""
    path: Place = "cardiffnlp/tweet_eval"
    """The hub's data set, or a local folder or files in its columns: text, label."""

    selects: ClassVar[str] = "f1_macro"
    source: ClassVar[str] = "TweetEval, https://huggingface.co/datasets/cardiffnlp/tweet_eval"
    licence: ClassVar[str] = "that of each subset's authors and Twitter's terms; for research"
    hub: ClassVar[str] = "cardiffnlp/tweet_eval"
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "emoji": _sizes(45000, 5000, 50000),
        "emotion": _sizes(3257, 374, 1421),
        "hate": _sizes(9000, 1000, 2970),
        "irony": _sizes(2862, 955, 784),
        "offensive": _sizes(11916, 1324, 860),
        "sentiment": _sizes(45615, 2000, 12284),
        "stance_abortion": _sizes(587, 66, 280),
        "stance_atheism": _sizes(461, 52, 220),
        "stance_climate": _sizes(355, 40, 169),
        "stance_feminist": _sizes(597, 67, 285),
        "stance_hillary": _sizes(620, 69, 295),
    }

    def _config(self) -> str | None:
        return self.config or self.subset

    def _names_told(self) -> Sequence[str]:
        return self.label_names or TWEET_LABELS[self.subset]

    def _verbaliser(self, name: str) -> str:
        return self.verbalisers.get(name, VERBALISERS.get(name, name))

    def _prompt(self) -> str:
        return self.prompt or f"tweet {self.subset.replace('_', ' ')}: {{text}}"


class AgNews(TextClassification):
    """News article → World, Sports, Business or Sci/Tech (Zhang et al., 2015).

    Prompt: ``topic: <title and description>``; the labels are their own verbalisers. The hub has no dev split: 5 % of
    the training rows, of each topic alike, are taken by seed 42.
    """

    name: Literal["ag_news"] = "ag_news"  # type: ignore[assignment]

    path: Place = "fancyzhx/ag_news"
    """The hub's data set, or a local folder or files in its columns: text, label."""
    label_names: tuple[str, ...] = ("World", "Sports", "Business", "Sci/Tech")
    """The topics in the order of their numbers."""
    dev_fraction: float | None = 0.05
    """The share of the training rows that becomes dev where there is no dev split."""
    prompt: str | None = "topic: {text}"
    """What the model reads."""

    source: ClassVar[str] = "AG's news corpus, https://huggingface.co/datasets/fancyzhx/ag_news"
    licence: ClassVar[str] = "not stated; given by its collectors for research and other non-commercial use"
    hub: ClassVar[str] = "fancyzhx/ag_news"
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {"": {"train": 120000, "test": 7600}}


class CommonsenseQa(MultipleChoice):
    """Question → one of five answers that common sense tells apart (Talmor et al., 2019).

    Prompt: the question, and the five choices with their letters; the choices' texts are ranked. The
    hub's test split has no answers: its validation split is test, and 5 % of its training rows are dev, by seed 42.
    """

    name: Literal["commonsense_qa"] = "commonsense_qa"  # type: ignore[assignment]

    path: Place = "tau/commonsense_qa"
    """The hub's data set, or a local folder or files in its columns: question, choices (label, text), answerKey."""
    test_split: str | None = "validation"
    """What the data call the test split."""
    dev_fraction: float | None = 0.05
    """The share of the training rows that becomes dev where there is no dev split."""
    choices_column: str = "choices.text"
    """The column of the choices."""
    choice_labels_column: str | None = "choices.label"
    """The column of their letters."""
    answer_column: str = "answerKey"
    """The column of the right letter."""
    answer_is: AnswerForm = "label"
    """What the answer's column holds."""

    source: ClassVar[str] = "CommonsenseQA, https://huggingface.co/datasets/tau/commonsense_qa"
    licence: ClassVar[str] = "MIT"
    hub: ClassVar[str] = "tau/commonsense_qa"
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {"": _sizes(9741, 1221, 1140)}
    duplicates: ClassVar[bool] = True


class Race(MultipleChoice):
    """Question about an article → one of four answers, from examinations of English (Lai et al., 2017).

    Prompt: the question, the four choices with their letters, and the article, which is shortened where
    it is too long; the choices' texts are ranked.
    """

    name: Literal["race"] = "race"  # type: ignore[assignment]

    subset: Literal["all", "high", "middle"] = "all"
    """From which schools."""
    path: Place = "ehovy/race"
    """The hub's data set, or a local folder or files in its columns: article, question, options, answer."""
    choices_column: str = "options"
    """The column of the choices."""
    context_column: str | None = "article"
    """The column of the article."""
    answer_is: AnswerForm = "label"
    """What the answer's column holds."""

    source: ClassVar[str] = "RACE, https://huggingface.co/datasets/ehovy/race"
    licence: ClassVar[str] = "for research and other non-commercial use only"
    hub: ClassVar[str] = "ehovy/race"
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = RACE
    duplicates: ClassVar[bool] = True

    def _config(self) -> str | None:
        return self.config or self.subset


class RaceDistractors(DistractorGeneration):
    """Right answer, question and article → the three wrong answers of the examination (Lai et al., 2017).

    Prompt: ``answer: … question: … context: <article>``, the article shortened where it is too long. Target: the wrong
    answers in their order, separated by ``; ``; a semicolon within one becomes a comma.
    """

    name: Literal["race_distractors"] = "race_distractors"  # type: ignore[assignment]

    subset: Literal["all", "high", "middle"] = "all"
    """From which schools."""
    path: Place = "ehovy/race"
    """The hub's data set, or a local folder or files in its columns: article, question, options, answer."""
    choices_column: str | None = "options"
    """The column of all four choices."""
    answer_is: AnswerForm = "label"
    """Published as A, B, C or D."""
    context_column: str | None = "article"
    """The column of the article."""

    source: ClassVar[str] = Race.source
    licence: ClassVar[str] = Race.licence
    hub: ClassVar[str] = Race.hub
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = RACE
    duplicates: ClassVar[bool] = True

    def _config(self) -> str | None:
        return self.config or self.subset
