"""Comparisons of runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.api.runs import Run, paths_of
from peftkit.api.text_output import html_paragraphs, html_table
from peftkit.errors import InputError, comma_separated, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from peftkit.compare.comparison import Comparison
    from peftkit.compare.input.groups import RunGroup
    from peftkit.compare.retention.frontier import Retention
    from peftkit.compare.verdict import Verdict


@dataclass(frozen=True, repr=False, eq=False)
class RunComparison:
    """The methods of one or more tasks and models, compared by score and cost; iterate over it for each of them.

    Attributes:
        skipped: Why runs below the folders were skipped.
    """

    _groups: tuple[RunGroup, ...]
    _options: Mapping[str, Any]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[RunComparison]:
        return (replace(self, _groups=(group,), skipped=()) for group in self._groups)

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The numbers of each task and model.

        Raises:
            InputError: Runs lack the metric or the cost, or have different test examples.
        """
        from peftkit.compare.comparison import compare

        return tuple(compare(group, **self._options) for group in self._groups)

    @property
    def verdict(self) -> Verdict:
        """Which method to use, and how certain that is.

        Raises:
            InputError: The runs are of several tasks or models.
        """
        return self.comparisons[self._only()].verdict

    @property
    def table(self) -> pd.DataFrame:
        """One row per method and per input-blind baseline, with the columns of ``peftkit compare --format csv``."""
        import pandas as pd

        from peftkit.compare.output.table_formats import flat_records

        return pd.DataFrame(flat_records(self.comparisons))

    def retention(self, probe: str) -> Retention:
        """Compare what methods learn with what they forget on a probe, as ``peftkit compare --probe`` does.

        Args:
            probe: The name of the probe.

        Raises:
            InputError: The runs are of several tasks or models, or were not measured on the probe.
        """
        from peftkit.compare.retention.frontier import compare_retention

        options = {key: self._options[key] for key in ("by", "metric")}
        return compare_retention(self._groups[self._only()], probe, **options)

    def plot(self, kind: str = "curves", *, probe: str | None = None) -> Figure:
        """Draw the comparison.

        Args:
            kind: ``curves``, the scores against the cost, ``pareto``, the score and cost of each method, or
                ``forgetting``, what is forgotten on a probe.
            probe: The name of the probe; None for the only one.

        Returns:
            The figure, which notebooks show; ``savefig`` writes it into a file.

        Raises:
            InputError: The runs are of several tasks or models, or there is no such kind.
            RunError: matplotlib is not installed.
        """
        from peftkit.compare.output.figures import draw_comparison

        only = self._only()
        figure: Figure = draw_comparison(self._groups[only], self.comparisons[only], kind, probe)
        return figure

    def report(self, path: str | Path = "report.html", *, title: str = "PEFT methods by score and cost") -> Path:
        """Write the comparison as one HTML page.

        Args:
            path: The file; its folder is created.
            title: The title of the page.

        Returns:
            The file.

        Raises:
            RunError: The file cannot be written.
        """
        from peftkit.compare.output.html_report import write_report

        options = {key: value for key, value in self._options.items() if key not in ("shares", "budgets")}
        write_report(Path(path), self._groups, title=title, **options)
        return Path(path)

    def _only(self) -> int:
        if len(self) != 1:
            names = comma_separated([f"{group.task} with {group.model}" for group in self._groups])
            raise InputError(f"the runs are of {len(self)} tasks and models ({names}); iterate over the comparison")
        return 0

    def __repr__(self) -> str:
        from peftkit.compare.output.table_formats import render

        skipped = "".join(f"skipped: {text}\n" for text in self.skipped)
        return render(self.comparisons, "table").decode().rstrip("\n") + (f"\n\n{skipped}".rstrip() if skipped else "")

    def _repr_html_(self) -> str:
        from peftkit.compare.output.table_formats import table_rows
        from peftkit.compare.output.table_notes import notes

        parts = []
        for comparison in self.comparisons:
            head, *rows = table_rows(comparison)
            title = f"{comparison.task} with {comparison.model}: {comparison.test_split} {comparison.metric}"
            parts += [html_paragraphs([title, *comparison.verdict.sentences]), html_table(head, rows)]
            parts.append(html_paragraphs(notes(comparison)))
        return "".join([*parts, html_paragraphs(f"skipped: {text}" for text in self.skipped)])


def compare_runs(
    runs: Run | str | Path | Iterable[Run | str | Path] = "runs",
    *,
    by: str = "gmacs",
    metric: str | None = None,
    baseline: str = "full",
    margin: float | None = None,
    shares: Sequence[float] = (0.95,),
    budgets: Sequence[float] | None = None,
    pool: str | Sequence[str] = (),
    match: str | None = None,
    eval_set: str | None = None,
) -> RunComparison:
    """Compare the finished runs at or below folders, as ``peftkit compare`` does.

    Args:
        runs: Runs, run directories, or folders that contain them.
        by: The cost axis, such as ``gmacs`` or ``seconds``.
        metric: The metric on test; None for the one that selects on dev.
        baseline: The method that others are compared with.
        margin: The largest difference in score that does not matter; None for 0.01 if scores are proportions, else 1 %.
        shares: Shares of the baseline's score for which to compute the cost to reach them.
        budgets: Budgets for which to determine a winner; None for five in the span that all runs cover.
        pool: What may differ between the runs, such as ``hardware``.
        match: Compare the variant of each method nearest to a size, such as ``parameters=1e5±20%``.
        eval_set: The evaluation set to compare by; None for test.

    Returns:
        The comparison.

    Raises:
        InputError: There are no finished runs, they are not comparable, or an argument is invalid.
    """
    from peftkit.compare.input.fairness import FAIRNESS_CHECKS
    from peftkit.compare.learning_curves import check_axis
    from peftkit.compare.matched_methods import load_groups

    check_axis(by)
    pooled = [pool] if isinstance(pool, str) else [*pool]
    if unknown := [name for name in pooled if name not in FAIRNESS_CHECKS]:
        near = did_you_mean(unknown[0], FAIRNESS_CHECKS)
        raise InputError(
            f"pool: no check is called {unknown[0]!r}{near}; known are {comma_separated([*FAIRNESS_CHECKS])}"
        )
    numbers = {"margin": [] if margin is None else [margin], "budgets": budgets or (), "shares": shares}
    for name, values in numbers.items():
        if wrong := [value for value in values if not 0 < value < math.inf or (name == "shares" and value > 1)]:
            limit = "above 0 and at most 1" if name == "shares" else "above 0"
            raise InputError(f"{name}: must be {limit}, not {wrong[0]!r}")
    groups, skipped = load_groups(paths_of(runs), pooled, match, eval_set)
    options: dict[str, Any] = {"by": by, "metric": metric, "baseline": baseline, "margin": margin}
    options |= {"shares": tuple(shares), "budgets": None if budgets is None else tuple(budgets)}
    return RunComparison(tuple(groups), options, tuple(skipped))
