from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, field_validator

from peftkit import Method
from peftkit.errors import RecipeError
from peftkit.plugins import Entry, Registry
from peftkit.recipe import load_recipe

# Text appended to the valid recipe of conftest.py, and its errors in order:
# location, and words that the message must have.
Case = tuple[str, dict[str, tuple[str, ...]]]

WRONG: dict[str, Case] = {
    # --- keys
    "key": (
        "rank = 8",
        {"9: method.rank": ("unknown key", "'lora' takes r, lora_alpha, alpha, ", "did you mean 'r'?")},
    ),
    "key of another method": ("d_initial = 0.1", {"9: method.d_initial": ("unknown key", "'lora' takes r")}),
    "key in capitals": ("R = 8", {"9: method.R": ("unknown key", "did you mean 'r'?")}),
    "key of another table": ("batch_size = 8", {"9: method.batch_size": ("did you mean train.batch_size?",)}),
    "option outside": ("[train]\nlora_alpha = 8", {"10: train.lora_alpha": ("did you mean method.lora_alpha?",)}),
    "table": ("[trian]\nbatch_size = 8", {"9: trian": ("unknown key", "a recipe takes extends,", "mean 'train'?")}),
    "two tables": ("[a]\n[b]", {"9: a": ("unknown key",), "10: b": ("unknown key",)}),
    "table in the plural": ('[[metrics]]\nname = "accuracy"', {"9: metrics": ("did you mean 'metric'?",)}),
    "nested key": (
        "[train.budget]\nepoch = 1",
        {"10: train.budget.epoch": ("unknown key; [train.budget] takes steps, ", "did you mean 'epochs'?")},
    ),
    "abbreviation": ("[train]\nlr = 1e-3", {"10: train.lr": ("unknown key", "did you mean 'learning_rate'?")}),
    "quoted key": ("[\"train\"]\n'lr' = 1", {"10: train.lr": ("unknown key",)}),
    "empty key": ('"" = 1', {'9: method.""': ("unknown key",)}),
    "key with a dot": ('"a.b" = 1', {'9: method."a.b"': ("unknown key",)}),
    "key with a line break": ('"a\\nb" = 1', {'9: method."a\\u000ab"': ("unknown key",)}),
    "huge value of an unknown key": (f"rank = {'9' * 30}", {"9: method.rank": ("unknown key", "mean 'r'?")}),
    "inline table": ("train = {lr = 1, budget = {epoch = 2}}", {"9: method.train": ("unknown key",)}),
    "inline tables": (
        "[evaluate]\n[train]\nbudget = {epoch = 2,\tsteps = 0}",
        {"11: train.budget.epoch": ("unknown key",), "11: train.budget.steps": ("above 0, not 0",)},
    ),
    "dotted keys": (
        "[train]\nbudget.epoch = 2\nbudget.steps = 0",
        {"10: train.budget.epoch": ("unknown key",), "11: train.budget.steps": ("above 0, not 0",)},
    ),
    "both spellings": ("alpha = 8\nlora_alpha = 8", {"9: method.alpha": ("is an alias of lora_alpha", "keep one")}),
    # --- types
    "float for int": ("r = 8.0", {"9: method.r": ("must be a whole number, above 0, not 8.0 (did you mean 8?)",)}),
    "text for int": ('r = "8"', {"9: method.r": ("must be a whole number, above 0, not '8' (did you mean 8?)",)}),
    "true for int": ("r = true", {"9: method.r": ("must be a whole number, above 0, not true",)}),
    "list for int": ("r = [8]", {"9: method.r": ("must be a whole number", "not [8] (did you mean 8?)")}),
    "table for int": ("r = {a = 8}", {"9: method.r": ("must be a whole number, above 0, not a table",)}),
    "text for float": ('lora_dropout = "0.1"', {"9: method.lora_dropout": ("must be a number", "did you mean 0.1?")}),
    "another spelling": ('dropout = "much"', {"9: method.dropout": ("must be a number, at least 0, below 1",)}),
    "text for bool": ('use_dora = "True"', {"9: method.use_dora": ("true or false, not 'True' (did you mean true?)",)}),
    "int for bool": ("use_dora = 1", {"9: method.use_dora": ("must be true or false, not 1",)}),
    "int for text": ("[run]\nname = 8", {"10: run.name": ("must be a text in quotes", "did you mean '8'?")}),
    "date for text": ("[run]\nname = 2024-01-01", {"10: run.name": ("a text in quotes", "mean '2024-01-01'?")}),
    "time for int": ("r = 10:00:00", {"9: method.r": ("must be a whole number", "not the date 10:00:00")}),
    "date in a dict": (
        "[train.optimizer_options]\nfused = 2024-01-01T00:00:00",
        {"10: train.optimizer_options.fused": ("must be true or false, or a number, or", "not the date")},
    ),
    "union": (
        "target_modules = 3",
        {"9: method.target_modules": ("must be a text in quotes, or a list of texts in quotes, not 3",)},
    ),
    "list in a union": ('target_modules = ["q", 3]', {"9: method.target_modules": ("or a list", "not ['q', 3]")}),
    "list": ("layers_to_transform = 3", {"9: method.layers_to_transform": ("a list of whole numbers", "mean [3]?")}),
    "element": (
        "layers_to_transform = [\n  1,  # [\n  '2',\n]",
        {"11: method.layers_to_transform[1]": ("a whole number, not '2' (did you mean 2?)",)},
    ),
    "table of numbers": ('rank_pattern = {q = "8"}', {"9: method.rank_pattern.q": ("a whole number", "mean 8?")}),
    "table below": ("[method.rank_pattern]\nq = 8\nk = 1.5", {"11: method.rank_pattern.k": ("a whole number",)}),
    "union of scalars": (
        "[train.optimizer_options]\nbetas = {a = 1}",
        {"10: train.optimizer_options.betas": ("must be true or false, or a number, or a text in quotes, or a list",)},
    ),
    "number for a table": ("[train]\nbudget = 3", {"10: train.budget": ("must be a table, not 3",)}),
    "list of tables for a table": ("[[train]]\nworkers = 0", {"9: train": ("must be a table, not [a table]",)}),
    # --- values
    "zero": ("r = 0", {"9: method.r": ("must be a whole number, above 0, not 0",)}),
    "not a number": ("lora_dropout = nan", {"9: method.lora_dropout": ("must be a number", "not nan")}),
    "infinite": ("[train]\nlearning_rate = inf", {"10: train.learning_rate": ("must be a number, above 0, not inf",)}),
    "infinite by its size": ("[train]\nlearning_rate = 1e999", {"10: train.learning_rate": ("not inf",)}),
    "nan in a dict": ("[train.optimizer_options]\neps = nan", {"10: train.optimizer_options.eps": ("not nan",)}),
    "beyond 64 bits": (f"r = {'9' * 30}", {"9: method.r": ("a number beyond 64 bits; must be a whole number",)}),
    "beyond floats": (f"[train]\nlearning_rate = 0x{'f' * 5000}", {"10: train.learning_rate": ("beyond 64 bits",)}),
    "beyond, negative": (f"[run]\nseed = -{'9' * 4000}", {"10: run.seed": ("beyond 64 bits", "below 4294967296")}),
    "above": ("lora_dropout = 1.0", {"9: method.lora_dropout": ("must be a number, at least 0, below 1, not 1.0",)}),
    "exact bound": ("[run]\nseed = 4294967296", {"10: run.seed": ("at least 0, below 4294967296, not",)}),
    "choice": ('bias = "lora"', {"9: method.bias": ("one of 'none', 'all', 'lora_only'", "mean 'lora_only'?")}),
    "choice in capitals": (
        '[track]\nwandb.mode = "OFFLINE"',
        {"10: track.wandb.mode": ("'online', 'offline'", "mean 'offline'?")},
    ),
    "choice in a union": (
        'init_lora_weights = "pisa"',
        {"9: method.init_lora_weights": ("true or false, or", "'pissa'?")},
    ),
    "path as name": ('[run]\nname = "a/b"', {"10: run.name": ("a text in quotes, matching ^[A-Za-z0-9]", "not 'a/b'")}),
    "dots as name": ('[run]\nname = ".."', {"10: run.name": ("matching",)}),
    "line break in a name": ('[run]\nname = "a\\n"', {"10: run.name": ("matching", r"not 'a\n'")}),
    "empty text": ('[run]\noutput = ""', {"10: run.output": ("must be a text in quotes, not empty, not ''",)}),
    "no limit": ("[train.budget]", {"9: train.budget": ("needs at least one limit of: steps, samples, ",)}),
    "interval": (
        '[evaluate]\nevery = "10 foos"',
        {"10: evaluate.every": ("'100 steps', '0.5 epochs', '10%' (of the budget) or '20 log'", "foos")},
    ),
    "interval too short": ('[evaluate]\nevery = "0.0000001%"', {"10: evaluate.every": ("above zero",)}),
    "budget too small": ("[train.budget]\nepochs = 1e-320", {"10: train.budget.epochs": ("at least 1e-06",)}),
    "interval of nothing": ('[evaluate]\nevery = "0 steps"', {"10: evaluate.every": ("above zero",)}),
    "interval beyond": ('[evaluate]\nevery = "101%"', {"10: evaluate.every": ("'101%'",)}),
    "interval as number": ("[evaluate]\nevery = 10", {"10: evaluate.every": ("must be a text in quotes, not 10",)}),
    "one point": ('[evaluate]\nevery = "1 log"', {"10: evaluate.every": ("'1 log'",)}),
    "half a step": ('[evaluate]\nevery = "0.5 steps"', {"10: evaluate.every": ("'0.5 steps'",)}),
    "endless interval": (f'[evaluate]\nevery = "{"9" * 400} steps"', {"10: evaluate.every": ("must be written as",)}),
    "optimizer": (
        '[train]\noptimizer = "adamm"',
        {"10: train.optimizer": ("no optimizer", "adamw, ASGD", "did you mean")},
    ),
    "unfit optimizer": ('[train]\noptimizer = "LBFGS"', {"10: train.optimizer": ("needs a closure", "use adamw")}),
    "validator": ('r = 7\ninit_lora_weights = "orthogonal"', {"7: method": ("needs an even rank",)}),
    # --- metrics
    "metric twice": (
        '[[metric]]\nname = "accuracy"\n[[metric]]\nname = "accuracy"',
        {"12: metric[1].name": ("'accuracy' is listed twice",)},
    ),
    "metrics": (
        '[[metric]]\nname = "acuracy"\n[[metric]]\n[[metric]]\nname = "accuracy"\nfoo = 1\n[[metric]]\nname = 3',
        {
            "10: metric[0].name": ("no metric is called 'acuracy' (did you mean 'accuracy'?); installed: accuracy,",),
            "11: metric[1].name": ("missing; it is required, one of: accuracy, ",),
            "14: metric[2].foo": ("unknown key; 'accuracy' takes nothing",),
            "16: metric[3].name": ("must be in quotes, one of: accuracy, ",),
        },
    ),
    "metric without name": (
        "[[metric]]",
        {"9: metric[0].name": ("missing; it is required, one of: accuracy, exact_match",)},
    ),
    "objective without name": (
        "[objective]\nbeta = 1",
        {"9: objective.name": ("missing; it is required, one of: choice_ranking, multiple_choice_head",)},
    ),
    "metric as table": ('[metric]\nname = "accuracy"', {"9: metric": ("a list of tables, each under [[metric]]",)}),
    "unfit metric": (
        '[[metric]]\nname = "bleu"\n[[metric]]\nname = "accuracy"',
        {"10: metric[0].name": ("'bleu' scores generation, chat, and 'wordnet_mcq' is multiple_choice",)},
    ),
    "metric that selects": (
        '[[metric]]\nname = "exact_match"',
        {"9: metric": ("selects by 'accuracy'",)},
    ),
    "what selects": (
        '[evaluate]\nselects = "acuracy"',
        {
            "10: evaluate.selection_metric": (
                "no metric here computes 'acuracy' (did you mean 'accuracy'?); available: accuracy",
                "loss",
            )
        },
    ),
    # --- several at once
    "several": (
        'rank = 1\nr = 0\n[train]\noptimizer = "adamm"\nlr = 1\nbatch_size = 0\nmixed_precision = "fp61"\n'
        '[run]\nnam = "x"\n[evaluate]\nevery = "x"\n[foo]\n[track]\nwandb.mode = true',
        {
            "9: method.rank": ("unknown",),
            "10: method.r": ("above 0",),
            "12: train.optimizer": ("no optimizer",),
            "13: train.lr": ("unknown",),
            "14: train.batch_size": ("above 0",),
            "15: train.mixed_precision": ("did you mean 'fp16'?",),
            "17: run.nam": ("unknown",),
            "19: evaluate.every": ("must be written as",),
            "20: foo": ("unknown",),
            "22: track.wandb.mode": ("one of 'online'", "not true"),
        },
    ),
    "by itself and together": (
        '[train]\nlr = 1\n[[metric]]\nname = "accuracy"\n[[metric]]\nname = "bleu"',
        {"10: train.lr": ("unknown",), "14: metric[1].name": ("scores generation",)},
    ),
}

WHOLE: dict[str, Case] = {
    "empty": (
        "",
        {
            "1: model": ("missing; it is required: a table with name",),
            "1: task.name": ("missing; it is required, one of: ag_news, ",),
            "1: method.name": ("missing; it is required, one of: adalora, adamss, ",),
        },
    ),
    "no name": (
        "[model]\n[task]\n[method]\nr = 8",
        {
            "1: model.name": ("missing; it is required: a text in quotes",),
            "2: task.name": ("missing", "one of: ag_news, "),
            "3: method.name": ("missing", "one of: adalora, adamss"),
        },
    ),
    "not tables": (
        'model = "pocket-t5"\ntask = ["wordnet_mcq"]\nmethod = "lora"\nmetric = "accuracy"\ntrain = 3',
        {
            "1: model": ("must be a table, not 'pocket-t5'",),
            "2: task": ('must be a table: [task] and below it name = "ag_news"',),
            "3: method": ('must be a table: [method] and below it name = "lora"',),
            "4: metric": ("each under [[metric]], not 'accuracy'",),
            "5: train": ("must be a table, not 3",),
        },
    ),
    "lists of tables": (
        '[[method]]\nname = "lora"\n[[task]]\n[model]\nname = "pocket-t5"',
        {"1: method": ("must be a table: [method]",), "3: task": ("must be a table: [task]",)},
    ),
    "name of a callback": (
        'callback = ["x"]\n[model]\nname = "pocket-t5"\n[task]\nname = "wordnet_mcq"\n[method]\nname = "lora"',
        {"1: callback[0]": ("must be a table: [[callback]] and below it name = ",)},
    ),
    "unknown names": (
        'metric = ["accuracy"]\n[model]\nname = "pocket-t6"\n[task]\nname = "wordnet_mqc"\n[method]\nname = "{lorra}"',
        {
            "1: metric[0]": ('must be a table: [[metric]] and below it name = "accuracy"',),
            "3: model.name": ("or a built-in model (pocket-t5, ", "did you mean 'pocket-t5'?"),
            "5: task.name": ("no task is called 'wordnet_mqc' (did you mean 'wordnet_mcq'?); installed: ag_news, ",),
            "7: method.name": ("no method is called '{lorra}' (did you mean 'lora'?); to list all, run: ",),
        },
    ),
    "names of another type": (
        "format = true\n[model]\nname = 3\n[task]\nname = 2024-01-01\n[method]\nname = 1.5",
        {
            "1: format": ("must be a whole number, at least 1, not true",),
            "3: model.name": ("must be a text in quotes",),
            "5: task.name": ("must be", "quotes"),
            "7: method.name": ("must be in quotes, one of: adalora, adamss",),
        },
    ),
    "a task for a method": (
        '[model]\nname = "pocket-t5"\n[task]\nname = "lora"\n[method]\nname = "wordnet_mcq"',
        {"4: task.name": ("no task is called 'lora'",), "6: method.name": ("no method is called 'wordnet_mcq'",)},
    ),
    "text for an encoder": (
        '[model]\nname = "pocket-encoder"\n[task]\nname = "wordnet_distractors"\n[method]\nname = "lora"\nrank = 1',
        {
            "4: task.name": (
                "'wordnet_distractors' is a generation task, which has no objective for a model of kind 'encoder'",
                "use one of kind decoder, encoder-decoder",
            ),
            "7: method.rank": ("mean 'r'?",),
        },
    ),
    "a newer form": (
        'format = 3\n[model]\nname = "pocket-t5"\n[task]\nname = "wordnet_mcq"\n[method]\nname = "lora"',
        {"1: format": ("is 3, but this peftkit reads up to 2",)},
    ),
    "refused": (
        '[model]\nname = "pocket-t5"\n[task]\nname = "wordnet_mcq"\n[method]\nname = "prefix_tuning"\n'
        "[train]\ngradient_checkpointing = true",
        {
            "6: method.name": (
                "'prefix_tuning' is incompatible with this recipe:",
                "set train.gradient_checkpointing = false",
            )
        },
    ),
    "precision": (
        '[model]\nname = "pocket-t5"\ndtype = "float16"\n[task]\nname = "wordnet_mcq"\n[method]\nname = "lora"\n'
        '[train]\nmixed_precision = "fp16"',
        {"9: train.mixed_precision": ('set model.dtype = "float32"',)},
    ),
}


def assert_errors(check_errors: list[str], expected: dict[str, tuple[str, ...]]) -> None:
    assert [": ".join(line.split(": ")[:2]) for line in check_errors] == [f"x.toml:{where}" for where in expected]
    for line, words in zip(check_errors, expected.values(), strict=True):
        assert [word for word in words if word not in line] == [], line


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_errors_of_appended_text(case: Case, valid_recipe: str, check_errors: Callable[..., list[str]]) -> None:
    added, expected = case
    assert_errors(check_errors({"x.toml": valid_recipe + added + "\n"}), expected)


@pytest.mark.parametrize("case", WHOLE.values(), ids=WHOLE)
def test_errors_of_whole_recipes(case: Case, check_errors: Callable[..., list[str]]) -> None:
    text, expected = case
    assert_errors(check_errors({"x.toml": text}), expected)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./pockets", "is not a folder, a Hub id or a built-in model (did you mean 'pocket'?)"),
        ("./pocket", "is not a model: it has no config.json"),
        ("models/t5/base", "is not a folder, a Hub id"),
        ("~/t5", "is not a folder, a Hub id"),
        ("two words", "is not a folder, a Hub id"),
        ("a\\u0000b", "is not a folder, a Hub id"),
        ("", "must be a text in quotes, not empty"),
    ],
)
def test_errors_of_invalid_model_names(
    name: str, words: str, valid_recipe: str, folder: Path, check_errors: Callable[..., list[str]]
) -> None:
    (folder / "pocket").mkdir()
    [line] = check_errors({"x.toml": valid_recipe.replace("pocket-t5", name)})
    assert line.startswith("x.toml:2: model.name: ")
    assert words in line.replace(" (pocket-t5, pocket-decoder, pocket-encoder)", "")


class Inner(BaseModel, extra="forbid"):
    count: int
    label: str = ""


class Rich(Method):
    """A method with options of every type."""

    name: Literal["rich"] = "rich"
    needed: int
    pair: tuple[float, float] = (0.9, 0.99)
    since: datetime.date | None = None
    inner: Inner | None = None
    inners: list[Inner] = Field(default=[])
    free: dict[str, Any] = Field(default={})
    weight: float = Field(default=0.5, alias="lambda")
    checked: int = 3

    @field_validator("checked")
    @classmethod
    def _check(cls, value: int) -> int:
        assert value != 9, "no nines"
        return {7: value}[8] if value == 8 else value


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("", "7: method.needed: missing; it is required: a whole number"),
        ("needed = 1\npair = [1]", "10: method.pair: must be a list of 2: a number, a number, not [1]"),
        ("needed = 1\npair = [1, 'a']", "10: method.pair[1]: must be a number, not 'a'"),
        ("needed = 1\nsince = 'x'", "10: method.since: must be a date, not 'x'"),
        (
            "needed = 1\ninner = {count = '1'}",
            "10: method.inner.count: must be a whole number, not '1' (did you mean 1?)",
        ),
        ("needed = 1\ninner = {}", "10: method.inner.count: missing; it is required: a whole number"),
        (
            "needed = 1\ninner.count = 1\ninner.lab = ''",
            "11: method.inner.lab: unknown key; [method.inner] takes count, label",
        ),
        (
            "needed = 1\n[[method.inners]]\ncount = 1\n[[method.inners]]\ncount = 'x'",
            "13: method.inners[1].count: must be",
        ),
        ("needed = 1\nfree = 3", "10: method.free: must be a table, not 3"),
        ("needed = 1\nlambda = 'x'", "10: method.lambda: must be a number, not 'x'"),
        ("needed = 1\nchecked = 9", "10: method.checked: no nines"),
        ("needed = 1\nchecked = '9'", "10: method.checked: must be a whole number, not '9'"),
        ("needed = 1\nchecked = 8", "7: method: 'rich' failed to validate its options: KeyError: 8"),
    ],
)
def test_errors_of_a_plugins_options(
    added: str, expected: str, valid_recipe: str, folder: Path, registry: Registry
) -> None:
    extended = replace(registry, entries=(*registry.entries, Entry("method", "rich", Rich, "peftkit-rich", "1.0")))
    (folder / "x.toml").write_text(valid_recipe.replace('"lora"', '"rich"') + added, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe("x.toml", extended)
    assert [str(p)[: len(expected) + 7] for p in caught.value.problems] == [f"x.toml:{expected}"]


def test_a_date_option_takes_a_toml_date(valid_recipe: str, folder: Path, registry: Registry) -> None:
    extended = replace(registry, entries=(*registry.entries, Entry("method", "rich", Rich, "peftkit-rich", "1.0")))
    text = valid_recipe.replace('"lora"', '"rich"') + "needed = 1\nsince = 2024-01-02\n"
    (folder / "x.toml").write_text(text, encoding="utf-8")
    method = load_recipe("x.toml", extended).method
    assert isinstance(method, Rich)
    assert method.since == datetime.date(2024, 1, 2)
