from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peftkit.compare.comparison import compare
from peftkit.compare.input.fairness import FAIRNESS_CHECKS
from peftkit.compare.input.groups import group_runs
from peftkit.compare.input.load_runs import compare_by_set, find_runs, read_run
from peftkit.compare.learning_curves import learning_curve, mean_set_scores, mean_values_beside, selected_score
from peftkit.compare.matched_methods import load_groups
from peftkit.compare.output.table_formats import flat_records, render, table_rows
from peftkit.compare.per_example_scores import read_example_scores
from peftkit.compare.recorded_baselines import recorded_baselines
from peftkit.errors import InputError
from peftkit.run_directory import RunDirectory
from peftkit.run_directory.harness_results import write_harness_result
from tests.compare.conftest import Plant


def test_runs_below_a_folder_are_grouped_by_method_and_seed(plant: Plant) -> None:
    paths = [plant(method, seed, [0.1, 0.5]) for method in ("lora", "full") for seed in (1, 2)]
    runs, problems = find_runs([paths[0].parent])
    [section] = group_runs(runs)
    assert problems == []
    assert {label: sorted(seeds) for label, seeds in section.runs.items()} == {"full": [1, 2], "lora": [1, 2]}
    assert [run.path for run in find_runs([paths[0]])[0]] == [paths[0]]


def test_broken_runs_are_reported_and_the_others_loaded(plant: Plant) -> None:
    whole, cut, unevaluated, failed, odd = (plant("lora", seed, [0.1, 0.5]) for seed in range(5))
    (cut / "summary.json").write_text((cut / "summary.json").read_text()[:50])
    (unevaluated / "evaluations.jsonl").unlink()
    (failed / "summary.json").write_text(json.dumps({"format": 1, "status": "failed", "error": "out of memory"}))
    (odd / "summary.json").write_text(json.dumps({"format": 1, "status": "done"}))
    runs, problems = find_runs([whole.parent])
    assert [run.path for run in runs] == [whole]
    assert len(problems) == 4
    assert "out of memory" in "".join(problems)
    assert all(str(path) in "".join(problems) for path in (cut, unevaluated, failed, odd))


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("summary.json", '"seed": 2', '"seed": "x"', "summary.seed: Input should be a valid integer"),
        ("summary.json", '"higher_is_better": true, ', "", "summary.higher_is_better: Field required"),
        (
            "summary.json",
            '"test": {"accuracy": 0.5}',
            '"test": {"accuracy": null}',
            "accuracy on test is not a finite number",
        ),
        ("evaluations.jsonl", '"step": 1', '"stop": 1', "evaluations.1.step: Field required"),
        ("evaluations.jsonl", '"dev"', '"dove"', "evaluations.0.dev: Field required"),
        ("evaluations.jsonl", '"cost": {', '"cast": {', "evaluations.0.cost: Field required"),
        ("recipe.toml", "[method]", "[mothed]", "recipe: Dictionary should have at least 1 item"),
    ],
)
def test_runs_that_lack_a_required_value_are_reported_and_left_out(
    name: str, old: str, new: str, words: str, plant: Plant
) -> None:
    whole, odd = plant("lora", 1, [0.1, 0.5]), plant("lora", 2, [0.1, 0.5])
    text = (odd / name).read_text()
    assert old in text
    (odd / name).write_text(text.replace(old, new))
    runs, [problem] = find_runs([whole.parent])
    assert [run.path for run in runs] == [whole]
    assert str(odd) in problem
    assert words in problem


def test_a_run_named_twice_counts_once(plant: Plant) -> None:
    path = plant("lora", 1, [0.1, 0.5])
    [section] = group_runs(find_runs([path, path.parent, path.parent / ".." / "runs"])[0])
    assert section.repeats == ()


def test_missing_runs_and_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished runs"):
        find_runs([tmp_path])
    with pytest.raises(InputError, match="no such folder"):
        find_runs([tmp_path / "x"])


@pytest.mark.parametrize(
    ("check", "options", "words"),
    [
        ("hardware", {"device": "cuda"}, 'device is "cpu" and "cuda"'),
        ("versions", {"torch": "2.14.0"}, 'torch is "2.13.0" and "2.14.0"'),
        ("precision", {"tables": {"model": {"name": "m", "dtype": "bfloat16"}}}, 'model.dtype is "bfloat16"'),
        ("data", {"tables": {"task": {"name": "t", "max_rows": 9}}}, "task.max_rows is 9 and null"),
        ("evaluation", {"tables": {"evaluate": {"dev_examples": 9}}}, "evaluate.dev_examples is 50 and 9"),
        (
            "evaluation",
            {"tables": {"evaluate": {"dev_examples": 50, "scoring": "norm"}}},
            'evaluate.scoring is "norm" and null',
        ),
    ],
)
def test_unfair_runs_are_compared_only_with_pool_and_noted(
    check: str, options: dict[str, object], words: str, plant: Plant
) -> None:
    runs, _ = find_runs([plant("full", 1, [0.1, 0.5]), plant("lora", 1, [0.1, 0.5], **options)])
    with pytest.raises(InputError, match=f'{check}: {words}(.|\n)*pool=\\["{check}"\\]'):
        group_runs(runs)
    [section] = group_runs(runs, [check])
    assert [*section.pooled] == [check]
    assert words in section.pooled[check][0]
    assert check in FAIRNESS_CHECKS


@pytest.mark.parametrize(
    ("check", "name", "old", "new", "words"),
    [
        (
            "data",
            "summary.json",
            '"rows": ',
            '"rows_digests": {"train": "NEW"}, "rows": ',
            'rows_digests.train is "cpu" and "cuda"',
        ),
        (
            "versions",
            "environment.json",
            '"packages"',
            '"plugins": {"mine": "NEW"}, "packages"',
            'plugins.mine is "cpu" and "cuda"',
        ),
        (
            "hardware",
            "environment.json",
            '"packages"',
            '"resumed": [{"python": "3.11", "packages": {"torch": "2.13.0"}, '
            '"hardware": {"device": "NEW", "cores": 2}}], "packages"',
            r'device is "cpu" and \["cpu", "cuda"\]',
        ),
    ],
)
def test_data_plugins_and_resumed_hardware_are_fairness_checks(
    check: str, name: str, old: str, new: str, words: str, plant: Plant
) -> None:
    paths = [plant(method, 1, [0.1, 0.5]) for method in ("lora", "full", "vera")]
    text = [(path / name).read_text() for path in paths]
    for path, document, value in zip(paths, text, ("cpu", "cuda"), strict=False):
        (path / name).write_text(document.replace(old, new.replace("NEW", value), 1))
    if check != "hardware":  # a value that one run does not record is no difference
        assert group_runs(find_runs([paths[0], paths[2]])[0])
    runs = find_runs(paths)[0]
    with pytest.raises(InputError, match=words):
        group_runs(runs)
    [section] = group_runs(runs, [check])
    assert [*section.pooled] == [check]


def test_different_options_make_different_methods(plant: Plant) -> None:
    for r in (4, 8):
        plant("lora", 1, [0.1, 0.5], options={"r": r})
    path = plant("full", 1, [0.1, 0.5])
    [section] = group_runs(find_runs([path.parent])[0])
    assert sorted(section.runs) == ["full", "lora (r=4)", "lora (r=8)"]


def test_repeats_of_a_recipe_and_seed_count_once(plant: Plant) -> None:
    first = plant("lora", 1, [0.1, 0.5])
    second = plant("lora", 1, [0.1, 0.6])
    [section] = group_runs(find_runs([first.parent])[0])
    assert section.runs["lora"][1].path == first
    assert [[run.path for run in repeats] for repeats in section.repeats] == [[first, second]]


def test_runs_of_one_method_and_seed_must_have_the_same_recipe(plant: Plant) -> None:
    plant("lora", 1, [0.1, 0.5])
    path = plant("lora", 1, [0.1, 0.5], tables={"evaluate": {"dev_examples": 50, "every": "5%"}})
    with pytest.raises(InputError, match=r"the same method and seed but differ: evaluate.every"):
        group_runs(find_runs([path.parent])[0], ["cadence"])


def test_trials_of_a_sweep_are_not_results_and_tuning_is_loaded(plant: Plant, tmp_path: Path) -> None:
    runs, trials = tmp_path / "s" / "runs" / "a1", tmp_path / "s" / "trials" / "b2" / "c3"
    for folder, seed in ((runs, 1), (trials, 2)):
        folder.mkdir(parents=True)
        plant("lora", seed, [0.1, 0.5]).rename(folder / "run")
    (tmp_path / "s" / "sweep.json").write_text("{}")
    tuning = {"format": 3, "limit": {"trials": 4}, "trials": 4, "gmacs": 12.5, "settings": {}}
    (runs / "tuning.json").write_text(json.dumps(tuning))
    loaded, _ = find_runs([tmp_path / "s"])
    assert [run.seed for run in loaded] == [1]
    assert loaded[0].tuning == tuning
    asked, _ = find_runs([trials / "run"])  # named itself, a trial is loaded
    assert [run.seed for run in asked] == [2]
    other = plant("full", 1, [0.1, 0.5])
    both = find_runs([tmp_path / "s", other])[0]
    with pytest.raises(InputError, match=r"(?s)not comparable.*tuning: trials is 4 and null"):
        group_runs(both)
    assert group_runs(both, ["tuning"])[0].pooled == {"tuning": ["trials is 4 and null"]}


def test_labels_name_the_variant_else_the_tuned_settings(plant: Plant) -> None:
    for variant, rate in (("houlsby", 0.1), ("pfeiffer", 0.3)):
        path = plant("bottleneck", 1, [0.5], options={"variant": variant}, tables={"train": {"learning_rate": rate}})
        record = {"format": 1, "trials": 3, "gmacs": 1.0, "settings": {"train.learning_rate": rate}}
        (path.parent / variant).mkdir()
        path.rename(path.parent / variant / path.name)
        (path.parent / variant / "tuning.json").write_text(json.dumps(record))
    [section] = group_runs(find_runs([path.parent])[0])
    assert sorted(section.runs) == ["bottleneck (houlsby)", "bottleneck (pfeiffer)"]
    for rate in (0.1, 0.3):
        again = plant("lora", 1, [0.5], tables={"train": {"learning_rate": rate}})
    [section] = group_runs(find_runs([again.parent])[0], ["tuning"])
    assert {"lora (learning_rate=0.1)", "lora (learning_rate=0.3)"} < {*section.runs}


def test_runs_are_compared_by_an_evaluation_set(plant: Plant) -> None:
    run, other = (plant("lora", seed, [0.1, 0.9, 0.5]) for seed in (1, 2))
    summary = json.loads((run / "summary.json").read_text())
    summary |= {
        "evaluation_sets": ["hard", "end"],
        "baselines": {"constant": {"test": {"accuracy": 0.2}, "hard": {"accuracy": 0.3}}},
    }
    summary["selected"] |= {"hard": {"accuracy": 0.25}, "end": {"accuracy": 0.75}}
    (run / "summary.json").write_text(json.dumps(summary))
    rows = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["hard"] = {"accuracy": number / 8}
    (run / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predictions = [{"index": i, "target": "yes", "prediction": "yes" if i < 1 else "no"} for i in range(4)]
    (run / "predictions" / "hard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in predictions))

    loaded = read_run(run)
    hard = compare_by_set(loaded, "hard")
    assert selected_score(hard, "accuracy") == 0.25
    assert recorded_baselines(hard.summary["baselines"], "accuracy", "test") == {"constant": 0.3}
    assert learning_curve(hard, "gmacs", "accuracy")[1].tolist() == [0.0, 0.125, 0.125], "dev selects, not the set"
    scores = read_example_scores(hard, "accuracy")
    assert scores is not None
    assert scores.values.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert mean_set_scores([loaded], "accuracy") == {"hard": 0.25, "end": 0.75}
    assert mean_set_scores([loaded, read_run(other)], "accuracy") == {}
    # At the end only: its score is that of the selected checkpoint, from there on.
    costs, end = learning_curve(compare_by_set(loaded, "end"), "gmacs", "accuracy")
    assert (costs.tolist(), end.tolist()) == ([1.0, 2.0], [0.75, 0.75])
    [group], _ = load_groups([run], evaluation_set="hard")
    assert group.test_split == "hard"
    with pytest.raises(InputError, match=r"has no evaluation set 'hart' \(did you mean 'hard'\?\); it has hard, end"):
        compare_by_set(loaded, "hart")
    with pytest.raises(InputError, match="has no evaluation set 'hard'; it has none"):
        load_groups([run.parent], evaluation_set="hard")


def test_subsets_of_a_suite_are_tasks_of_their_own(plant: Plant) -> None:
    tables = [{"task": {"name": "glue", "subset": subset}} for subset in ("rte", "cola")]
    runs = [plant("lora", 1, [0.1, 0.9], task="glue", tables=each) for each in tables]
    assert [group.task for group in load_groups([runs[0].parent])[0]] == ["glue/cola", "glue/rte"]


def test_runs_with_other_sets_are_comparable_on_test_and_the_same_sets_must_be_equal(plant: Plant) -> None:
    run, other = (plant(method, 1, [0.1, 0.9]) for method in ("lora", "full"))

    def record(path: Path, rows: int, digest: str) -> None:
        summary = json.loads((path / "summary.json").read_text())
        summary |= {"evaluation_sets": ["hard"], "rows": {"test": 9, "hard": rows}}
        summary |= {"rows_digests": {"test": "t", "hard": digest}}
        summary["selected"]["hard"] = {"accuracy": 0.5}
        (path / "summary.json").write_text(json.dumps(summary))

    record(run, 4, "one")
    record(other, 4, "other")
    assert load_groups([run.parent])[0]
    with pytest.raises(InputError, match=r"data: rows_digests\.hard is"):
        load_groups([run.parent], evaluation_set="hard")


def test_values_without_which_a_score_misleads_and_the_last_step_stand_beside_it(plant: Plant) -> None:
    runs = [plant("lora", seed, [0.1, 0.9, 0.5]) for seed in (1, 2)]
    for number, run in enumerate(runs):
        summary = json.loads((run / "summary.json").read_text())
        summary |= {
            "companions": {"accuracy": ["unextractable"]},
            "last_step": {"step": 3, "test": {"accuracy": 0.5}},
        }
        summary["selected"]["test"]["unextractable"] = 0.2 + number / 10
        (run / "summary.json").write_text(json.dumps(summary))
    loaded = [read_run(run) for run in runs]
    assert mean_values_beside(loaded, "accuracy") == {"unextractable": pytest.approx(0.25), "last step": 0.5}
    assert mean_values_beside(loaded, "loss") == {}
    assert mean_values_beside([*loaded, read_run(plant("lora", 3, [0.5]))], "accuracy") == {}
    [group] = group_runs(loaded)
    comparison = compare(group)
    header, row = table_rows(comparison)[0], next(r for r in table_rows(comparison) if r[0].startswith("lora"))
    cells = dict(zip(header, row, strict=True))
    assert (cells["unextractable"], cells["last step"]) == ("0.2500", "0.5000")
    [line] = json.loads(render([comparison], "json"))["comparisons"][0]["lines"]
    assert line["beside"] == pytest.approx({"unextractable": 0.25, "last step": 0.5})
    [record] = [each for each in flat_records([comparison]) if each["kind"] == "method"]
    assert (record["unextractable"], record["last_step"]) == (pytest.approx(0.25), 0.5)


def test_results_of_the_harness_are_compared_like_an_evaluation_set(plant: Plant) -> None:
    runs = [plant(method, seed, [0.1, 0.9, 0.5]) for method in ("lora", "full") for seed in (1, 2)]
    rows = [{"index": i, "target": "0", "scores": {"acc": float(i < 3)}} for i in range(4)]
    for path in runs:
        record_harness(path, rows)
    loaded = compare_by_set(read_run(runs[0]), "arc")
    assert loaded.default_metric == "acc"
    assert selected_score(loaded, "acc") == 0.75
    scores = read_example_scores(loaded, "acc")
    assert scores is not None
    assert scores.values.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert learning_curve(loaded, "gmacs", "acc")[1].tolist() == [0.75, 0.75], "at the end only"
    [group], _ = load_groups([runs[0].parent], evaluation_set="arc")
    assert any("scores of lm-evaluation-harness 0.4" in remark for remark in group.remarks)
    assert read_run(runs[0]).default_metric == "accuracy"
    with pytest.raises(InputError, match=r"has no evaluation set 'ark' \(did you mean 'arc'\?\); it has arc"):
        compare_by_set(read_run(runs[0]), "ark")
    for settings, digest, words in (
        ({"num_fewshot": 5}, "d", r"evaluation: harness\.num_fewshot is 0 and 5"),
        ({}, "other", r"data: rows_digests\.arc is"),
    ):
        record_harness(runs[0], rows, digest, **settings)
        with pytest.raises(InputError, match=words):
            load_groups([runs[0].parent], evaluation_set="arc")


def record_harness(path: Path, rows: list[dict[str, Any]], digest: str = "d", **settings: Any) -> None:
    result = {"values": {"acc": 0.75}, "lower_is_better": [], "num_examples": 4, "rows_digest": digest}
    result["settings"] = {"lm_eval": "0.4", "num_fewshot": 0, **settings}
    write_harness_result(RunDirectory(path), "arc", result, rows)


def test_scores_of_candidates_with_and_without_their_end_are_not_compared(plant: Plant) -> None:
    plant("full", 1, [0.1, 0.9])
    run = plant("lora", 1, [0.1, 0.9], tables={"evaluate": {"candidate_end": False}})
    with pytest.raises(InputError, match=r"evaluation: evaluate\.candidate_end is false and true"):
        load_groups([run.parent])
    [group], _ = load_groups([run.parent], pool=["evaluation"])
    assert any(remark.startswith("candidates of lora are scored without the end of text") for remark in group.remarks)
    [group], _ = load_groups([run])
    assert any(remark.startswith("candidates are scored without the end of text") for remark in group.remarks)


def test_runs_that_mix_the_rows_of_a_batch_are_compared_if_they_are_pooled(plant: Plant) -> None:
    plant("lora", 1, [0.1, 0.9])
    mixing = plant("lily", 1, [0.1, 0.9], tables={"method": {"name": "lily", "unsafe_batch_mixing": True}})
    with pytest.raises(InputError, match=r"evaluation: method\.unsafe_batch_mixing is null and true"):
        load_groups([mixing.parent])
    assert load_groups([mixing.parent], pool=["evaluation"])[0]
