"""Suites with labels and tags: GoEmotions, CoNLL-2003 and WNUT-17."""

from __future__ import annotations

from peftkit.tasks.hub_suites.hub_task import CONVERTED, HubSet, HubSuite, sizes
from peftkit.tasks.text_tasks.text_multi_label import TextMultiLabel
from peftkit.tasks.token_tagging import TokenTagging

GO_EMOTIONS = HubSuite(
    name="go_emotions",
    summary="Comment → any of 28 emotions",
    paper="GoEmotions, Demszky et al., 2020",
    licence="Apache 2.0",
    note="Dev and test are the published ones.",
    sets={
        "": HubSet(
            base=TextMultiLabel,
            path="google-research-datasets/go_emotions",
            options={
                "config": "simplified",
                "label_names": (
                    *("admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity"),
                    *("desire", "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear"),
                    *("gratitude", "grief", "joy", "love", "nervousness", "optimism", "pride", "realization", "relief"),
                    *("remorse", "sadness", "surprise", "neutral"),
                ),
            },
            template="emotions: {text}",
            metric="f1_macro",
            sizes=sizes(43410, 5426, 5427),
        )
    },
)


def _tags(*types: str) -> tuple[str, ...]:
    return ("O", *(f"{part}-{each}" for each in types for part in "BI"))


CONLL_2003 = HubSuite(
    name="conll2003",
    summary="Words of news → persons, organizations, locations and other names",
    paper="CoNLL-2003, Tjong Kim Sang and De Meulder, 2003",
    licence="of the Reuters Corpus; for research",
    note="The model reads the words alone. Dev and test are the published ones.",
    sets={
        "": HubSet(
            base=TokenTagging,
            path="eriktks/conll2003",
            options={"revision": CONVERTED, "tag_names": _tags("PER", "ORG", "LOC", "MISC")},
            template="{words}",
            metric="entity_f1",
            sizes=sizes(14041, 3250, 3453),
        )
    },
)

WNUT_17 = HubSuite(
    name="wnut_17",
    summary="Words of posts → rare and new names of six types",
    paper="WNUT-17, Derczynski et al., 2017",
    licence="CC BY 4.0",
    note="The model reads the words alone. Dev and test are the published ones.",
    sets={
        "": HubSet(
            base=TokenTagging,
            path="leondz/wnut_17",
            options={
                "revision": CONVERTED,
                "tag_names": _tags("corporation", "creative-work", "group", "location", "person", "product"),
            },
            template="{words}",
            metric="entity_f1",
            sizes=sizes(3394, 1009, 1287),
        )
    },
)

LABEL_SUITES = (GO_EMOTIONS, CONLL_2003, WNUT_17)
