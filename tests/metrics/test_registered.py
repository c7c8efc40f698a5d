"""Every registered metric."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit import Example
from peftkit.components.options.option_docstrings import option_descriptions
from peftkit.metrics import EvaluateMetric, register_metrics

REGISTERED = [metric.model_validate({}) for metric in register_metrics() if issubclass(metric, EvaluateMetric)]
TEXT_KINDS = {"classification", "generation", "token_tagging"}
APART = ("f1", "instruction_following", "maj_at_k", "pass_at_k")
METRICS = [metric for metric in REGISTERED if TEXT_KINDS & {*metric.kinds} and metric.name not in APART]
"""Metrics of texts; those of other kinds, such as numbers, have tests of their own, and so have those apart."""
COMPARED = [metric for metric in METRICS if metric.name not in ("answer_leakage", "distinct")]
"""Metrics that compare predictions with references."""
EACH = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)

# Texts for all metrics: labels, sentences long enough for BLEU, and three distractors each.
TEXTS = ("one red fox; two blue cats; three green dogs", "rain fell; snow came; hail broke", "to go; to sit; to eat")
NOISE = ("", "nonsense", "one red fox; one red fox", "right", "to eat; to eat; to go")

LABELS, ALL = ("classification",), ("classification", "multiple_choice", "generation")
TEXT = ("generation", "chat")
KINDS = {
    "accuracy": ("classification", "multiple_choice"),
    "answer_leakage": ("generation",),
    "balanced_accuracy": LABELS,
    "bits_per_byte": ("language_modeling",),
    "bleu": TEXT,
    "chrf": TEXT,
    "distinct": TEXT,
    "distractor_assignment": ("generation",),
    "distractor_distinctness": ("generation",),
    "distractor_match": ("generation",),
    "distractor_novelty": ("generation",),
    "entity_f1": ("token_tagging",),
    "exact_match": (*ALL, "chat"),
    "exact_set": ("multi_label",),
    "f1": LABELS,
    "extracted_match": TEXT,
    "f1_macro": LABELS,
    "instruction_following": TEXT,
    "maj_at_k": TEXT,
    "mae": ("regression",),
    "matthews_correlation": LABELS,
    "mean_average_precision": ("multi_label",),
    "mrr": ("embedding",),
    "mse": ("regression",),
    "multi_label_f1": ("multi_label",),
    "ndcg": ("embedding",),
    "pass_at_k": TEXT,
    "pearson": ("regression", "text_similarity"),
    "perplexity": ("language_modeling",),
    "precision_macro": LABELS,
    "recall": ("embedding",),
    "recall_macro": LABELS,
    "rouge": TEXT,
    "squad": ("span_qa", "generation"),
    "spearman": ("regression", "text_similarity"),
    "teacher_forced_match": ALL,
    "unextractable": TEXT,
    "unknown_labels": ("multi_label",),
    "unparsable": ("regression",),
    "token_accuracy": ("token_tagging",),
}
SEVERAL = {
    "bleu": {"bleu", "bleu1", "bleu2", "bleu3", "bleu4"},
    "distinct": {"distinct1", "distinct2", "distinct3"},
    "distractor_assignment": {"distractor_soft", "distractor_exact"},
    "distractor_match": {"distractor_precision", "distractor_recall", "distractor_f1"},
    "entity_f1": {"entity_f1", "entity_precision", "entity_recall"},
    "squad": {"squad_exact_match", "squad_f1"},
    "rouge": {"rouge1", "rouge2", "rougeL", "rougeLsum"},
}

Pairs = list[tuple[str, str]]
Rows = tuple[list[str], list[list[str]], list[Example]]

pair_lists = st.lists(st.tuples(st.sampled_from(TEXTS + NOISE), st.sampled_from(TEXTS)), min_size=1, max_size=6)


def rows(pairs: Pairs) -> Rows:
    """The inputs of a metric for pairs of prediction and reference."""
    examples = [Example("q", right, TEXTS, extra={"answer": "right"}) for _, right in pairs]
    return [predicted for predicted, _ in pairs], [[right] for _, right in pairs], examples


def test_registered_metrics_and_their_kinds_of_task() -> None:
    assert {metric.name: metric.kinds for metric in REGISTERED} == KINDS
    apart = {metric.__name__ for metric in register_metrics() if not issubclass(metric, EvaluateMetric)}
    assert apart == {"HarnessChoiceScore", "HarnessTextScore"}, "these are computed by lm-evaluation-harness"
    lower = [metric.name for metric in REGISTERED if not metric.higher_is_better]
    assert lower == [
        *("answer_leakage", "bits_per_byte", "mae", "mse", "perplexity", "unextractable", "unknown_labels"),
        "unparsable",
    ]
    others = {metric.name: metric.input for metric in REGISTERED if metric.input != "prediction"}
    assert others == {
        **dict.fromkeys(("bits_per_byte", "perplexity"), "likelihood"),
        "mean_average_precision": "probabilities",
        **dict.fromkeys(("mrr", "ndcg", "recall"), "ranking"),
        **dict.fromkeys(("maj_at_k", "pass_at_k"), "samples"),
        "teacher_forced_match": "teacher_forced",
    }


@EACH
def test_values_have_the_name_of_the_metric(metric: EvaluateMetric) -> None:
    values = metric.compute(*rows([(TEXTS[0], TEXTS[0]), ("", TEXTS[1])]))
    assert values.keys() == SEVERAL.get(metric.name, {metric.name})
    assert all(type(value) is float for value in values.values())


@EACH
def test_every_option_and_every_metric_is_documented(metric: EvaluateMetric) -> None:
    options = {key: text for key, text in option_descriptions(type(metric)).items() if key != "name"}
    assert all(options.values()), options
    assert type(metric).__doc__ not in (None, *(base.__doc__ for base in type(metric).__mro__[1:]))


@pytest.mark.parametrize("metric", COMPARED, ids=lambda metric: metric.name)
@settings(deadline=None, max_examples=30)
@given(pairs=pair_lists)
def test_correct_predictions_score_best(metric: EvaluateMetric, pairs: Pairs) -> None:
    best = metric._compute(*rows([(right, right) for _, right in pairs]))
    for key, value in metric._compute(*rows(pairs)).items():
        assert -1 <= value <= best[key] + 1e-9
        assert best[key] <= (100 if metric.name in ("bleu", "chrf", "squad") else 1) + 1e-9


@EACH
@settings(deadline=None, max_examples=30)
@given(data=st.data(), pairs=pair_lists)
def test_scores_do_not_depend_on_the_order_of_rows(metric: EvaluateMetric, data: st.DataObject, pairs: Pairs) -> None:
    shuffled = data.draw(st.permutations(pairs))
    assert metric._compute(*rows(shuffled)) == pytest.approx(metric._compute(*rows(pairs)))


@EACH
def test_empty_predictions_score_zero(metric: EvaluateMetric) -> None:
    if (
        metric.input == "prediction" and metric.name != "unextractable"
    ):  # the teacher-forced score counts an empty prediction as the last label
        assert all(value == 0 for value in metric.compute(*rows([("", text) for text in TEXTS])).values())


@EACH
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "no predictions"),
        (["a"], [["a"], ["b"]], "number of predictions"),
        (["a", "b"], [["a"], []], "at least one reference"),
        (["a"], ["a"], "not one text"),
    ],
)
def test_invalid_rows_are_rejected(
    metric: EvaluateMetric, predictions: list[str], references: list[list[str]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions, references, [])


def test_all_metrics_combine_in_evaluate() -> None:
    import evaluate

    modules = [metric.module() for metric in METRICS]
    predictions, references, examples = rows([(TEXTS[0], TEXTS[0]), (TEXTS[0], TEXTS[1]), (NOISE[2], TEXTS[2])])
    alone: dict[str, float] = {}
    for metric in METRICS:
        alone |= metric.compute(predictions, references, examples)

    together = evaluate.combine(modules)
    for predicted, right in zip(predictions, references, strict=True):
        together.add_batch(predictions=[predicted], references=[right])
    assert together.compute(examples=examples) == alone
    prefixed = evaluate.combine(modules, force_prefix=True)
    values = prefixed.compute(predictions=predictions, references=references, examples=examples)
    assert values["accuracy_accuracy"] == alone["accuracy"]
    assert values["rouge_rouge1"] == alone["rouge1"]


@EACH
def test_evaluate_modules_reject_plain_text_references(metric: EvaluateMetric) -> None:
    with pytest.raises(ValueError, match="expected a list"):
        metric.module().compute(predictions=["a"], references=["a"])


def run(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_creating_metrics_imports_nothing_heavy() -> None:
    code = """
import sys
from peftkit.metrics import register_metrics
metrics = [metric() for metric in register_metrics()]
heavy = {"torch", "transformers", "datasets", "evaluate", "sklearn", "scipy", "sacrebleu", "rouge_score", "numpy"}
print(len(metrics), sorted(heavy & sys.modules.keys()))
"""
    assert run(code) == f"{len(register_metrics())} []"


@pytest.mark.slow
def test_computing_needs_no_network_and_writes_no_file(tmp_path: Path) -> None:
    code = """
import socket
def refuse(*arguments, **options):
    raise AssertionError("a metric used the network")
socket.socket.connect = socket.getaddrinfo = refuse
from peftkit import Example
from peftkit.metrics import register_metrics
examples = [Example("q", "a", ("a", "b"), extra={"answer": "c"})] * 2
for metric in register_metrics():
    if metric.model_fields["name"].default in ("harness_choice_score", "harness_text_score", "instruction_following"):
        # These need what only the rows of their tasks have.
        continue
    texts = ["1", "2"] if "regression" in metric.kinds else ["a", "b"]
    numbers = {"probabilities": {"a": 0.5}, "likelihood": {"nats": 2.0, "tokens": 1, "bytes": 3}}
    numbers["ranking"] = {"ranks": [1, 3], "rows_of_query": 1}
    inputs = [numbers[metric.input]] * 2 if metric.input in numbers else texts
    assert metric().compute(inputs, [texts[:1], texts], examples)
print("computed")
"""
    # evaluate imports torch, which creates the last folder and exports it to child processes
    names = ("HF_HOME", "HOME", "XDG_CACHE_HOME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR")
    folders = {name: tmp_path / name.lower() for name in names}
    for folder in folders.values():
        folder.mkdir()
    assert run(code, HF_HUB_OFFLINE="1", **{name: str(folder) for name, folder in folders.items()}) == "computed"
    assert [path for path in tmp_path.rglob("*") if path not in folders.values()] == []


def test_scores_are_means_of_per_example_scores() -> None:
    right = [["red; green; blue"], ["a b c d", "x"], ["one two"], ["yes"]]
    predictions = ["green; red; grey", "a b d", "three", "yes"]
    examples = [Example("q", texts[0], extra={"answer": "grey"}) for texts in right]
    metrics = [metric for metric in METRICS if metric.is_mean_of_examples]
    assert {metric.name for metric in metrics} == {
        *("answer_leakage", "distractor_assignment", "distractor_distinctness", "distractor_match"),
        *("distractor_novelty", "exact_match", "rouge", "accuracy", "entity_f1", "token_accuracy"),
        *("extracted_match", "unextractable", "squad"),
    }
    for metric in metrics:
        each = metric.compute_per_example(predictions, right, examples)
        for key, value in metric.compute(predictions, right, examples).items():
            assert sum(one[key] for one in each) / len(each) == pytest.approx(value, abs=1e-9)
