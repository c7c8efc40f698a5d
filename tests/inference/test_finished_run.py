"""Prediction, merge and export of finished runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from peftkit.compare.input.load_runs import find_runs
from peftkit.compare.per_example_scores import read_example_scores
from peftkit.errors import InputError
from peftkit.inference.export import export
from peftkit.inference.finished_run import load_finished_run
from peftkit.inference.predict import predict
from peftkit.inference.save_merged import save_merged
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from tests.tiny_runs import ONE_EVALUATION, Make, recipe_maker


def finished(make: Make, registry: Registry, kind: str, *options: str) -> Path:
    path = run(make(kind, "train.budget.steps=4", *ONE_EVALUATION, *options), registry)
    assert path is not None
    return path


@pytest.fixture(scope="module")
def decoder_with_lora(models: dict[str, Path], registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; do not change it."""
    make = recipe_maker(models, registry, tmp_path_factory.mktemp("finished"))
    return finished(make, registry, "decoder", "method.name=lora")


def stored(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (path / "predictions" / "test.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("encoder-decoder", ("method.name=full",)),
        ("encoder-decoder", ("method.name=lora", "method.init_lora_weights=pissa")),
        ("encoder-decoder", ("method.name=lora", "method.init_lora_weights=eva")),
        ("encoder-decoder", ("method.name=prefix_tuning",)),
        ("decoder", ("method.name=adalora",)),
        ("decoder", ("method.name=p_tuning",)),
        ("decoder", ("method.name=layer_norm", "task.name=colour_choice")),
        ("encoder", ("method.name=head_only",)),
        ("encoder", ("method.name=vera", "task.name=colour_choice")),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_predictions_equal_those_of_the_run(
    kind: str, options: tuple[str, ...], make: Make, registry: Registry
) -> None:
    path = finished(make, registry, kind, *options)
    rows = stored(path)
    lines = [json.dumps({"source": row["source"], "candidates": row["candidates"]}) for row in rows]
    predicted = list(predict(load_finished_run(path, registry), lines))
    for row, one in zip(rows, predicted, strict=True):
        probabilities = one.pop("probabilities")
        assert one.items() <= row.items()
        assert {"source", "prediction", "prediction_norm", "candidates", "log_likelihoods", "candidate_tokens"} == {
            *one
        }
        one["probabilities"] = probabilities
        assert list(probabilities) == row["candidates"]
        assert sum(one["probabilities"].values()) == pytest.approx(1)
    streamed = list(predict(load_finished_run(path, registry), lines, 5, stream=True))
    for row, one in zip(rows, streamed, strict=True):
        assert (one["source"], one["prediction"]) == (row["source"], row["prediction"])
        assert one["log_likelihoods"] == pytest.approx(row["log_likelihoods"], abs=1e-4)
        assert max(one["probabilities"], key=one["probabilities"].get) == one["prediction"]


def test_predict_takes_text_and_rows_and_generates(make: Make, registry: Registry) -> None:
    path = finished(make, registry, "encoder-decoder")
    opened = load_finished_run(path, registry)
    answered = '{"thing": "sky", "colour": "blue"}'
    lines = ["sky", "", answered, '{"thing": "sky"}', '{"source": "(colour) sky"}', '{"thing": "sky", "x": 1}']
    plain, empty, *others = predict(opened, lines, 1)
    assert empty == {"source": "", "prediction": None}
    assert others == [plain] * 4
    assert plain["source"] == "(colour) sky"
    assert list(plain["probabilities"]) == ["red", "green", "blue"]
    text = finished(make, registry, "decoder", "task.name=colour_text")
    (one,) = predict(load_finished_run(text, registry), ["sky"], 4)
    assert one.keys() == {"source", "prediction", "generated_tokens"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"', "line 2: not a JSON object"),
        (
            '{"thin": "sky"}',
            r"line 2: thing: missing; there is 'thin' \(did you mean 'thing'\?\); "
            "'colours' needs a JSON object with thing, or one with a ready-made \"source\"",
        ),
        ('{"source": 1}', "line 2: source: must be a string, not 1"),
        ('{"source": "x", "candidates": ["a"]}', "line 2: candidates: needs at least two"),
    ],
)
def test_an_invalid_line_is_reported_with_its_number(
    line: str, words: str, decoder_with_lora: Path, registry: Registry
) -> None:
    opened = load_finished_run(decoder_with_lora, registry)
    with pytest.raises(InputError, match=words):
        list(predict(opened, ["sky", line], 1))


@pytest.mark.parametrize("method", ["full", "lora", "ia3"])
def test_a_merged_model_loads_with_transformers(method: str, make: Make, registry: Registry, tmp_path: Path) -> None:
    path = finished(make, registry, "encoder-decoder", f"method.name={method}")
    opened = load_finished_run(path, registry)
    ids = torch.arange(5, 13)[None]
    with torch.no_grad():
        before = opened.model(input_ids=ids, decoder_input_ids=ids).logits
        assert save_merged(opened, tmp_path / "merged") < 1e-4
        after = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged")(input_ids=ids, decoder_input_ids=ids).logits
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="already exists and is not an empty folder"):
        save_merged(opened, tmp_path / "merged")


def test_a_merged_model_has_a_separately_trained_output_layer(make: Make, registry: Registry, tmp_path: Path) -> None:
    options = ("method.name=lora", 'method.modules_to_save=["lm_head"]')
    opened = load_finished_run(finished(make, registry, "decoder", *options), registry)
    assert opened.family.config.tie_word_embeddings
    ids = torch.arange(5, 13)[None]
    with torch.no_grad():
        before = opened.model(input_ids=ids).logits
        save_merged(opened, tmp_path / "merged")
        after = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(input_ids=ids).logits
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_saved_models_keep_the_generation_config_of_the_base(
    method: str, make: Make, models: dict[str, Path], registry: Registry, tmp_path: Path
) -> None:
    base = shutil.copytree(models["encoder-decoder"], tmp_path / "base")
    written = {"repetition_penalty": 1.3, "temperature": 0.7, "eos_token_id": [1, 7]}
    (base / "generation_config.json").write_text(json.dumps(written))
    path = finished(make, registry, "encoder-decoder", f"method.name={method}", f'model.name="{base.as_posix()}"')
    save_merged(load_finished_run(path, registry), tmp_path / "merged")
    for folder in (tmp_path / "merged", *([path / "model"] if method == "full" else [])):
        assert json.loads((folder / "generation_config.json").read_text()) == written


def test_methods_without_weight_updates_cannot_be_merged(make: Make, registry: Registry, tmp_path: Path) -> None:
    opened = load_finished_run(finished(make, registry, "decoder", "method.name=prompt_tuning"), registry)
    with pytest.raises(InputError, match="'prompt_tuning' cannot be merged"):
        save_merged(opened, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_an_export_loads_with_peft_and_has_a_model_card(
    decoder_with_lora: Path, registry: Registry, tmp_path: Path
) -> None:
    path = decoder_with_lora
    export(path, registry, tmp_path / "out")
    recipe = load_finished_run(path, registry).recipe
    base = AutoModelForCausalLM.from_pretrained(recipe.model.name)
    opened = PeftModel.from_pretrained(base, str(tmp_path / "out"))
    ids = torch.arange(5, 13)[None]
    with torch.no_grad():
        logits = load_finished_run(path, registry).model(input_ids=ids).logits
        torch.testing.assert_close(opened.eval()(input_ids=ids).logits, logits, atol=1e-6, rtol=0)
    text = (tmp_path / "out" / "README.md").read_text()
    value = RunDirectory(path).summary()["selected"]["test"]["accuracy"]
    assert f"| accuracy | {value:.4f} | 0." in text
    for part in ("library_name: peft", "`colours` with `lora`", "12 test examples, seed 42", "torch 2", "[method]"):
        assert part in text


@pytest.mark.parametrize(
    ("kind", "method", "words"),
    [
        ("encoder-decoder", "full", 'model = AutoModelForSeq2SeqLM.from_pretrained("FOLDER", dtype=torch.float32)'),
        ("encoder", "lora", 'model = PeftModel.from_pretrained(base, "FOLDER")'),
        ("encoder", "bitfit", 'model, tokenizer = peftkit.load_model("FOLDER")'),
        ("decoder", "layer_norm", 'model, tokenizer = peftkit.load_model("FOLDER")'),
    ],
)
def test_the_code_of_the_model_card_loads_the_model(
    kind: str,
    method: str,
    words: str,
    make: Make,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peftkit.api.runs.load_registry", lambda: registry)  # with the tests' task
    path = finished(make, registry, kind, f"method.name={method}")
    export(path, registry, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    [code] = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    assert words in code
    namespace: dict[str, Any] = {}
    exec(code.replace("FOLDER", str(tmp_path / "out")), namespace)  # noqa: S102 - what a reader would run
    ids = torch.arange(5, 13)[None]
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if kind == "encoder-decoder" else {})
    with torch.no_grad():
        expected = load_finished_run(path, registry).model(**inputs).logits
        torch.testing.assert_close(namespace["model"].eval()(**inputs).logits, expected, atol=1e-6, rtol=0)
    assert ("trained classification head" in text) == (kind == "encoder")


def test_unfinished_runs_and_other_folders_are_errors(
    decoder_with_lora: Path, registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"is not a run directory: it has no recipe\.toml"):
        load_finished_run(tmp_path / "none", registry)
    path = shutil.copytree(decoder_with_lora, tmp_path / "run")
    (path / "summary.json").write_text('{"format": 1, "status": "failed"}')
    with pytest.raises(
        InputError, match=r"is failed; finish it with: peftkit\.run\('\S+/recipe\.toml', resume='\S+'\)$"
    ):
        load_finished_run(path, registry)


def test_a_run_of_format_1_predicts_and_is_compared(
    decoder_with_lora: Path, registry: Registry, tmp_path: Path
) -> None:
    path = shutil.copytree(decoder_with_lora, tmp_path / "run")
    now = list(predict(load_finished_run(path, registry), ["sky", "grass"]))
    for name in ("summary.json", "environment.json", "evaluations.jsonl"):
        text = (path / name).read_text()
        assert '"format": 3' in text
        (path / name).write_text(text.replace('"format": 3', '"format": 1'))
    recipe = (path / "recipe.toml").read_text()
    assert "full_splits = true\n" in recipe
    (path / "recipe.toml").write_text(recipe.replace("full_splits = true\n", ""))
    (path / "examples.parquet").unlink()
    assert list(predict(load_finished_run(path, registry), ["sky", "grass"])) == now
    [run] = find_runs([path])[0]
    scores = read_example_scores(run, "accuracy")
    assert scores is not None
    assert scores.values.mean() == pytest.approx(RunDirectory(path).summary()["selected"]["test"]["accuracy"])
