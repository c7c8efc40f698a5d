"""Suites whose answers are texts: spans, summaries, descriptions of data and translations."""

from __future__ import annotations

from typing import Any

from peftkit.errors import RowError
from peftkit.tasks.columns import short_repr
from peftkit.tasks.hub_suites.hub_task import CONVERTED, HubSet, HubSuite, sizes, tested_on_validation
from peftkit.tasks.span_qa import SpanQa
from peftkit.tasks.text_tasks.text_generation import TextGeneration

TRIPLES = "modified_triple_sets.mtriple_set"
LANGUAGES = {
    **{"ar": "Arabic", "cs": "Czech", "de": "German", "es": "Spanish", "fr": "French", "it": "Italian"},
    **{"ja": "Japanese", "nl": "Dutch", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "zh": "Chinese"},
}
"""Languages of the translations, by their codes."""

SQUAD = HubSuite(
    name="squad",
    summary="Question about a paragraph → the span that answers it",
    paper="SQuAD, Rajpurkar et al., 2016",
    licence="CC BY-SA 4.0",
    note="The published validation split is test, and 2 % of the training rows are dev, whose paragraphs are also in "
    "train.",
    sets={
        "": HubSet(
            base=SpanQa,
            path="rajpurkar/squad",
            options=tested_on_validation(0.02),
            template="question: {question} context: {context}",
            metric="squad_f1",
            sizes={"train": 87599, "validation": 10570},
        )
    },
)
SQUAD_V2 = HubSuite(
    name="squad_v2",
    summary="Question about a paragraph → the span that answers it, or none",
    paper="SQuAD 2.0, Rajpurkar et al., 2018",
    licence="CC BY-SA 4.0",
    note=SQUAD.note,
    sets={
        "": HubSet(
            base=SpanQa,
            path="rajpurkar/squad_v2",
            options={"allow_no_answer": True, **tested_on_validation(0.02)},
            template="question: {question} context: {context}",
            metric="squad_f1",
            sizes={"train": 130319, "validation": 11873},
        )
    },
)


def _generation(path: str, source: str, target: str, **more: Any) -> HubSet:
    options = {"source_column": source, "target_column": target, **more.pop("options", {})}
    return HubSet(base=TextGeneration, path=path, options=options, **more)


XSUM = HubSuite(
    name="xsum",
    summary="News article → a summary of one sentence",
    paper="XSum, Narayan et al., 2018",
    licence="not stated; of the BBC's articles",
    note="Dev and test are the published ones.",
    sets={
        "": _generation(
            *("EdinburghNLP/xsum", "document", "summary"),
            options={"revision": CONVERTED},
            template="summarize: {source}",
            metric="rougeL",
            sizes=sizes(204045, 11332, 11334),
        )
    },
)
SAMSUM = HubSuite(
    name="samsum",
    summary="Dialogue → a summary",
    paper="SAMSum, Gliwa et al., 2019",
    licence="Creative Commons, attribution, non-commercial, no derivatives, 4.0",
    note="Dev and test are the published ones. A training row of the hub's copy has no dialogue, so invalid rows are "
    "skipped.",
    sets={
        "": _generation(
            *("knkarthick/samsum", "dialogue", "summary"),
            options={"on_bad_row": "skip"},
            template="summarize: {source}",
            metric="rougeL",
            sizes={"validation": 818, "test": 819},
        )
    },
)
E2E_NLG = HubSuite(
    name="e2e_nlg",
    summary="Attributes of a restaurant → a description",
    paper="E2E NLG, Novikova et al., 2017",
    licence="CC BY-SA 4.0",
    note="Dev and test are the published ones. Each row has one reference, so BLEU is lower than in the "
    "challenge, where all texts on the same attributes are references.",
    sets={
        "": _generation(
            *("tuetschek/e2e_nlg", "meaning_representation", "human_reference"),
            options={"revision": CONVERTED, "group_column": "meaning_representation"},
            template="describe: {source}",
            metric="bleu",
            sizes=sizes(42061, 4672, 4693),
        )
    },
)


def join_triples(value: Any) -> str:
    """Writes the triples of a WebNLG entry as one text: ``subject | predicate | object; …``.

    Raises:
        RowError: The value is not a list of lists of texts.
    """
    lists = value if isinstance(value, list) else [value]
    triples = [each for inner in lists[:1] for each in (inner if isinstance(inner, list) else [inner])]
    if not triples or not all(isinstance(each, str) and each.strip() for each in triples):
        raise RowError(TRIPLES, f"must be lists of triples, not {short_repr(value)}")
    return "; ".join(triples)


WEB_NLG = HubSuite(
    name="web_nlg",
    summary="Triples of DBpedia → a text",
    paper="WebNLG, Gardent et al., 2017",
    licence="CC BY-NC-SA 4.0",
    note="Release 2.1. Dev and test are the published ones; all texts of an entry are references, and the first one is "
    "trained.",
    sets={
        "": _generation(
            *("webnlg-challenge/web_nlg", "category", "lex.text"),
            options={"revision": CONVERTED},
            data_dir="release_v2.1",
            template="describe: {triples}",
            computed={"triples": (TRIPLES, join_triples)},
            metric="bleu",
        )
    },
)


def _translation(code: str) -> HubSet:
    """Describes the translation from English."""
    pair = "-".join(sorted(("en", code)))
    return _generation(
        *("Helsinki-NLP/opus-100", "translation.en", f"translation.{code}"),
        options={"config": pair},
        template=f"translate English to {LANGUAGES[code]}: {{source}}",
        metric="bleu",
        sizes={"validation": 2000, "test": 2000},
    )


OPUS_100 = HubSuite(
    name="opus_100",
    summary="English sentence → its translation",
    paper="OPUS-100, Zhang et al., 2020",
    licence="that of each corpus of OPUS",
    note="Dev and test are the published ones. Swap the columns to translate into English, and set a prompt.",
    sets={f"en-{code}": _translation(code) for code in ("de", *(each for each in LANGUAGES if each != "de"))},
)

TEXT_SUITES = (SQUAD, SQUAD_V2, XSUM, SAMSUM, E2E_NLG, WEB_NLG, OPUS_100)
