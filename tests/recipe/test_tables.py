from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from peftkit.recipe.tables import (
    BudgetTable,
    CheckpointTable,
    DeepSpeedTable,
    EvaluateTable,
    ModelTable,
    Recipe,
    RunTable,
    Table,
    TrackTable,
    TrainTable,
    interval,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100 steps", (100, "steps")),
        ("1 step", (1, "steps")),
        ("100steps", (100, "steps")),
        ("0.5 epochs", (0.5, "epochs")),
        ("2 epoch", (2, "epochs")),
        ("10%", (10, "%")),
        (" 2.5 % ", (2.5, "%")),
        ("100%", (100, "%")),
    ],
)
def test_an_interval(text: str, expected: tuple[float, str]) -> None:
    assert interval(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "steps",
        "0%",
        "0.0 epochs",
        "100.5%",
        "1.5 steps",
        "-1 steps",
        "1e3 steps",
        "nan%",
        "inf epochs",
        "1 stepss",
        "١٠ steps",
        "10 %%",
        "every 10 steps",
        "9" * 400 + " steps",
    ],
)
def test_what_is_no_interval(text: str) -> None:
    with pytest.raises(PydanticCustomError, match=r"must be written as '100 steps', '0\.5 epochs', '10%'"):
        interval(text)


def tables(model: type[BaseModel]) -> set[type[BaseModel]]:
    inner = {f.annotation for f in model.model_fields.values() if isinstance(f.annotation, type)}
    return {model}.union(*(tables(t) for t in inner if issubclass(t, Table)))


def test_every_table_is_strict_frozen_closed_and_documented() -> None:
    found = tables(Recipe)
    train = {TrainTable, BudgetTable, CheckpointTable, DeepSpeedTable}
    assert found == {Recipe, RunTable, ModelTable, *train, EvaluateTable, TrackTable}
    for table in found:
        config: dict[str, Any] = dict(table.model_config)
        assert (config["extra"], config["frozen"], config["strict"]) == ("forbid", True, True)
        if table is not Recipe:
            undocumented = [key for key, field in table.model_fields.items() if not field.description]
            assert undocumented == []


def test_the_public_tables_and_keys_are_there() -> None:
    assert set(Recipe.model_fields) >= {"run", "model", "task", "method", "train", "evaluate", "metric", "track"}
    keys = {table: set(table.model_fields) for table in tables(Recipe)}
    assert keys[RunTable] >= {"name", "seed", "output"}
    assert keys[ModelTable] >= {"name", "dtype"}
    assert keys[TrainTable] >= {"batch_size", "learning_rate", "optimizer", "budget"}
    assert keys[BudgetTable] >= {"steps", "samples", "tokens", "epochs", "seconds"}
    assert keys[EvaluateTable] >= {"every"}
    assert keys[TrackTable] >= {"wandb", "tensorboard"}
