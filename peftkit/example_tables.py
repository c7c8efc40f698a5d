"""Per-example results as tables: what every evaluation of a run keeps of each example of dev and test.

===================  ==============================================================================================
``step``             optimizer steps before the evaluation
``split``            ``dev`` or ``test``
``whole``            false for the evaluations along the curve; true for the one of whole splits at the end of a run
                     that evaluates parts of them along the curve
``index``            the example's row in the split, from 0
``group``            what the example shares with others (see ``Example.group``); empty where it is alone
``loss``             the summed cross-entropy of the target's tokens, in nats
``tokens``           how many these are
``target``           the right candidate; where candidates are ranked
``prediction``       the predicted candidate, by ``evaluate.scoring``; where candidates are ranked
``prediction_norm``  the one predicted by the other scoring; where candidates are ranked
``scores``           the example's score by every metric that is a mean over examples
===================  ==============================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = ("target", "prediction", "prediction_norm")
"""Columns that only ranked examples have: generated text would not be compact."""
LABELS = "labels"
"""The key of the file's metadata that holds the labels, as JSON, where all examples have the same candidates."""
ORDER = ("split", "whole", "index", "step")
"""How rows are sorted, so that what stays the same from step to step stands together and takes no room."""


def example_table(step: int, split: str, predictions: Sequence[Mapping[str, Any]], *, whole: bool) -> pa.Table:
    """The table of one evaluation of one split.

    Args:
        step: optimizer steps before the evaluation.
        split: ``dev`` or ``test``.
        predictions: as the evaluation gives them, with ``loss``, ``tokens`` and, if there are any, ``scores``.
        whole: whether this is the evaluation of the whole split at the end.
    """
    import pyarrow as pa

    rows = len(predictions)
    columns: dict[str, Any] = {
        "step": pa.array([step] * rows, pa.int32()),
        "split": pa.array([split] * rows, pa.string()),
        "whole": pa.array([whole] * rows, pa.bool_()),
        "index": pa.array([p["index"] for p in predictions], pa.int32()),
        "group": pa.array([p.get("group", "") for p in predictions], pa.string()),
        "loss": pa.array([p["loss"] for p in predictions], pa.float32()),
        "tokens": pa.array([p["tokens"] for p in predictions], pa.int32()),
    }
    if predictions and "candidates" in predictions[0]:
        columns |= {name: pa.array([p[name] for p in predictions], pa.string()) for name in TEXTS}
    choices = {tuple(p.get("candidates", ())) for p in predictions}
    labels = list(choices.pop()) if len(choices) == 1 else []
    names = sorted(predictions[0].get("scores", {})) if predictions else []
    if names:
        scores = [pa.array([p["scores"][name] for p in predictions], pa.float32()) for name in names]
        columns["scores"] = pa.StructArray.from_arrays(scores, names)
    return pa.table(columns, metadata={LABELS: json.dumps(labels, ensure_ascii=False)})


def write_table(tables: Sequence[pa.Table], path: Path) -> None:
    """Writes the rows of several tables into one Parquet file, sorted so that it is small."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables(tables).sort_by([(name, "ascending") for name in ORDER])
    encoded = [name for name in table.column_names if name not in ("loss", "scores")]
    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=encoded,
        use_byte_stream_split=["loss"],
        write_page_checksum=True,
    )


def read_table(path: Path) -> pa.Table:
    """What ``write_table`` wrote.

    Raises:
        OSError: the file cannot be read, or is no Parquet file.
        ValueError: it does not hold such a table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except pa.ArrowException as error:
        raise OSError(str(error)) from error
    missing = [name for name in (*ORDER, "group", "loss", "tokens") if name not in table.column_names]
    if missing:
        raise ValueError(f"it has no column {missing[0]!r}")
    return table


def prediction_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table by index, with the keys of a predictions file as far as the table has them."""
    labels = json.loads((table.schema.metadata or {}).get(LABELS.encode(), b"[]"))
    rows: list[dict[str, Any]] = table.sort_by("index").drop_columns(["step", "split", "whole"]).to_pylist()
    return [row | {"candidates": labels} for row in rows] if labels else rows


def part_name(step: int, *, whole: bool) -> str:
    """The file of one evaluation while the run goes on."""
    return f"{step:08}{'-whole' if whole else ''}.parquet"


def evaluations_of(table: pa.Table) -> set[str]:
    """The evaluations that a table has rows of, by the names of their parts."""
    pairs = table.select(["step", "whole"]).group_by(["step", "whole"]).aggregate([]).to_pylist()
    return {part_name(pair["step"], whole=pair["whole"]) for pair in pairs}


def along_the_curve(table: pa.Table, steps: Sequence[int]) -> pa.Table:
    """The rows along the curve of these steps alone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kept = pc.and_(pc.invert(table["whole"]), pc.is_in(table["step"], pa.array(steps, pa.int32())))
    return table.filter(kept)
