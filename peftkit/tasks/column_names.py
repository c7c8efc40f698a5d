"""Names that columns of users' data often have, the most usual first; compared without case."""

from __future__ import annotations

import re

LABEL_NAMES = ("label", "labels", "class", "category", "sentiment", "emotion", "topic", "intent", "target", "stance")
"""Names of columns with labels."""
FLAG_PREFIXES = ("is_", "has_")
"""How names of columns with truth values start."""
LABEL_LIST_NAMES = ("tags", "topics", "genres", "categories", "classes", "emotions", "aspects")
"""Names of columns with lists of labels, beside those of one label."""
MESSAGES_NAMES = ("messages", "conversations", "conversation")
"""Names of columns with the messages of a conversation."""
NUMBER_NAMES = ("score", "similarity", "rating", "stars", "value", "target", "scores", "ratings", "star", "grade")
"""Names of columns with a number to predict, beside those of a label."""
SIMILARITY_NAMES = ("similarity", "similarity_score", "score", "relatedness", "relatedness_score")
"""Names of columns with the similarity of two texts."""
QUANTITY_NAMES = (
    *("price", "cost", "amount", "salary", "count", "counts", "number", "num", "quantity", "votes", "likes", "views"),
    *(
        "age",
        "year",
        "duration",
        "length",
        "percent",
        "percentage",
        "rate",
        "points",
        "intensity",
        "valence",
        "arousal",
    ),
    *("dominance", "relatedness", "difficulty", "readability", "complexity", "temperature", "weight", "height"),
)
"""Names of columns with a quantity."""
TEXT_NAMES = ("text", "sentence", "content", "review", "tweet", "comment", "utterance", "body", "message", "document")
"""Names of columns with a text to classify."""
PAIR_NAMES = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("text_a", "text_b"),
    ("sentence_a", "sentence_b"),
    ("sent1", "sent2"),
    ("question", "sentence"),
)
"""Names of the two columns of pairs of texts."""
ANSWERED_PAIR_NAMES = (
    *(("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("question", "passage")),
    *(("question", "context"), ("query", "passage"), ("query", "document"), ("query", "title")),
)
"""Names of the two columns of pairs of texts beside a third one with the answer."""
QUESTION_NAMES = ("question", "query", "ctx", "goal", "sentence", "premise", "stem")
"""Names of columns with a question."""
ANSWER_NAMES = (
    "answer",
    "answerkey",
    "answer_key",
    "label",
    "correct",
    "correct_answer",
    "gold",
    "target",
    "answer_idx",
)
"""Names of columns with the answer to a question."""
CHOICES_NAMES = ("choices", "choices.text", "options", "endings", "answers", "candidates")
"""Names of columns with a list of choices."""
CHOICE_LABELS_NAMES = ("choices.label", "choice_labels", "option_labels")
"""Names of columns with the labels of the choices."""
LETTERED_CHOICES = ("{}", "option_{}", "choice_{}", "opa{}")
"""Names of columns of which each has one choice, with a letter."""
NUMBERED_CHOICES = ("choice", "option", "ending", "answer", "sol", "choice_", "option_", "answer_")
"""Names of columns of which each has one choice, before its number."""
CONTEXT_NAMES = ("context", "passage", "article", "support", "paragraph")
"""Names of columns with a text that a question refers to."""
SOURCE_NAMES = ("source", "input", "prompt", "question", "document", "article", "dialogue", "instruction", "text")
"""Names of columns with a text to continue or convert."""
INSTRUCTION_NAMES = ("instruction", "input")
"""Names of the columns with a task and with a text that it is done for, which may be empty."""
PREFERENCE_NAMES = ("chosen", "rejected")
"""Names of the columns of preferences, which tasks of the plugin peftkit-preference read."""
TARGET_NAMES = ("target", "output", "response", "completion", "summary", "highlights", "answer", "translation", "title")
"""Names of columns with a text to generate."""
WORDS_NAMES = ("tokens", "words", "sentence", "text")
"""Names of columns with words that have tags."""
TAGS_NAMES = ("ner_tags", "tags", "ner", "labels", "label", "pos_tags", "pos", "upos", "chunk_tags")
"""Names of columns with a tag for each word."""
ANSWER_SPAN_NAMES = ("answers", "answer", "spans", "span")
"""Names of columns with answers that have a place in the context."""
DISTRACTORS = ("distractor", "distractor_", "distractor ")
"""Names of columns of which each has one wrong answer, before its number."""
ANCHOR_NAMES = ("anchor", "query", "question")
"""Names of columns with a text whose positive is looked for."""
POSITIVE_NAMES = (
    *("positive", "positives", "pos", "positive_passage", "positive_passages", "positive_text", "positive_texts"),
    *("passage", "document"),
)
"""Names of columns with the text that belongs to an anchor."""
NEGATIVE_NAME = re.compile(r"(hard[_ -]?)?neg(ative)?s?([_ -]?\d+|[_ -]\w+)?", re.IGNORECASE)
"""Names of columns with hard negatives."""
