"""Classification heads: new parameters, kept heads, and saving."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForSequenceClassification,
)

from peftkit import Method
from peftkit.components.model_parts.head_parameters import covering_modules, find_head_parameters, is_head_parameter
from peftkit.errors import InputError, ModelError, RecipeError
from peftkit.inference.finished_run import load_finished_run
from peftkit.models.heads.classification_head import parameters_not_in_checkpoint
from peftkit.models.load_base_model import apply_method, init_random_base, load_base
from peftkit.plugins import Entry, Registry
from peftkit.recipe import load_recipe
from peftkit.recipe.tables.train_config import HEAD_LEARNING_RATE
from peftkit.run_directory import RunDirectory
from peftkit.testing.tiny_models import FAMILIES, head_parameters, save_tiny_model
from peftkit.train.optimizer import LR_MULTIPLIER, make_optimizer
from peftkit.train.run import run
from tests.tiny_runs import ONE_EVALUATION, Make

COLOURS = ("red", "green", "blue")


@pytest.fixture
def classifier(make: Make, tmp_path: Path) -> Any:
    """Saves the tiny encoder with a classification head of these labels."""

    def build(*labels: str) -> Path:
        folder = tmp_path / "classifier"
        recipe = make("encoder")
        torch.manual_seed(3)
        config = AutoConfig.from_pretrained(recipe.model.name)
        config.id2label, config.label2id = dict(enumerate(labels)), {label: n for n, label in enumerate(labels)}
        BertForSequenceClassification(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(recipe.model.name).save_pretrained(folder)
        return folder

    return build


# ---- new parameters


@pytest.mark.parametrize("architecture", FAMILIES["encoder"])
def test_new_parameters_equal_those_of_the_loading_report(architecture: str, make: Make, tmp_path: Path) -> None:
    recipe = make("encoder", f"model.name={save_tiny_model(architecture, tmp_path / 'model')}")
    base = load_base(recipe)
    assert set(base.head.parameters) == set(head_parameters(architecture))
    assert init_random_base(recipe, "meta").head == base.head
    sizes = {name: parameter.numel() for name, parameter in base.model.named_parameters()}
    assert base.head.num_new == sum(sizes[name] for name in base.head.parameters)


def test_old_names_and_sharded_files_are_read(make: Make, models: dict[str, Path], tmp_path: Path) -> None:
    base = load_base(make("encoder"))
    config = AutoConfig.from_pretrained(models["encoder"])
    tensors = load_file(models["encoder"] / "model.safetensors")
    old = {k.replace("LayerNorm.weight", "LayerNorm.gamma").removeprefix("bert."): v for k, v in tensors.items()}
    save_file(old, tmp_path / "model.safetensors")
    assert parameters_not_in_checkpoint(base.model, config, str(tmp_path)) == set(base.head.parameters)
    index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00002.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert parameters_not_in_checkpoint(base.model, config, str(tmp_path)) == set(base.head.parameters)
    # Only the config of a hub model may be available.
    assert parameters_not_in_checkpoint(base.model, config, "someone/not-here") == set(base.head.parameters)


def test_missing_layers_do_not_belong_to_the_head(make: Make, models: dict[str, Path], tmp_path: Path) -> None:
    tensors = load_file(models["encoder"] / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if "layer.1.output" not in key}
    folder = tmp_path / "half"
    folder.mkdir()
    for file in models["encoder"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 4 of \d+ weights of the model, such as 'bert\.encoder\.layer\.1"):
        load_base(make("encoder", f"model.name={folder}"))


def test_modules_cover_exactly_the_named_parameters(make: Make) -> None:
    base = load_base(make("encoder"))
    assert covering_modules(base.model, base.head.parameters) == ["bert.pooler", "classifier"]
    assert covering_modules(base.model, ()) == []
    assert covering_modules(base.model, ["bert.embeddings.LayerNorm.bias"]) == ["bert.embeddings.LayerNorm"]


# ---- training


@pytest.mark.parametrize("method", ["full", "lora", "ia3", "prompt_tuning", "bitfit", "head_only", "layer_norm"])
def test_every_method_trains_the_head_at_its_own_rate(method: str, make: Make) -> None:
    for rate, options in ((HEAD_LEARNING_RATE, ()), (0.02, ("train.head_learning_rate=0.02",))):
        recipe = make("encoder", f"method.name={method}", "train.learning_rate=0.1", *options)
        base = load_base(recipe)
        model = apply_method(recipe, base, 6)
        head = {id(parameter) for parameter in find_head_parameters(model, base.head.parameters).values()}
        assert len(head) == 4
        groups = make_optimizer(recipe, model).param_groups
        rates = {id(p): group[LR_MULTIPLIER] * recipe.train.learning_rate for group in groups for p in group["params"]}
        assert [rates[each] for each in head] == [pytest.approx(rate)] * 4
        others = [value for key, value in rates.items() if key not in head]
        assert others == [pytest.approx(0.1)] * len(others)
        assert bool(others) == (method != "head_only")
        assert sum(is_head_parameter(parameter) for parameter in model.parameters()) == 4


@pytest.mark.parametrize("key", ["train.head_learning_rate=0.01", "model.keep_head=true"])
@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_models_without_a_head_reject_its_options(kind: str, key: str, make: Make) -> None:
    with pytest.raises(RecipeError, match=f"{key.split('=')[0]}: only encoders have a classification head"):
        make(kind, key)


# ---- saving


@pytest.mark.parametrize("method", ["lora", "vera", "prompt_tuning"])
def test_peft_alone_reproduces_the_stored_scores(method: str, make: Make, registry: Registry) -> None:
    recipe = make("encoder", f"method.name={method}", "train.budget.steps=8", *ONE_EVALUATION)
    path = run(recipe, registry)
    assert path is not None
    rows = RunDirectory(path).predictions("test")
    tokenizer = AutoTokenizer.from_pretrained(recipe.model.name)
    for seed in (1, 2):
        torch.manual_seed(seed)
        base = AutoModelForSequenceClassification.from_pretrained(recipe.model.name, num_labels=3)
        model = PeftModel.from_pretrained(base, path / "model").eval()
        for row in rows:
            with torch.no_grad():
                likelihoods = model(**tokenizer(row["source"], return_tensors="pt")).logits.log_softmax(-1)[0]
            assert likelihoods.tolist() == pytest.approx(row["log_likelihoods"], abs=1e-6)
    summary = RunDirectory(path).summary()
    assert summary["parameters"]["new_head"] == 32 * 32 + 32 + 32 * 3 + 3
    assert summary["kept_head"] is False


class Forgetful(Method):
    """Does not save the head."""

    name: Literal["forgetful"] = "forgetful"

    def apply(self, model: Any, context: Any) -> Any:
        for key, parameter in model.named_parameters():
            parameter.requires_grad = key.endswith("LayerNorm.bias")
        return model

    def save(self, model: Any, folder: Path) -> None:
        tensors = {key: p.detach().clone() for key, p in model.named_parameters() if key.endswith("LayerNorm.bias")}
        save_file(tensors, folder / "trainable.safetensors")


def test_a_method_that_does_not_save_the_head_is_rejected_on_encoders(
    make: Make, registry: Registry, tmp_path: Path
) -> None:
    known = Registry((*registry.entries, Entry("method", "forgetful", Forgetful, "tests", "0")))
    for kind in ("encoder", "decoder"):
        name = make(kind).model.name
        method = "forgetful" if kind == "encoder" else "lora"
        options = [f"model.name={name}", f"method.name={method}", *ONE_EVALUATION]
        recipe = load_recipe(tmp_path / "recipe.toml", known, options)
        if kind == "decoder":
            assert run(recipe, known) is not None
            continue
        with pytest.raises(InputError, match=r"'forgetful' does not save '.*', a parameter of the classification head"):
            run(recipe, known)


# ---- kept heads


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Saves the tiny encoder of an architecture once, without a head; do not change it."""
    return cache(lambda architecture: save_tiny_model(architecture, tmp_path_factory.mktemp("masked") / architecture))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("auto", "outputs"),
    [
        *((AutoModelForTokenClassification, number) for number in (1, 3, 5)),
        *((AutoModelForMultipleChoice, number) for number in (1, 3)),  # the head has one output
        (AutoModelForQuestionAnswering, 2),
    ],
    ids=lambda value: value if isinstance(value, int) else value.__name__.removeprefix("AutoModelFor"),
)
@pytest.mark.parametrize("architecture", ["bert", "distilbert", "deberta-v2", "roberta", "electra"])
def test_a_head_of_another_kind_of_task_is_replaced_and_trained_whole(
    architecture: str, auto: Any, outputs: int, masked: Callable[[str], Path], make: Make, tmp_path: Path
) -> None:
    folder = masked(architecture)
    config = AutoConfig.from_pretrained(folder)
    config.num_labels = outputs
    auto.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    for task in ("colours", "colour_choice"):
        recipe = make("encoder", f"model.name={tmp_path}", f"task.name={task}", "method.name=layer_norm")
        base = load_base(recipe)
        backbone = f"{base.model.base_model_prefix}."
        of_head = {name for name, _ in base.model.named_parameters() if not name.startswith(backbone)}
        assert of_head <= set(base.head.parameters)
        assert of_head == {name for name in head_parameters(architecture) if not name.startswith(backbone)}
        assert init_random_base(recipe, "meta").head.parameters == base.head.parameters
        model = apply_method(recipe, base, 6)
        assert all(parameter.requires_grad for parameter in find_head_parameters(model, base.head.parameters).values())
        assert "is replaced by a new one" in base.head.notice


def test_a_multiple_choice_head_is_kept_for_multiple_choice(make: Make, tmp_path: Path) -> None:
    folder = save_tiny_model("bert", tmp_path / "mlm")
    chooser = AutoModelForMultipleChoice.from_config(AutoConfig.from_pretrained(folder))
    chooser.save_pretrained(tmp_path / "chooser")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "chooser")
    options = (f"model.name={tmp_path / 'chooser'}", "model.keep_head=true")
    base = load_base(make("encoder", "task.name=colour_choice", *options))
    torch.testing.assert_close(base.model.classifier.weight, chooser.classifier.weight)  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="has no label 'red'"):
        load_base(make("encoder", *options))


LABELS: dict[str, tuple[dict[str, Any], str]] = {
    "other numbers": ({"label2id": {"red": 2, "green": 1, "blue": 0}}, "'red' is 0 in id2label, but 2 in label2id"),
    "a gap": ({"id2label": {"0": "red", "1": "green", "3": "blue"}, "label2id": None}, "has the ids 0, 1, 3"),
    "twice": (
        {"id2label": {"0": "red", "1": "Red ", "2": "blue"}, "label2id": None},
        "differ in case and whitespace",
    ),
    "all equal": (
        {"id2label": {"0": "red", "1": "red", "2": "red"}, "label2id": None},
        "differ in case and whitespace",
    ),
}


@pytest.mark.parametrize("case", LABELS)
def test_a_head_with_ambiguous_labels_is_not_kept(case: str, make: Make, tmp_path: Path) -> None:
    changes, words = LABELS[case]
    folder = save_tiny_model("bert", tmp_path / "mlm")
    config = AutoConfig.from_pretrained(folder, num_labels=3)
    config.id2label = dict(enumerate(("red", "green", "blue")))
    config.label2id = {label: number for number, label in config.id2label.items()}
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "head")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "head")
    options = (f"model.name={tmp_path / 'head'}", "model.keep_head=true")
    record = load_base(make("encoder", *options)).record()
    assert record["head"]["checkpoint_labels"] == ["red", "green", "blue"]
    assert record["head"]["kept"]
    assert record["config"]["hidden_dropout_prob"] == config.hidden_dropout_prob
    file = tmp_path / "head" / "config.json"
    described = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in described.items() if value is not None}))
    with pytest.raises(ModelError, match=words):
        load_base(make("encoder", *options))


@pytest.mark.parametrize("labels", [("one", "two"), ("one", "two", "three"), COLOURS])
def test_the_head_of_another_task_is_replaced_with_a_notice(
    labels: tuple[str, ...], classifier: Any, make: Make, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = classifier(*labels)
    recipe = make("encoder", f"model.name={folder}", "method.name=lora", "train.budget.steps=2", *ONE_EVALUATION)
    base = load_base(recipe)
    stored = load_file(folder / "model.safetensors")
    model: Any = base.model
    assert model.config.id2label == dict(enumerate(COLOURS))
    assert model.classifier.weight.shape == (3, 32)
    assert not any(
        torch.equal(model.classifier.weight[i], row) for i in range(3) for row in stored["classifier.weight"]
    )
    assert model.classifier.weight.std().item() == pytest.approx(model.config.initializer_range, rel=0.3)
    torch.testing.assert_close(model.bert.pooler.dense.weight, stored["bert.pooler.dense.weight"])
    assert base.head.parameters == ("classifier.weight", "classifier.bias")
    assert base.head.num_new == 99
    again: Any = load_base(recipe).model
    assert torch.equal(again.classifier.weight, model.classifier.weight)
    assert run(recipe, registry) is not None
    printed = " ".join(capsys.readouterr().out.split())
    assert f"(BertForSequenceClassification) is replaced by a new one; its labels are {labels[0]}" in base.head.notice
    assert "replaced" in printed
    remedy = "set model.keep_head = true to keep it" if labels == COLOURS else "they differ from the task's"
    assert base.head.notice.endswith(remedy)


def test_a_kept_head_is_reordered_by_label_names(classifier: Any, make: Make, registry: Registry) -> None:
    folder = classifier("Blue", "white", "red", "GREEN")
    options = ("model.keep_head=true", "method.name=lora", "train.budget.steps=4", *ONE_EVALUATION)
    recipe = make("encoder", f"model.name={folder}", *options)
    base = load_base(recipe)
    stored = load_file(folder / "model.safetensors")
    model: Any = base.model
    torch.testing.assert_close(model.classifier.weight, stored["classifier.weight"][[2, 3, 0]])
    torch.testing.assert_close(model.classifier.bias, stored["classifier.bias"][[2, 3, 0]])
    assert model.config.id2label == dict(enumerate(COLOURS))
    assert (base.head.num_new, base.head.kept) == (0, True)
    path = run(recipe, registry)
    assert path is not None
    assert RunDirectory(path).summary()["kept_head"] is True
    opened = load_finished_run(path, registry)
    rows = RunDirectory(path).predictions("test")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = opened.model(**tokenizer(rows[0]["source"], return_tensors="pt")).logits.log_softmax(-1)[0]
    assert logits.tolist() == pytest.approx(rows[0]["log_likelihoods"], abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("red", "gren", "blue"), r"has no label 'green' \(did you mean 'gren'\?\)"),
        (("LABEL_0", "LABEL_1", "LABEL_2"), r"has no label 'red'.* its labels are|has no label 'red'"),
    ],
)
def test_a_head_of_other_labels_cannot_be_kept(
    labels: tuple[str, ...], words: str, classifier: Any, make: Make
) -> None:
    with pytest.raises(ModelError, match=words):
        load_base(make("encoder", f"model.name={classifier(*labels)}", "model.keep_head=true"))


def test_keep_head_without_a_head_is_an_error(make: Make) -> None:
    with pytest.raises(ModelError, match=r"has no classification head \(it is a BertForMaskedLM\)"):
        load_base(make("encoder", "model.keep_head=true"))


def test_multiple_choice_keeps_a_head_with_one_output(classifier: Any, make: Make) -> None:
    base = load_base(
        make("encoder", "task.name=colour_choice", f"model.name={classifier('s')}", "model.keep_head=true")
    )
    assert base.head.kept
    with pytest.raises(ModelError, match="has 3 outputs, but the task 'colour_choice' needs 1 output;"):
        load_base(
            make("encoder", "task.name=colour_choice", f"model.name={classifier(*COLOURS)}", "model.keep_head=true")
        )
