"""All three kinds of model give the same three things: a summed loss, scores of candidates, generated text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from transformers import AutoTokenizer

from peftkit import ApplyContext, Example, Method
from peftkit.components import ModelKind, TaskKind
from peftkit.methods.lora import Lora
from peftkit.methods.prefix_tuning import PrefixTuning
from peftkit.methods.vera import Vera
from peftkit.models import FAMILIES, IGNORE_INDEX, ModelFamily, TokenizedRow
from tests.tiny_runs import tiny

CPU = torch.device("cpu")
KINDS = ("encoder-decoder", "decoder", "encoder")
EXAMPLES = [
    Example("a bird", "robin", ("robin", "a steam locomotive", "granite")),
    Example(
        "a train that runs on coal and water and is seldom seen", "a steam locomotive", ("soup", "a steam locomotive")
    ),
    Example("stone", "granite", ("robin", "granite", "soup", "marsh", "a steam locomotive")),
]


def setting(kind: str, task_kind: TaskKind = "multiple_choice", **lengths: int) -> tuple[torch.nn.Module, ModelFamily]:
    from peftkit.recipe.resolve import model_path

    model, tokenizer = tiny(kind)
    if kind == "encoder":
        from transformers import BertForSequenceClassification

        torch.manual_seed(1)
        model.config.num_labels = 1 if task_kind == "multiple_choice" else 3
        model = BertForSequenceClassification(model.config)
    form = FAMILIES[kind](  # type: ignore[index]
        AutoTokenizer.from_pretrained(model_path(tokenizer)),
        model.config,
        task_kind,
        lengths.get("source", 64),
        lengths.get("target", 16),
    )
    return model.eval(), form


def alone(form: ModelFamily, model: torch.nn.Module, row: TokenizedRow) -> list[float]:
    """Each candidate scored for itself, in a batch of one with no other candidate."""
    return [
        form.loglikelihoods(model, [{**row, "candidates": [candidate], "answer": 0}], CPU).loglikelihoods[0][0]
        for candidate in row["candidates"]
    ]


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_ranking_together_equals_scoring_alone(kind: str) -> None:
    model, form = setting(kind)
    rows = form.tokenize(EXAMPLES, ranked=True)
    with torch.no_grad():
        scores = form.loglikelihoods(model, rows, CPU)
        for row, sums in zip(rows, scores.loglikelihoods, strict=True):
            assert sums == pytest.approx(alone(form, model, row), abs=1e-4)
    assert [len(s) for s in scores.loglikelihoods] == [3, 2, 5]
    assert all(len(t) == len(s) for t, s in zip(scores.num_tokens, scores.loglikelihoods, strict=True))


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
@pytest.mark.parametrize("method", [Lora(), Vera(), PrefixTuning()], ids=lambda m: m.name)
def test_ranking_goes_through_the_method(method: Method, kind: ModelKind) -> None:
    model, form = setting(kind)
    rows = form.tokenize(EXAMPLES, ranked=True)
    with torch.no_grad():
        bare = form.loglikelihoods(model, rows, CPU).loglikelihoods
        changed = method.apply(model, ApplyContext(kind, "multiple_choice", seed=0, steps=None)).eval()
        for parameter in changed.parameters():
            if parameter.requires_grad:
                parameter.normal_()
        scores = form.loglikelihoods(changed, rows, CPU)
        for row, sums, before in zip(rows, scores.loglikelihoods, bare, strict=True):
            assert sums == pytest.approx(alone(form, changed, row), abs=1e-3)
            assert sums != pytest.approx(before, abs=1e-3)


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_a_score_is_the_models_own_log_likelihood(kind: str) -> None:
    model, form = setting(kind)
    row = form.tokenize(EXAMPLES[:1], ranked=True)[0]
    candidate = row["candidates"][1]
    with torch.no_grad():
        if kind == "encoder-decoder":
            own = model(input_ids=torch.tensor([row["source"]]), labels=torch.tensor([candidate])).loss
        else:
            text = torch.tensor([row["source"] + candidate])
            labels = text.clone()
            labels[:, : len(row["source"])] = IGNORE_INDEX
            own = model(input_ids=text, labels=labels).loss
        scored = form.loglikelihoods(model, [row], CPU)
    assert scored.num_tokens[0][1] == len(candidate)
    assert scored.loglikelihoods[0][1] == pytest.approx(-own.item() * len(candidate), rel=1e-4)


def test_an_encoder_scores_the_choices_of_a_row_against_each_other() -> None:
    model, form = setting("encoder")
    rows = form.tokenize(EXAMPLES, ranked=True)
    with torch.no_grad():
        together = form.loglikelihoods(model, rows, CPU).loglikelihoods
        each = [form.loglikelihoods(model, [row], CPU).loglikelihoods[0] for row in rows]
    for one, other in zip(together, each, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
        assert sum(torch.tensor(one).exp().tolist()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_loss_is_the_targets_negative_log_likelihood(kind: str) -> None:
    model, form = setting(kind)
    rows = form.tokenize(EXAMPLES, ranked=True)
    batch = form.collate(rows)
    with torch.no_grad():
        loss = form.loss(model, batch).item()
        scores = form.loglikelihoods(model, rows, CPU)
    assert loss == pytest.approx(
        -sum(s[r["answer"]] for s, r in zip(scores.loglikelihoods, rows, strict=True)), rel=1e-4
    )
    assert form.num_targets(batch).item() == sum(t[r["answer"]] for t, r in zip(scores.num_tokens, rows, strict=True))


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_generation_does_not_depend_on_padding(kind: str) -> None:
    model, form = setting(kind, "generation")
    rows = form.tokenize([Example(e.source, e.target) for e in EXAMPLES], ranked=False)
    with torch.no_grad():
        together = form.generate(model, rows, CPU, max_new_tokens=6, num_beams=1)
        each = [form.generate(model, [row], CPU, max_new_tokens=6, num_beams=1)[0] for row in rows]
    assert together == each


@pytest.mark.parametrize("kind", KINDS)
def test_widths_are_multiples_of_eight_and_cuts_are_reported(kind: str) -> None:
    _, form = setting(kind, source=8, target=3)
    rows = form.tokenize(EXAMPLES, ranked=True)
    assert [row["source_tokens"] > 8 for row in rows] == [False, True, False] or kind == "encoder"
    assert rows[1]["source_tokens"] > 8
    assert rows[1]["target_tokens"] > 3 or kind == "encoder"
    batch = form.collate(rows)
    assert batch["input_ids"].shape[1] % 8 == 0
    if kind != "encoder":
        assert all(len(row["source"]) <= 8 and max(map(len, row["candidates"])) <= 3 for row in rows)
    else:
        assert all(len(text) <= 8 for row in rows for text in row["candidates"])


def test_an_encoder_decoders_cut_source_keeps_its_end_mark() -> None:
    _, form = setting("encoder-decoder", source=8)
    row = form.tokenize(EXAMPLES[1:2], ranked=True)[0]
    assert len(row["source"]) == 8
    assert row["source"][-1] == form.tokenizer.eos_token_id


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_labels_keep_their_numbers(kind: str) -> None:
    _, form = setting(kind, "classification")
    labels = ("robin", "granite", "soup")
    examples: Sequence[Example] = [Example("x", label, labels) for label in labels]
    assert [row["answer"] for row in form.tokenize(examples, ranked=True)] == [0, 1, 2]
