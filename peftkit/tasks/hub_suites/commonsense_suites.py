"""The tests of Commonsense170K (Hu et al., 2023): BoolQ, PIQA, SIQA, HellaSwag, WinoGrande, ARC and OpenBookQA."""

from __future__ import annotations

from typing import Any

from peftkit.tasks.hub_suites.hub_task import HubSet, HubSuite, pair_columns, sizes, tested_on_validation
from peftkit.tasks.multiple_choice import MultipleChoice
from peftkit.tasks.text_tasks.text_classification import TextClassification

LISTED = {"choices_column": "choices.text", "choice_labels_column": "choices.label"}
ANSWER_KEY = {"answer_column": "answerKey", "answer_is": "label"}
ON_VALIDATION = "The published validation split is test, and 5 % of the training rows are dev."
PUBLISHED = "Dev and test are the published ones."


def _choice(path: str, options: dict[str, Any], **more: Any) -> HubSet:
    return HubSet(base=MultipleChoice, path=path, options=options, metric="accuracy", repeated_choices=True, **more)


BOOLQ = HubSuite(
    name="boolq",
    summary="Question about a passage → yes or no",
    paper="BoolQ, Clark et al., 2019",
    licence="CC BY-SA 3.0",
    note="The published validation split is test, and 10 % of the training rows are dev.",
    sets={
        "": HubSet(
            base=TextClassification,
            path="google/boolq",
            options={
                **{**pair_columns("passage", "question"), "label_column": "answer", "label_names": ("False", "True")},
                **{"verbalisers": {"False": "no", "True": "yes"}, **tested_on_validation(0.1)},
            },
            template="question: {text_pair} passage: {text}",
            metric="accuracy",
            sizes={"train": 9427, "validation": 3270},
        )
    },
)

HELLASWAG = HubSuite(
    name="hellaswag",
    summary="Beginning of a text → one of four continuations",
    paper="HellaSwag, Zellers et al., 2019",
    licence="MIT",
    note=ON_VALIDATION,
    sets={
        "": _choice(
            "Rowan/hellaswag",
            {
                **{"question_column": "ctx", "choices_column": "endings", "answer_column": "label"},
                **{"answer_is": "index", **tested_on_validation(0.05)},
            },
            template="{activity_label}: {question} choices: {choices}",
            sizes=sizes(39905, 10042, 10003),
        )
    },
)
PIQA = HubSuite(
    name="piqa",
    summary="Goal → the one of two solutions that works",
    paper="PIQA, Bisk et al., 2020",
    licence="Academic Free License 3.0",
    note=ON_VALIDATION,
    sets={
        "": _choice(
            "baber/piqa",
            {
                **{"question_column": "goal", "choices_columns": ("sol1", "sol2"), "answer_column": "label"},
                **{"answer_is": "index", **tested_on_validation(0.05)},
            },
            template="goal: {question} choices: {choices}",
            sizes={"train": 16113, "validation": 1838},
        )
    },
)
SOCIAL_I_QA = HubSuite(
    name="social_i_qa",
    summary="Question about a situation → one of three answers",
    paper="Social IQa, Sap et al., 2019",
    licence="CC BY 4.0",
    note=ON_VALIDATION,
    sets={
        "": _choice(
            "lighteval/siqa",
            {
                **{"choices_columns": ("answerA", "answerB", "answerC"), "context_column": "context"},
                **{"answer_column": "label", "answer_is": "number", **tested_on_validation(0.05)},
            },
            template="question: {question} choices: {choices} context: {context}",
            sizes={"train": 33410, "validation": 1954},
        )
    },
)
AI2_ARC = HubSuite(
    name="ai2_arc",
    summary="Science question → one of three to five answers",
    paper="ARC, Clark et al., 2018",
    licence="CC BY-SA 4.0",
    note=PUBLISHED,
    sets={
        subset: _choice(
            "allenai/ai2_arc",
            {"config": f"ARC-{subset.capitalize()}", **LISTED, **ANSWER_KEY},
            template="question: {question} choices: {choices}",
            sizes=rows,
        )
        for subset, rows in {"easy": sizes(2251, 570, 2376), "challenge": sizes(1119, 299, 1172)}.items()
    },
)
OPENBOOKQA = HubSuite(
    name="openbookqa",
    summary="Science question → one of four answers",
    paper="OpenBookQA, Mihaylov et al., 2018",
    licence="Apache 2.0",
    note=PUBLISHED,
    sets={
        "": _choice(
            "allenai/openbookqa",
            {"config": "main", "question_column": "question_stem", **LISTED, **ANSWER_KEY},
            template="question: {question} choices: {choices}",
            sizes=sizes(4957, 500, 500),
        )
    },
)
WINOGRANDE = HubSuite(
    name="winogrande",
    summary="Sentence with a blank → the one of two words that fills it",
    paper="WinoGrande, Sakaguchi et al., 2020",
    licence="CC BY 4.0",
    note=f"{ON_VALIDATION} Subsets differ in the number of training rows.",
    sets={
        subset: _choice(
            "allenai/winogrande",
            {
                **{"config": f"winogrande_{subset}", "question_column": "sentence", "answer_column": "answer"},
                **{"choices_columns": ("option1", "option2"), "answer_is": "number", **tested_on_validation(0.05)},
            },
            template="sentence: {question} choices: {choices}",
            sizes=sizes(rows, 1267, 1767),
        )
        for subset, rows in {"xl": 40398, "l": 10234, "m": 2558, "debiased": 9248}.items()
    },
)

COMMONSENSE_SUITES = (BOOLQ, HELLASWAG, PIQA, SOCIAL_I_QA, AI2_ARC, OPENBOOKQA, WINOGRANDE)
