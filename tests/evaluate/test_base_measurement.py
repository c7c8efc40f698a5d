"""The base model is measured on probes before the method is applied: exactly, once for equal inputs, also on resume."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from peftkit.data.pipeline import prepare_data
from peftkit.evaluate.base_measurement import PROBES_FILE, BaseMeasurement, measure_base
from peftkit.evaluate.evaluator import evaluate
from peftkit.models.load_base_model import apply_method, load_base
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from peftkit.verify import verify_run

Make = Callable[..., Recipe]
TEXTS = ("the leaf is green and the sky is blue", "a glass of water", "blue birds sing in green trees")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def probes(tmp_path: Path) -> str:
    """An override with a probe of texts, of which two are evaluated along the curve, and one of choices."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    texts = f'{{name = "texts", path = "{path.as_posix()}", examples = 2}}'
    return f'probe=[{texts}, {{name = "choices", task = {{name = "colour_choice"}}}}]'


def measure(recipe: Recipe) -> BaseMeasurement:
    base = load_base(recipe)
    data = prepare_data(recipe, base.objective, Accelerator(cpu=True))
    return measure_base(recipe, base, data, Accelerator(cpu=True))


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The evaluations of a run, without times."""
    rows = RunDirectory(path).evaluations()
    timed = ("cost", "evaluation_seconds", "probe_seconds", "reused_evaluation_seconds")
    return [{key: value for key, value in row.items() if key not in timed} for row in rows]


def test_the_base_is_measured_without_the_method(make: Make, registry: Registry, probes: str) -> None:
    """Prefix tuning starts as another function than the base."""
    recipe = make("decoder", "method.name=prefix_tuning", "train.max_source_length=32", probes)
    path = run(recipe, registry)
    assert path is not None
    summary, accelerator = RunDirectory(path).summary(), Accelerator(cpu=True)
    base = load_base(recipe)
    data = prepare_data(recipe, base.objective, accelerator)
    pristine = {p.name: evaluate(base.model, p.whole, p.recipe, p.objective, accelerator).values for p in data.probes}
    curve = {p.name: evaluate(base.model, p.curve, p.recipe, p.objective, accelerator).values for p in data.probes}
    assert {name: record["base"] for name, record in summary["probes"].items()} == pristine
    assert {name: record["base_on_curve"] for name, record in summary["probes"].items()} == curve
    model = apply_method(recipe, base, None)
    wrapped = {p.name: evaluate(model, p.curve, p.recipe, p.objective, accelerator).values for p in data.probes}
    [first, *_] = rows_of(path)
    assert {name: first[name] for name in wrapped} == wrapped
    assert all(wrapped[name]["loss"] != curve[name]["loss"] for name in wrapped)
    assert json.loads((path / PROBES_FILE).read_text())["probes"] == summary["probes"]
    assert summary["probe_seconds"] > 0


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_bits_per_byte_are_those_of_transformers(kind: str, make: Make, models: dict[str, Path], probes: str) -> None:
    [texts, _] = measure(make(kind, probes)).results.values()
    tokenizer = AutoTokenizer.from_pretrained(models[kind])
    nats, size = 0.0, 0
    for text in TEXTS:
        if kind == "decoder":
            ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
            whole = torch.cat([torch.tensor([[tokenizer.bos_token_id or tokenizer.eos_token_id]]), ids], 1)
            logits = AutoModelForCausalLM.from_pretrained(models[kind], dtype="float32")(whole).logits[0, :-1]
            predicted = text
        else:
            words = text.split()
            read, predicted = (" ".join(part) for part in (words[: len(words) // 2], words[len(words) // 2 :]))
            ids = tokenizer(predicted, return_tensors="pt")["input_ids"]
            model = AutoModelForSeq2SeqLM.from_pretrained(models[kind], dtype="float32")
            logits = model(**tokenizer(read, return_tensors="pt"), labels=ids).logits[0]
        nats += torch.nn.functional.cross_entropy(logits, ids[0], reduction="sum").item()
        size += len(predicted.encode())
    assert texts.values["bits_per_byte"] == pytest.approx(nats / size / math.log(2), abs=1e-6)


def test_equal_runs_share_the_measurement_exactly(make: Make, probes: str) -> None:
    first = measure(make("decoder", probes))
    again = measure(make("decoder", probes, "method.name=lora", "run.seed=5", "train.learning_rate=0.5"))
    for name, result in first.results.items():
        assert (result.reused, again.results[name].reused) == (False, True)
        assert again.results[name].values == result.values
        assert again.results[name].predictions == result.predictions
        assert again.results[name].curve_predictions == result.curve_predictions


@pytest.mark.parametrize(
    "change",
    [
        "model.dtype=bfloat16",
        "evaluate.batch_size=2",
        'probe=[{name = "choices", task = {name = "colour_text"}}]',
        "probe=[{name = 'choices', task = {name = 'colour_choice'}, metric = 'loss'}]",
    ],
)
def test_other_inputs_are_measured_again(change: str, make: Make) -> None:
    probe = 'probe=[{name = "choices", task = {name = "colour_choice"}}]'
    measure(make("decoder", probe))
    assert not measure(make("decoder", probe, change)).results["choices"].reused


def test_a_changed_model_is_measured_again(make: Make, models: dict[str, Path], tmp_path: Path, probes: str) -> None:
    before = measure(make("decoder", probes)).results["texts"]
    model = AutoModelForCausalLM.from_pretrained(models["decoder"])
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.5)
    model.save_pretrained(tmp_path / "changed")
    AutoTokenizer.from_pretrained(models["decoder"]).save_pretrained(tmp_path / "changed")
    after = measure(make("decoder", probes, f"model.name={tmp_path / 'changed'}")).results["texts"]
    assert not after.reused
    assert after.values != before.values


def test_a_run_with_a_probe_trains_as_without(make: Make, registry: Registry) -> None:
    probe = 'probe=[{name = "choices", task = {name = "colour_choice"}}]'
    plain, probed = run(make("decoder"), registry), run(make("decoder", probe), registry)
    assert plain is not None
    assert probed is not None
    without = [{k: v for k, v in row.items() if k != "choices"} for row in rows_of(probed)]
    assert without == rows_of(plain)
    assert (plain / "examples.parquet").read_bytes() == (probed / "examples.parquet").read_bytes()


def test_a_resumed_run_keeps_the_measurement(
    make: Make, registry: Registry, probes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make("decoder", probes, "train.checkpoint.every=50%")
    whole = run(recipe, registry)
    assert whole is not None
    evaluations = 0

    def dies(*arguments: Any, **options: Any) -> Any:
        nonlocal evaluations
        evaluations += 1
        if evaluations > 12:  # of the last of three evaluations
            raise MemoryError("killed")
        return evaluate(*arguments, **options)

    monkeypatch.setattr("peftkit.train.evaluation.evaluate", dies)
    with pytest.raises(MemoryError):
        run(recipe, registry)
    monkeypatch.setattr("peftkit.train.evaluation.evaluate", evaluate)
    monkeypatch.setattr("peftkit.evaluate.base_measurement.evaluate", None)  # it is not measured again
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / "another"))
    path = max((p for p in whole.parent.iterdir() if p != whole), key=lambda p: p.stat().st_mtime)
    assert run(recipe, registry, resume=str(path)) == path
    assert RunDirectory(path).summary()["resumed_after_steps"] == [6]
    assert rows_of(path) == rows_of(whole)
    bases = [{n: r["base"] for n, r in RunDirectory(p).summary()["probes"].items()} for p in (path, whole)]
    assert bases[0] == bases[1]
    for file in ("texts/base.parquet", "texts/examples.parquet", "choices/base.parquet", "choices/examples.parquet"):
        assert (path / "probes" / file).read_bytes() == (whole / "probes" / file).read_bytes()


def test_verify_recomputes_probes_and_finds_changed_results(make: Make, registry: Registry, probes: str) -> None:
    path = run(make("decoder", probes), registry)
    assert path is not None
    whole = verify_run(path, registry, load_model=False)
    assert whole.with_status("differs") == []
    names = {check.name for check in whole.with_status("agrees") if check.group == "probe texts"}
    assert {"base bits_per_byte", "base_on_curve loss", "step 6 bits_per_byte"} <= names
    summary = json.loads((path / "summary.json").read_text())
    summary["probes"]["texts"]["base"]["bits_per_byte"] += 0.01
    (path / "summary.json").write_text(json.dumps(summary))
    changed = verify_run(path, registry, load_model=False)
    assert [check.name for check in changed.with_status("differs")] == ["base bits_per_byte"]
