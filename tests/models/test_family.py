"""Losses, candidate scores and generated text of all three kinds of model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer

from peftkit import ApplyContext, Example, Method
from peftkit.components import ModelKind, TaskKind
from peftkit.methods.lora import Lora
from peftkit.methods.prefix_tuning import PrefixTuning
from peftkit.methods.vera import Vera
from peftkit.models import IGNORE_INDEX, BoundObjective, ModelFamily, TokenizedRow
from peftkit.models.batches.padding import max_lengths
from peftkit.recipe.model_names import model_path
from tests.tiny_runs import bind_objective, tiny

CPU = torch.device("cpu")
KINDS = ("encoder-decoder", "decoder", "encoder")
EXAMPLES = [
    Example("a bird", "robin", ("robin", "a steam locomotive", "granite")),
    Example(
        "a train that runs on coal and water and is seldom seen", "a steam locomotive", ("soup", "a steam locomotive")
    ),
    Example("stone", "granite", ("robin", "granite", "soup", "marsh", "a steam locomotive")),
]


def setting(
    kind: ModelKind, task_kind: TaskKind = "multiple_choice", *, source: int = 64, target: int = 16
) -> tuple[torch.nn.Module, BoundObjective]:
    model, name = tiny(kind)
    if kind == "encoder":
        from transformers import BertForSequenceClassification

        torch.manual_seed(1)
        model.config.num_labels = 1 if task_kind == "multiple_choice" else 3
        model = BertForSequenceClassification(model.config)
    tokenizer = AutoTokenizer.from_pretrained(model_path(name))
    lengths = {"max_source_length": source, "max_target_length": target}
    return model.eval(), bind_objective(kind, tokenizer, model.config, task_kind, **lengths)


def alone(family: ModelFamily, model: torch.nn.Module, row: TokenizedRow) -> list[float]:
    """Scores each candidate in a batch of one, without other candidates."""
    return [
        family.loglikelihoods(model, [{**row, "candidates": [candidate], "answer": 0}], CPU).loglikelihoods[0][0]
        for candidate in row["candidates"]
    ]


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_batched_scores_equal_scores_of_single_candidates(kind: ModelKind) -> None:
    model, objective = setting(kind)
    family = objective.family
    rows = objective.tokenize(EXAMPLES, training=False)
    with torch.no_grad():
        scores = family.loglikelihoods(model, rows, CPU)
        for row, sums in zip(rows, scores.loglikelihoods, strict=True):
            assert sums == pytest.approx(alone(family, model, row), abs=1e-4)
    assert [len(s) for s in scores.loglikelihoods] == [3, 2, 5]
    assert all(len(t) == len(s) for t, s in zip(scores.num_tokens, scores.loglikelihoods, strict=True))


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
@pytest.mark.parametrize("method", [Lora(), PrefixTuning()], ids=lambda m: m.name)
def test_loglikelihoods_of_all_candidates_can_be_trained(method: Method, kind: ModelKind) -> None:
    model, objective = setting(kind)
    family = objective.family
    model = method.apply(model, ApplyContext(kind, "multiple_choice", seed=0, steps=None)).eval()
    rows = objective.tokenize(EXAMPLES, training=False)
    batch = family.collate_candidates(rows)
    assert batch["choices"].tolist() == [3, 2, 5]
    sums, counts = family.target_loglikelihoods(model, batch)
    scores = family.loglikelihoods(model, rows, CPU)
    assert sums.tolist() == pytest.approx([value for row in scores.loglikelihoods for value in row], abs=1e-4)
    assert counts.tolist() == [count for row in scores.num_tokens for count in row]
    sums.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_an_encoder_has_a_text_for_each_candidate_anyway() -> None:
    _, objective = setting("encoder")
    rows = objective.tokenize(EXAMPLES, training=True)
    batch, expected = objective.family.collate_candidates(rows), objective.family.collate(rows)
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[key], expected[key]) for key in batch)


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
@pytest.mark.parametrize("method", [Lora(), Vera(), PrefixTuning()], ids=lambda m: m.name)
def test_scoring_uses_the_methods_parameters(method: Method, kind: ModelKind) -> None:
    model, objective = setting(kind)
    family = objective.family
    rows = objective.tokenize(EXAMPLES, training=False)
    with torch.no_grad():
        bare = family.loglikelihoods(model, rows, CPU).loglikelihoods
        changed = method.apply(model, ApplyContext(kind, "multiple_choice", seed=0, steps=None)).eval()
        for parameter in changed.parameters():
            if parameter.requires_grad:
                parameter.normal_()
        scores = family.loglikelihoods(changed, rows, CPU)
        for row, sums, before in zip(rows, scores.loglikelihoods, bare, strict=True):
            assert sums == pytest.approx(alone(family, changed, row), abs=1e-3)
            assert sums != pytest.approx(before, abs=1e-3)


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_scores_are_the_models_log_likelihoods(kind: ModelKind) -> None:
    model, objective = setting(kind)
    family = objective.family
    row = objective.tokenize(EXAMPLES[:1], training=False)[0]
    candidate = row["candidates"][1]
    with torch.no_grad():
        if kind == "encoder-decoder":
            loss = model(input_ids=torch.tensor([row["source"]]), labels=torch.tensor([candidate])).loss
        else:
            text = torch.tensor([row["source"] + candidate])
            labels = text.clone()
            labels[:, : len(row["source"])] = IGNORE_INDEX
            loss = model(input_ids=text, labels=labels).loss
        scored = family.loglikelihoods(model, [row], CPU)
    assert scored.num_tokens[0][1] == len(candidate)
    assert scored.loglikelihoods[0][1] == pytest.approx(-loss.item() * len(candidate), rel=1e-4)


def test_encoder_scores_are_normalized_over_the_choices_of_a_row() -> None:
    model, objective = setting("encoder")
    family = objective.family
    rows = objective.tokenize(EXAMPLES, training=False)
    with torch.no_grad():
        together = family.loglikelihoods(model, rows, CPU).loglikelihoods
        each = [family.loglikelihoods(model, [row], CPU).loglikelihoods[0] for row in rows]
    for one, other in zip(together, each, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
        assert sum(torch.tensor(one).exp().tolist()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_loss_is_the_targets_negative_log_likelihood(kind: ModelKind) -> None:
    model, objective = setting(kind)
    family = objective.family
    rows = objective.tokenize(EXAMPLES, training=False)
    batch = objective.collate(rows)
    with torch.no_grad():
        loss = objective.loss(model, batch).item()
        scores = family.loglikelihoods(model, rows, CPU)
    assert loss == pytest.approx(
        -sum(s[r["answer"]] for s, r in zip(scores.loglikelihoods, rows, strict=True)), rel=1e-4
    )
    assert objective.num_targets(batch).item() == sum(
        t[r["answer"]] for t, r in zip(scores.num_tokens, rows, strict=True)
    )


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_generation_does_not_depend_on_padding(kind: ModelKind) -> None:
    model, objective = setting(kind, "generation")
    family = objective.family
    rows = objective.tokenize([Example(e.source, e.target) for e in EXAMPLES], training=False)
    with torch.no_grad():
        together = family.generate(model, rows, CPU, max_new_tokens=6, num_beams=1)
        each = [family.generate(model, [row], CPU, max_new_tokens=6, num_beams=1)[0] for row in rows]
    assert together == each


@pytest.mark.parametrize("kind", KINDS)
def test_truncation_is_reported(kind: ModelKind) -> None:
    _, objective = setting(kind, source=8, target=3)
    rows = objective.tokenize(EXAMPLES, training=False)
    assert [row["source_tokens"] > 8 for row in rows] == [False, True, False] or kind == "encoder"
    assert rows[1]["source_tokens"] > 8
    assert rows[1]["target_tokens"] > 3 or kind == "encoder"
    if kind != "encoder":
        assert all(len(row["source"]) <= 8 and max(map(len, row["candidates"])) <= 3 for row in rows)
    else:
        assert all(len(text) <= 8 for row in rows for text in row["candidates"])


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_padded_to_a_multiple(kind: ModelKind) -> None:
    _, objective = setting(kind)
    rows = objective.tokenize(EXAMPLES, training=True)
    exact, padded = (replace(objective.family, pad_to_multiple_of=multiple).collate(rows) for multiple in (1, 8))
    assert any(length % 8 for length in max_lengths([exact]).values())
    for key, length in max_lengths([exact]).items():
        assert padded[key].shape == (*exact[key].shape[:1], -(-length // 8) * 8)
        assert torch.equal(padded[key][:, :length], exact[key])


def test_truncated_encoder_decoder_sources_keep_their_end_of_text() -> None:
    _, objective = setting("encoder-decoder", source=8)
    row = objective.tokenize(EXAMPLES[1:2], training=False)[0]
    assert len(row["source"]) == 8
    assert row["source"][-1] == objective.family.tokenizer.eos_token_id


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_labels_keep_their_numbers(kind: ModelKind) -> None:
    _, objective = setting(kind, "classification")
    labels = ("robin", "granite", "soup")
    examples: Sequence[Example] = [Example("x", label, labels) for label in labels]
    assert [row["answer"] for row in objective.tokenize(examples, training=False)] == [0, 1, 2]
