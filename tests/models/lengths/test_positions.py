"""Rows of exactly the model's number of positions are trained and evaluated; longer ones are truncated or rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as tf

from peftkit import ApplyContext, Example, Method
from peftkit.components import ModelKind, Side
from peftkit.errors import RecipeError, RowError
from peftkit.models import FAMILIES, ModelFamily, TokenizedRow
from peftkit.models.lengths.positions import Positions, count_positions, fit_lengths
from peftkit.plugins import load_registry
from peftkit.testing.tokenizers import tokenizer

CPU = torch.device("cpu")
NUMBER = 43  # no multiple of eight, to which batches are padded
WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": NUMBER}
LIMITED = {**WIDE, "max_position_embeddings": NUMBER}
LLAMA = {**LIMITED, "head_dim": 8, "num_key_value_heads": 2}
BART = {
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": NUMBER},
    "forced_eos_token_id": None,
}
T5 = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2}
LED = {**BART, "max_encoder_position_embeddings": 67, "max_decoder_position_embeddings": NUMBER, "attention_window": 4}
DISTILBERT = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": NUMBER}
ROTARY_GPT = {**GPT, "rotary_dim": 8}

ARCHITECTURES: dict[str, tuple[ModelKind, dict[str, Any], Positions]] = {
    # absolute
    "gpt2": ("decoder", GPT, Positions(decoder=NUMBER)),
    "openai-gpt": ("decoder", GPT, Positions(decoder=NUMBER)),
    "gpt_bigcode": ("decoder", GPT, Positions(decoder=NUMBER)),
    "bert": ("encoder", LIMITED, Positions(NUMBER)),
    "distilbert": ("encoder", DISTILBERT, Positions(NUMBER)),
    "albert": ("encoder", {**LIMITED, "embedding_size": 16}, Positions(NUMBER)),
    "electra": ("encoder", LIMITED, Positions(NUMBER)),
    "nystromformer": (
        "encoder",
        {**LIMITED, "segment_means_seq_len": NUMBER, "num_landmarks": NUMBER},
        Positions(NUMBER),
    ),
    # with an offset
    "opt": ("decoder", {**LIMITED, "word_embed_proj_dim": 32, "ffn_dim": 64}, Positions(decoder=NUMBER)),
    "biogpt": ("decoder", LIMITED, Positions(decoder=NUMBER)),
    "roberta": ("encoder", LIMITED, Positions(NUMBER - 1)),  # minus its padding id, 0 here, and one
    "xlm-roberta": ("encoder", {**LIMITED, "pad_token_id": 5}, Positions(NUMBER - 6)),
    "mpnet": ("encoder", LIMITED, Positions(NUMBER - 2)),  # its padding id is always 1
    "bart": ("encoder-decoder", BART, Positions(NUMBER, NUMBER)),
    "mbart": ("encoder-decoder", BART, Positions(NUMBER, NUMBER)),
    "led": ("encoder-decoder", LED, Positions(64, NUMBER)),  # whole windows
    # sinusoidal
    "pegasus": ("encoder-decoder", BART, Positions(NUMBER, NUMBER)),
    "marian": ("encoder-decoder", BART, Positions(NUMBER, NUMBER)),
    "m2m_100": ("encoder-decoder", BART, Positions()),  # its table grows
    "xglm": ("decoder", {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4}, Positions()),
    # rotary
    "llama": ("decoder", LLAMA, Positions(decoder=NUMBER)),
    "gptj": ("decoder", ROTARY_GPT, Positions(decoder=NUMBER)),
    "modernbert": ("encoder", {**LIMITED, "cls_token_id": 2, "sep_token_id": 1}, Positions(NUMBER)),
    # relative, or none
    "t5": ("encoder-decoder", T5, Positions()),
    "bloom": ("decoder", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, Positions()),
    "mpt": ("decoder", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": NUMBER}, Positions(decoder=NUMBER)),
    "mamba": ("decoder", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, Positions()),
}
VIRTUAL: Mapping[str, Mapping[str, Any]] = {
    "prompt_tuning": {"num_virtual_tokens": 7},
    "p_tuning": {"num_virtual_tokens": 7, "encoder_hidden_size": 32},
    "prefix_tuning": {"num_virtual_tokens": 7},
    "multitask_prompt_tuning": {"num_virtual_tokens": 7},
    "cpt": {"cpt_token_ids": [4, 5, 6, 7, 8, 9, 10]},
    "cartridge": {"num_virtual_tokens": 7},
}
SIDES: Mapping[tuple[str, ModelKind], Side] = {
    ("prefix_tuning", "encoder-decoder"): "decoder",
    ("cartridge", "encoder-decoder"): "decoder",
}
METHODS: tuple[tuple[str, str], ...] = (
    *(("gpt2", method) for method in VIRTUAL),
    *(("opt", method) for method in ("prompt_tuning", "prefix_tuning", "cpt")),
    *(("llama", method) for method in ("prompt_tuning", "p_tuning", "prefix_tuning", "cartridge")),
    *(("bert", method) for method in ("prompt_tuning", "p_tuning", "prefix_tuning")),
    *(("roberta", method) for method in ("prompt_tuning", "p_tuning")),
    *(("bart", method) for method in ("prompt_tuning", "p_tuning", "prefix_tuning")),
    *(("t5", method) for method in ("prompt_tuning", "prefix_tuning")),
)


def config_of(name: str) -> Any:
    special = {"vocab_size": 500, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 2}
    return tf.AutoConfig.for_model(name, **{**special, "num_labels": 2, **ARCHITECTURES[name][1]})


def model_of(name: str) -> tuple[Any, tf.PreTrainedModel]:
    config = config_of(name)
    torch.manual_seed(0)
    auto = getattr(tf, FAMILIES[ARCHITECTURES[name][0]].auto_class)
    return config, auto.from_config(config)


def recipe(method: Method | None = None, *, source: int = 512, target: int = 8, new: int = 4) -> Any:
    none = SimpleNamespace(name="lora", virtual_tokens=lambda kind: {})
    return SimpleNamespace(
        train=SimpleNamespace(max_source_length=source, max_target_length=target),
        evaluate=SimpleNamespace(max_new_tokens=new),
        method=method or none,
        model=SimpleNamespace(name="the-model"),
    )


def family_for(name: str, config: Any, recipe: Any) -> ModelFamily:
    kind = ARCHITECTURES[name][0]
    positions = count_positions(config, kind, FAMILIES[kind].auto_class)
    lengths = fit_lengths(recipe, kind, positions, generates=True)
    return FAMILIES[kind](
        tokenizer("byte-level", "none"),
        config,
        lengths.source,
        lengths.target,
        lengths.padded.encoder,
        lengths.padded.decoder,
        source_remedy=lengths.source_remedy,
        target_remedy=lengths.target_remedy,
    )


def tokenize(family: ModelFamily, examples: Sequence[Example]) -> list[TokenizedRow]:
    """The rows of sources alone, or with their targets."""
    if family.can_generate:
        return family.tokenize_completions(examples, ranked=False)
    return family.tokenize_sources(examples)


def step_and_evaluation(family: ModelFamily, model: Any, new: int) -> int:
    """Trains and evaluates a row of maximal length and a short one; returns the length of its source."""
    long = Example("a " * 200, "b " * (family.max_target_length - 1), ("b " * (family.max_target_length - 1),))
    rows = tokenize(family, [long, Example("a", "b", ("b",))])
    assert max(len(row["source"]) for row in rows) == min(
        family.max_source_length, len(family.tokenizer("a " * 200)["input_ids"])
    )
    family.cross_entropy(model, family.collate(rows)).backward()
    model.eval()
    with torch.no_grad():
        family.loglikelihoods(model, rows, CPU)
        if family.can_generate:
            model.generation_config.min_new_tokens = new
            family.generate(model, rows, CPU, max_new_tokens=new, num_beams=1)
    return len(rows[0]["source"])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_count_positions_equals_the_models_tables(name: str) -> None:
    kind, _, expected = ARCHITECTURES[name]
    assert count_positions(config_of(name), kind, FAMILIES[kind].auto_class) == expected


@pytest.mark.parametrize("new", [4, 12])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_of_maximal_length_are_trained_and_evaluated(name: str, new: int) -> None:
    config, model = model_of(name)
    family = family_for(name, config, recipe(new=new, target=8))
    length = step_and_evaluation(family, model, new)
    kind, _, positions = ARCHITECTURES[name]
    if kind == "decoder" and positions.decoder:
        assert length == positions.decoder - max(8, new)
    elif positions.encoder:
        assert length == positions.encoder
    else:
        assert length > 2 * NUMBER


@pytest.mark.parametrize(
    "name",
    [n for n, (_, _, p) in ARCHITECTURES.items() if p != Positions() and n not in ("llama", "modernbert", "biogpt")],
)
def test_one_position_more_fails(name: str) -> None:
    """Except for rotary positions, which have no end."""
    config, model = model_of(name)
    kind, _, positions = ARCHITECTURES[name]
    number = (positions.decoder if kind == "decoder" else positions.encoder) or 0
    family = FAMILIES[kind](tokenizer("byte-level", "none"), config, number + 1, 1, number + 1, number + 1)
    rows = tokenize(family, [Example("a " * 200, "", ("",))])
    if kind == "decoder":
        rows[0]["source"] = rows[0]["source"][:number]
    with pytest.raises((IndexError, RuntimeError)):
        family.cross_entropy(model, family.collate(rows))


@pytest.mark.parametrize(("name", "key"), METHODS)
def test_virtual_tokens_reduce_the_positions_of_the_text(name: str, key: str) -> None:
    kind, _, positions = ARCHITECTURES[name]
    method: Any = load_registry().all("method")[key].component(name=key, **VIRTUAL[key])
    side = SIDES.get((key, kind), "decoder" if kind == "decoder" else "encoder")
    assert method.virtual_tokens(kind) == {side: 7}
    config, model = model_of(name)
    family = family_for(name, config, recipe(method, new=12, target=8))
    wrapped = method.apply(model, ApplyContext(kind, "generation", seed=0, steps=None))
    length = step_and_evaluation(family, wrapped, 12)
    if kind == "decoder":
        assert length == (positions.decoder or 0) - 7 - 12
    elif positions.encoder:
        assert length == positions.encoder - (7 if side == "encoder" else 0)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "gpt2",
            {"target": 43},
            "train.max_target_length: 43 tokens leave no room for a source in the model's 43 p",
        ),
        (
            "gpt2",
            {"new": 50},
            "evaluate.max_new_tokens: 50 tokens leave no room for a source in the model's 43 ",
        ),
        ("bart", {"new": 44}, "evaluate.max_new_tokens: 44 tokens exceed the model's 43 positions"),
        ("led", {"new": 44}, "evaluate.max_new_tokens: 44 tokens exceed the model's 43 positions"),
    ],
)
def test_lengths_that_leave_no_room_are_errors_with_numbers(name: str, options: dict[str, int], words: str) -> None:
    with pytest.raises(RecipeError) as raised:
        family_for(name, config_of(name), recipe(**options))
    assert str(raised.value).startswith(f"the-model: {words}")


def test_virtual_tokens_that_leave_no_room_are_an_error() -> None:
    method: Any = load_registry().all("method")["prompt_tuning"].component(name="prompt_tuning", num_virtual_tokens=40)
    with pytest.raises(RecipeError, match="43 positions, of which 'prompt_tuning' uses 40 for virtual tokens"):
        family_for("gpt2", config_of("gpt2"), recipe(method))


LONG = Example("a " * 60 + "?", "yes", ("yes", "no"), truncatable_span=(0, 1))
TOO_LONG: dict[str, Any] = {
    "question": lambda family: tokenize(family, [LONG]),
    "choice": lambda family: family.tokenize_pairs([Example("a", "b " * 60, ("b " * 60, "c"))]),
    "window": lambda family: family.tokenize_windows("a b c", "b " * 60, stride=2),
}
TWO = ("b " * 45 + "c", "b " * 45 + "d")


@pytest.mark.parametrize(
    ("name", "case", "remedy"),
    [
        ("bert", "question", "the model has only 43 positions; shorten the text, or use a model with more"),
        ("bert", "choice", "the model has only 43 positions; shorten the text, or use a model with more"),
        ("bert", "window", "the model has only 43 positions; shorten the text, or use a model with more"),
        ("bart", "question", "the model has only 43 positions; shorten the text, or use a model with more"),
        (
            "gpt2",
            "question",
            "the model has only 43 positions, of which train.max_target_length reserves 8; lower "
            "train.max_target_length, shorten the text, or use a model with more",
        ),
    ],
)
def test_a_longer_limit_is_advised_only_where_the_model_has_positions(name: str, case: str, remedy: str) -> None:
    for source, advice in ((512, remedy), (30, "raise train.max_source_length")):
        family = family_for(name, config_of(name), recipe(source=source))
        with pytest.raises(RowError) as raised:
            TOO_LONG[case](family)
        assert str(raised.value).endswith(f"; {advice}")


def test_virtual_tokens_are_named_in_the_advice() -> None:
    method: Any = load_registry().all("method")["prompt_tuning"].component(name="prompt_tuning", num_virtual_tokens=20)
    family = family_for("bert", config_of("bert"), recipe(method))
    with pytest.raises(RowError, match="43 positions, of which 'prompt_tuning' uses 20 for virtual tokens; shorten"):
        tokenize(family, [LONG])


@pytest.mark.parametrize(("target", "advice"), [(100, "the model has only 43 positions"), (20, "raise train.max_targ")])
def test_candidates_that_differ_too_late_name_the_limit(target: int, advice: str) -> None:
    family = family_for("led", config_of("led"), recipe(target=target))
    with pytest.raises(RowError, match=f"the same token ids after truncation to .* tokens; {advice}"):
        family.tokenize_completions([Example("a", TWO[0], TWO)], ranked=True)


def test_targets_are_limited_to_the_decoders_positions() -> None:
    family = family_for("led", config_of("led"), recipe(target=100))
    assert (family.max_source_length, family.max_target_length) == (64, 43)


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 4 * NUMBER),
        ({"rope_type": "dynamic", "factor": 2.0}, NUMBER),
        ({"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 20}, 20),
        ({"rope_type": "longrope", "original_max_position_embeddings": 20, "factor": 4.0}, 20),
        ({"rope_type": "longrope", "factor": 4.0}, NUMBER),
        ({"full": {"rope_type": "longrope", "original_max_position_embeddings": 20}, "local": {}}, 20),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 20}, 80),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 20}, NUMBER),
        ({"rope_type": "default"}, NUMBER),
    ],
)
def test_scaled_rotary_positions_are_counted(rope: dict[str, Any], expected: int) -> None:
    config = config_of("llama")
    key = "rope_parameters" if hasattr(config, "rope_parameters") else "rope_scaling"
    setattr(config, key, {"rope_theta": 10_000.0, **rope})
    assert count_positions(config, "decoder", "AutoModelForCausalLM") == Positions(decoder=expected)


LONG_FACTORS = {"long_factor": [4.0] * 4, "short_factor": [1.0] * 4, "original_max_position_embeddings": 20}


@pytest.mark.parametrize(
    ("name", "rope", "positions"),
    [
        ("llama", {"rope_type": "dynamic", "factor": 2.0}, NUMBER),
        ("phi3", {"rope_type": "longrope", **LONG_FACTORS}, 20),
    ],
)
def test_no_text_changes_how_the_others_of_a_batch_are_read(
    name: str, rope: dict[str, Any], positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotary frequencies that depend on the longest text would make scores depend on the batch, and on those before."""
    monkeypatch.setitem(ARCHITECTURES, name, ("decoder", LLAMA, Positions(decoder=positions)))
    config = tf.AutoConfig.for_model(name, **{"vocab_size": 500, "pad_token_id": 0, "eos_token_id": 1, **LLAMA})
    key = "rope_parameters" if hasattr(config, "rope_parameters") else "rope_scaling"
    setattr(config, key, {"rope_theta": 10_000.0, **rope})
    if name == "phi3":  # the installed transformers has it in one of two places
        config.original_max_position_embeddings = 20
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    family = family_for(name, config, recipe())
    assert family.max_source_length == positions - 8
    rows = tokenize(family, [Example("a " * 200, "b", ("b", "c")), Example("a", "b", ("b", "c"))])
    alone = [family.loglikelihoods(model, [row], CPU).loglikelihoods[0] for row in rows[::-1]]
    together = family.loglikelihoods(model, rows, CPU).loglikelihoods
    torch.testing.assert_close(together, alone[::-1])
    reason = f"beyond them, '{rope['rope_type']}' scaling changes how the other texts of a batch are read"
    assert f"the model has only {positions} positions" in family.source_remedy
    assert reason in family.source_remedy


def test_encoder_and_decoder_may_have_different_positions() -> None:
    bert = tf.BertConfig(vocab_size=500, **LIMITED)
    short = tf.BertConfig(vocab_size=500, **{**LIMITED, "max_position_embeddings": 30})
    config = tf.EncoderDecoderConfig.from_encoder_decoder_configs(bert, short)
    assert count_positions(config, "encoder-decoder", "AutoModelForSeq2SeqLM") == Positions(NUMBER, 30)
