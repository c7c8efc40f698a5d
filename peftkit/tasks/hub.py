"""Tasks on hub datasets: the generic tasks with their columns, prompts and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from peftkit.tasks.columns import AnswerFormat
from peftkit.tasks.file_task import DataPath
from peftkit.tasks.multiple_choice import DistractorGeneration, MultipleChoice
from peftkit.tasks.text_tasks.text_classification import TextClassification

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
    # Names in English, because few vocabularies have emoji.
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

    Prompt: ``tweet emotion: <tweet>``, with the name of the subset. Verbalisers are the hub's labels, except
    ``not hateful``, ``hateful``, ``not ironic``, ``ironic``, ``not offensive``, ``offensive``, and English names of the
    emoji. The selection metric is macro F1, as for most subsets in the paper (recall for sentiment there).
    """

    name: Literal["tweet_eval"] = "tweet_eval"  # type: ignore[assignment]

    subset: Subset = "emotion"
    """Subset of TweetEval."""
    path: DataPath = "cardiffnlp/tweet_eval"
    """Hub id, or a local folder or files with the same columns: text, label."""

    selection_metric: ClassVar[str] = "f1_macro"
    source: ClassVar[str] = "TweetEval, https://huggingface.co/datasets/cardiffnlp/tweet_eval"
    licence: ClassVar[str] = "that of each subset's authors and Twitter's terms; for research"
    hub_id: ClassVar[str] = "cardiffnlp/tweet_eval"
    published_sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
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

    def config_name(self) -> str | None:
        return self.config or self.subset

    def configured_label_names(self) -> Sequence[str]:
        return self.label_names or TWEET_LABELS[self.subset]

    def verbaliser(self, name: str) -> str:
        return self.verbalisers.get(name, VERBALISERS.get(name, name))

    def prompt_template(self) -> str:
        return self.prompt or f"tweet {self.subset.replace('_', ' ')}: {{text}}"


class AgNews(TextClassification):
    """News article → World, Sports, Business or Sci/Tech (Zhang et al., 2015).

    Prompt: ``topic: <title and description>``; verbalisers are the labels. There is no published dev split: 5 % of the
    training rows are held out, stratified by topic, with seed 42.
    """

    name: Literal["ag_news"] = "ag_news"  # type: ignore[assignment]

    path: DataPath = "fancyzhx/ag_news"
    """Hub id, or a local folder or files with the same columns: text, label."""
    label_names: tuple[str, ...] = ("World", "Sports", "Business", "Sci/Tech")
    """Topics in the order of their numbers."""
    dev_fraction: float | None = 0.05
    """Fraction of the training rows to hold out for dev if there is no dev split."""
    prompt: str | None = "topic: {text}"
    """Prompt template with fields in braces."""

    source: ClassVar[str] = "AG's news corpus, https://huggingface.co/datasets/fancyzhx/ag_news"
    licence: ClassVar[str] = "not stated; given by its collectors for research and other non-commercial use"
    hub_id: ClassVar[str] = "fancyzhx/ag_news"
    published_sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {"": {"train": 120000, "test": 7600}}


class CommonsenseQa(MultipleChoice):
    """Commonsense question → one of five answers (Talmor et al., 2019).

    Prompt: the question and the five choices with their letters; the texts of the choices are ranked. The published
    test split has no answers: the validation split is used for test, and 5 % of the training rows are held out for dev,
    with seed 42.
    """

    name: Literal["commonsense_qa"] = "commonsense_qa"  # type: ignore[assignment]

    path: DataPath = "tau/commonsense_qa"
    """Hub id, or a local folder or files with the same columns: question, choices (label, text), answerKey."""
    test_split: str | None = "validation"
    """Name of the test split in the data."""
    dev_fraction: float | None = 0.05
    """Fraction of the training rows to hold out for dev if there is no dev split."""
    choices_column: str = "choices.text"
    """Column with the list of choices."""
    choice_labels_column: str | None = "choices.label"
    """Column with the list of letters."""
    answer_column: str = "answerKey"
    """Column of the answer's letter."""
    answer_is: AnswerFormat = "label"
    """Content of the answer column."""

    source: ClassVar[str] = "CommonsenseQA, https://huggingface.co/datasets/tau/commonsense_qa"
    licence: ClassVar[str] = "MIT"
    hub_id: ClassVar[str] = "tau/commonsense_qa"
    published_sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {"": _sizes(9741, 1221, 1140)}
    duplicates: ClassVar[bool] = True


class Race(MultipleChoice):
    """Question about an article → one of four answers, from English exams (Lai et al., 2017).

    Prompt: the question, the four choices with their letters, and the article, which is truncated if it is too long.
    The texts of the choices are ranked.
    """

    name: Literal["race"] = "race"  # type: ignore[assignment]

    subset: Literal["all", "high", "middle"] = "all"
    """Exams of high schools, middle schools or both."""
    path: DataPath = "ehovy/race"
    """Hub id, or a local folder or files with the same columns: article, question, options, answer."""
    choices_column: str = "options"
    """Column with the list of choices."""
    context_column: str | None = "article"
    """Column of the article."""
    answer_is: AnswerFormat = "label"
    """Content of the answer column."""

    source: ClassVar[str] = "RACE, https://huggingface.co/datasets/ehovy/race"
    licence: ClassVar[str] = "for research and other non-commercial use only"
    hub_id: ClassVar[str] = "ehovy/race"
    published_sizes: ClassVar[Mapping[str, Mapping[str, int]]] = RACE
    duplicates: ClassVar[bool] = True

    def config_name(self) -> str | None:
        return self.config or self.subset


class RaceDistractors(DistractorGeneration):
    """Answer, question and article → the three distractors of an exam question (Lai et al., 2017).

    Prompt: ``answer: … question: … context: <article>``; the article is truncated if it is too long. Target: the
    distractors in their order, separated by ``; ``; semicolons in distractors become commas.
    """

    name: Literal["race_distractors"] = "race_distractors"  # type: ignore[assignment]

    subset: Literal["all", "high", "middle"] = "all"
    """Exams of high schools, middle schools or both."""
    path: DataPath = "ehovy/race"
    """Hub id, or a local folder or files with the same columns: article, question, options, answer."""
    choices_column: str | None = "options"
    """Column with the list of all four choices."""
    answer_is: AnswerFormat = "label"
    """Content of the answer column; published as A, B, C or D."""
    context_column: str | None = "article"
    """Column of the article."""

    source: ClassVar[str] = Race.source
    licence: ClassVar[str] = Race.licence
    hub_id: ClassVar[str] = Race.hub_id
    published_sizes: ClassVar[Mapping[str, Mapping[str, int]]] = RACE
    duplicates: ClassVar[bool] = True

    def config_name(self) -> str | None:
        return self.config or self.subset
