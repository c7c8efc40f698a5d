"""GLUE and SuperGLUE."""

from __future__ import annotations

from typing import Any

from peftkit.tasks.hub_suites.hub_task import HubSet, HubSuite, pair_columns, sizes, tested_on_validation
from peftkit.tasks.multiple_choice import MultipleChoice
from peftkit.tasks.text_tasks.text_classification import TextClassification
from peftkit.tasks.text_tasks.text_generation import TextGeneration
from peftkit.tasks.text_tasks.text_regression import TextRegression

ENTAILMENT = ("entailment", "not_entailment")
NOT_ENTAILMENT = {"not_entailment": "not entailment"}
FALSE_TRUE = ("False", "True")
NO_YES = {"False": "no", "True": "yes"}
PAIR = "sentence1: {text} sentence2: {text_pair}"
SENTENCES = ("sentence1", "sentence2")


def _glue(config: str, columns: dict[str, Any], labels: tuple[str, ...], dev: float, **more: Any) -> HubSet:
    options = {
        "config": config,
        **columns,
        "label_names": labels,
        **tested_on_validation(dev),
        **more.pop("options", {}),
    }
    return HubSet(base=TextClassification, path="nyu-mll/glue", options=options, **more)


GLUE = HubSuite(
    name="glue",
    summary="Sentence or pair of sentences → acceptability, sentiment, paraphrase, similarity or entailment",
    paper="GLUE, Wang et al., 2019",
    licence="that of each dataset's authors; see the card",
    note="The published test splits have no labels: test is the published validation split (matched for MNLI), and dev "
    "is a share of the training rows. MNLI's other validation split is an evaluation set with "
    'split = "validation_mismatched".',
    sets={
        "cola": _glue(
            *("cola", pair_columns("sentence"), ("unacceptable", "acceptable"), 0.1),
            template="cola sentence: {text}",
            metric="matthews_correlation",
            sizes=sizes(8551, 1043, 1063),
        ),
        "sst2": _glue(
            *("sst2", pair_columns("sentence"), ("negative", "positive"), 0.02),
            template="sst2 sentence: {text}",
            metric="accuracy",
            sizes=sizes(67349, 872, 1821),
        ),
        "mrpc": _glue(
            *("mrpc", pair_columns(*SENTENCES), ("not_equivalent", "equivalent"), 0.1),
            template=f"mrpc {PAIR}",
            options={"verbalisers": {"not_equivalent": "not equivalent"}},
            metric="f1",
            metrics=("f1",),
            sizes=sizes(3668, 408, 1725),
        ),
        "qqp": _glue(
            *("qqp", pair_columns("question1", "question2"), ("not_duplicate", "duplicate"), 0.005),
            template="qqp question1: {text} question2: {text_pair}",
            options={"verbalisers": {"not_duplicate": "not duplicate"}},
            metric="f1",
            metrics=("f1",),
            sizes=sizes(363846, 40430, 390965),
        ),
        "stsb": HubSet(
            base=TextRegression,
            path="nyu-mll/glue",
            options={
                "config": "stsb",
                **pair_columns(*SENTENCES),
                "target_column": "label",
                **tested_on_validation(0.1),
            },
            template=f"stsb {PAIR}",
            metric="pearson",
            sizes=sizes(5749, 1500, 1379),
        ),
        "mnli": _glue(
            *("mnli", pair_columns("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), 0.005),
            template="mnli premise: {text} hypothesis: {text_pair}",
            options={"test_split": "validation_matched"},
            metric="accuracy",
            sizes={
                **{"train": 392702, "validation_matched": 9815, "validation_mismatched": 9832},
                **{"test_matched": 9796, "test_mismatched": 9847},
            },
        ),
        "qnli": _glue(
            *("qnli", pair_columns("sentence", "question"), ENTAILMENT, 0.02),
            template="qnli question: {text_pair} sentence: {text}",
            options={"verbalisers": NOT_ENTAILMENT},
            metric="accuracy",
            sizes=sizes(104743, 5463, 5463),
        ),
        "rte": _glue(
            *("rte", pair_columns(*SENTENCES), ENTAILMENT, 0.1),
            template=f"rte {PAIR}",
            options={"verbalisers": NOT_ENTAILMENT},
            metric="accuracy",
            sizes=sizes(2490, 277, 3000),
        ),
        "wnli": _glue(
            *("wnli", pair_columns(*SENTENCES), ("not_entailment", "entailment"), 0.1),
            template=f"wnli {PAIR}",
            options={"verbalisers": NOT_ENTAILMENT},
            metric="accuracy",
            sizes=sizes(635, 71, 146),
        ),
    },
)


def _super_glue(config: str, columns: dict[str, Any], labels: tuple[str, ...], dev: float, **more: Any) -> HubSet:
    verbalisers = NO_YES if labels == FALSE_TRUE else NOT_ENTAILMENT if labels == ENTAILMENT else {}
    options = {"config": config, **columns, "label_names": labels, "verbalisers": verbalisers}
    options |= {**tested_on_validation(dev), **more.pop("options", {})}
    return HubSet(base=TextClassification, path="aps/super_glue", options=options, **more)


SUPER_GLUE = HubSuite(
    name="super_glue",
    summary="Passages and sentences → answers, entailment, causes, or senses and references of words",
    paper="SuperGLUE, Wang et al., 2019",
    licence="that of each dataset's authors; see the card",
    note="The published test splits have no labels: test is the published validation split, and dev is a share of the "
    "training rows. ReCoRD's questions have several right answers: the first is trained, and all are references.",
    sets={
        "boolq": _super_glue(
            *("boolq", pair_columns("passage", "question"), FALSE_TRUE, 0.1),
            template="boolq question: {text_pair} passage: {text}",
            metric="accuracy",
            sizes=sizes(9427, 3270, 3245),
        ),
        "cb": _super_glue(
            *("cb", pair_columns("premise", "hypothesis"), ("entailment", "contradiction", "neutral"), 0.2),
            template="cb premise: {text} hypothesis: {text_pair}",
            metric="f1_macro",
            sizes=sizes(250, 56, 250),
        ),
        "copa": HubSet(
            base=MultipleChoice,
            path="aps/super_glue",
            options={
                **{"config": "copa", "question_column": "question", "context_column": "premise"},
                **{"choices_columns": ("choice1", "choice2"), "answer_column": "label", "answer_is": "index"},
                **tested_on_validation(0.2),
            },
            template="copa premise: {context} question: What was the {question}? choices: {choices}",
            metric="accuracy",
            sizes=sizes(400, 100, 500),
        ),
        "multirc": _super_glue(
            *("multirc", pair_columns("paragraph"), FALSE_TRUE, 0.05),
            template="multirc question: {question} answer: {answer} paragraph: {text}",
            options={"group_column": "paragraph"},
            metric="f1",
            metrics=("f1",),
            sizes=sizes(27243, 4848, 9693),
        ),
        "record": HubSet(
            base=TextGeneration,
            path="aps/super_glue",
            options={
                **{"config": "record", "source_column": "passage", "target_column": "answers"},
                **{"group_column": "passage", **tested_on_validation(0.02)},
            },
            template="record query: {query} entities: {entities} passage: {source}",
            computed={"entities": ("entities", ", ".join)},
            metric="squad_f1",  # ReCoRD is scored as SQuAD is
            metrics=("squad",),
            sizes=sizes(100730, 10000, 10000),
        ),
        "rte": _super_glue(
            *("rte", pair_columns("premise", "hypothesis"), ENTAILMENT, 0.1),
            template="rte premise: {text} hypothesis: {text_pair}",
            metric="accuracy",
            sizes=sizes(2490, 277, 3000),
        ),
        "wic": _super_glue(
            *("wic", pair_columns("sentence1"), FALSE_TRUE, 0.1),
            template="wic word: {word} sentence1: {text} sentence2: {sentence2}",
            metric="accuracy",
            sizes=sizes(5428, 638, 1400),
        ),
        "wsc": _super_glue(
            *("wsc.fixed", pair_columns("text"), FALSE_TRUE, 0.2),
            template="wsc text: {text} question: Does {span2_text} refer to {span1_text}?",
            metric="accuracy",
            sizes=sizes(554, 104, 146),
        ),
    },
)
