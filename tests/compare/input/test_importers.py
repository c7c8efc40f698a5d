from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peftkit.compare.comparison import compare
from peftkit.compare.input.groups import group_runs
from peftkit.compare.input.importers import import_file
from peftkit.compare.input.load_runs import find_runs
from peftkit.compare.learning_curves import lower_is_better
from peftkit.compare.output.figures import draw_figures
from peftkit.compare.output.html_report import render_report
from peftkit.compare.output.table_formats import render
from peftkit.compare.output.table_notes import notes
from peftkit.errors import InputError
from peftkit.plugins import load_registry
from peftkit.recipe import load_recipe


def by_time(tmp_path: Path, name: str, scores: list[float], gmacs: float = 100.0) -> Path:
    rows = [
        {
            **{f"{split}_MulticlassAccuracy": score for split in ("dev", "test")},
            **({"train_MulticlassAccuracy": score, "train_loss": 1 - score} if i else {}),
            **{f"{split}_MulticlassF1Score": score / 2 for split in ("dev", "test")},
            **{f"{split}_loss": 1 - score for split in ("dev", "test")},
            "steps_done": 80 * i,
            "iteration": i - 1,
            "epochs_done": 0,
            "time_in_train": 5.0 * i,
            "GMACs": gmacs * i if gmacs > 0 else -1000000.0,
        }
        for i, score in enumerate(scores)
    ]
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(rows))
    return file


def comparison(name: str, accuracy: float, *, peft: dict[str, Any] | None) -> dict[str, Any]:
    along = [
        {"step": 250 * i, "valid accuracy": 0.1 * i, "train loss": 1.0, "train samples": 1000 * i, "train time": 20.0}
        | {"tokens / sec": 100.0}
        for i in (1, 2)
    ]
    last = {"step": 500, "test accuracy": accuracy, "train loss": 1.0, "train samples": 2000, "forgetting": 0.05}
    config = {"model_id": "org/model", "dtype": "bfloat16", "batch_size": 4, "seed": 3, "optimizer_type": "AdamW"}
    config |= {"optimizer_kwargs": {"lr": 1e-5}, "lr_scheduler": "cosine", "max_seq_length": 768, "use_amp": False}
    return {
        "run_info": {"experiment_name": name, "train_config": config, "peft_config": peft},
        "train_info": {
            "status": "success",
            "accelerator_memory_max": 2**30,
            "num_trainable_params": 10,
            "train_time": 72.5,
            "file_size": 400,
            "metrics": [*along, last],
        },
        "meta_info": {
            "dataset_info": {"metamath": {}, "gsm8k": {}},
            "package_info": {"torch-version": "2.13.0", "torch-commit-hash": None},
            "system_info": {"accelerator": "L40S", "processor": "x86_64"},
        },
    }


def test_peft_by_time_files_are_imported_and_noted_to_leak(tmp_path: Path) -> None:
    file = by_time(tmp_path, "prefix_ag_news_nt100", [0.2, 0.7, 0.6])
    folder = import_file("peft-by-time", file, tmp_path / "runs")
    assert folder == import_file("peft-by-time", file, tmp_path / "runs"), "importing twice gives one run"
    [run], problems = find_runs([tmp_path / "runs"])
    assert problems == []
    assert run.imported_from == "peft-by-time"
    assert (run.summary["task"], run.summary["model"], run.summary["method"]) == (
        "ag_news",
        "google-t5/t5-base",
        "prefix_tuning",
    )
    assert run.recipe["method"]["num_virtual_tokens"] == 100
    assert "teacher-forced" in run.summary["imported"]["note"]
    assert run.summary["selection_metric"] == "teacher_forced_multiclass_accuracy"
    assert run.summary["selected"]["step"] == 10
    assert [row["samples"] for row in run.evaluations] == [0, 80, 160]
    assert run.evaluations[2]["cost"] == {"train_seconds": 10.0, "gmacs": 200.0}
    assert run.evaluations[1]["test"]["teacher_forced_multiclass_f1_score"] == 0.35
    with pytest.raises(InputError, match="imported: unknown key"):
        load_recipe(folder / "recipe.toml", load_registry())


def test_imported_runs_have_no_intervals_in_any_output(tmp_path: Path) -> None:
    for name, scores in (("FT_ag_news", [0.2, 0.7, 0.9]), ("LoRA_ag_news", [0.2, 0.8, 0.85])):
        import_file("peft-by-time", by_time(tmp_path, name, scores), tmp_path / "runs")
    groups = group_runs(find_runs([tmp_path / "runs"])[0])
    result = compare(groups[0])
    full, lora = result.lines
    assert (full.method, full.score, full.low, full.best) == ("full", 0.9, None, None)
    assert full.letter == lora.letter == "", "methods with one seed are not ranked"
    assert lora.cost_to_share == {0.95: None}
    assert (lora.trainable_parameters, lora.peak_memory) == (None, None)
    assert any("they leak it" in note for note in notes(result))
    assert "unknown" in render([result], "table").decode()
    assert "they leak it" in render_report(groups)
    assert draw_figures(groups, tmp_path / "figures", ["svg"])


def test_methods_without_macs_are_left_out_of_macs_comparisons(tmp_path: Path) -> None:
    for name, gmacs in (("VeRA_commonsense_noGMACs", -1.0), ("FT_commonsense", 5.0)):
        import_file("peft-by-time", by_time(tmp_path, name, [0.1, 0.2], gmacs), tmp_path / "runs")
    [section] = group_runs(find_runs([tmp_path / "runs"])[0])
    result = compare(section)
    assert ([line.method for line in result.lines], result.unmeasured) == (["full"], ("vera",))
    assert "left out, gmacs was not measured: vera" in notes(result)
    assert len(compare(section, by="seconds").lines) == 2
    with pytest.raises(InputError, match=r"not all runs have measured 'joules'"):
        compare(section, by="joules")


def test_model_size_and_batch_size_are_read_from_the_file_name(tmp_path: Path) -> None:
    large = import_file("peft-by-time", by_time(tmp_path, "LARGE_LoRA_tweet_eval", [0.1, 0.2]), tmp_path / "runs")
    assert 'name = "google-t5/t5-large"' in (large / "recipe.toml").read_text()
    six = import_file("peft-by-time", by_time(tmp_path, "FT_ag_news_b8", [0.1, 0.2]), tmp_path / "runs")
    assert "batch_size = 8" in (six / "recipe.toml").read_text()


def test_peft_method_comparison_results_are_imported(tmp_path: Path) -> None:
    for name, accuracy, peft in (
        ("full-finetuning/lr_0.1", 0.5, None),
        ("lora/rank8", 0.4, {"peft_type": "LORA"}),
        ("lora/rank32", 0.45, {"peft_type": "LORA"}),
    ):
        file = tmp_path / "result.json"
        file.write_text(json.dumps(comparison(name, accuracy, peft=peft)))
        import_file("peft-method-comparison", file, tmp_path / "runs")
    [section] = group_runs(find_runs([tmp_path / "runs"])[0])
    assert (section.task, section.model) == ("metamath+gsm8k", "org/model")
    result = compare(section, by="seconds")
    assert [line.method for line in result.lines] == ["full", "lora (experiment=rank32)", "lora (experiment=rank8)"]
    full = result.lines[0]
    assert (full.seeds, full.cost, full.peak_memory, full.checkpoint_bytes) == ((3,), 40.0, 2**30, 400.0)
    assert compare(section, by="tokens").lines[0].cost == 4000.0
    assert compare(section, metric="forgetting", by="samples").lines[0].score == 0.05
    assert lower_is_better(next(iter(section.runs["full"].values())), "forgetting")


@pytest.mark.parametrize(
    ("system", "name", "content", "message"),
    [
        ("peft-by-time", "results", [], "name must be METHOD_TASK"),
        ("peft-by-time", "Lora_ag_news", [], "did you mean 'LoRA'"),
        ("peft-by-time", "FT_ag_news", [{"GMACs": 1}], "not a result of peft-by-time: KeyError"),
        ("peft-by-time", "FT_ag_news", [], "not a result of peft-by-time"),
        ("peft-method-comparison", "x", {"run_info": {}}, "not a result of peft-method-comparison: KeyError"),
        ("peft-method-comparison", "x", [1], "not a result of peft-method-comparison"),
    ],
)
def test_files_of_other_formats_are_errors(tmp_path: Path, system: str, name: str, content: Any, message: str) -> None:
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        import_file(system, file, tmp_path / "runs")
    file.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        import_file(system, file, tmp_path / "runs")
    with pytest.raises(InputError, match="cannot be read"):
        import_file(system, tmp_path / "none.json", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_imported_times_have_a_note_on_what_they_include(tmp_path: Path) -> None:
    for name, accuracy in (("full-finetuning/a", 0.5), ("lora/b", 0.4)):
        file = tmp_path / f"{name.replace('/', '-')}.json"
        file.write_text(json.dumps(comparison(name, accuracy, peft={"peft_type": "LORA"} if "lora" in name else None)))
        import_file("peft-method-comparison", file, tmp_path / "runs")
    groups = group_runs(find_runs([tmp_path / "runs"])[0])
    run = groups[0].runs["lora"][3]
    assert run.summary["imported"]["seconds"] == {"steps": 40.0, "train_time": 72.5}
    assert run.summary["cost"]["train_seconds"] == 40.0
    remarks = notes(compare(groups[0], by="seconds"))
    assert any("Seconds are the sum of the times of training steps" in note for note in remarks)
    assert any("lora 40.0 s of 72.5 s" in note and "full 40.0 s of 72.5 s" in note for note in remarks)
    assert "40.0 s of 72.5 s" in render_report(groups, by="seconds")

    folder = import_file("peft-by-time", by_time(tmp_path, "FT_ag_news", [0.2, 0.7]), tmp_path / "by-time")
    note = json.loads((folder / "summary.json").read_text())["imported"]["note"]
    assert "Seconds are the file's time_in_train" in note
