"""Which task ``peftkit init`` recognizes in which columns, and where it asks."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from peftkit.analysis.task_candidates import (
    describe_candidate,
    doubtful_candidates,
    find_candidates,
    other_candidates,
    supported_candidates,
)
from peftkit.errors import InputError
from peftkit.plugins import load_registry

N = 240
RANDOM = random.Random(0)
WORDS = (
    "the",
    "film",
    "was",
    "long",
    "and",
    "dull",
    "but",
    "a",
    "bright",
    "song",
    "made",
    "people",
    "laugh",
    "in",
    "rain",
)
Make = Callable[[int], Any]


def text(words: int = 10) -> Make:
    return lambda _: " ".join(RANDOM.choices(WORDS, k=words))


def one_of(*values: Any) -> Make:
    return lambda i: values[i % len(values)]


def whole(low: int, high: int) -> Make:
    return lambda _: RANDOM.randint(low, high)


def number(low: float, high: float) -> Make:
    return lambda _: round(RANDOM.uniform(low, high), 2)


def several(separator: str, least: int = 1) -> Make:
    return lambda _: separator.join(RANDOM.sample(["red", "blue", "green", "gold"], RANDOM.randint(least, 3)))


def rows(count: int = N, /, **columns: Make) -> list[dict[str, Any]]:
    return [{name.replace("__", " "): make(i) for name, make in columns.items()} for i in range(count)]


def chat(role: str, content: str, people: tuple[str, str]) -> Make:
    return lambda i: [{role: person, content: f"it is {i}"} for person in people]


class Case(NamedTuple):
    rows: list[dict[str, Any]]
    task: str
    options: dict[str, Any]
    asks: bool = False


def labels(column: str, data: list[dict[str, Any]], *, asks: bool = False, **options: Any) -> Case:
    return Case(data, "text_classification", {"label_column": column, **options}, asks)


def numbers(column: str, data: list[dict[str, Any]], *, asks: bool = False, **options: Any) -> Case:
    return Case(data, "text_regression", {"target_column": column, **options}, asks)


def multi_label(data: list[dict[str, Any]], *, asks: bool = False, **options: Any) -> Case:
    return Case(data, "text_multi_label", options, asks)


def pairs(data: list[dict[str, Any]], **options: Any) -> Case:
    return Case(data, "text_pairs", options)


CASES = {
    "label": labels("label", rows(text=text(), label=one_of("a", "b"))),
    "numbered labels": labels("label", rows(text=text(), label=one_of(0, 1, 2, 3))),
    "truth values": labels("label", rows(text=text(), label=one_of(True, False))),
    "labels as floats": labels("label", rows(text=text(), label=one_of(0.0, 1.0))),
    "labels as texts of numbers": labels("label", rows(text=text(), label=one_of("1", "2", "3"))),
    "two numbers": labels("target", rows(text=text(), target=one_of(0, 4))),
    "many named labels": labels("intent", rows(text=text(), intent=lambda i: f"intent {i % 50}")),
    "rows sorted by label": labels("label", rows(6000, text=text(), label=lambda i: "a" if i < 4000 else "b")),
    "a row number": labels("label", rows(id=lambda i: i, text=text(), label=one_of("a", "b"))),
    "an index of pandas": labels("label", rows(Unnamed__=lambda i: i, text=text(), label=one_of(0, 1, 2))),
    "unknown words": labels("categorie", rows(texte=text(), categorie=one_of("sport", "art"))),
    "label first": labels("v1", rows(v1=one_of("ham", "spam"), v2=text())),
    "capitals": labels("Class Index", rows(Class__Index=one_of(1, 2, 3, 4), Title=text(3), Description=text(20))),
    "a name beside a number": labels(
        "label_text", rows(text=text(), label=one_of(0, 1, 2), label_text=one_of("neg", "mid", "pos"))
    ),
    "an author": labels("label", rows(text=text(), author=lambda i: "xyz"[i * i % 3], label=one_of("a", "b"))),
    "a count beside a label": labels("label", rows(text=text(), votes=whole(0, 40), label=one_of("a", "b"))),
    "title and text": labels(
        "category", rows(title=text(4), text=text(30), category=one_of("a", "b", "c")), text_column="text"
    ),
    "no label is -1": labels("label", rows(text=text(), label=one_of(0, 1, 2, -1)), ignore_labels=[-1]),
    "few without label": labels(
        "label", rows(text=text(), label=lambda i: -1 if i % 20 == 0 else i % 2), ignore_labels=[-1], asks=True
    ),
    "negative, neutral, positive": labels(
        "label", rows(text=text(), label=one_of(-1, 0, 1)), ignore_labels=None, asks=True
    ),
    "a label beside truth values": labels(
        "label", rows(text=text(), label=one_of(0, 1), edited=whole(0, 1), is_reply=whole(0, 1))
    ),
    "two kinds of labels": labels(
        "sentiment", rows(text=text(), sentiment=one_of("p", "n"), topic=lambda i: "xyz"[i * i % 3]), asks=True
    ),
    "a place": labels("place", rows(text=text(), place=one_of("Paris, France", "Rome, Italy", "Lyon, France"))),
    "stars": numbers("stars", rows(review=text(), stars=whole(1, 5)), asks=True),
    "star rating": numbers(
        "star_rating",
        rows(review_id=lambda i: f"R{i}", star_rating=whole(1, 5), headline=text(4), review_body=text(30)),
        asks=True,
        text_column="review_body",
    ),
    "a rating to 100": numbers("rating", rows(text=text(), rating=whole(1, 100))),
    "a price": numbers("price", rows(title=text(), price=whole(100, 99999))),
    "a count": numbers("count", rows(text=text(), count=whole(0, 60))),
    "an age": numbers("age", rows(tweet=text(), age=whole(18, 80))),
    "a score": numbers("score", rows(id=lambda i: i, text=text(), score=whole(0, 200))),
    "a label with fractions": numbers("label", rows(text=text(), label=number(0, 5))),
    "texts of numbers": numbers("score", rows(text=text(), score=lambda i: f"{i / 7:.2f}")),
    "several numbers": Case(
        rows(text=text(), valence=number(0, 1), arousal=number(0, 1)),
        "text_regression",
        {"target_columns": ["valence", "arousal"]},
        asks=True,
    ),
    "bars": multi_label(
        rows(text=text(), labels=several("|")), label_column="labels", label_delimiter="|", label_columns=None
    ),
    "commas": multi_label(rows(text=text(), genres=several(", ")), label_column="genres", label_delimiter=","),
    "semicolons": multi_label(rows(text=text(), tags=several(";", 0)), label_column="tags", label_delimiter=";"),
    "numbers with commas": multi_label(
        rows(text=text(), labels=lambda i: ",".join(map(str, {i % 20, RANDOM.randint(0, 19)}))), label_delimiter=","
    ),
    "lists": multi_label(
        rows(text=text(), topics=lambda i: ["a"] * (i % 2) + ["b"] * (i % 3 > 0)), label_delimiter=None
    ),
    "ones and zeros": multi_label(
        rows(id=lambda i: f"x{i}", comment=text(), toxic=one_of(0, 1), rude=whole(0, 1), threat=one_of(0, 0, 1)),
        label_columns=["toxic", "rude", "threat"],
    ),
    "score of a pair": Case(
        rows(sentence1=text(), sentence2=text(), score=number(0, 5)),
        "text_similarity",
        {"text1_column": "sentence1", "text2_column": "sentence2", "score_column": "score", "score_range": [0.0, 5.0]},
        asks=True,
    ),
    "whole score of a pair": Case(
        rows(sentence1=text(), sentence2=text(), score=whole(0, 5)), "text_similarity", {"score_column": "score"}, True
    ),
    "similarity of a pair": Case(
        rows(text_a=text(), text_b=text(), similarity=number(0, 1)),
        "text_similarity",
        {"score_column": "similarity", "score_range": None},
        asks=True,
    ),
    "label of a pair with fractions": numbers(
        "label", rows(sentence1=text(), sentence2=text(), label=number(0, 5)), asks=True, text_pair_column="sentence2"
    ),
    "label of a pair": labels(
        "label", rows(sentence1=text(), sentence2=text(), label=one_of(0, 1)), text_pair_column="sentence2"
    ),
    "premise": labels(
        "label", rows(premise=text(), hypothesis=text(), label=one_of("e", "n", "c")), text_pair_column="hypothesis"
    ),
    "question and passage": labels(
        "answer", rows(question=text(), passage=text(30), answer=one_of(True, False)), text_pair_column="passage"
    ),
    "is it a duplicate": labels(
        "is_duplicate",
        rows(
            id=lambda i: i,
            qid1=whole(0, 500),
            qid2=whole(0, 500),
            question1=text(),
            question2=text(),
            is_duplicate=one_of(0, 1),
        ),
        text_pair_column="question2",
    ),
    "anchors": pairs(rows(anchor=text(), positive=text()), negative_columns=None),
    "a negative": pairs(rows(query=text(), positive=text(), negative=text()), negative_columns=["negative"]),
    "several negatives": pairs(
        rows(query=text(), positive=text(), negative_1=text(), negative_2=text()),
        negative_columns=["negative_1", "negative_2"],
    ),
    "lists of negatives": pairs(
        rows(query=text(), pos=text(), neg=lambda i: [f"no {i}", f"nor {i}"]), negative_columns=["neg"]
    ),
    "hard negatives": pairs(
        rows(anchor=text(), positive=text(), hard_negatives=lambda i: [f"no {i}"]), negative_columns=["hard_negatives"]
    ),
    "two sentences": pairs(rows(sentence1=text(), sentence2=text()), positive_column="sentence2"),
    "source and target": Case(rows(source=text(), target=text()), "text_generation", {"source_column": "source"}),
    "summaries": Case(rows(article=text(50), summary=text(5)), "text_generation", {"target_column": "summary"}),
    "two languages": Case(rows(en=text(), de=text()), "text_generation", {"target_column": "de"}, asks=True),
    "free answers": Case(rows(question=text(), answer=text(4)), "text_generation", {"target_column": "answer"}),
    "a prompt": Case(rows(prompt=text(), completion=text()), "text_generation", {"source_column": "prompt"}, asks=True),
    "choices": Case(
        rows(question=text(), choices=lambda i: [f"x {i}", "y", "z"], answer=one_of(0, 1, 2)),
        "multiple_choice",
        {"answer_is": "index"},
    ),
    "choices in columns": Case(
        rows(question=text(), A=text(2), B=text(2), C=text(2), answer=one_of("A", "B", "C")),
        "multiple_choice",
        {"choices_columns": ["A", "B", "C"]},
    ),
    "tags": Case(
        rows(tokens=lambda i: ["Ann", "met", f"Bob{i}"], ner_tags=lambda _: ["B-PER", "O", "B-PER"]),
        "token_tagging",
        {"tags_column": "ner_tags"},
    ),
    "spans": Case(
        rows(
            question=text(),
            context=lambda i: f"Ann is {i}",
            answers=lambda _: {"text": ["Ann"], "answer_start": [0]},
        ),
        "span_qa",
        {"answers_column": "answers"},
    ),
    "messages": Case(
        rows(messages=chat("role", "content", ("user", "assistant"))), "chat", {"messages_column": "messages"}
    ),
    "ShareGPT": Case(
        rows(conversations=chat("from", "value", ("human", "gpt"))), "chat", {"messages_column": "conversations"}
    ),
    "Alpaca": Case(rows(instruction=text(), input=one_of("", "a b c"), output=text()), "chat", {}, asks=True),
    "only text": Case(rows(text=text(40)), "plain_text", {"text_column": "text"}),
}


@pytest.fixture
def data(tmp_path: Path) -> Callable[[list[dict[str, Any]]], str]:
    def write(written: list[dict[str, Any]]) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, written)), encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize("name", CASES)
def test_the_task_of_columns_and_whether_it_is_doubtful(name: str, data: Callable[..., str]) -> None:
    case = CASES[name]
    candidates = find_candidates(data(case.rows), load_registry())
    best = candidates[0]
    assert best.name == case.task
    assert {option: best.match.options.get(option) for option in case.options} == case.options
    doubtful = [describe_candidate(each) for each in doubtful_candidates(candidates)]
    assert (len(doubtful) > 1) == case.asks, doubtful
    assert len({*doubtful}) == len(doubtful)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (rows(text=text(), label=one_of("a")), "'label' has the value 'a' in all rows that were read"),
        (rows(text=text(30), label=one_of(1)), "'label' has the value 1 in all rows"),
        (rows(text=text(), wert=lambda i: f"{i},5"), "numbers with decimal commas, such as 0,5; .* such as 0.5"),
        (rows(n=lambda i: i), "no task recognizes the columns"),
    ],
)
def test_data_without_a_task_name_the_column_and_the_remedy(
    written: list[dict[str, Any]], message: str, data: Callable[..., str]
) -> None:
    with pytest.raises(InputError, match=message):
        find_candidates(data(written), load_registry())


def test_other_readings_are_those_that_a_user_may_mean(data: Callable[..., str]) -> None:
    candidates = find_candidates(data(CASES["stars"].rows), load_registry())
    [other] = other_candidates(candidates, candidates[0])
    assert describe_candidate(other) == 'text_classification (text_column = "review", label_column = "stars")'
    candidates = find_candidates(data(CASES["label"].rows), load_registry())
    assert other_candidates(candidates, candidates[0]) == []


def test_negatives_of_another_form_are_said_to_be_unused(data: Callable[..., str]) -> None:
    written = rows(query=text(), positive=text(), negatives=lambda i: [{"id": i, "text": "no"}])
    [best] = find_candidates(data(written), load_registry())[:1]
    assert "negative_columns" not in best.match.options
    assert "not used, since they have neither texts nor lists of texts: negatives" in best.match.reason


@pytest.mark.parametrize(
    ("case", "model", "task"),
    [
        ("Alpaca", "pocket-decoder", "chat"),
        ("Alpaca", "pocket-t5", "text_generation"),
        ("score of a pair", "pocket-t5", "text_similarity"),
        ("label", "pocket-encoder", "text_classification"),
    ],
)
def test_tasks_are_those_of_the_model(case: str, model: str, task: str, data: Callable[..., str]) -> None:
    registry = load_registry()
    candidates = find_candidates(data(CASES[case].rows), registry)
    assert supported_candidates(candidates, model, registry)[0].name == task


def test_a_model_of_another_kind_is_one_error(data: Callable[..., str]) -> None:
    registry = load_registry()
    candidates = find_candidates(data(CASES["messages"].rows), registry)
    with pytest.raises(
        InputError, match=r"for chat, because 'messages' has .*; 'pocket-t5' is an encoder-decoder, .* is a decoder"
    ):
        supported_candidates(candidates, "pocket-t5", registry)
