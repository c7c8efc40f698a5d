"""Rows of the datasets of suites, with the columns and the types of the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from datasets import ClassLabel, Dataset, Features, Sequence, Value

WORD = ("red", "blue", "green", "old", "new")


def sentence(i: int, what: str = "thing") -> str:
    return f"the {WORD[i % 5]} {what} number {i} is here"


def labelled(*columns: str, labels: tuple[str, ...]) -> Dataset:
    """Texts and a label with names."""
    rows = {column: [sentence(i, column) for i in range(60)] for column in columns}
    features = Features({**{column: Value("string") for column in columns}, "label": ClassLabel(names=list(labels))})
    return Dataset.from_dict({**rows, "label": [i % len(labels) for i in range(60)]}, features=features)


def listed(row: Callable[[int], Mapping[str, Any]]) -> Dataset:
    return Dataset.from_list([dict(row(i)) for i in range(60)])


def tagged(*names: str) -> Dataset:
    features = Features({"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=list(names)))})
    words = [["Ann", "saw", "Rome", str(i)] for i in range(60)]
    return Dataset.from_dict({"tokens": words, "ner_tags": [[1, 0, 5, 0]] * 60}, features=features)


def choices(i: int) -> dict[str, Any]:
    return {"text": [f"answer {i} {letter}" for letter in "abcd"], "label": [*"ABCD"]}


def with_span(i: int, *, answered: bool = True) -> dict[str, Any]:
    context = sentence(i)
    answers = {"text": [WORD[i % 5]], "answer_start": [4]} if answered else {"text": [], "answer_start": []}
    return {"id": str(i), "title": "x", "context": context, "question": f"which {i}?", "answers": answers}


def instructed(i: int) -> dict[str, Any]:
    """A row of IFEval, whose tables of arguments have all keys in every row."""
    nothing = dict.fromkeys(("num_words", "relation", "keywords"))
    return {
        **{"key": i, "prompt": f"Write about {sentence(i)}, without commas and with at least three words."},
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [nothing, {**nothing, "num_words": 3, "relation": "at least"}],
    }


GLUE_LABELS = ("entailment", "not_entailment")
FALSE_TRUE = ("False", "True")
ROWS: Mapping[tuple[str, str], Callable[[], Dataset]] = {
    ("glue", "cola"): lambda: labelled("sentence", labels=("unacceptable", "acceptable")),
    ("glue", "sst2"): lambda: labelled("sentence", labels=("negative", "positive")),
    ("glue", "mrpc"): lambda: labelled("sentence1", "sentence2", labels=("not_equivalent", "equivalent")),
    ("glue", "qqp"): lambda: labelled("question1", "question2", labels=("not_duplicate", "duplicate")),
    ("glue", "stsb"): lambda: listed(
        lambda i: {"sentence1": sentence(i), "sentence2": sentence(i + 1), "label": i % 6 / 2, "idx": i}
    ),
    ("glue", "mnli"): lambda: labelled("premise", "hypothesis", labels=("entailment", "neutral", "contradiction")),
    ("glue", "qnli"): lambda: labelled("question", "sentence", labels=GLUE_LABELS),
    ("glue", "rte"): lambda: labelled("sentence1", "sentence2", labels=GLUE_LABELS),
    ("glue", "wnli"): lambda: labelled("sentence1", "sentence2", labels=GLUE_LABELS[::-1]),
    ("super_glue", "boolq"): lambda: labelled("question", "passage", labels=FALSE_TRUE),
    ("super_glue", "cb"): lambda: labelled("premise", "hypothesis", labels=("entailment", "contradiction", "neutral")),
    ("super_glue", "copa"): lambda: listed(
        lambda i: {
            **{"premise": sentence(i), "choice1": f"it fell {i}", "choice2": f"it rose {i}"},
            **{"question": ("cause", "effect")[i % 2], "label": i % 2},
        }
    ),
    ("super_glue", "multirc"): lambda: labelled("paragraph", "question", "answer", labels=FALSE_TRUE),
    ("super_glue", "record"): lambda: listed(
        lambda i: {
            **{"passage": sentence(i), "query": f"@placeholder is {i}", "entities": [f"Ann {i}", f"Bob {i}", "Rome"]},
            **{"answers": [f"Ann {i}", f"Bob {i}"], "idx": {"passage": i // 2, "query": i}},
        }
    ),
    ("super_glue", "rte"): lambda: labelled("premise", "hypothesis", labels=GLUE_LABELS),
    ("super_glue", "wic"): lambda: labelled("word", "sentence1", "sentence2", labels=FALSE_TRUE),
    ("super_glue", "wsc"): lambda: labelled("text", "span1_text", "span2_text", labels=FALSE_TRUE),
    ("boolq", ""): lambda: listed(lambda i: {"question": f"is {i}?", "passage": sentence(i), "answer": i % 2 == 0}),
    ("go_emotions", ""): lambda: listed(
        lambda i: {"text": sentence(i), "labels": [i % 28, 27][: 1 + i % 2], "id": "x"}
    ),
    ("conll2003", ""): lambda: tagged("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"),
    ("wnut_17", ""): lambda: tagged(
        *("O", "B-corporation", "I-corporation", "B-creative-work", "I-creative-work", "B-group", "I-group"),
        *("B-location", "I-location", "B-person", "I-person", "B-product", "I-product"),
    ),
    ("hellaswag", ""): lambda: listed(
        lambda i: {
            **{"ctx": sentence(i), "activity_label": "Walking", "label": str(i % 4)},
            **{"endings": [f"ends {i} {letter}" for letter in "abcd"]},
        }
    ),
    ("piqa", ""): lambda: listed(
        lambda i: {"goal": sentence(i), "sol1": f"push {i}", "sol2": f"pull {i}", "label": i % 2}
    ),
    ("social_i_qa", ""): lambda: listed(
        lambda i: {
            **{"context": sentence(i), "question": "why?", "label": str(1 + i % 3)},
            **{f"answer{letter}": f"because {letter} {i}" for letter in "ABC"},
        }
    ),
    ("ai2_arc", "easy"): lambda: listed(
        lambda i: {"id": str(i), "question": sentence(i), "choices": choices(i), "answerKey": "ABCD"[i % 4]}
    ),
    ("ai2_arc", "challenge"): lambda: listed(
        lambda i: {
            **{"id": str(i), "question": sentence(i), "answerKey": "1234"[i % 4]},
            **{"choices": {**choices(i), "label": [*"1234"]}},
        }
    ),
    ("openbookqa", ""): lambda: listed(
        lambda i: {"question_stem": sentence(i), "choices": choices(i), "answerKey": "ABCD"[i % 4]}
    ),
    **{
        ("winogrande", size): lambda: listed(
            lambda i: {"sentence": f"_ fell {i}", "option1": "Ann", "option2": "Bob", "answer": str(1 + i % 2)}
        )
        for size in ("xl", "l", "m", "debiased")
    },
    ("squad", ""): lambda: listed(with_span),
    ("squad_v2", ""): lambda: listed(lambda i: with_span(i, answered=i % 3 > 0)),
    ("xsum", ""): lambda: listed(lambda i: {"document": sentence(i), "summary": f"thing {i}", "id": str(i)}),
    ("samsum", ""): lambda: listed(lambda i: {"id": str(i), "dialogue": sentence(i), "summary": f"thing {i}"}),
    ("e2e_nlg", ""): lambda: listed(
        lambda i: {"meaning_representation": f"name[The {i}]", "human_reference": sentence(i)}
    ),
    ("web_nlg", ""): lambda: listed(
        lambda i: {
            "modified_triple_sets": {"mtriple_set": [[f"Rome | in | {i}", "Rome | is | old"]]},
            "lex": {"text": [sentence(i), f"Rome {i}"], "lang": ["en", "en"]},
            "category": "City",
        }
    ),
    **{
        ("opus_100", f"en-{code}"): lambda code=code: listed(
            lambda i: {"translation": {"en": sentence(i), code: f"{code} {i}"}}
        )
        for code in ("de", "ar", "cs", "es", "fr", "it", "ja", "nl", "pt", "ro", "ru", "zh")
    },
    ("gsm8k", ""): lambda: listed(
        lambda i: {
            "question": f"Ann has {i} eggs and finds 4. How many?",
            "answer": f"{i} + 4 = {i + 4}.\n#### {i + 4}",
        }
    ),
    ("math500", ""): lambda: listed(
        lambda i: {
            **{"problem": f"What is ${i}^2$?", "solution": rf"It is $\boxed{{{i * i}}}$.", "answer": str(i * i)},
            **{"subject": "Algebra", "level": 1, "unique_id": f"test/algebra/{i}.json"},
        }
    ),
    **dict.fromkeys((("ifeval", "chat"), ("ifeval", "prompt")), lambda: listed(instructed)),
}
"""Sixty rows of each dataset by suite and subset."""
SPLITS = {
    ("glue", "mnli"): ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched"),
    **dict.fromkeys((("squad", ""), ("squad_v2", ""), ("boolq", "")), ("train", "validation")),
    ("gsm8k", ""): ("train", "test"),
    ("math500", ""): ("test",),
    **dict.fromkeys((("ifeval", "chat"), ("ifeval", "prompt")), ("train",)),
}
"""The splits on the hub, if they are others than train, validation and test."""
EXAMPLES: Mapping[tuple[str, str], tuple[str, str]] = {
    ("gsm8k", ""): ("Question: Ann has 0 eggs and finds 4. How many?\nAnswer:", "0 + 4 = 4.\n#### 4"),
    ("glue", "cola"): ("cola sentence: the red sentence number 0 is here", "unacceptable"),
    ("glue", "mrpc"): (
        "mrpc sentence1: the red sentence1 number 0 is here sentence2: the red sentence2 number 0 is here",
        "not equivalent",
    ),
    ("glue", "stsb"): (
        "stsb sentence1: the red thing number 0 is here sentence2: the blue thing number 1 is here",
        "0.0",
    ),
    ("super_glue", "copa"): (
        "copa premise: the red thing number 0 is here question: What was the cause? "
        "choices: A - it fell 0 B - it rose 0",
        "it fell 0",
    ),
    ("super_glue", "record"): (
        "record query: @placeholder is 0 entities: Ann 0, Bob 0, Rome passage: the red thing number 0 is here",
        "Ann 0",
    ),
    ("super_glue", "wsc"): (
        "wsc text: the red text number 0 is here question: Does the red span2_text number 0 is here refer to "
        "the red span1_text number 0 is here?",
        "no",
    ),
    ("boolq", ""): ("question: is 0? passage: the red thing number 0 is here", "yes"),
    ("go_emotions", ""): ("emotions: the red thing number 0 is here", "admiration"),
    ("conll2003", ""): ("Ann saw Rome 0", "B-PER O B-LOC O"),
    ("social_i_qa", ""): (
        "question: why? choices: A - because A 0 B - because B 0 C - because C 0 "
        "context: the red thing number 0 is here",
        "because A 0",
    ),
    ("ai2_arc", "challenge"): (
        "question: the red thing number 0 is here choices: 1 - answer 0 a 2 - answer 0 b 3 - answer 0 c 4 - answer 0 d",
        "answer 0 a",
    ),
    ("winogrande", "xl"): ("sentence: _ fell 0 choices: A - Ann B - Bob", "Ann"),
    ("squad_v2", ""): ("question: which 0? context: the red thing number 0 is here", "unanswerable"),
    ("web_nlg", ""): ("describe: Rome | in | 0; Rome | is | old", "the red thing number 0 is here"),
    ("opus_100", "en-de"): ("translate English to German: the red thing number 0 is here", "de 0"),
}
"""Source and target of the first row."""
