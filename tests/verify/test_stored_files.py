"""Changes to files of a run directory are detected."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peftkit.example_tables import example_table
from peftkit.plugins import Registry
from peftkit.verify import Verification, verify_run
from peftkit.verify.example_files import check_evaluation
from tests.verify.changes import SUMMARY, in_json, in_lines, names, set_to


def other_colour(row: Any) -> None:
    row["prediction"] = next(colour for colour in row["candidates"] if colour not in (row["prediction"], row["target"]))


def flip_byte(path: Path) -> None:
    file = path / "model" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-4] ^= 1  # the lowest bit of the last number
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
            "rows whose prediction or loss does not follow from the log-likelihoods",
        ),
        "a prediction, by the model": (lambda path: None, "model", "test changed predictions"),
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
            "rows that differ from the data",
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
"""Independent changes, and the value that differs after each."""


@pytest.fixture(scope="module")
def differing(
    original: Path, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Verification]:
    """The verification of a copy with all changes of a kind."""

    @cache
    def verify_tampered(kind: str) -> Verification:
        path = Path(shutil.copytree(original, tmp_path_factory.mktemp("tampered") / "run"))
        for tamper, _, _ in TAMPERED[kind].values():
            tamper(path)
        return verify_run(path, registry)

    return verify_tampered


@pytest.mark.parametrize(
    ("kind", "change"), [(kind, change) for kind, changes in TAMPERED.items() for change in changes]
)
def test_every_change_of_a_file_is_detected(kind: str, change: str, differing: Callable[[str], Verification]) -> None:
    _, group, name = TAMPERED[kind][change]
    verification = differing(kind)
    assert (group, name) in names(verification)
    assert "recomputed values differ: " in verification.verdict


def test_a_changed_weight_is_detected_without_digests(copied: Path, registry: Registry) -> None:
    in_json(SUMMARY, lambda document: document.pop("file_digests"))(copied)
    file = copied / "model" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x40  # a bit of the exponent
    file.write_bytes(bytes(content))
    verification = verify_run(copied, registry)
    assert ("model", "test log-likelihoods, largest difference") in names(verification)
    assert [check.reason for check in verification.checks if check.name == "digests"] == [
        "an older peftkit did not record it"
    ]


@pytest.mark.parametrize(
    ("generates", "expected"), [(True, "generated texts are"), (False, "predictions without `candidates` are")]
)
def test_the_reason_names_what_is_not_stored(generates: bool, expected: str) -> None:
    table = example_table(3, "dev", [{"index": 0, "loss": 1.0, "tokens": 1}], whole=False)
    recipe = SimpleNamespace(objective_for=lambda kind: SimpleNamespace(generates=generates), metric=())
    run: Any = SimpleNamespace(recipe=recipe, summary={"model_kind": "encoder"})
    (check,) = check_evaluation(run, table, "dev", "step 3 dev ", {"rmse": 0.5}, "curve")
    assert check.reason == f"{expected} stored for the selected evaluation only"
