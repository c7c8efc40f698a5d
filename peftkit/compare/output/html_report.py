"""Writes comparisons as one self-contained HTML page with interactive curves, tables, recipes and predictions."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from peftkit import __version__
from peftkit.compare.comparison import Comparison, compare
from peftkit.compare.input.groups import RunGroup
from peftkit.compare.output.forgetting_figures import common_probes
from peftkit.compare.output.regret_table import table_rows as regret_rows
from peftkit.compare.output.regret_table import title as regret_title
from peftkit.compare.output.report_data import collect_data
from peftkit.compare.output.report_terms import TERMS, find_term
from peftkit.compare.output.retention_pages import retention_page
from peftkit.compare.output.table_formats import TableRow, table_rows
from peftkit.compare.output.table_notes import notes
from peftkit.compare.regret import regret_curves
from peftkit.compare.retention.frontier import compare_retention
from peftkit.errors import InputError, RunError

if TYPE_CHECKING:
    from peftkit.verify import Verification

SCRIPTS = ("dom", "plot", "scores", "figures", "report")
"""The parts of the page's script, which share one scope, in their order."""


def render_report(
    groups: Sequence[RunGroup],
    *,
    title: str = "PEFT methods by score and cost",
    verified: Mapping[Path, Verification] | None = None,
    **options: Any,
) -> str:
    """Write the HTML report.

    Args:
        groups: the runs, one group per task and model.
        title: the title of the page.
        verified: the result of ``verify`` by run directory; None to leave that section out.
        options: keyword arguments of ``compare``.

    Returns:
        The page.

    Raises:
        InputError: the runs cannot be compared.
    """
    comparisons = [compare(group, **options) for group in groups]
    data = collect_data(groups, comparisons, TERMS)
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    runs = sum(len(seeds) for group in groups for seeds in group.runs.values())
    environments = data["environments"]
    numbered = [(number, *pair) for number, pair in enumerate(zip(groups, comparisons, strict=True))]
    assets = files("peftkit") / "assets" / "report"
    methods = len({label for group in groups for label in group.runs})
    tasks = len({group.task for group in groups})
    split = groups[0].test_split
    scores = "Test scores" if split == "test" else f"Scores on {html.escape(split)}"
    return Template((assets / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        lead=f"{runs} runs of {methods} methods, {tasks} {'task' if tasks == 1 else 'tasks'}. "
        f"{scores} of the checkpoint selected on dev; costs of training only.",
        verdicts="\n".join(_verdict(number, comparison) for number, comparison in enumerate(comparisons)),
        alert="" if verified is None else _verification_alert(verified),
        verified="" if verified is None else _verification(groups, verified),
        tables="\n".join(_comparison_table(number, comparison) for number, _, comparison in numbered),
        foot=html.escape(
            f"peftkit {__version__}; {len(environments)} environments, listed under Recipes and environments."
        ),
        style=(assets / "style.css").read_text(encoding="utf-8"),
        script=report_script(),
        details="\n".join(_details(number, group, comparison) for number, group, comparison in numbered),
        terms="\n".join(_term(number, *each) for number, each in enumerate(TERMS.items())),
        data=text.replace("<", "\\u003c"),  # so that it cannot end the script element
    )


def report_script() -> str:
    """Return the page's script."""
    assets = files("peftkit") / "assets" / "report"
    return "\n".join((assets / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)


def write_report(path: Path, groups: Sequence[RunGroup], **options: Any) -> None:
    """Write the HTML report into a file, and create its folder.

    Args:
        path: the file.
        groups: the runs, one group per task and model.
        options: keyword arguments of ``render_report``.

    Raises:
        InputError: the runs cannot be compared.
        RunError: the file cannot be written.
    """
    page = render_report(groups, **options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error


def _verdict(number: int, comparison: Comparison) -> str:
    first, *others = (html.escape(sentence) for sentence in comparison.verdict.sentences)
    below = "".join(f"<li>{sentence}</li>" for sentence in others)
    return f'<div data-section="{number}"><p class="verdict">{first}</p><ul>{below}</ul></div>'


def _comparison_table(number: int, comparison: Comparison) -> str:
    score = f"{comparison.test_split} {comparison.metric}"
    caption = f"{comparison.task} with {comparison.model}: {score}; cost in {comparison.by}"
    rows = table_rows(comparison, wide=True)
    table = _table(caption, rows, notes(comparison, wide=True), always_shown=table_rows(comparison)[0])
    return f'<div data-section="{number}">{table}</div>'


def _details(number: int, group: RunGroup, comparison: Comparison) -> str:
    """The tables of what is forgotten and of tuning trials."""
    tables = ""
    for name in common_probes(group):
        tables += f"<h3>Forgetting on {html.escape(name)}</h3>{_retention(group, comparison, name)}"
    curves = regret_curves(group)
    if curves:
        tables += f"<h3>Tuning trials</h3>{_table(regret_title(curves), regret_rows(curves), curves.notes)}"
    return f'<div data-section="{number}">{tables}</div>' if tables else ""


def _retention(group: RunGroup, comparison: Comparison, probe: str) -> str:
    """What is learned and forgotten, or why runs cannot be compared by a probe."""
    try:
        retention = compare_retention(group, probe, by=comparison.by, metric=comparison.metric)
    except InputError as error:
        return f"<p>{html.escape(str(error))}</p>"
    page = retention_page(retention)
    return _table(page.title, page.rows, page.notes)


def _verification_alert(verified: Mapping[Path, Verification]) -> str:
    """A warning at the top of the page if any value differs."""
    differing = sum(bool(result.with_status("differs")) for result in verified.values())
    if not differing:
        return ""
    return (
        f'<p role="alert" class="alert"><strong>Not verified:</strong> recorded values of {differing} of '
        f"{len(verified)} runs differ from the recomputed ones; see Verification.</p>"
    )


def _verification(groups: Sequence[RunGroup], verified: Mapping[Path, Verification]) -> str:
    """The result of ``verify`` for each run."""
    head: TableRow = ("method", "seed", "run", "verified", "not recomputable")
    runs = [(label, seed, run.path) for group in groups for label, by in group.runs.items() for seed, run in by.items()]
    runs.sort(key=lambda each: not verified[each[2]].with_status("differs"))  # the page shows the first rows only
    rows = [
        (label, str(seed), path.name, verified[path].verdict, ". ".join(verified[path].missing))
        for label, seed, path in runs
    ]
    remarks = list(dict.fromkeys(note for result in verified.values() for note in result.notes))
    table = _table("Scores, losses, curves, MACs and data of each run, recomputed", [head, *rows], remarks)
    heading = '<h2 id="h-verified">Verification</h2>'
    return f'<section aria-labelledby="h-verified">{heading}{table}</section>'


def _table(
    caption: str, rows: Sequence[TableRow], remarks: Sequence[str], always_shown: Sequence[str] | None = None
) -> str:
    """Write a table that can be sorted.

    Args:
        caption: its title.
        rows: the rows, header first.
        remarks: the notes below it.
        always_shown: the columns of a comparison that are shown at first; None for a table of another kind.
    """
    header, *lines = rows
    extra = [' class="extra"' if always_shown is not None and name not in always_shown else "" for name in header]
    head = "".join(
        f'<th scope="col"{style}{_explained(name)}>{html.escape(name)}</th>'
        for name, style in zip(header, extra, strict=True)
    )
    body = ""
    for row in lines:
        cells = "".join(f"<td{style}>{html.escape(cell)}</td>" for cell, style in zip(row[1:], extra[1:], strict=True))
        label = html.escape(row[0].removesuffix(" *"))
        body += f'<tr data-method="{label}"><th scope="row">{html.escape(row[0])}</th>{cells}</tr>'
    below = "".join(f"<li>{html.escape(note)}</li>" for note in remarks)
    kind = "sortable" if always_shown is None else "sortable comparison"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(caption)}"><table class="{kind}">'
        f"<caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<details open class="soft"><summary>Notes</summary><ul>{below}</ul></details>'
    )


def _explained(column: str) -> str:
    """The attribute by which the page shows the definition of a column."""
    term = find_term(column)
    return f' data-term="{html.escape(term)}"' if term else ""


def _term(number: int, term: str, definition: str) -> str:
    return f'<dt>{html.escape(term)}</dt><dd id="term-{number}">{html.escape(definition)}</dd>'
