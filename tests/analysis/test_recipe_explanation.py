from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from peftkit.analysis.recipe_explanation import explain_recipe, explanation_text
from peftkit.errors import PeftkitError
from peftkit.plugins import load_registry
from peftkit.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
REGISTRY = load_registry("")


def test_sentences_say_what_the_run_does() -> None:
    overrides = ("train.budget={gmacs=1500, epochs=1}", "train.gradient_accumulation_steps=2", "evaluate.every=20 log")
    explained = explain_recipe(load_recipe(RECIPES / "quickstart.toml", REGISTRY, overrides))
    summary = explained["summary"]
    assert summary[0] == "Trains pocket-t5 on wordnet_mcq with lora."
    assert "Method lora: Low-rank updates of frozen linear layers (LoRA, Hu et al., 2022)." in summary
    assert "Training ends after 1 epoch or 1,500 GMACs, whichever comes first." in summary
    assert any(each.startswith("A step has 64 rows in 2 batches, times the number of processes") for each in summary)
    rows = "on all dev rows and 500 test rows"
    assert (
        f"The model is evaluated before training and 20 times, evenly spaced on a logarithmic scale, {rows}." in summary
    )
    assert "The checkpoint with the best dev accuracy is selected, and evaluated on all rows." in summary


def test_settings_are_those_of_the_recipe_and_defaults_that_act() -> None:
    explained = explain_recipe(load_recipe(RECIPES / "quickstart.toml", REGISTRY, ["train.workers=0"]))
    settings = {each["key"]: each for each in explained["settings"]}
    assert (settings["method.r"]["value"], settings["method.r"]["is_default"]) == (8, False)
    assert settings["method.r"]["description"] == "The rank of the updates."
    assert settings["train.max_grad_norm"]["is_default"]
    assert not settings["train.workers"]["is_default"]  # a default that the recipe sets
    assert not {"format", "method.name", "train.compile", "train.fsdp"} & settings.keys()
    text = explanation_text(explained)
    assert text.index("method.r = 8") < text.index("Defaults:") < text.index("train.max_grad_norm = 1.0")
    assert max(map(len, text.splitlines())) <= 100


def test_every_recipe_is_explained() -> None:
    explained = []
    for path in RECIPES.glob("*/*.toml"):
        with suppress(PeftkitError):  # recipes that others extend, and those of plugins
            explained.append(explain_recipe(load_recipe(path, REGISTRY)))
    assert len(explained) > 70
    for each in explained:
        assert all(sentence.endswith(".") and "  " not in sentence for sentence in each["summary"])
        settings = [setting for setting in each["settings"] if not setting["key"].startswith("task.")]
        assert [setting["key"] for setting in settings if not setting["description"]] == []
