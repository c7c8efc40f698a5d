"""Sources of every length are read by each architecture, or refused before training with the number of tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from peftkit import Example
from peftkit.components import ModelKind
from peftkit.errors import ModelError, RecipeError, RowError
from peftkit.models.checkpoints.forward_check import reads_context
from peftkit.models.lengths.length_limits import (
    SHORTEST,
    check_min_length,
    check_training_multiple,
    fix_attention_type,
    min_length,
    training_multiple,
)
from peftkit.models.load_base_model import load_base
from tests.models.checkpoints.test_forward_check import saved
from tests.tiny_runs import SIZES, Make

SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "hidden_dim", "d_inner", "encoder_ffn_dim"), 64),
    **dict.fromkeys(("decoder_ffn_dim", "feed_forward_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "attention_heads"), 4),
    **{"head_dim": 8, "d_kv": 8, "d_head": 8, "num_key_value_heads": 2, "embedding_size": 16, "vocab_size": 128},
    **{"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 2, "num_labels": 3},
    **{"cls_token_id": 2, "sep_token_id": 1, "forced_eos_token_id": None, "dropout_rate": 0.0},
}
REFORMER = {
    **{"attn_layers": ["local", "lsh"], "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16], "num_buckets": 4},
    **{"attention_head_size": 8, "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8, "is_decoder": False},
}
FUNNEL: dict[str, Any] = {"block_sizes": [1, 1, 1]}
SPECIFIC: dict[str, list[dict[str, Any]]] = {
    "funnel": [
        FUNNEL,
        *({"block_sizes": [1] * blocks} for blocks in (1, 2, 4, 5)),
        *({**FUNNEL, name: value} for name, value in (("separate_cls", False), ("truncate_seq", False))),
        {**FUNNEL, "attention_type": "factorized"},
        {**FUNNEL, "pool_q_only": False},
    ],
    "canine": [{"local_transformer_stride": 8, "downsampling_rate": rate} for rate in (2, 4, 8)],
    "reformer": [REFORMER, {**REFORMER, "axial_pos_embds": False}],
    "big_bird": [{"block_size": 4, "num_random_blocks": 1}],
    "bigbird_pegasus": [{"block_size": 4, "num_random_blocks": 1}],
    "longformer": [{"attention_window": 8}],
    "led": [{"attention_window": 8}],
}
CPU = torch.device("cpu")
LENGTHS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 18, 31)
MASKED, SEQ2SEQ = tf.MODEL_FOR_MASKED_LM_MAPPING, tf.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
HEADS: dict[ModelKind, tuple[str, ...]] = {
    "encoder": ("AutoModelForSequenceClassification", "AutoModelForTokenClassification", "AutoModel"),
    "encoder-decoder": ("AutoModelForSeq2SeqLM",),
}


def architectures() -> list[tuple[ModelKind, str]]:
    """Every encoder and encoder-decoder of the installed transformers."""
    encoders = [config.model_type for config in MASKED if config not in SEQ2SEQ] + ["canine"]
    return [
        *(("encoder", name) for name in dict.fromkeys(encoders)),
        *(("encoder-decoder", config.model_type) for config in SEQ2SEQ),
    ]


def tiny_config(name: str, changes: dict[str, Any]) -> Any:
    config_class = type(tf.AutoConfig.for_model(name))
    known = {key: value for key, value in SMALL.items() if key in config_class().to_dict()}
    return config_class(**{**known, **changes})


def built(name: str, changes: dict[str, Any], auto_class: str) -> Any:
    """A random model, or None if it needs other settings, images or sounds, or is large whatever its settings."""
    try:
        config, auto = tiny_config(name, changes), getattr(tf, auto_class)
        with torch.device("meta"):
            model = auto.from_config(copy.deepcopy(config))
        if sum(parameter.numel() for parameter in model.parameters()) > 3e6:
            return None
        torch.manual_seed(0)
        return auto.from_config(config).eval()
    except Exception:  # of the many libraries' own kinds
        return None


def read(model: Any, kind: ModelKind, length: int) -> Any:
    ids = torch.arange(10, 10 + length)[None]
    inputs = {"input_ids": ids}
    if "attention_mask" in type(model).forward.__code__.co_varnames:
        inputs["attention_mask"] = torch.ones_like(ids)
    if kind == "encoder-decoder":
        inputs["decoder_input_ids"] = torch.tensor([[2]])
    with torch.inference_mode():
        return model(**inputs)[0]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_architecture_reads_texts_from_its_shortest_length_on() -> None:
    """Of all architectures, those of the table alone fail on short texts, and at all shorter lengths."""
    walked, wrong, reads = set[str](), [], dict[str, bool]()
    for kind, name in architectures():
        for changes in SPECIFIC.get(name, [{}]):
            for auto_class in HEADS[kind]:
                if (model := built(name, changes, auto_class)) is None:
                    continue
                config = model.config
                fails = []
                for length in LENGTHS:
                    try:
                        read(model, kind, length)
                    except Exception:
                        fails.append(length)
                if len(fails) == len(LENGTHS):
                    continue  # it needs other inputs, which check_forward refuses
                walked.add(name)
                if auto_class == "AutoModelForSequenceClassification":
                    with torch.inference_mode():
                        reads[name] = reads_context(model, [*range(10, 34)])
                expected = [length for length in LENGTHS if length < min_length(config)]
                if fails != expected and not (set(fails) < set(expected) and name in SHORTEST):
                    wrong.append((name, auto_class, changes, fails, expected))
    assert not wrong
    assert {name for name, context in reads.items() if not context} <= {"mra"}  # without its CUDA kernel
    assert len(walked) > 35
    assert {"funnel", "canine", "bert", "t5", "longformer", "reformer", "big_bird", "led", "bart"} <= walked


@pytest.mark.parametrize(("name", "changes", "shortest"), [("funnel", FUNNEL, 5), ("canine", {}, 4), ("bert", {}, 1)])
def test_a_source_below_the_shortest_length_is_refused_with_the_numbers(
    name: str, changes: dict[str, Any], shortest: int
) -> None:
    config = tiny_config(name, changes)
    check_min_length([5] * shortest, config)
    with pytest.raises(RowError, match=rf"it has {shortest - 1} tokens, but the model reads at least {shortest}; "):
        check_min_length([5] * (shortest - 1), config)


@pytest.mark.parametrize("blocks", [3, 5])
def test_funnel_reads_texts_of_its_shortest_length_and_refuses_shorter_ones(
    blocks: int, make: Make, tmp_path: Path
) -> None:
    sizes = {"d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64, "vocab_size": 8192, "block_sizes": [1] * blocks}
    folder = saved(tmp_path / "model", "encoder", "funnel", **sizes)
    base = load_base(make("encoder", "task.name=colours", f"model.name={folder}"))
    shortest = 2 ** (blocks - 1) + 1
    family = base.family
    text = " ".join(["a"] * (shortest - len(family.tokenizer("a")["input_ids"]) + 1))
    tokenizers: list[Callable[[str], Any]] = [
        lambda text: family.tokenize_sources([Example(text, "x")]),
        lambda text: family.tokenize_windows(text, None, stride=0),
    ]
    if blocks == 5:  # the special tokens of pairs alone are enough for the other
        tokenizers += [
            lambda text: family.tokenize_pairs([Example(text, "b", ("a", "b"))]),
            lambda text: family.tokenize_sources([Example(text, "x", source_pair=(text, "b"))]),
        ]
    for tokenize in tokenizers:
        tokenize(text)
        with pytest.raises(RowError, match=rf"it has \d tokens, but the model reads at least {shortest}; lengthen it"):
            tokenize("a")
    rows = family.tokenize_sources([Example(text, "x"), Example(f"{text} {text}", "x")])
    assert len(rows[0]["source"]) == shortest
    together, alone = (
        [score for part in parts for score in family.loglikelihoods(base.model.eval(), part, CPU).loglikelihoods]
        for parts in ([rows], [[row] for row in rows])
    )
    torch.testing.assert_close(together, alone)


BIG_BIRD: dict[str, Any] = {"block_size": 2, "num_random_blocks": 1, "vocab_size": 8192}  # full attention to 14 tokens


def test_bigbird_reads_a_text_in_the_same_way_whatever_it_has_read_before() -> None:
    config = tiny_config("big_bird", BIG_BIRD)
    changed = copy.deepcopy(config)
    fix_attention_type("it", changed, 14)
    for each, same in ((config, False), (changed, True)):
        torch.manual_seed(0)
        model = tf.AutoModelForSequenceClassification.from_config(each).eval()
        first = read(model, "encoder", 31)
        read(model, "encoder", 3)
        assert torch.equal(read(model, "encoder", 31), first) is same
    fix_attention_type("it", changed, 31)  # as its config says so


def test_bigbird_with_texts_for_both_kinds_of_attention_is_refused(make: Make, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "encoder", "big_bird", **{**SIZES, **BIG_BIRD}, max_position_embeddings=64)
    names = ("task.name=colours", f"model.name={folder}")
    config = load_base(make("encoder", *names, "train.max_source_length=14")).model.config
    assert config.attention_type == "original_full"
    with pytest.raises(RecipeError, match=r"texts of 15 tokens .* texts of up to 14 tokens .* 1 tokens less"):
        load_base(make("encoder", *names, "train.max_source_length=15"))


def test_an_encoder_whose_attention_does_nothing_on_this_machine_is_refused(make: Make, tmp_path: Path) -> None:
    """MRA without its CUDA kernel gives zeros for every attention."""
    folder = saved(tmp_path / "model", "encoder", "mra", **SIZES, vocab_size=8192)
    with pytest.raises(ModelError, match="MraForSequenceClassification reads each token without the others on this"):
        load_base(make("encoder", "task.name=colours", f"model.name={folder}"))


SEEDED = {**REFORMER, "hash_seed": 1, "vocab_size": 8192, "hidden_size": 32, "num_attention_heads": 4}


@pytest.mark.parametrize(("changes", "multiple"), [({}, 64), ({"axial_pos_embds": False}, 8)])
def test_reformer_is_trained_on_batches_of_a_multiple_of_its_chunks(
    changes: dict[str, Any], multiple: int, make: Make, tmp_path: Path
) -> None:
    settings = {**SEEDED, **changes, "feed_forward_size": 64, "max_position_embeddings": 100}
    folder = saved(tmp_path / "model", "encoder", "reformer", **settings)
    names = ("task.name=colours", f"model.name={folder}", "train.max_source_length=40")
    with pytest.raises(RecipeError, match=rf"train.pad_to_multiple_of: .* set pad_to_multiple_of = {multiple}$"):
        load_base(make("encoder", *names))
    base = load_base(make("encoder", *names, f"train.pad_to_multiple_of={multiple}"))
    assert training_multiple(base.model.config) == multiple
    base.model.train()
    base.model(input_ids=torch.full((1, multiple), 5))
    with pytest.raises(ValueError, match=r"multiple of|Make sure that"):
        base.model(input_ids=torch.full((1, multiple + 1), 5))


def test_lengths_that_reformers_positions_cannot_be_padded_to_are_refused() -> None:
    config = tiny_config("reformer", {**REFORMER, "axial_pos_embds": False})
    check_training_multiple("it", config, 8, 96, 100)
    with pytest.raises(RecipeError, match=r"train.max_source_length: .* has 100 positions; lower it to 96"):
        check_training_multiple("it", config, 8, 97, 100)


def test_a_model_with_random_numbers_in_evaluation_is_refused(make: Make, tmp_path: Path) -> None:
    """Reformer draws the hashes of LSH attention in every pass, for texts that are longer than a chunk."""
    folder = saved(tmp_path / "model", "encoder", "reformer", **{**SEEDED, "hash_seed": None})
    with pytest.raises(ModelError, match="ReformerForSequenceClassification uses random numbers in evaluation too"):
        load_base(make("encoder", "task.name=colours", f"model.name={folder}", "train.pad_to_multiple_of=64"))
