"""Fairness checks: protocol, devices, commits, training samples and seeds."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from peftkit.cli.arguments import POOLED
from peftkit.compare.budget_ranking import rank_within_budget
from peftkit.compare.comparison import compare
from peftkit.compare.input.fairness import FAIRNESS_CHECKS
from peftkit.compare.input.groups import RunGroup, group_runs
from peftkit.compare.input.load_runs import find_runs
from peftkit.compare.output.figures import draw_figures
from peftkit.compare.output.html_report import render_report
from peftkit.compare.output.table_formats import FORMATS, render
from peftkit.errors import InputError
from peftkit.recipe.tables.train_config import BudgetConfig
from peftkit.run_directory import device_name
from tests.compare.conftest import Plant


def changed(path: Path, name: str, **values: Any) -> Path:
    """Changes values in one of the run's JSON files."""
    document = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps(document | values))
    return path


def train(**values: Any) -> dict[str, Any]:
    return {"tables": {"train": {"batch_size": 8, "learning_rate": 0.1, **values}}}


def evaluated(**values: Any) -> dict[str, Any]:
    return {"tables": {"evaluate": {"dev_examples": 50, **values}}}


PROTOCOL = [
    *(
        ("budget", train(budget={limit: 5}), f"train.budget.{limit} is 5 and null")
        for limit in BudgetConfig.model_fields
    ),
    ("cadence", evaluated(every="5%"), 'evaluate.every is "5%" and null'),
    ("cadence", evaluated(at_start=False), "evaluate.at_start is false and null"),
    ("cadence", evaluated(train_examples=0), "evaluate.train_examples is 0 and null"),
    ("training", train(schedule="cosine"), 'train.schedule is "cosine" and null'),
    ("training", train(warmup_ratio=0.1), "train.warmup_ratio is 0.1 and null"),
    ("training", train(head_learning_rate=0.01), "train.head_learning_rate is 0.01 and null"),
    ("training", train(max_grad_norm=0.5), "train.max_grad_norm is 0.5 and null"),
    ("training", train(gradient_checkpointing=True), "train.gradient_checkpointing is null and true"),
    (
        "training",
        {"tables": {"model": {"name": "m", "dtype": "float32", "keep_head": True}}},
        "model.keep_head is null and true",
    ),
    ("training", train(early_stopping={"patience": 3}), 'train.early_stopping is null and {"patience": 3}'),
    (
        "training",
        {"tables": {"callback": [{"name": "averaging"}]}},
        r'callback is \[{"name": "averaging"}\] and null',
    ),
    ("data", {"tables": {"run": {"name": "x", "seed": 1, "resample_train": "subset"}}}, "run.resample_train is"),
]


@pytest.mark.parametrize(("check", "options", "words"), PROTOCOL)
def test_other_protocols_are_compared_only_with_pool(
    check: str, options: dict[str, Any], words: str, plant: Plant
) -> None:
    runs, _ = find_runs([plant("full", 1, [0.1, 0.5]), plant("lora", 1, [0.1, 0.5], **options)])
    with pytest.raises(InputError, match=f'{check}: {words}(.|\n)*pool=\\["{check}"\\]'):
        group_runs(runs)
    [section] = group_runs(runs, [check])
    assert [*section.pooled] == [check]
    assert sorted(section.runs) == ["full", "lora"]


def test_every_check_can_be_pooled_on_the_command_line() -> None:
    assert tuple(POOLED) == tuple(FAIRNESS_CHECKS)


def test_runs_that_stopped_early_are_noted(plant: Plant) -> None:
    stop = {"callback": "train.early_stopping", "reason": "dev accuracy did not improve in the last 3 evaluations"}
    paths = [plant(method, seed, [0.1, 0.5]) for method in ("full", "lora") for seed in (1, 2)]
    for path in paths:
        changed(path, "summary.json", stopped_early=stop if path == paths[-1] else None)
    [section] = group_runs(find_runs(paths)[0])
    text = " ".join(render([compare(section)], "table").decode().split())
    note = "stopped early: lora: 1 of 2 runs ended before the budget was used (train.early_stopping)"
    assert note in text


def test_learning_rates_and_tuned_settings_may_differ(plant: Plant) -> None:
    one, other = plant("full", 1, [0.1, 0.5], **train(learning_rate=0.3)), plant("lora", 1, [0.1, 0.5])
    assert group_runs(find_runs([one, other])[0])
    for path, batch in ((one, 8), (other, 16)):
        tuning = {"format": 1, "limit": {"trials": 4}, "trials": 4, "gmacs": 1.0}
        settings = {"train.max_grad_norm": 1 / batch, "train.batch_size": batch}
        home = path.parent.parent / path.name
        home.mkdir()
        (home / "tuning.json").write_text(json.dumps(tuning | {"settings": settings}))
        text = (path / "recipe.toml").read_text().replace("[train]", f"[train]\nmax_grad_norm = {1 / batch}")
        (path / "recipe.toml").write_text(text)
        changed(path, "summary.json", effective_batch=batch)
        path.rename(home / "run")
    [section] = group_runs(find_runs([one.parent.parent])[0])
    assert sorted(section.runs) == ["full", "lora"]


@pytest.mark.parametrize(
    "options", [{"optimizer": "lora-fa"}, {"optimizer_options": {"betas": [0.9, 0.99]}}, {"weight_decay": 0.1}]
)
def test_optimizers_may_differ_and_are_noted(options: dict[str, Any], plant: Plant) -> None:
    path = plant("lora_fa", 1, [0.1, 0.5], **train(**options))
    [section] = group_runs(find_runs([path, plant("lora", 1, [0.1, 0.5])])[0])
    [note] = [each for each in section.remarks if each.startswith("methods do not share an optimizer: train.")]
    assert next(iter(options)) in note
    assert note in " ".join(render([compare(section)], "table").decode().split())


def test_ranks_and_batch_sizes_can_be_swept(plant: Plant) -> None:
    for r in (1, 4):
        plant("lora", 1, [0.1, 0.5], options={"r": r})
    path = plant("full", 1, [0.1, 0.5])
    assert len(group_runs(find_runs([path.parent])[0])[0].runs) == 3
    for batch in (8, 16):
        changed(plant("vera", 1, [0.1, 0.5], **train(batch_size=batch)), "summary.json", effective_batch=batch)
    with pytest.raises(InputError, match=r'training: effective_batch is 16 and 8 and null(.|\n)*pool=\["training"\]'):
        group_runs(find_runs([path.parent])[0])
    [section] = group_runs(find_runs([path.parent])[0], ["training"])
    assert {"vera (batch_size=8)", "vera (batch_size=16)"} <= section.runs.keys()


def test_steps_of_tokens_are_another_optimization(plant: Plant) -> None:
    fixed = plant("full", 1, [0.1, 0.5])
    tokens = plant("lora", 1, [0.1, 0.5], **train(tokens_per_batch=4096))
    with pytest.raises(InputError, match=r"training: train\.tokens_per_batch is 4096 and null"):
        group_runs(find_runs([fixed, tokens])[0])
    [section] = group_runs(find_runs([fixed, tokens])[0], ["training"])
    text = (
        "have as many rows as fit train.tokens_per_batch = 4,096; this is another optimization than a fixed batch size"
    )
    assert f"steps of lora {text}" in section.remarks
    [section] = group_runs(find_runs([tokens])[0])
    assert f"steps {text}" in section.remarks


GPUS = ("A100", "A100")
DEVICES: list[tuple[str, tuple[str, ...], str]] = [
    ("cpu", (), "cpu"),
    ("cpu:0", (), "cpu"),
    ("CPU", (), "cpu"),
    ("cpu:0", GPUS, "cpu"),
    ("cuda", ("A100",), "cuda"),
    ("cuda:0", ("A100",), "cuda"),
    ("CUDA:0", ("A100",), "cuda"),
    ("cuda:1", GPUS, "cuda"),
    ("cuda", ("A100", "T4"), "cuda:0"),
    ("cuda:1", ("A100", "T4"), "cuda:1"),
    ("mps", (), "mps"),
    ("mps:0", (), "mps"),
]


@pytest.mark.parametrize(("device", "devices", "name"), DEVICES)
def test_device_names_are_normalized(device: str, devices: tuple[str, ...], name: str) -> None:
    assert device_name(device, devices) == name
    assert device_name(name, devices) == name, "normalized names are unchanged"


@pytest.mark.parametrize(
    ("one", "other", "devices", "same"),
    [
        ("cpu", "cpu:0", [], True),
        ("cpu", "CPU", [], True),
        ("cuda", "cuda:0", ["A100"], True),
        ("cuda:0", "cuda:1", ["A100", "T4"], False),
        ("cpu", "cuda:0", ["A100"], False),
    ],
)
def test_different_names_of_one_device_are_comparable(
    one: str, other: str, devices: list[str], same: bool, plant: Plant
) -> None:
    paths = [plant(method, 1, [0.1, 0.5]) for method in ("full", "lora")]
    for path, device in zip(paths, (one, other), strict=True):
        changed(path, "environment.json", hardware={"device": device, "devices": devices, "cores": 2})
    runs = find_runs(paths)[0]
    if same:
        assert group_runs(runs)[0].pooled == {}
    else:
        with pytest.raises(InputError, match="hardware: device is"):
            group_runs(runs)


@pytest.mark.parametrize(("kind", "table"), [("model", {"name": "m", "dtype": "float32"}), ("data", {"name": "t"})])
def test_recorded_commits_are_compared_else_requested_revisions(kind: str, table: dict[str, Any], plant: Plant) -> None:
    key = "model" if kind == "model" else "task"
    paths = [
        plant(method, 1, [0.1, 0.5], tables={key: table | {"revision": revision}})
        for method, revision in (("full", "main"), ("lora", "v1"))
    ]
    with pytest.raises(InputError, match=f'{key}.revision is "main" and "v1"'):
        group_runs(find_runs(paths)[0])
    for path in paths:
        changed(path, "summary.json", revisions={kind: "a" * 40})
    assert group_runs(find_runs(paths)[0])[0].pooled == {}
    changed(paths[1], "summary.json", revisions={kind: "b" * 40})
    with pytest.raises(InputError, match=f"revisions.{kind} is"):
        group_runs(find_runs(paths)[0])


def resampled(plant: Plant, resampling: str | None) -> RunGroup:
    """Two methods with three seeds; with resampling, each seed has other training rows."""
    for method, gain in (("full", 0.0), ("lora", 0.1)):
        for seed in (1, 2, 3):
            run = {"name": method, "seed": seed, **({"resample_train": resampling} if resampling else {})}
            path = plant(method, seed, [0.1, 0.5 + gain + seed / 100], tables={"run": run})
            changed(path, "summary.json", rows_digests={"train": f"rows {seed if resampling else 0}", "test": "t"})
    [section] = group_runs(find_runs([path.parent])[0])
    return section


@pytest.mark.parametrize("resampling", ["bootstrap", "subset"])
def test_training_samples_are_compared_per_seed(resampling: str, plant: Plant) -> None:
    section = resampled(plant, resampling)
    assert {run.training_sample for seeds in section.runs.values() for run in seeds.values()} == {resampling}
    odd = section.runs["lora"][2].path
    changed(odd, "summary.json", rows_digests={"train": "rows 1", "test": "t"})
    with pytest.raises(InputError, match=r"data: rows_digests.train of seed 2 is"):
        group_runs(find_runs([odd.parent])[0])


def rendered_remarks(section: RunGroup, tmp_path: Path) -> dict[str, str]:
    """The remarks in every output format, as text."""
    comparison = compare(section)
    forms = {
        output_format: render([comparison], output_format) for output_format in FORMATS if output_format != "parquet"
    }
    [remarks] = {row["remarks"] for row in pq.read_table(BytesIO(render([comparison], "parquet"))).to_pylist()}
    [table] = [file for file in draw_figures([section], tmp_path / "figures", ["svg"]) if file.suffix == ".tex"]
    return {
        **{output_format: data.decode() for output_format, data in forms.items()},
        "parquet": remarks,
        "report": render_report([section]),
        "figures": table.read_text(),
        "advice": " ".join(rank_within_budget(section, "gmacs", 2.0).remarks),
    }


@pytest.mark.slow
@pytest.mark.parametrize("resampling", [None, "bootstrap", "subset"])
def test_every_format_notes_whether_the_training_sample_is_fixed(
    resampling: str | None, plant: Plant, tmp_path: Path
) -> None:
    for output_format, text in rendered_remarks(resampled(plant, resampling), tmp_path).items():
        assert ("hold for this training sample" in text) == (resampling is None), output_format
        assert (f"varies with the seed ({resampling})" in text) == (resampling is not None), output_format


def test_runs_differ_by_all_three_seeds(plant: Plant) -> None:
    def planted(method: str, seed: int, init: int, share: float) -> Path:
        run = {"name": method, "seed": seed, "init_seed": init}
        return plant(method, seed, [0.1, share], tables={"run": run})

    for method in ("full", "lora"):
        for init in (1, 2):
            path = planted(method, 42, init, 0.5 + init / 10)
    [section] = group_runs(find_runs([path.parent])[0])
    assert {label: sorted(runs) for label, runs in section.runs.items()} == {"full": [1, 2], "lora": [1, 2]}
    assert section.repeats == ()
    assert "1 (seed 42, init_seed 1, order_seed 42), 2 (seed 42, init_seed 2, order_seed 42)" in section.remarks[-1]
    assert section.remarks[-1] in " ".join(render([compare(section)], "table").decode().split())

    again = planted("lora", 42, 2, 0.6)
    [section] = group_runs(find_runs([path.parent])[0])
    assert [len(runs) for runs in section.repeats] == [2], "runs with all three seeds equal are repeats"
    assert again in [run.path for runs in section.repeats for run in runs]


def test_runs_with_one_seed_value_are_labelled_by_it(plant: Plant) -> None:
    paths = [plant("lora", seed, [0.1, 0.5]) for seed in (7, 9)]
    [section] = group_runs(find_runs(paths)[0])
    assert sorted(section.runs["lora"]) == [7, 9]
    assert [each for each in section.remarks if "numbered" in each] == []
