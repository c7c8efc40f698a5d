"""Per-example results of each evaluation on dev, test and evaluation sets, as Arrow tables with these columns.

===================  ==============================================================================================
``step``             optimizer steps before the evaluation
``split``            ``dev``, ``test`` or the name of an evaluation set
``full_split``       false along the curve; true for the evaluation of the full splits at the end of a run whose
                     evaluations along the curve use a sample
``index``            row of the example in the split, from 0
``group``            group of dependent examples (see ``Example.group``); empty if there is none
``loss``             summed cross-entropy of the target's tokens, in nats
``tokens``           number of these tokens
``target``           correct candidate, if predictions have ``candidates``
``prediction``       what is predicted by ``evaluate.scoring``, if predictions have ``candidates``
``prediction_norm``  candidate predicted by the other scoring, if candidates are ranked
``scores``           score by every metric that is a mean over examples
===================  ==============================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.errors import InputError
from peftkit.file_formats import EXAMPLE_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = ("target", "prediction", "prediction_norm")
"""Columns of predictions with candidates only; generated texts would take too much space."""
NORM_SUFFIX = "_norm"
"""Suffix of the values of the second ranking: per token, like ``acc_norm`` in lm-evaluation-harness, or by sum if the
recipe ranks per token."""
PREDICTION_KEYS = {"accuracy": "prediction", "accuracy_norm": "prediction_norm"}
"""Metrics that are the proportion of predictions equal to the target, with the prediction's key."""
LABELS = "labels"
"""Metadata key of the labels, as JSON, if all examples have the same candidates."""
ORDER = ("split", "full_split", "index", "step")
"""The sort order: values that stay the same from step to step are adjacent and compress well."""


def example_table(step: int, split: str, predictions: Sequence[Mapping[str, Any]], *, whole: bool) -> pa.Table:
    """Build the table of one evaluation of one split.

    Args:
        step: Optimizer steps before the evaluation.
        split: ``dev`` or ``test``.
        predictions: The predictions, with ``index``, ``loss``, ``tokens`` and, if there are any, ``scores``.
        whole: Whether this is the evaluation of the full split at the end.

    Returns:
        The table.
    """
    import pyarrow as pa

    rows = len(predictions)
    columns: dict[str, Any] = {
        "step": pa.array([step] * rows, pa.int32()),
        "split": pa.array([split] * rows, pa.string()),
        "full_split": pa.array([whole] * rows, pa.bool_()),
        "index": pa.array([p["index"] for p in predictions], pa.int32()),
        "group": pa.array([p.get("group", "") for p in predictions], pa.string()),
        "loss": pa.array([p["loss"] for p in predictions], pa.float32()),
        "tokens": pa.array([p["tokens"] for p in predictions], pa.int32()),
    }
    if predictions and "candidates" in predictions[0]:
        columns |= {
            name: pa.array([p[name] for p in predictions], pa.string()) for name in TEXTS if name in predictions[0]
        }
    choices = {tuple(p.get("candidates", ())) for p in predictions}
    labels = list(choices.pop()) if len(choices) == 1 else []
    names = sorted(predictions[0].get("scores", {})) if predictions else []
    if names:
        scores = [pa.array([p["scores"][name] for p in predictions], pa.float32()) for name in names]
        columns["scores"] = pa.StructArray.from_arrays(scores, names)
    return pa.table(columns, metadata={LABELS: json.dumps(labels, ensure_ascii=False)})


def write_table(tables: Sequence[pa.Table], path: Path) -> None:
    """Write tables to one sorted Parquet file.

    Args:
        tables: The tables.
        path: The file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Splits may have metrics of their own: their rows have no value of the others.
    table = _sort_rows(pa.concat_tables(tables, promote_options="permissive"), ORDER)
    encoded = [name for name in table.column_names if name not in ("loss", "scores")]
    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=encoded,
        use_byte_stream_split=["loss"],
        write_page_checksum=True,
    )


def _sort_rows(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Sort by columns; ``Table.sort_by`` and ``Table.group_by`` import pandas."""
    import pyarrow.compute as pc

    return table.take(pc.sort_indices(table, sort_keys=[(name, "ascending") for name in names]))


def read_table(path: Path) -> pa.Table:
    """Read a file of ``write_table``; columns of older formats are renamed.

    Raises:
        OSError: The file cannot be read or is not Parquet.
        ValueError: A column is missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:  # pq.read_table imports pandas
            table = file.read()
    except pa.ArrowException as error:
        raise OSError(str(error)) from error
    names = [EXAMPLE_COLUMNS.get(name, name) for name in table.column_names]
    table = table.rename_columns(names).replace_schema_metadata(table.schema.metadata)
    missing = [name for name in (*ORDER, "group", "loss", "tokens") if name not in table.column_names]
    if missing:
        raise ValueError(f"column {missing[0]!r} is missing")
    return table


def select_rows(table: pa.Table, column: str, value: str | int | bool) -> pa.Table:
    """Select the rows with a value; every conversion of a value by Arrow imports pandas, so that it is taken from them.

    Args:
        table: The table.
        column: The column's name.
        value: The value.

    Returns:
        These rows.
    """
    import pyarrow.compute as pc

    equal = [each for each in table[column].unique() if each.as_py() == value]
    return table.filter(pc.equal(table[column], equal[0])) if equal else table.slice(0, 0)


def read_tables(run: Path) -> list[pa.Table]:
    """Read the per-example results of a run: ``examples.parquet``, and files of evaluations that are not merged yet.

    Raises:
        InputError: A file cannot be read, or their columns differ.
    """
    tables: list[pa.Table] = []
    merged: set[str] = set()
    for path in (run / "examples.parquet", *sorted((run / "examples").glob("[0-9]*.parquet"))):
        if path.name in merged or not path.exists():
            continue
        try:
            table = read_table(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
        if tables and not table.schema.equals(tables[0].schema):
            raise InputError(f"{path}: its columns differ from those of earlier evaluations")
        tables.append(table)
        if len(tables) == 1 and path.parent == run:
            merged = list_evaluations(tables[0])
    return tables


def to_prediction_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Convert a table to rows with the keys of a predictions file, sorted by index."""
    labels = json.loads((table.schema.metadata or {}).get(LABELS.encode(), b"[]"))
    rows: list[dict[str, Any]] = _sort_rows(table, ["index"]).drop_columns(["step", "split", "full_split"]).to_pylist()
    for row in rows:
        if row.get("scores"):  # without those of other splits
            row["scores"] = {name: score for name, score in row["scores"].items() if score is not None}
    return [row | {"candidates": labels} for row in rows] if labels else rows


def evaluation_file_name(step: int, *, whole: bool) -> str:
    """Name the file of one evaluation in a run that has not ended.

    Args:
        step: Optimizer steps before the evaluation.
        whole: Whether it is the evaluation of the full splits at the end.

    Returns:
        The file name.
    """
    return f"{step:08}{'-whole' if whole else ''}.parquet"


def list_evaluations(table: pa.Table) -> set[str]:
    """List the evaluations in a table, by the names of their files."""
    return {
        evaluation_file_name(step, whole=whole)
        for whole in (False, True)
        for step in select_rows(table, "full_split", whole)["step"].unique().to_pylist()
    }


def select_curve_evaluations(table: pa.Table, steps: Sequence[int]) -> pa.Table:
    """Select the evaluations along the curve at some steps.

    Args:
        table: The table.
        steps: Optimizer steps before the evaluations.

    Returns:
        Their rows.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kept = pc.and_(pc.invert(table["full_split"]), pc.is_in(table["step"], pa.array(steps, pa.int32())))
    return table.filter(kept)
