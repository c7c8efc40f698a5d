"""The verb ``advise``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from peftkit.cli.comparing import gathered
from peftkit.compare.advice import MOST, Advice, advise
from peftkit.compare.quantities import parse_budget, parse_bytes
from peftkit.compare.tables import READ_OFF, tuning_notes


def advise_method(
    paths: Sequence[str],
    *,
    budget: str,
    memory: str,
    metric: str | None,
    pool: Sequence[str],
    match: str | None,
    as_json: bool,
) -> int:
    """Prints which method to use within a budget; the exit code is 1 where the evidence is too thin for all tasks.

    Raises:
        InputError: the budget cannot be read, there are no runs, or they cannot be compared.
    """
    axis, amount = parse_budget(budget)
    most = parse_bytes(memory) if memory else None
    found = [advise(each, axis, amount, memory=most, metric=metric) for each in gathered(paths, pool, match)]
    if as_json:
        print(json.dumps({"format": 1, "advice": [asdict(each) for each in found]}, indent=2))
    else:
        print("\n\n".join(_page(each) for each in found))
    return 0 if any(each.candidates for each in found) else 1


def _page(found: Advice) -> str:
    lines = [f"{found.task} with {found.model}, within {found.budget:,.4g} {found.axis}:"]
    if found.too_thin:
        lines += ["  no recommendation: the evidence is too thin", *(f"  - {reason}" for reason in found.too_thin)]
    else:
        first, second = found.candidates[:2]
        lines.append(
            f"  use {first.method}: {found.metric} {first.score:.4f} ({first.low:.4f} – {first.high:.4f}, "
            f"{first.seeds} seeds), reached at {first.cost:,.4g} {found.axis}"
            + ("" if first.peak_memory is None else f", {first.peak_memory / 2**30:.2f} GiB")
        )
        lines.append(f"  it is the best of {len(found.candidates)} with a probability of {first.best:.0%}")
        lines.append(
            f"  runner-up: {second.method}: {second.score:.4f} ({second.low:.4f} – {second.high:.4f}), best with "
            f"{second.best:.0%}; {found.difference:.4f} less ({found.low:.4f} – {found.high:.4f})"
        )
        lines.append(f"  {_settled(found)}")
        longer = [each.method for each in found.candidates if each.read_off]
        if longer:
            lines.append(
                f"  {READ_OFF}, whose learning rate had not decayed yet: {', '.join(longer)}; "
                "to be sure, run them with this budget"
            )
        at_edge = {each.method: each.at_edge for each in found.candidates}
        lines += [
            f"  {note}" for note in tuning_notes(at_edge, {each.method: each.transfer for each in found.candidates})
        ]
    lines += [f"  {remark}" for remark in found.remarks]
    lines += [f"  not considered: {method}: {reason}" for method, reason in found.left_out]
    return "\n".join(lines)


def _settled(found: Advice) -> str:
    first, second = (each.method for each in found.candidates[:2])
    if found.settled:
        return "the difference is beyond chance; more runs would not change it"
    if found.more_seeds is not None and found.more_seeds < MOST:
        seeds = f"about {found.more_seeds} seeds each of {first} and {second}"
        if found.more_examples:
            return (
                f"not settled, and seeds alone will not do: {seeds} on about {found.more_examples:,} test examples "
                "would tell them apart"
            )
        return f"not settled: {seeds} would tell them apart"
    return f"not settled: {first} and {second} are as good as equal; choose by cost"
