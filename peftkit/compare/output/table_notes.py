"""Notes below the table of a comparison."""

from __future__ import annotations

from collections.abc import Iterator

from peftkit.argument_names import format_argument
from peftkit.compare.comparison import Comparison
from peftkit.compare.method_notes import READ_OFF_NOTE
from peftkit.compare.units import format_cost
from peftkit.compare.verdict import MAX_NAMED, format_probability


def notes(comparison: Comparison, *, wide: bool = False) -> list[str]:
    """Format the notes below the table of a comparison.

    Args:
        comparison: the comparison.
        wide: whether the table has all columns.

    Returns:
        One line per note.
    """
    lines = [f"imported: {note}" for note in comparison.imported]
    if len(comparison.verdict.not_separable) > MAX_NAMED:
        lines.append(f"not distinguishable from the best: {', '.join(comparison.verdict.not_separable)}")
    several = any(len(row.seeds) > 1 for row in comparison.lines)
    lines += _score_notes(comparison, several)
    lines += comparison.remarks
    lines += _keyword_notes(comparison)
    if comparison.baselines:
        lines.append("baseline: input-blind; constant is the single answer that scores best")
    if wide:
        lines += _pairwise_notes(comparison, several)
    if comparison.noise is not None:
        lines.append(
            f"re-run noise: {comparison.noise:.4f}, the standard deviation of repeated runs ({comparison.repeated} "
            f"{'recipe' if comparison.repeated == 1 else 'recipes'})"
        )
    if comparison.baseline and wide:
        lines.append(f"to a share: the cost to reach that share of the score of {comparison.baseline}")
    if names := dict.fromkeys(name for row in comparison.lines for name in row.sets if name != comparison.test_split):
        argument = format_argument("eval-set", next(iter(names)))
        lines.append(f"evaluation sets: {', '.join(names)}; to compare by one of them: {argument}")
    if any(row.pareto for row in comparison.lines):
        lines.append("*: on the Pareto front of score and cost")
    lines += [
        f"within {format_cost(winner.budget, comparison.by)}: {winner.method} ({winner.score:.4f}, "
        f"{format_probability(winner.best, 'P(best)')}){', ' + READ_OFF_NOTE if winner.read_off else ''}"
        for winner in comparison.winners
    ]
    if comparison.by == "gmacs_with_tuning":
        lines.append("gmacs_with_tuning: the GMACs of a run and of all tuning trials of its method and of its new head")
    if comparison.unmeasured:
        lines.append(f"left out, {comparison.by} was not measured: {', '.join(comparison.unmeasured)}")
    for key, values in comparison.pooled.items():
        lines += [f"pooled although {key} differs: {text}" for text in values]
    return lines


def _score_notes(comparison: Comparison, several: bool) -> Iterator[str]:
    """What scores and intervals are.

    Args:
        comparison: the comparison.
        several: whether any method has several seeds.

    Yields:
        One line per note.
    """
    if several:
        yield (
            "score: expected for new seeds and a new tuning, shrunk towards the mean of all methods; P(best): the "
            "probability of the best score"
        )
    if comparison.examples:
        seeds = ", and seeds where there are several" if several else ""
        yield f"95 % interval: over {comparison.examples:,} {comparison.test_split} examples{seeds}"
    else:
        yield f"95 % interval: over seeds only, since {comparison.seeds_alone}"


def _keyword_notes(comparison: Comparison) -> Iterator[str]:
    """Explain the keywords in the table's last column."""
    single = [row for row in comparison.lines if len(row.seeds) == 1]
    if single:
        cost = format_cost(sum(row.cost for row in single), comparison.by)
        yield (
            "one seed: score and interval are of this run only, not of the method; another seed of "
            f"{'each' if len(single) > 1 else single[0].method} costs {cost}"
        )
    keywords = dict.fromkeys(
        keyword for row in comparison.lines for keyword in row.notes if keyword not in ("one seed", "imported")
    )
    for keyword in keywords:
        texts = {row.method: row.notes[keyword] for row in comparison.lines if keyword in row.notes}
        text = next(iter(texts.values()))
        same = len({*texts.values()}) == 1
        if same and len(texts) == len(comparison.lines):
            yield f"{keyword}: {text}"
        elif same and len(texts) > 1:
            yield f"{keyword}: {', '.join(texts)}: {text}"
        else:
            yield from (f"{keyword}: {method}: {text}" for method, text in texts.items())


def _pairwise_notes(comparison: Comparison, several: bool) -> Iterator[str]:
    """Explain the columns of pairwise tests.

    Args:
        comparison: the comparison.
        several: whether any method has several seeds.

    Yields:
        One line per note.
    """
    if several:
        joined = comparison.pairwise.joined
        exceptions = f", except for {joined:,} pairs (see the JSON output)" if joined else ""
        yield (
            "group: pairwise tests (Holm, 5 %), which can differ from P(best); methods that share a letter do not "
            f"differ significantly{exceptions}"
        )
    if comparison.detectable is not None:
        yield (
            f"detectable difference: {comparison.detectable:.4f} between two methods would be significant about four "
            "times in five"
        )
