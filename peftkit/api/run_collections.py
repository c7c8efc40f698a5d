"""Several runs as one object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from peftkit.api.runs import Run
from peftkit.api.text_output import html_table, text_table
from peftkit.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Runs(Sequence[Run]):
    """Several runs, as ``load_runs`` returns them."""

    _runs: tuple[Run, ...]

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Runs: ...
    def __getitem__(self, index: int | slice) -> Run | Runs:
        return Runs(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def table(self) -> pd.DataFrame:
        """One row per run: what it trained, its status, and the score and cost if it is done."""
        import pandas as pd

        return pd.DataFrame([_record(run) for run in self])

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        records = [_record(run) for run in self]
        names = ["method", "task", "model", "seed", "status", "metric", "test", "gmacs"]
        shown = [["" if r[name] is None else _format_cell(r[name]) for name in names] for r in records]
        return [*names, "path"], [[*row, str(run.path)] for row, run in zip(shown, self, strict=True)]

    def __repr__(self) -> str:
        return text_table(*self._cells())

    def _repr_html_(self) -> str:
        return html_table(*self._cells())


def _record(run: Run) -> dict[str, Any]:
    done = run.status == "done"
    summary = run.summary if done else {}
    metric, selected, cost = summary.get("selection_metric"), summary.get("selected", {}), summary.get("cost", {})
    return {
        **run._names,
        "seed": summary.get("seed"),
        "status": run.status,
        "metric": metric,
        "dev": (selected.get("dev") or {}).get(metric),
        "test": (selected.get("test") or {}).get(metric),
        "step": selected.get("step"),
        "gmacs": cost.get("gmacs"),
        "seconds": cost.get("train_seconds"),
        "path": str(run.path),
    }


def _format_cell(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def load_runs(paths: str | Path | Iterable[str | Path] = "runs") -> Runs:
    """Open all run directories at or below folders, finished or not; the trials of sweeps are left out.

    Args:
        paths: One folder, or several.

    Returns:
        The runs.

    Raises:
        InputError: A folder does not exist, or there is no run in any of them.
    """
    from peftkit.compare.input.load_runs import run_folders

    folders = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    runs = tuple(Run(folder) for folder in run_folders(folders))
    if not runs:
        raise InputError(f"there is no run in {', '.join(map(str, folders))}")
    return Runs(runs)
