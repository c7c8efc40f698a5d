"""Every kind of change by hand to a run directory, or to its data, is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peftkit.errors import RunError
from peftkit.plugins import Registry
from peftkit.recipe import load_recipe
from peftkit.runner import run
from peftkit.runner.verification import Verification, reloaded, verify_run
from peftkit.runner.verification.checks import Check, compared, compared_all, guarded
from peftkit.runs import RunDirectory
from tests.runner.conftest import Make

COLOURS = {"red": "blood fire rose", "green": "grass leaf frog", "blue": "sky sea ink"}


def write_rows(folder: Path) -> dict[str, Path]:
    """The files of a task with three labels, by split."""
    pairs = [(word, colour) for colour, words in COLOURS.items() for word in words.split()]
    files = {}
    for split, times in (("train", 6), ("dev", 2), ("test", 2)):
        rows = [{"text": " ".join([word] * (1 + i)), "label": colour} for i in range(times) for word, colour in pairs]
        files[split] = folder / f"{split}.jsonl"
        files[split].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


@pytest.fixture(scope="module")
def original(models: dict[str, Path], registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an encoder on files; its curve leaves out rows of dev and test."""
    folder = tmp_path_factory.mktemp("original")
    files = write_rows(folder)
    paths = ", ".join(f'{split} = "{file.as_posix()}"' for split, file in files.items())
    (folder / "recipe.toml").write_text(
        f"""
        [run]
        name = "verified"
        output = "{(folder / "runs").as_posix()}"
        [model]
        name = "{models["encoder"].as_posix()}"
        [task]
        name = "text_classification"
        path = {{ {paths} }}
        [method]
        name = "lora"
        [train]
        batch_size = 6
        learning_rate = 3e-2
        optimizer = "adamw"
        budget.steps = 6
        [evaluate]
        every = "50%"
        train_examples = 6
        dev_examples = 12
        test_examples = 12
        [track]
        wandb = "off"
        """,
        encoding="utf-8",
    )
    path = run(load_recipe(folder / "recipe.toml", registry), registry)
    assert path is not None
    return path


@pytest.fixture
def copied(original: Path, tmp_path: Path) -> Path:
    """A copy of that run, to change."""
    return Path(shutil.copytree(original, tmp_path / "run"))


def in_json(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Changes a JSON file."""

    def changed(path: Path) -> None:
        document = json.loads((path / name).read_text())
        change(document)
        (path / name).write_text(json.dumps(document))

    return changed


def in_lines(name: str, line: int, change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Changes one line of a file of JSON objects."""

    def changed(path: Path) -> None:
        rows = [json.loads(each) for each in (path / name).read_text().splitlines()]
        change(rows[line])
        (path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    return changed


def set_to(*keys: str, to: Any) -> Callable[[Any], None]:
    """Sets an inner value; a function is given the value that is there."""

    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = to(document[keys[-1]]) if callable(to) else to

    return change


def other_colour(row: Any) -> None:
    row["prediction"] = next(colour for colour in row["candidates"] if colour not in (row["prediction"], row["target"]))


def flip_byte(path: Path) -> None:
    file = path / "model" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-4] ^= 1  # the last bit of a number
    file.write_bytes(bytes(content))


def other_loss(path: Path) -> None:
    file = path / "examples.parquet"
    table = pq.read_table(file)
    losses = table["loss"].to_pylist()
    losses[0] += 0.01
    place = table.column_names.index("loss")
    pq.write_table(table.set_column(place, "loss", pa.array(losses, pa.float32())), file)


def other_steps(path: Path) -> None:
    text = (path / "recipe.toml").read_text()
    assert "steps = 6" in text
    (path / "recipe.toml").write_text(text.replace("steps = 6", "steps = 5"))


def grow(value: float) -> float:
    return value * 1.001


SUMMARY = "summary.json"
TAMPERED: dict[str, dict[str, tuple[Callable[[Path], Any], str, str]]] = {
    "the summary": {
        "a score of test": (
            in_json(SUMMARY, set_to("selected", "test", "accuracy", to=lambda v: v + 0.01)),
            "selected test",
            "accuracy",
        ),
        "the loss of dev": (in_json(SUMMARY, set_to("selected", "dev", "loss", to=grow)), "selected dev", "loss"),
        "a score that is no number": (
            in_json(SUMMARY, set_to("selected", "test", "f1_macro", to="good")),
            "selected test",
            "f1_macro",
        ),
        "a baseline": (
            in_json(SUMMARY, set_to("baselines", "constant", "test", "accuracy", to=0.2)),
            "baselines",
            "constant test accuracy",
        ),
        "GMACs": (in_json(SUMMARY, set_to("cost", "gmacs", to=lambda v: v + 1e-6)), "work", "gmacs"),
        "trainable parameters": (
            in_json(SUMMARY, set_to("parameters", "trainable", to=lambda v: v - 1)),
            "work",
            "trainable parameters",
        ),
        "the seed": (in_json(SUMMARY, set_to("seed", to=7)), "recipe", "seed"),
    },
    "the other files": {
        "GMACs on the way": (
            in_lines("evaluations.jsonl", 1, set_to("cost", "gmacs", to=grow)),
            "work",
            "step 3 gmacs",
        ),
        "an evaluation": (
            in_lines("evaluations.jsonl", 1, set_to("dev", "accuracy", to=lambda v: v + 0.001)),
            "curve",
            "step 3 dev accuracy",
        ),
        "the last evaluation": (
            in_lines("evaluations.jsonl", 2, set_to("test", "loss", to=grow)),
            "curve",
            "step 6 test loss",
        ),
        "a prediction": (
            in_lines("predictions/test.jsonl", 0, other_colour),
            "selected test",
            "rows whose prediction or loss is not that of their log-likelihoods",
        ),
        "a prediction, by the model": (lambda path: None, "model", "test predictions that are others"),
        "a log-likelihood": (
            in_lines("predictions/dev.jsonl", 0, set_to("log_likelihoods", to=lambda v: [v[0] - 0.01, *v[1:]])),
            "model",
            "dev log-likelihoods, largest difference",
        ),
        "results per example": (other_loss, "curve", "step 0 dev loss"),
        "a bit of a weight": (flip_byte, "files", "model/adapter_model.safetensors"),
        "the recipe": (other_steps, "files", "recipe.toml"),
    },
    "the selection": {
        "the selected step": (in_json(SUMMARY, set_to("selected", "step", to=1)), "selection", "step"),
        "a row that was predicted": (
            in_lines("predictions/dev.jsonl", 0, set_to("source", to="grass")),
            "selected dev",
            "rows unlike the data",
        ),
    },
    "the length": {"steps": (in_json(SUMMARY, set_to("steps", to=7)), "work", "steps")},
    "the environment": {
        "a damaged environment": (lambda path: (path / "environment.json").write_text("{"), "recipe", "files")
    },
    "what is read": {
        "a digest of the data": (
            in_json(SUMMARY, set_to("rows_digests", "train", to="0" * 16)),
            "data",
            "rows_digests train",
        ),
        "a damaged file": (lambda path: (path / "examples.parquet").write_bytes(b"PAR1"), "curve", "files"),
    },
}
"""Changes that do not hide each other, and the value that each makes differ."""


def names(found: Verification) -> list[tuple[str, str]]:
    return [(check.what, check.name) for check in found.of("differs")]


def test_an_untouched_run_agrees(original: Path, registry: Registry) -> None:
    found = verify_run(original, registry)
    assert names(found) == []
    assert found.notes == ()
    agree = {check.what for check in found.of("agrees")}
    assert agree == {"files", "recipe", "data", "baselines", "selection", "curve", "model", "work"} | {
        "selected dev",
        "selected test",
    }
    assert {check.what for check in found.of("not recomputable")} == {"measured", "curve"}
    measured = {check.name: check.reason for check in found.checks if check.what == "measured"}
    assert measured["train_seconds"] == "time is measured while the model trains"
    assert measured["peak_host_bytes"] == "memory is measured while the model trains"
    assert {*RunDirectory(original).summary()["cost"]} <= {
        check.name for check in found.checks if check.what in ("work", "measured")
    }
    values = {*RunDirectory(original).summary()["selected"]["test"]}
    assert values <= {check.name for check in found.of("agrees") if check.what == "selected test"}
    assert {f"test {value}" for value in values} <= {c.name for c in found.of("agrees") if c.what == "model"}
    assert found.verdict == f"all {len(found.of('agrees'))} recomputed values agree"


@pytest.fixture(scope="module")
def differing(
    original: Path, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Verification]:
    """What verifying a copy gives that has all changes of that kind."""

    @cache
    def found(kind: str) -> Verification:
        path = Path(shutil.copytree(original, tmp_path_factory.mktemp("tampered") / "run"))
        for tamper, _, _ in TAMPERED[kind].values():
            tamper(path)
        return verify_run(path, registry)

    return found


@pytest.mark.parametrize(("kind", "change"), [(kind, change) for kind, of in TAMPERED.items() for change in of])
def test_what_is_changed_by_hand_is_found(kind: str, change: str, differing: Callable[[str], Verification]) -> None:
    _, what, name = TAMPERED[kind][change]
    found = differing(kind)
    assert (what, name) in names(found)
    assert "recomputed values differ: " in found.verdict


def test_a_weight_that_says_something_else_is_found_without_digests(copied: Path, registry: Registry) -> None:
    in_json(SUMMARY, lambda document: document.pop("file_digests"))(copied)
    file = copied / "model" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x40  # of the exponent
    file.write_bytes(bytes(content))
    found = verify_run(copied, registry)
    assert ("model", "test log-likelihoods, largest difference") in names(found)
    assert [check.reason for check in found.checks if check.name == "digests"] == ["an older peftkit has recorded none"]


def test_a_changed_row_of_the_data_is_found_and_named_once(original: Path, registry: Registry) -> None:
    file = original.parents[1] / "dev.jsonl"
    before = file.read_text()
    try:
        file.write_text(before.replace('"blood"', '"blond"', 1))
        found = verify_run(original, registry)
        assert names(found) == [("data", "rows_digests dev"), ("data", "rows_also_in_train dev")]
        reasons = {check.reason for check in found.of("not recomputable")}
        assert "the rows of dev are not those of the run" in reasons
        assert any(check.what == "selected dev" and check.name == "accuracy" for check in found.of("agrees"))
        file.write_text(before.replace('"red"', '""', 1))
        found = verify_run(original, registry)
        assert ("data", "files") in names(found), "the row cannot be one"
        file.unlink()
        found = verify_run(original, registry)
        assert names(found) == []
        assert any("the rows cannot be read" in check.reason for check in found.of("not recomputable"))
    finally:
        file.write_text(before)


def test_without_the_model_it_is_not_checked(
    original: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(reloaded, "open_run", refuse)
    found = verify_run(original, registry, load_model=False)
    [check] = [check for check in found.checks if check.what == "model"]
    assert (check.status, check.reason) == ("not recomputable", "not checked, as asked for")


@pytest.mark.parametrize(
    ("missing", "what", "reason"),
    [
        ("model", "model", "model is not there"),
        ("examples.parquet", "curve", "no results per example are stored"),
        ("predictions/test.jsonl", "predictions", "predictions/test.jsonl is not there"),
        ("evaluations.jsonl", "work", "evaluations.jsonl is not there"),
        ("recipe.toml", "run", "recipe.toml is not there"),
        ("summary.json", "run", "summary.json is not there: the run has not finished"),
    ],
)
def test_what_is_missing_is_not_recomputable(
    missing: str, what: str, reason: str, copied: Path, registry: Registry
) -> None:
    gone = copied / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    found = verify_run(copied, registry, load_model=missing == "model")
    assert (what, reason) in {(check.what, check.reason) for check in found.of("not recomputable")}
    assert [each for each in names(found) if each != ("files", "recipe.toml")] == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_to("status", to="interrupted"), "the run is interrupted, not done"),
        (
            lambda document: document.update(imported={"from": "peft-by-time"}),
            "the results are imported from peft-by-time, without data or model",
        ),
    ],
)
def test_what_is_no_finished_run_of_ours_is_not_recomputable(
    change: Callable[[Any], None], reason: str, copied: Path, registry: Registry
) -> None:
    in_json(SUMMARY, change)(copied)
    found = verify_run(copied, registry)
    assert [(check.what, check.reason) for check in found.checks] == [("run", reason)]
    assert found.verdict == f"nothing could be recomputed: {reason}"


def test_a_base_model_that_is_away_leaves_the_model_unchecked(
    copied: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any) -> None:
        raise RunError("the model 'x' cannot be loaded")

    monkeypatch.setattr(reloaded, "open_run", away)
    found = verify_run(copied, registry)
    [check] = [check for check in found.checks if check.what == "model"]
    assert check.status == "not recomputable"
    assert "'x' cannot be loaded" in check.reason


def test_elsewhere_tolerances_are_wider_and_it_is_said(copied: Path, registry: Registry) -> None:
    in_json("environment.json", set_to("hardware", "processor", to="another"))(copied)
    in_json("environment.json", set_to("packages", "transformers", to="1.0"))(copied)
    in_lines("predictions/test.jsonl", 0, set_to("log_likelihoods", to=lambda v: [v[0] - 1e-4, *v[1:]]))(copied)
    found = verify_run(copied, registry)
    assert ("model", "test log-likelihoods, largest difference") not in names(found)
    [note] = found.notes
    assert "processor another, now " in note
    assert "transformers 1.0, now " in note
    work = {check.name: check for check in found.checks if check.what == "work"}
    assert work["gmacs"].tolerance == pytest.approx(0.01 * work["gmacs"].stored)
    assert work["input_tokens"].tolerance < 1e-6
    assert work["elementwise_gops"].reason == "other versions of the libraries call other operations"


def test_the_constant_of_an_older_run_is_no_difference(copied: Path, registry: Registry) -> None:
    def older(summary: Any) -> None:
        del summary["file_digests"]
        summary["baselines"]["constant"]["test"]["accuracy"] = 0.1

    in_json("summary.json", older)(copied)
    found = verify_run(copied, registry, load_model=False)
    assert found.of("differs") == []
    assert ("baselines", "constant") in [(check.what, check.name) for check in found.of("not recomputable")]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("encoder-decoder", ("task.name=colour_text", "method.name=prefix_tuning")),
        ("decoder", ("task.name=colour_choice", "method.name=adalora", "run.resample_train=bootstrap")),
        ("decoder", ("method.name=lora", "task.streaming=true", "model.dtype=bfloat16")),
        (
            "encoder-decoder",
            ("method.name=lora", "method.init_lora_weights=eva", "evaluate.scoring=norm", "evaluate.dev_examples=6"),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_runs_of_every_kind_agree(kind: str, options: tuple[str, ...], make: Make, registry: Registry) -> None:
    path = run(make(kind, "train.budget.steps=4", *options), registry)
    assert path is not None
    found = verify_run(path, registry)
    assert names(found) == []
    kinds = {check.what for check in found.of("agrees")}
    assert {"model", "curve", "selected test"} <= kinds
    reasons = {check.reason for check in found.of("not recomputable")}
    streamed = "task.streaming=true" in options
    assert ("work" not in kinds) == streamed == ("the training rows are streamed" in reasons)


def test_near_ties_are_excused_and_others_are_not() -> None:
    row: dict[str, Any] = {"prediction": "a", "candidates": ["a", "b", "c"], "log_likelihoods": [-1.0, -1.001, -1.1]}
    row |= {"candidate_tokens": [1, 1, 1], "loss": 1.0}
    recipe: Any = type("Recipe", (), {})()
    recipe.evaluate = type("Evaluate", (), {"scoring": "sum"})()
    for text, counts in (("a", (0, 0)), ("b", (1, 0)), ("c", (0, 1))):
        near, excused, wrong = reloaded._texts([row], [{**row, "prediction": text}], recipe, 1e-3, 0.0)
        assert (excused, wrong) == counts
        assert near[0]["prediction"] == (text if excused else "a")
    rows: list[dict[str, Any]] = [{"prediction": str(i)} for i in range(100)]
    for changed, counts in ((2, (2, 0)), (3, (0, 3))):
        new = [{"prediction": "x"}] * changed + rows[changed:]
        assert reloaded._texts(rows, new, recipe, 1e-3, 0.02)[1:] == counts


def test_numbers_that_are_none_are_far_from_those_that_are() -> None:
    nan = float("nan")
    assert (
        reloaded._distance({"loss": 2.0, "log_likelihoods": [-4.0]}, {"loss": 2.0, "log_likelihoods": [-3.0]}) == 0.25
    )
    assert reloaded._distance({"loss": nan}, {"loss": float("inf")}) == 0
    assert reloaded._distance({"loss": nan}, {"loss": 2.0}) == float("inf")


def test_values_are_compared_by_what_they_are() -> None:
    assert compared("x", "y", 1.0, 1.0 + 1e-10).status == "agrees"
    assert compared("x", "y", 1.0, 1.0 + 1e-8).status == "differs"
    assert compared("x", "y", 10**12, 10**12 + 1).status == "differs"
    assert compared("x", "y", None, float("nan")).status == "agrees"
    assert compared("x", "y", None, 1.0).status == "differs"
    assert compared("x", "y", True, 1).status == "agrees"
    found = list(compared_all("x", {"a": {"b": 1}, "c": 2}, {"a": {"b": 1}, "d": 2}))
    assert [(check.name, check.status) for check in found] == [("a b", "agrees"), ("c", "differs"), ("d", "differs")]


def test_a_bug_in_a_check_is_no_agreement() -> None:
    def broken() -> list[Check]:
        raise KeyError("dev")

    [check] = guarded("curve", broken)
    assert (check.status, check.reason) == ("differs", "nothing can be recomputed from them: KeyError: 'dev'")
    assert Verification(Path(), (check,)).verdict == "1 of 1 recomputed values differ: curve files"
