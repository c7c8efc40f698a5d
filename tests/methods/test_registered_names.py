"""Options that name parts of a model are checked against the model, for every registered method."""

from __future__ import annotations

import copy
from functools import cache
from typing import Annotated, Any, Literal

import pytest
import torch

from peftkit import Method
from peftkit.components.model_parts.module_name_checks import ModuleNames, check_names, is_named, naming_options
from peftkit.components.model_parts.overlapping_options import find_overlaps
from peftkit.errors import InputError
from peftkit.methods.lora import Lora
from peftkit.plugins import load_registry
from peftkit.testing import apply_method, tiny_model

METHODS: dict[str, Any] = {
    name: entry.component for name, entry in load_registry().all("method", presets=False).items()
}
NAMING = [(name, option) for name, method in METHODS.items() for option in naming_options(method)]
OTHER_LISTS = {
    "cpt_mask",
    "cpt_tokens_type_mask",
    "attn_matrices",
    "leave_out",  # checked by the methods of AdapterHub
    "layers",
    "methods",
    "reduction_factor",
    "tokenizer_kwargs",
}
"""Lists and tables that do not name parts of a model, or that the method checks itself."""
NONSENSE: dict[str, tuple[Any, ...]] = {
    "layers_to_transform": ((0, 99), (-1,), 99),
    "layer_replication": (((0, 99),), ((-1, 1),), ((1, 1),)),
    "layers_pattern": (("no_such",), "no_such"),
    "token_indices": ((5, 99999), (-1,), ()),
    "trainable_token_indices": (
        (5, 99999),
        (-1,),
        (),
        {},
        {"no_such": (5,)},
        *({"embed_tokens": v} for v in ((99999,), ())),
    ),
    "cpt_token_ids": ((5, 99999), (-1,), ()),
    "target_parameters": (("no_such.weight",),),
    "modules_to_save": (("no_such",), ("",), ("lm_hed",)),
}
NAMES = (("q_proj", "no_such"), ("",), "no_such", "(unclosed")


@cache
def llama() -> Any:
    """A shared model; do not change it."""
    return tiny_model("llama")


def nonsense(option: str, method: Any) -> list[Any]:
    """Values of the option's type that match nothing."""
    return list(NONSENSE.get(option, ({"no_such": 4}, {"(unclosed": 4}) if option.endswith("_pattern") else NAMES))


def built(method: Any, **options: Any) -> Any:
    return method.model_construct(**{**dict(method(**method.tiny_options)), **options})


@pytest.mark.parametrize(("name", "option"), NAMING)
def test_an_entry_that_matches_nothing_is_rejected(name: str, option: str) -> None:
    method, model = METHODS[name], llama()
    for value in nonsense(option, method):
        with pytest.raises(InputError, match=rf"^method\.{option}: ") as error:
            check_names(built(method, **{option: value}), model)
        assert error.value.exit_code == 2


@pytest.mark.parametrize("name", METHODS)
def test_every_list_and_table_option_is_classified(name: str) -> None:
    """Fails for new options of later versions of peft, which then need a marker."""
    method = METHODS[name]
    lists = {
        option
        for option, field in method.model_fields.items()
        if any(kind in str(field.annotation) for kind in ("tuple[", "dict[")) and "Part" not in str(field.annotation)
    }
    assert lists - naming_options(method).keys() - OTHER_LISTS == set()
    named = {
        option for option in method.model_fields if "modules" in option or option.startswith(("target_p", "layers_"))
    }
    assert named <= naming_options(method).keys()


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        (name, architecture)
        for name in ("lora", "vera", "ia3", "loha")
        for architecture in ("llama", "t5", "gpt2", "bert", "bart")
        if architecture != "gpt2" or not METHODS[name].linear_only
    ],
)
def test_matching_target_modules_are_accepted(name: str, architecture: str) -> None:
    module = {"llama": "v_proj", "t5": "v", "gpt2": "c_attn", "bert": "value", "bart": "v_proj"}[architecture]
    method = METHODS[name]
    options = {"feedforward_modules": ()} if name == "ia3" else {}
    for targets in ((module,), rf".*\.{module}", "all-linear"):
        if name == "vera" and targets == "all-linear":
            continue  # layers of different sizes
        apply_method(method(**{**method.tiny_options, **options, "target_modules": targets}), architecture)


LORA: dict[str, tuple[dict[str, Any], str]] = {
    "one of two": ({"target_modules": ("q_proj", "v_prj")}, r"no module is called 'v_prj' \(did you mean 'v_proj'\?\)"),
    "rank": ({"rank_pattern": {"q_prj": 32}}, r"matches 'q_prj' \(did you mean 'q_proj'\?\); available: "),
    "anchored": ({"alpha_pattern": {"^q_proj": 100}}, "matches '.q_proj'"),
    "other module": ({"rank_pattern": {"up_proj": 4}}, "'up_proj' matches none of the modules that the method changes"),
    "second": (
        {"rank_pattern": {"q_proj": 4, r"layers\.0\.self_attn\.q_proj": 2}},
        "has no effect because 'q_proj' comes first",
    ),
    "save": ({"modules_to_save": ("lm_hed",)}, r"no module is called 'lm_hed' \(did you mean 'lm_head'\?\)"),
    "saves more": (
        {"modules_to_save": ("norm",)},
        r"'norm' is also the end of input_layernorm, post_attention_layernorm, which peft would train too; write "
        r"'model\.norm', or add input_layernorm, post_attention_layernorm",
    ),
    "saves parts of names": ({"modules_to_save": ("layernorm",)}, "no module is called 'layernorm'"),
    "saves nothing": ({"modules_to_save": ("act_fn",)}, "has no parameters to train"),
    "exclude": ({"exclude_modules": ("nothing",)}, "no module is called 'nothing'"),
    "excludes no target": (
        {"exclude_modules": ("lm_head",)},
        "'lm_head' excludes none of the target_modules",
    ),
    "excludes a target and another": (
        {"exclude_modules": ("layers.0.self_attn.q_proj", "up_proj")},
        "'up_proj' excludes none of the target_modules",
    ),
    "excludes no target, by expression": ({"exclude_modules": ".*up_proj"}, "excludes none of the target_modules"),
    "excludes what all-linear leaves out": (
        {"exclude_modules": ("lm_head",), "target_modules": "all-linear"},
        "'lm_head' excludes none of the target_modules",
    ),
    "a list of other blocks": (
        {"target_modules": ("up_proj",), "layers_to_transform": (1,), "layers_pattern": ("layers", "experts")},
        "layers_pattern",
    ),
    "a keyword of other options": ({"exclude_modules": "all-linear"}, "matches the regular expression 'all-linear'"),
    "all excluded": (
        {"target_modules": ("q_proj", "v_proj"), "exclude_modules": ("v_proj",)},
        "target_modules: 'v_proj' matches only modules that are excluded",
    ),
    "excludes everything": ({"exclude_modules": ".*"}, "target_modules"),
    "parameters": ({"target_parameters": ("nothing.weight",)}, "no parameter is called 'nothing.weight'"),
    "block": ({"layers_to_transform": (1, 99)}, "there is no block 99; the model has blocks 0 to 1"),
    "pattern alone": ({"layers_pattern": ("layers",)}, "layers_pattern"),
    "unsupported": ({"target_modules": ("q_proj", "input_layernorm")}, "not supported"),
    "alpha of zero": ({"alpha_pattern": {"q_proj": 0}}, r"alpha_pattern: 'q_proj' is 0, which disables training there"),
    "no rank": ({"rank_pattern": {"q_proj": 0}}, "rank_pattern|positive"),
    **{
        f"{way} beyond the weights": (
            {"init_lora_weights": way, "r": 1000},
            r"a rank of \d+ at most, not 1000; lower r",
        )
        for way in ("olora", "pissa")
    },
    "saved whole": (
        {"modules_to_save": ("q_proj",)},
        "modules_to_save: target_modules selects '.*q_proj'; leave it out",
    ),
    "saved whole in one block": (
        {"modules_to_save": ("layers.0.self_attn.q_proj",)},
        r"modules_to_save: target_modules selects 'model.layers.0.self_attn.q_proj'",
    ),
    "saved by its parent": (
        {"modules_to_save": ("self_attn",)},
        r"selects 'model.layers.0.self_attn.q_proj', and modules_to_save 'model.layers.0.self_attn'",
    ),
    "saved whole, by default": ({"modules_to_save": ("q_proj",), "target_modules": None}, "target_modules selects"),
    "saved whole, by expression": (
        {"modules_to_save": ("q_proj",), "target_modules": r".*\.(q|v)_proj"},
        "target_modules selects",
    ),
    "saved whole, by parameter": (
        {"modules_to_save": ("up_proj",), "target_parameters": ("up_proj.weight",)},
        "modules_to_save: target_parameters selects",
    ),
    "tokens of a saved embedding": (
        {"modules_to_save": ("embed_tokens",), "trainable_token_indices": (5,)},
        "modules_to_save: trainable_token_indices selects 'model.embed_tokens'",
    ),
    "tokens of an embedding by name": (
        {"modules_to_save": ("embed_tokens",), "trainable_token_indices": {"embed_tokens": (5,)}},
        "modules_to_save: trainable_token_indices selects",
    ),
    "tokens of a target": (
        {"target_modules": ("q_proj", "embed_tokens"), "trainable_token_indices": (5,)},
        "trainable_token_indices: target_modules selects 'model.embed_tokens'",
    ),
    "no token": ({"trainable_token_indices": ()}, "names no tokens"),
    "token": ({"trainable_token_indices": (5, 99999)}, "99999 is not a token id; .* 0 to 63"),
}


@pytest.mark.parametrize("case", LORA)
def test_invalid_names_in_loras_options_are_rejected_with_the_available_ones(case: str) -> None:
    options, words = LORA[case]
    lora: Any = METHODS["lora"]
    with pytest.raises(InputError, match=words):
        apply_method(lora(**{"target_modules": ("q_proj", "v_proj"), **options}), "llama")


def test_the_head_is_not_a_target_module() -> None:
    with pytest.raises(InputError, match=r"target_modules: 'classifier' matches only .* classification head"):
        apply_method(METHODS["lora"](target_modules=("query", "classifier")), "bert")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("osf", {"rank_pattern": {"q_pro": 2}}),  # matches anywhere in a name
        ("c3a", {"block_size": 8, "block_size_pattern": {"q_proj": 4}}),
        ("lora", {"rank_pattern": {r"layers\.1\.self_attn\.q_proj": 2, "q_proj": 4}}),
        ("lora", {"layers_to_transform": (1,), "layers_pattern": ("layers",)}),
        ("lora", {"exclude_modules": ("layers.0.self_attn.q_proj",)}),
        ("lora", {"exclude_modules": r".*\.0\..*"}),
        ("lora", {"exclude_modules": ("down_proj", "up_proj"), "target_modules": "all-linear"}),
        (
            "lora",
            {"modules_to_save": ("q_proj",), "exclude_modules": ("q_proj",), "target_modules": r".*_proj"},
        ),
        ("lora", {"modules_to_save": ("layers.0.self_attn.q_proj",), "layers_to_transform": (1,)}),
        ("lora", {"modules_to_save": ("q_proj",), "target_modules": "all-linear"}),
        ("lora", {"modules_to_save": ("embed_tokens",)}),
        ("lora", {"modules_to_save": ("lm_head",), "trainable_token_indices": (5,)}),
    ],
)
def test_names_are_matched_by_the_rule_of_each_method(name: str, options: dict[str, Any]) -> None:
    apply_method(METHODS[name](**{"target_modules": ("q_proj", "v_proj"), **options}), "llama")


SAVING = [
    name
    for name, method in METHODS.items()
    if {"target_modules", "modules_to_save"} <= method.model_fields.keys()
    and type(method.model_fields["target_modules"].annotation).__name__ != "str"
]


EXCLUDING = [name for name, method in METHODS.items() if "exclude_modules" in method.model_fields]


@pytest.mark.parametrize("name", EXCLUDING)
def test_every_method_rejects_an_exclusion_of_what_is_no_target(name: str) -> None:
    method = METHODS[name]
    options = {**method.tiny_options, "target_modules": ("q_proj",)}
    with pytest.raises(InputError, match=r"^method\.exclude_modules: 'up_proj' excludes none of the target_modules"):
        apply_method(method(**options, exclude_modules=("layers.0.self_attn.q_proj", "up_proj")), "llama")


@pytest.mark.parametrize("name", SAVING)
def test_every_method_rejects_a_module_that_is_also_trained_whole(name: str) -> None:
    method = METHODS[name](
        **{**METHODS[name].tiny_options, "target_modules": ("q_proj",), "modules_to_save": ("q_proj",)}
    )
    [text, *_] = find_overlaps(method, llama())
    assert text.startswith("modules_to_save: target_modules selects 'model.layers.0.self_attn.q_proj'")


def test_tokens_of_an_embedding_that_shares_the_weight_of_a_saved_head_are_rejected() -> None:
    model = copy.deepcopy(llama())
    method = METHODS["lora"](modules_to_save=("lm_head",), trainable_token_indices=(5,))
    model.lm_head.weight = model.model.embed_tokens.weight
    assert any("trainable_token_indices selects 'model.embed_tokens'" in text for text in find_overlaps(method, model))


def test_options_of_plugins_are_checked_by_name_or_type() -> None:
    class Mine(Method):
        name: Literal["mine"] = "mine"
        target_modules: tuple[str, ...] = ("q_proj",)
        frozen: Annotated[tuple[str, ...], ModuleNames(keywords=())] = ()
        inner: Lora = Lora()

    check_names(Mine(), tiny_model("llama"))
    for options, path in (
        ({"target_modules": ("q_prj",)}, "method.target_modules"),
        ({"frozen": ("x",)}, "method.frozen"),
        ({"inner": Lora(target_modules=("x",))}, r"method\.inner\.target_modules"),
    ):
        with pytest.raises(InputError, match=path):
            check_names(Mine(**options), tiny_model("llama"))  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5", "bart", "bert", "distilbert", "deberta-v2"])
def test_modules_to_save_trains_the_modules_that_it_names_and_no_others(architecture: str) -> None:
    """peft compares the ends of names, so that norm is also input_layernorm."""
    model, checked = tiny_model(architecture), 0
    modules = {key: module for key, module in model.named_modules() if key and [*module.parameters()]}
    leaves = {key.rpartition(".")[2] for key in modules if not isinstance(modules[key], torch.nn.ModuleList)}
    for entries in [(leaf,) for leaf in sorted(leaves) if not leaf.isdigit()]:
        named = {key for key in modules if is_named(key, entries[0])}
        matched = {key for key in modules if key.endswith(entries)}  # as peft does
        problems = [*ModuleNames(ending=True).unmatched(entries, model)]
        assert bool(problems) == (named != matched), (entries, problems)
        checked += bool(problems)
    assert checked or architecture not in ("llama", "t5", "bert", "distilbert")
