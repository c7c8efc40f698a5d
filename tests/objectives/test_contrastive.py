"""Vectors by contrast: negatives, the loss against a plain reference, rankings, and the files of an export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, T5EncoderModel

from peftkit import Example
from peftkit.components import Objective
from peftkit.data.input_digests import model_digests
from peftkit.errors import InputError, ModelError, RecipeError, RowError
from peftkit.models.load_base_model import load_base
from peftkit.objectives import ContrastiveEmbedding
from peftkit.objectives.contrastive import rank
from peftkit.recipe.model_names import model_path
from peftkit.testing import check_objective
from peftkit.testing.run_checks import recipe_maker, registry_with
from tests.tiny_runs import ColourDocuments, Quiet, tiny

FURTHER = ("roberta", "distilbert", "modernbert", "deberta-v2", "electra", "mt5", "gpt2", "qwen2", "gemma2")


@pytest.mark.parametrize("objective", [ContrastiveEmbedding(symmetric=True)])
def test_objectives_conform(objective: Objective, tmp_path: Path) -> None:
    check_objective(objective, ColourDocuments(), tmp_path, runs=False)


def test_vectors_of_an_encoder_decoder_are_those_of_its_encoder(tmp_path: Path) -> None:
    objective, task = ContrastiveEmbedding(), ColourDocuments()
    architectures: Any = {"encoder": "t5"}
    check_objective(objective, task, tmp_path, runs=False, architectures=architectures)
    changes = {"task": task.model_dump(mode="json"), "objective": objective.model_dump(mode="json")}
    base = load_base(recipe_maker(Quiet(), "t5", tmp_path / "one", objective, task, changes=changes)("run"))
    assert base.kind == "encoder"
    assert type(base.model).__name__ == "T5EncoderModel"
    folder = tmp_path / "one" / "model"
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), T5EncoderModel.from_pretrained(folder).eval()
    expected = encoder(**tokenizer(["a leaf"], return_tensors="pt")).last_hidden_state.mean(1)[0]
    rows = base.objective.tokenize([Example("a leaf", "")], training=False)
    [vectors] = objective.predict_vectors(base.model.eval(), rows, base.objective.context)
    assert (vectors[0] - expected).abs().max() < 1e-6
    changes.pop("objective")
    other = recipe_maker(Quiet(), "bart", tmp_path / "two", objective, task, changes=changes)
    with pytest.raises(RecipeError, match="no objective for a model of kind 'encoder-decoder'"):
        other("run")
    without_head = recipe_maker(
        Quiet(), "t5", tmp_path / "three", objective, task, changes={**changes, "method": {"name": "head_only"}}
    )
    with pytest.raises(RecipeError, match=r"'head_only' is incompatible .* the model has no head"):
        without_head("run")


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("architecture", FURTHER)
def test_architectures_conform(architecture: str, tmp_path: Path) -> None:
    kind: Any = "decoder" if architecture in ("gpt2", "qwen2", "gemma2") else "encoder"
    check_objective(ContrastiveEmbedding(), ColourDocuments(), tmp_path, runs=False, architectures={kind: architecture})


@pytest.mark.slow
def test_whole_runs_conform(tmp_path: Path) -> None:
    check_objective(ContrastiveEmbedding(), ColourDocuments(), tmp_path, architectures={"encoder": "bert"})


@pytest.mark.slow
@pytest.mark.exhaustive
def test_whole_runs_of_decoders_conform(tmp_path: Path) -> None:
    check_objective(ContrastiveEmbedding(), ColourDocuments(), tmp_path, architectures={"decoder": "llama"})


TEXTS = [("a", "A"), ("b", "B", "wrong"), ("a", "A2"), ("c", "B"), ("d", "D", "A2", "d"), ("e", " a ")]
"""Anchors, positives and hard negatives: equal anchors, equal positives, and documents that equal an anchor."""
NO_NEGATIVES = {
    0: {"A", "A2", "a"},  # both positives of the anchor, and the anchor itself
    1: {"B"},
    2: {"A", "A2", "a"},
    3: {"B"},
    4: {"D", "d"},
    5: {"a"},
}
NO_NEGATIVES_OF_POSITIVES = {0: {"a"}, 1: {"b", "c"}, 2: {"a"}, 3: {"b", "c"}, 4: {"d"}, 5: {"e", "a"}}


def step(objective: ContrastiveEmbedding) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The outputs and the batch of these texts; equal texts have different vectors, so that wrong masks are seen."""
    family: Any = type("Services", (), {"read_model_file": lambda self, name: None})()
    family.tokenize_texts = lambda texts: [([len(text)], 1) for text in texts]
    family.collate_texts = lambda rows: {"choices": torch.tensor([len(row) for row in rows])}
    context: Any = type("Context", (), {"family": family})()
    rows = objective.tokenize([Example(a, d[0], documents=tuple(d)) for a, *d in TEXTS], context, training=True)
    torch.manual_seed(0)
    batch = objective.collate(rows, context)
    return torch.randn(len(batch["labels"]), 5, dtype=torch.float64), batch


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_is_the_cross_entropy_among_negatives(symmetric: bool) -> None:
    """Row by row and candidate by candidate, as the paper's formula is written."""
    objective = ContrastiveEmbedding(symmetric=symmetric, scale=3)
    outputs, batch = step(objective)
    flat = [text for row in TEXTS for text in row]
    starts = np.cumsum([0, *(len(row) for row in TEXTS)])[:-1]
    documents = [int(s) + 1 for s in starts] + [
        int(s) + i for s, r in zip(starts, TEXTS, strict=True) for i in range(2, len(r))
    ]
    none: Any = None
    for number, start in enumerate(map(int, starts)):
        kept = [d for d in documents if d == start + 1 or flat[d].strip() not in NO_NEGATIVES[number]]
        logits = 3 * torch.stack([outputs[start] @ outputs[d] for d in kept])
        expected = logits.logsumexp(0) - 3 * outputs[start] @ outputs[start + 1]
        if symmetric:
            anchors = [int(s) for s in starts]
            kept = [a for a in anchors if a == start or flat[a] not in NO_NEGATIVES_OF_POSITIVES[number]]
            logits = 3 * torch.stack([outputs[start + 1] @ outputs[a] for a in kept])
            expected = (expected + logits.logsumexp(0) - 3 * outputs[start] @ outputs[start + 1]) / 2
        loss = objective.loss_of_outputs(outputs, batch, none, range(number, number + 1))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12), f"row {number}"


def test_rows_without_negatives_have_no_loss() -> None:
    objective = ContrastiveEmbedding()
    batch = {"choices": torch.tensor([2, 2]), "labels": torch.tensor([1, 2, 1, 2])}
    outputs, none = torch.randn(4, 3, requires_grad=True), None
    loss = objective.loss_of_outputs(outputs, batch, none, range(2))  # type: ignore[arg-type]
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize(
    ("scores", "relevant", "expected"),
    [
        ([0.9, 0.5, 0.1], {0}, [1]),
        ([0.9, 0.5, 0.1], {2}, [3]),
        ([0.9, 0.5, 0.1], {0, 2}, [1, 3]),
        ([0.5, 0.5, 0.5], {0}, [3]),  # ties count against the model
        ([0.5, 0.5, 0.5], {0, 1}, [2, 3]),
        ([0.7, 0.7, 0.9, 0.7], {0, 2}, [1, 4]),
    ],
)
def test_ties_are_ranked_against_the_model(scores: list[float], relevant: set[int], expected: list[int]) -> None:
    assert rank(np.array(scores), relevant) == expected


def test_documents_of_all_rows_are_ranked_and_equal_ones_are_one() -> None:
    vectors = {"q": [1, 0], "r": [0, 1], "A": [0.9, 0.1], "B": [0.6, 0.4], "C": [0.2, 0.8]}
    rows = [("q", "B", "A"), ("r", "C"), ("q", "C"), ("r", " C ", "A")]
    examples = [Example(a, d[0], documents=tuple(d)) for a, *d in rows]
    predictions: Any = [
        {"index": i, "vectors": np.array([vectors[text.strip()] for text in row])} for i, row in enumerate(rows)
    ]
    completed = ContrastiveEmbedding(scale=2).complete_predictions(predictions, examples, has_targets=True)
    assert [p["prediction"] for p in completed] == ["A", "C", "A", "C"]
    assert [p["ranking"]["ranks"] for p in completed] == [[2, 3], [1], [2, 3], [1]]
    assert [p["ranking"]["rows_of_query"] for p in completed] == [2, 2, 2, 2]
    # Of the first anchor, C is relevant too and left out: B against A.
    assert completed[0]["loss"] == pytest.approx(np.log1p(np.exp(2 * (0.9 - 0.6))))
    assert all("vectors" not in p and p["tokens"] == 1 for p in completed)
    blind = ContrastiveEmbedding().complete_predictions(predictions, examples, has_targets=False)
    assert [p["prediction"] for p in blind] == ["A", "C", "A", "C"]
    assert "ranking" not in blind[0]


def sentence_transformer(folder: Path, **pooling: Any) -> Path:
    """Saves a tiny encoder with a configuration of sentence-transformers."""
    model, tokenizer = tiny("encoder")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_path(tokenizer)).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    types = ("Transformer", "Pooling", "Normalize")
    modules = [{"type": f"x.{t}", "path": p} for t, p in zip(types, ("", "1_Pooling", "2_Normalize"), strict=True)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    prompts = {"prompts": {"query": "ask: ", "passage": "text: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


def load(folder: Path, objective: ContrastiveEmbedding, *overrides: str) -> Any:
    changes = {"objective": objective.model_dump(), "task": {"name": "colour_documents"}}
    make = recipe_maker(Quiet(), "bert", folder / "unused", objective, ColourDocuments(), changes=changes)
    return load_base(make("x", f'model.name="{(folder / "st").as_posix()}"', *overrides))


def test_pooling_and_prompts_are_those_of_the_model_and_recorded(tmp_path: Path) -> None:
    sentence_transformer(tmp_path / "st", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    record = load(tmp_path, ContrastiveEmbedding()).record()
    assert record["pooling"] == {"mode": "cls", "normalize": True, "source": "model"}
    assert record["prompts"] == {"query": "ask: ", "document": "text: "}


def test_options_have_priority_over_the_model(tmp_path: Path) -> None:
    sentence_transformer(tmp_path / "st", pooling_mode_max_tokens=True)
    with pytest.raises(InputError, match="pools by pooling_mode_max_tokens, which is not supported; allowed: mean"):
        load(tmp_path, ContrastiveEmbedding()).record()
    chosen = ContrastiveEmbedding(pooling="mean", normalize=False, document_prompt="")
    record = load(tmp_path, chosen).record()
    assert record["pooling"] == {"mode": "mean", "normalize": False, "source": "recipe"}
    assert record["prompts"] == {"query": "ask: ", "document": ""}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", '[{"type": "x.Dense", "path": "2_Dense"}]', "modules.json has Dense, which is not supported"),
        ("1_Pooling/config.json", '{"include_prompt": false}', "leaves prompts out of its pooling"),
        ("1_Pooling/config.json", '{"pooling_mode": ["cls", "mean"]}', "pools by cls, mean, which is not supported"),
        ("1_Pooling/config.json", "{", "is not valid JSON"),
    ],
)
def test_configurations_that_are_not_supported_are_refused(
    file: str, content: str, message: str, tmp_path: Path
) -> None:
    (sentence_transformer(tmp_path / "st") / file).write_text(content)
    with pytest.raises((InputError, ModelError), match=message):
        load(tmp_path, ContrastiveEmbedding()).record()


@pytest.mark.parametrize("setting", ["model.keep_head=true", "train.head_learning_rate=0.1"])
def test_settings_of_a_head_are_refused(setting: str, tmp_path: Path) -> None:
    sentence_transformer(tmp_path / "st")
    with pytest.raises(RecipeError, match="has no effect, because models have no head for embedding tasks"):
        load(tmp_path, ContrastiveEmbedding(pooling="mean"), setting)


def test_the_pooling_of_a_model_is_in_its_digest(tmp_path: Path) -> None:
    folder = sentence_transformer(tmp_path / "st", pooling_mode_mean_tokens=True)
    family = load(tmp_path, ContrastiveEmbedding()).family
    before = model_digests(str(folder), family)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    changed = {name for name, digest in model_digests(str(folder), family).items() if digest != before[name]}
    assert changed == {"1_Pooling/config.json"}


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_exports_have_the_files_with_which_vectors_are_computed_again(pooling: Any, tmp_path: Path) -> None:
    """By plain transformers, from the exported files only; as sentence-transformers does it."""
    sentence_transformer(tmp_path / "st")
    objective = ContrastiveEmbedding(pooling=pooling, query_prompt="find: ")
    base = load(tmp_path, objective)
    base.model.eval().save_pretrained(tmp_path / "out")
    objective.export(tmp_path / "out", base.objective.context)
    modules, settings, prompts = (
        json.loads((tmp_path / "out" / name).read_text())
        for name in ("modules.json", "1_Pooling/config.json", "config_sentence_transformers.json")
    )
    assert [m["type"].rpartition(".")[2] for m in modules] == ["Transformer", "Pooling", "Normalize"]
    assert all((tmp_path / "out" / m["path"]).is_dir() for m in modules)
    assert settings["word_embedding_dimension"] == 32
    assert [key for key, value in settings.items() if value is True] == [
        {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "lasttoken": "pooling_mode_lasttoken"}[
            pooling
        ],
        "include_prompt",
    ]
    assert json.loads((tmp_path / "out" / "sentence_bert_config.json").read_text())["max_seq_length"] == 256
    texts = ["red leaf", "the sky is blue and the sea is too"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModel.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    inputs = tokenizer([prompts["prompts"]["query"] + text for text in texts], padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        vectors = {
            "mean": (states * mask).sum(1) / mask.sum(1),
            "cls": states[:, 0],
            "lasttoken": states[range(2), mask.sum(1)[:, 0] - 1],
        }[pooling]
        expected = vectors / vectors.norm(dim=1, keepdim=True)
        examples = [Example(text, "") for text in texts]
        rows = base.objective.tokenize(examples, training=False)
        context = replace(base.objective.context, cache={})
        predictions = objective.predict(base.model, rows, examples, context, has_targets=False)
    embeddings = torch.tensor([p["embedding"] for p in predictions])
    torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-5)


def test_the_first_document_is_the_target() -> None:
    none: Any = None
    for documents in ((), ("other", "right")):
        with pytest.raises(RowError, match="documents: the first one must be the target"):
            ContrastiveEmbedding().tokenize([Example("q", "right", documents=documents)], none, training=True)


def test_answers_of_baselines_are_short() -> None:
    objective, example = ContrastiveEmbedding(), Example("q", "a long text " * 9)
    answer = objective.answer(example)
    assert len(answer) < 20
    assert objective.answer_text(answer, example) == example.target
    assert objective.answer_text("0", example) == ""
    assert registry_with(objective).find("objective", objective.name).component is ContrastiveEmbedding


def test_model_cards_say_how_vectors_are_computed() -> None:
    settings = {
        "pooling": {"mode": "cls", "normalize": True, "source": "recipe"},
        "prompts": {"query": "find: ", "document": ""},
    }
    objective = ContrastiveEmbedding(similarity="dot")
    text = objective.describe_usage(settings, has_files=True)
    assert (
        "The vector of a text is the state of its first token, divided by its length; vectors are compared by dot"
        in text
    )
    assert "`find: ` before each query" in text
    assert 'model.encode(["a query"], prompt_name="query")' in text
    alone = objective.describe_usage({**settings, "prompts": {}}, has_files=False)
    assert "SentenceTransformer" not in alone
    assert "prompts" not in alone
    assert alone.endswith("`peftkit predict FOLDER` computes these vectors.")
