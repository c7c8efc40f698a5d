"""Candidate scores with shared prefixes equal those of candidates scored alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
)

from peftkit import ApplyContext, Example, RunSpec
from peftkit.models import FAMILIES, TokenizedRow, candidate_scoring
from peftkit.models.candidate_scoring import CachedScorer, CandidateScorer, common_prefix_length
from peftkit.models.causal_lm import CausalLM
from peftkit.models.decoding import batch_limits
from peftkit.models.decoding.batch_limits import Limits
from peftkit.models.decoding.prefix_cache import MIN_SHARED_TOKENS, CacheNotShareable, base_for_cache, common_length
from peftkit.models.seq2seq_lm import Seq2SeqLM
from peftkit.plugins import load_registry
from peftkit.recipe.model_names import model_path
from tests.conftest import QUICK, slow_unless_quick
from tests.tiny_runs import SIZES, SPECIAL, tiny

CPU = torch.device("cpu")
KINDS = {
    "t5": "encoder-decoder",
    "bart": "encoder-decoder",
    "llama": "decoder",
    "gpt2": "decoder",
    "mistral": "decoder",
}
LONG = " ".join(["a train that runs on coal and water and is seldom seen"] * 4)
EXAMPLES = [
    Example("a bird", "robin", ("robin", "a steam locomotive", "granite")),
    Example(LONG, "a steam locomotive", ("soup", "a steam locomotive")),
    Example("a choice of one", "granite", ("granite",)),
    # Common prefixes, up to a candidate that is a prefix of another.
    Example("stone", "a long way to go", ("a long way to go", "a long way to go home", "a long day")),
    Example("x", "no", ("no", "yes", "perhaps", "a steam locomotive")),
]


METHODS = load_registry().all("method", presets=False)


def untrained_model(name: str) -> nn.Module:
    """A tiny untrained model with different scores for different candidates."""
    model = deepcopy(_original(name))
    torch.manual_seed(0)  # for what methods add to it
    return model


@cache
def _original(name: str) -> nn.Module:
    """Such a model, which is only copied: that is faster than building it."""
    if name in {"t5", "llama"}:
        return tiny(KINDS[name])[0]
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
    if name == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**sizes, **SPECIAL, initializer_range=0.2))
    if name == "mistral":  # with a window so short that the cache drops positions
        return MistralForCausalLM(MistralConfig(sliding_window=8, num_key_value_heads=1, **SIZES, **SPECIAL))
    halves: dict[str, Any] = {f"{half}_{key}": value for half in ("encoder", "decoder") for key, value in BART.items()}
    return BartForConditionalGeneration(
        BartConfig(d_model=32, max_position_embeddings=256, decoder_start_token_id=1, init_std=0.2, **halves, **SPECIAL)
    )


BART = {"layers": 2, "attention_heads": 2, "ffn_dim": 64}


def chosen(method: str) -> Any:
    """The method with options for the tiny models."""
    component: Any = METHODS[method].component
    return component.model_validate(dict(component.tiny_options))


def supported_pairs() -> list[tuple[str, str]]:
    """Pairs of architectures and methods that support them."""
    pairs = []
    for name in ("t5", "bart", "llama", "gpt2"):
        spec = RunSpec(
            KINDS[name],  # type: ignore[arg-type]
            "multiple_choice",
            gradient_checkpointing=False,
            mixed_precision="no",
            config={"model_type": name, "tie_word_embeddings": True},
        )
        methods = [m for m in sorted(METHODS) if not chosen(m).incompatible_with(spec)]
        pairs += [(name, method) for method in ("none", *methods)]
    return pairs


@cache
def load_tokenizer(name: str) -> Any:
    return AutoTokenizer.from_pretrained(model_path(name))


def setting(name: str, method: str = "none") -> tuple[nn.Module, CachedScorer, list[TokenizedRow]]:
    kind = KINDS[name]
    model = untrained_model(name)
    tokenizer = load_tokenizer("pocket-t5" if kind == "encoder-decoder" else "pocket-decoder")
    family = FAMILIES[kind](tokenizer, model.config, 64, 16)  # type: ignore[index]
    assert isinstance(family, CachedScorer)
    if method != "none":
        model = chosen(method).apply(model, ApplyContext(kind, "multiple_choice", seed=0, steps=10))  # type: ignore[arg-type]
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.02 * torch.randn_like(parameter)
    return model.eval(), family, family.tokenize_completions(EXAMPLES, ranked=True)


def assert_equal(sums: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> None:
    assert [len(row) for row in sums] == [len(row) for row in right]
    for row, other in zip(sums, right, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-4)


def alone(model: nn.Module, family: CachedScorer, rows: Sequence[TokenizedRow]) -> list[list[float]]:
    """Each candidate by itself, in a batch of one."""
    return [
        [
            family.score_without_sharing(model, [{**row, "candidates": [ids], "answer": 0}], CPU).loglikelihoods[0][0]
            for ids in row["candidates"]
        ]
        for row in rows
    ]


@contextmanager
def counted(module: nn.Module, sizes: list[int]) -> Iterator[None]:
    """Records the number of rows × positions of each call of the module."""
    handle = module.register_forward_hook(lambda m, args, out: sizes.append(out.shape[0] * out.shape[1]))
    yield
    handle.remove()


def quick_or_typical(name: str, method: str) -> Any:
    """A pair; methods that are not quick are tested at night on the second architecture of each kind."""
    if name in ("bart", "gpt2") and method not in QUICK:
        return pytest.param(name, method, marks=(pytest.mark.slow, pytest.mark.exhaustive))
    return slow_unless_quick(method, name)


@pytest.mark.parametrize(("name", "method"), [quick_or_typical(*pair) for pair in supported_pairs()])
def test_batched_scores_equal_scores_of_single_candidates(name: str, method: str) -> None:
    model, family, rows = setting(name, method)
    with torch.inference_mode():
        right = alone(model, family, rows)
        assert_equal(family.score_without_sharing(model, rows, CPU).loglikelihoods, right)
        assert_equal(family.candidate_scorer(model)(rows, CPU).loglikelihoods, right)
    flat = [value for row in right for value in row]
    assert len({round(value, 2) for value in flat}) > len(flat) // 2, "the scores must differ"


@pytest.mark.parametrize("method", ["none", "lora", "vera", "prefix_tuning"])
@pytest.mark.parametrize("name", ["t5", "bart", "llama", "gpt2"])
@pytest.mark.parametrize(
    "limits", [Limits(0, 0, 1), Limits(1, 10**9, 1), Limits(2**40, 10**9, 1)], ids=["small", "row", "one"]
)
def test_scores_do_not_depend_on_the_batch_limits(
    name: str, method: str, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, family, rows = setting(name, method)
    for module in (
        candidate_scoring,
        *(__import__(m, fromlist=["limits"]) for m in (CausalLM.__module__, Seq2SeqLM.__module__)),
    ):
        monkeypatch.setattr(module, "limits", lambda device: limits)
    held = 0
    with torch.inference_mode():
        right = family.score_without_sharing(model, rows, CPU).loglikelihoods
        for way in family.strategies():
            try:
                assert_equal(way(model, rows, CPU).loglikelihoods, right)
            except CacheNotShareable:
                continue
            held += 1
    assert held == len(family.strategies())


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_large_batches_are_scored_in_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, family, rows = setting(name)
    sizes: list[int] = []
    with torch.inference_mode():
        right = family.candidate_scorer(model)(rows, CPU)
        longest = max(len(row["source"]) + sum(map(len, row["candidates"])) for row in rows)
        monkeypatch.setattr(batch_limits, "CPU", Limits(2**30, 64, 2 * longest))
        scorer = CandidateScorer(family, model)
        scorer.score(rows, CPU)
        score = scorer.strategies[0]
        scorer.strategies[0] = lambda model, rows, device: sizes.append(len(rows)) or score(model, rows, device)  # type: ignore[func-returns-value]
        scores = scorer.score(rows, CPU)
    assert_equal(scores.loglikelihoods, right.loglikelihoods)
    assert scores.num_tokens == right.num_tokens
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("method", ["none", "lora", "prefix_tuning"])
@pytest.mark.parametrize("name", ["t5", "bart", "llama", "gpt2"])
def test_the_fastest_strategy_is_used(name: str, method: str) -> None:
    model, family, rows = setting(name, method)
    scorer = CandidateScorer(family, model)
    with torch.inference_mode():
        scorer.score(rows, CPU)
    assert len(scorer.strategies) == len(family.strategies())


@pytest.mark.parametrize("method", ["none", "lora", "prefix_tuning"])
def test_the_encoder_runs_once_per_example(method: str) -> None:
    model, family, rows = setting("t5", method)
    rank = family.candidate_scorer(model)
    encoder: list[int] = []
    keys: list[int] = []
    values: list[int] = []
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    attention = base.decoder.block[0].layer[1].EncDecAttention
    with torch.inference_mode():
        rank(rows, CPU)
        with (
            counted(base.encoder.block[0].layer[1], encoder),
            counted(attention.k, keys),
            counted(attention.v, values),
        ):
            rank(rows, CPU)
    once = len(rows) * max(len(row["source"]) for row in rows)
    assert encoder == [once]
    assert keys == values == [once]


def test_decoders_read_each_source_and_each_prefix_of_its_candidates_once() -> None:
    model, family, rows = setting("llama")
    rank, read = family.candidate_scorer(model), list[int]()
    with torch.inference_mode():
        rank(rows, CPU)
        with counted(model.model.embed_tokens, read):  # type: ignore[union-attr,arg-type]
            rank(rows, CPU)
    prefixes = [{tuple(ids[:n]) for ids in row["candidates"] for n in range(1, len(ids))} for row in rows]
    assert len(prefixes[3]) < sum(len(ids) - 1 for ids in rows[3]["candidates"])
    assert read == [len(rows) * max(len(row["source"]) + len(n) for row, n in zip(rows, prefixes, strict=True))]


@pytest.mark.parametrize("method", ["none", "lora", "prefix_tuning"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_what_all_prompts_share_is_read_once(method: str, batch_size: int) -> None:
    model, family, _ = setting("llama", method)
    examples = [
        replace(e, source=f"{LONG} {LONG} {e.source}", target=e.candidates[0]) for e in EXAMPLES if e.source != LONG
    ]
    rows = replace(family, max_source_length=200).tokenize_completions(examples, ranked=True)
    shared = common_length(min(row["source"] for row in rows), max(row["source"] for row in rows))
    assert shared > MIN_SHARED_TOKENS
    base: Any = base_for_cache(model)
    rank, read, sums = family.candidate_scorer(model), list[int](), list[list[float]]()
    with torch.inference_mode(), counted(base.get_input_embeddings(), read):
        for first in range(0, len(rows), batch_size):
            del read[:]
            sums += rank(rows[first : first + batch_size], CPU).loglikelihoods
        assert sum(read) < batch_size * shared  # of the last batch
        assert_equal(sums, alone(model, family, rows))


class Forgetful(nn.Module):
    """A model whose cache loses the first position's keys and values."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Any:
        past = options.get("past_key_values")
        if past is not None:
            for layer in past.layers:
                layer.values = layer.values * 0
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **options)


class Uncached(nn.Module):
    """A model without a cache."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool = False) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)


@pytest.mark.parametrize("wrapper", [Forgetful, Uncached])
def test_an_incorrect_cache_is_logged_and_not_used(wrapper: type[nn.Module], caplog: pytest.LogCaptureFixture) -> None:
    model, family, rows = setting("llama")
    candidate_scoring._warn_cache_not_shareable.cache_clear()
    with torch.inference_mode(), caplog.at_level(logging.WARNING, logger="peftkit"):
        right = alone(model, family, rows)
        ranker = CandidateScorer(family, wrapper(model))
        assert_equal(ranker.score(rows, CPU).loglikelihoods, right)
        assert ranker.strategies == []
        assert_equal(ranker.score(rows, CPU).loglikelihoods, right)
    assert f"the cache of {wrapper.__name__} cannot be shared" in caplog.text


def test_sliding_windows_do_not_change_scores() -> None:
    model, family, rows = setting("mistral")
    with torch.inference_mode():
        assert_equal(family.candidate_scorer(model)(rows, CPU).loglikelihoods, alone(model, family, rows))


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5))
@settings(deadline=None)
def test_common_prefix_length(candidates: list[list[int]]) -> None:
    shared = common_prefix_length(candidates)
    assert all(ids[:shared] == candidates[0][:shared] for ids in candidates)
    assert all(shared < len(ids) for ids in candidates)  # the last token is predicted only
    longer = {tuple(ids[: shared + 1]) for ids in candidates}
    assert len(longer) > 1 or any(len(ids) == shared + 1 for ids in candidates)
