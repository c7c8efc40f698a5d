"""What follows from the files of a run and the data: scores, losses, curves, the selection, digests, baselines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.components import Example
from peftkit.errors import InputError
from peftkit.example_tables import prediction_rows
from peftkit.recipe import Recipe
from peftkit.recipe.tables import LOSS
from peftkit.runner.baselines import baselines
from peftkit.runner.batches import effective_batch
from peftkit.runner.data import Data
from peftkit.runner.evaluation import NORM, TEACHER_FORCED, best, direction, values_of
from peftkit.runner.forms import FORMS
from peftkit.runner.models import folder_bytes
from peftkit.runner.selection import is_better
from peftkit.runner.verification.checks import Check, NotRecomputable, compared, compared_all, unable
from peftkit.runs import RunDirectory

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("dev", "test")
SINGLE = 1e-6
"""How far a mean may be off whose terms are stored in single precision, as ``examples.parquet`` has them."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Recorded:
    """What a finished run says of itself, and the data as they are read now."""

    path: Path
    recipe: Recipe
    summary: Mapping[str, Any]
    data: Data | None = None
    """None where they cannot be read."""
    unread: str = ""
    """Why that is."""
    changed: frozenset[str] = frozenset()
    """The splits whose rows are not those of the run."""
    versions: tuple[str, ...] = ()
    """The libraries that are installed in other versions than the run had, in words."""

    @property
    def directory(self) -> RunDirectory:
        """Its files."""
        return RunDirectory(self.path)

    def predictions(self, split: str) -> list[dict[str, Any]]:
        """The rows of a predictions file; numbers that JSON could not hold are NaN."""
        rows = self.directory.predictions(split)
        for row in rows:
            if row.get(LOSS, 0.0) is None:
                row[LOSS] = math.nan
            if "log_likelihoods" in row:
                row["log_likelihoods"] = [math.nan if each is None else each for each in row["log_likelihoods"]]
        return rows

    def require(self, name: str) -> None:
        """Says so where a file or folder of the run is missing.

        Raises:
            NotRecomputable: it is.
        """
        if not (self.path / name).exists():
            raise NotRecomputable(f"{name} is not there")

    def require_rows(self, *splits: str) -> Data:
        """The data, where these splits are still those of the run.

        Raises:
            NotRecomputable: they cannot be read, or are others.
        """
        if self.data is None:
            raise NotRecomputable(f"the rows cannot be read: {self.unread}")
        changed = [split for split in splits if split in self.changed]
        if changed:
            raise NotRecomputable(f"the rows of {' and '.join(changed)} are not those of the run")
        return self.data

    def examples(self, split: str, rows: Sequence[Row]) -> list[Example] | None:
        """What was predicted: the data's examples, or what predictions say of them where the data are others now.

        Returns:
            One for each row; None where the rows do not say enough.

        Raises:
            InputError: the split has no row of that index.
        """
        if self.data is not None and split not in self.changed:
            known = {i: e for each in self.data.selected if each.name == split for i, e in _numbered(each)}
            strange = [row["index"] for row in rows if row["index"] not in known]
            if strange:
                raise InputError(f"{split} has no evaluated row {strange[0]}")
            return [known[row["index"]] for row in rows]
        if rows and "candidates" in rows[0]:
            return [Example(row.get("source", ""), row["target"], tuple(row["candidates"])) for row in rows]
        return None


def file_checks(path: Path, summary: Mapping[str, Any]) -> Iterator[Check]:
    """The digests of the recipe and of the model's files, and what the latter take."""
    stored, found = summary.get("file_digests"), RunDirectory(path).file_digests()
    there = (path / "model").is_dir()
    if stored is None:
        yield unable("files", "digests", "an older peftkit has recorded none")
    else:
        kept = {name: digest for name, digest in stored.items() if there or not name.startswith("model/")}
        yield from compared_all("files", kept, found)
    if there:
        yield compared("files", "model_bytes", summary.get("model_bytes"), folder_bytes(path / "model"))
    else:
        yield unable("files", "model/", "model/ is not there")


def recipe_checks(run: Recorded) -> Iterator[Check]:
    """What the summary repeats of the recipe and the environment."""
    recipe, summary = run.recipe, run.summary
    processes = summary.get("processes", 1)
    found: dict[str, Any] = {
        "name": recipe.run.name,
        "model": recipe.model.name,
        "task": recipe.task.name,
        "method": recipe.method.name,
        "seed": recipe.run.seed,
        "init_seed": recipe.run.effective_init_seed,
        "order_seed": recipe.run.effective_order_seed,
        "effective_batch": effective_batch(recipe, processes),
    }
    dev = summary["selected"]["dev"]
    found["selects"], found["higher_is_better"] = direction(recipe, dev)
    found["lower_is_better"] = sorted(value for value in dev if not recipe.higher_is_better(value))
    if (run.path / "environment.json").is_file():
        environment = run.directory.environment()
        found |= {name: environment[name] for name in ("processes", "revisions") if name in environment}
    for name, value in found.items():
        if name in summary:
            yield compared("recipe", name, summary[name], value)


def row_checks(run: Recorded) -> Iterator[Check]:
    """What the summary says of the data's rows."""
    data, summary = run.require_rows(), run.summary
    train = data.sizes["train"]
    batch = effective_batch(run.recipe, summary.get("processes", 1))
    found = {
        "rows": dict(data.sizes),
        "rows_digests": dict(data.digests),
        "rows_evaluated": data.evaluated_rows,
        "rows_left_out_per_epoch": None if train is None else train % batch,
        "rows_cut": data.cut,
        "rows_also_in_train": data.overlap,
    }
    for name, value in found.items():
        if name in summary:
            yield from compared_all("data", {name: summary[name]}, {name: value})
        else:
            yield unable("data", name, "an older peftkit has recorded none")


def changed_splits(summary: Mapping[str, Any], data: Data) -> frozenset[str]:
    """The splits of which other rows are read now than the run has read."""
    digests = summary.get("rows_digests") or {}
    sizes = summary.get("rows") or {}
    return frozenset(
        split
        for split in data.digests
        if digests.get(split, data.digests[split]) != data.digests[split]
        or sizes.get(split, data.sizes.get(split)) != data.sizes.get(split)
    )


def baseline_checks(run: Recorded) -> Iterator[Check]:
    """What models score that never read."""
    stored = run.summary.get("baselines")
    if stored is None:
        raise NotRecomputable("an older peftkit has recorded none")
    data = run.require_rows("train", *SPLITS)
    found = {name: values for name, values in baselines(run.recipe, data).items() if name in stored}
    if "file_digests" not in run.summary and (constant := stored.get("constant")) != found.get("constant"):
        # Such runs took the most frequent answer for the best one.
        yield unable("baselines", "constant", "an older peftkit has chosen its answer otherwise", constant)
        stored = {name: values for name, values in stored.items() if name != "constant"}
        found = {name: values for name, values in found.items() if name in stored}
    yield from compared_all("baselines", stored, found)


def selection_checks(run: Recorded) -> Iterator[Check]:
    """The evaluation that dev selects, and what the summary repeats of it and of the last one."""
    run.require("evaluations.jsonl")
    summary, rows = run.summary, run.directory.evaluations()
    selected = summary["selected"]
    value, higher = direction(run.recipe, selected["dev"])
    chosen: Row | None = None
    for row in rows:
        old = None if chosen is None else chosen["dev"][value]
        if is_better(row["dev"][value], old, higher_is_better=higher):
            chosen = row
    if chosen is None:
        raise InputError(f"dev's {value} is no number at any evaluation")
    yield compared("selection", "step", selected["step"], chosen["step"])
    yield compared("selection", "steps in order", [*map(_step, rows)], sorted({*map(_step, rows)}))
    yield from compared_all("selection", selected["train"], chosen["train"], prefix="train ")
    if "curve" in selected:
        yield from compared_all("selection", selected["curve"], {s: chosen[s] for s in SPLITS}, prefix="curve ")
    evaluated = summary.get("rows_evaluated", {})
    if evaluated and all(evaluated["curve"][split] == evaluated["selected"][split] for split in SPLITS):
        for split in SPLITS:
            yield from compared_all("selection", selected[split], chosen[split], prefix=f"{split} ")
    last = {key: rows[-1].get(key) for key in summary.get("final", {})}
    yield from compared_all("selection", summary.get("final", {}), last, prefix="final ")
    yield from compared_all("selection", summary["cost"], rows[-1]["cost"], prefix="cost ")


def prediction_checks(run: Recorded, split: str) -> Iterator[Check]:
    """The selected checkpoint's loss and scores from ``predictions/``, and whether these are sound in themselves."""
    run.require(f"predictions/{split}.jsonl")
    rows = run.predictions(split)
    what = f"selected {split}"
    examples = run.examples(split, rows)
    if examples is None:
        yield unable(what, "scores", f"the right answers are not stored, and {_no_rows(run, split)}")
        stored = run.summary["selected"][split].get(LOSS)
        yield compared(what, LOSS, stored, _loss(rows))
    else:
        form = FORMS[run.summary["model_kind"]]
        found = values_of(run.recipe, form, examples, [dict(row) for row in rows])
        yield from compared_all(what, run.summary["selected"][split], found)
    if run.data is not None and split not in run.changed and examples is not None:
        wrong = sum(not _is_of(row, example) for row, example in zip(rows, examples, strict=True))
        yield compared(what, "rows unlike the data", 0, wrong)
        whole = {each.name: each.indices for each in run.data.selected}[split]
        places = [row["index"] for row in rows]
        out = abs(len(places) - len(whole)) + sum(a != b for a, b in zip(places, whole, strict=False))
        yield compared(what, "rows missing or out of order", 0, out)
    if any("log_likelihoods" in row for row in rows):
        wrong = sum(not _is_sound(row, run.recipe.evaluate.scoring) for row in rows)
        yield compared(what, "rows whose prediction or loss is not that of their log-likelihoods", 0, wrong)


def example_checks(run: Recorded) -> Iterator[Check]:
    """Each evaluation of the curve, and the selected one, from ``examples.parquet``."""
    table = run.directory.examples()
    if table is None:
        raise NotRecomputable("no results per example are stored")
    run.require("evaluations.jsonl")
    for row in run.directory.evaluations():
        yield unable("curve", f"step {row['step']} train", "results per example of training rows are not stored")
        for split in SPLITS:
            part = _part(table, row["step"], split, whole=False)
            yield from _evaluated(run, part, split, f"step {row['step']} {split} ", row[split], "curve")
    step = run.summary["selected"]["step"]
    for split in SPLITS:
        whole = _part(table, step, split, whole=True)
        part = whole if len(whole) else _part(table, step, split, whole=False)
        yield from _evaluated(run, part, split, f"selected {split} ", run.summary["selected"][split], "curve")
        if (run.path / "predictions" / f"{split}.jsonl").is_file():
            unlike = _unlike(prediction_rows(part), run.predictions(split))
            yield compared("curve", f"selected {split} rows unlike predictions/{split}.jsonl", 0, unlike)


def _evaluated(
    run: Recorded, part: pa.Table, split: str, prefix: str, stored: Mapping[str, Any], what: str
) -> Iterator[Check]:
    """The values of one evaluation of one split."""
    rows = prediction_rows(part)
    if not rows:
        yield unable(what, f"{prefix}values", "its results per example are not stored")
        return
    scores = rows[0].get("scores") or {}
    found = {LOSS: _loss(rows)} | {key: sum(row["scores"][key] for row in rows) / len(rows) for key in scores}
    examples = run.examples(split, rows) if "prediction" in rows[0] else None
    if examples is not None:
        predicting = [m for m in run.recipe.metric if m.reads != TEACHER_FORCED]
        again = [{**row, "scores": {}} for row in rows]
        recipe = run.recipe.model_copy(update={"metric": predicting})
        found = values_of(recipe, FORMS[run.summary["model_kind"]], examples, again)
        wrong = sum(_far(row.get("scores") or {}, new["scores"]) for row, new in zip(rows, again, strict=True))
        yield compared(what, f"{prefix}rows whose scores are not those of their predictions", 0, wrong)
    for key, value in stored.items():
        if key in found:
            yield compared(what, f"{prefix}{key}", value, found[key], SINGLE)
        else:
            reason = "of evaluations along the curve the generated texts are not stored"
            if examples is None and "prediction" in rows[0]:
                reason = f"{_no_rows(run, split)}"
            if any(key in metric.value_names for metric in run.recipe.metric if metric.reads == TEACHER_FORCED):
                reason = "of evaluations along the curve teacher-forced texts are not stored"
            yield unable(what, f"{prefix}{key}", reason, value)


def _part(table: pa.Table, step: int, split: str, *, whole: bool) -> pa.Table:
    import pyarrow.compute as pc

    here = pc.and_(pc.equal(table["step"], step), pc.equal(table["split"], split))
    return table.filter(pc.and_(here, pc.equal(table["whole"], whole)))


def _loss(rows: Sequence[Row]) -> float:
    return float(sum(row[LOSS] for row in rows) / max(1, sum(row["tokens"] for row in rows)))


def _is_of(row: Row, example: Example) -> bool:
    """Whether a prediction is of that example."""
    candidates = tuple(row.get("candidates", example.candidates))
    return (row["source"], row["target"], candidates) == (example.source, example.target, example.candidates)


def _is_sound(row: Row, scoring: str) -> bool:
    """Whether a ranked row's predictions and loss follow from the log-likelihoods of its candidates."""
    candidates, sums = row["candidates"], row["log_likelihoods"]
    norms = [s / max(n, 1) for s, n in zip(sums, row["candidate_tokens"], strict=True)]
    first, second = (sums, norms) if scoring == "sum" else (norms, sums)
    answer = candidates.index(row["target"])
    stored = (row["prediction"], row[f"prediction{NORM}"], row["tokens"])
    follows = (best(candidates, first), best(candidates, second), row["candidate_tokens"][answer])
    return stored == follows and not _far({LOSS: row[LOSS]}, {LOSS: -sums[answer]})


def _unlike(rows: Sequence[Row], predicted: Sequence[Row]) -> int:
    """How many rows of a table differ from those of a predictions file."""
    texts = [key for key in ("target", "prediction", f"prediction{NORM}") if rows and key in rows[0]]
    different = abs(len(rows) - len(predicted))
    for one, other in zip(rows, predicted, strict=False):
        same = all(one[key] == other[key] for key in ("index", "tokens", *texts))
        near = not _far({LOSS: one[LOSS]}, {LOSS: other[LOSS]})
        near = near and not _far(one.get("scores") or {}, other.get("scores") or {})
        different += not (same and near)
    return different


def _far(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    checks = compared_all("", one, other, SINGLE)
    return any(check.status == "differs" for check in checks)


def _no_rows(run: Recorded, split: str) -> str:
    return f"the rows of {split} are {'others now' if run.data else 'not to be read'}"


def _numbered(split: Any) -> Iterator[tuple[int, Example]]:
    return zip(split.indices, split.examples, strict=True)


def _step(row: Row) -> int:
    return int(row["step"])
