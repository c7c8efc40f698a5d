"""``peftkit advise``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from peftkit.cli.arguments import add_fairness, add_metric, add_runs
from peftkit.cli.compared_runs import load_compared_runs
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError

if TYPE_CHECKING:
    from peftkit.compare.budget_ranking import BudgetRanking, RankedMethod
    from peftkit.compare.input.groups import RunGroup
    from peftkit.compare.output.table_formats import Page, TableRow


class AdviseCommand(SubCommand):
    """Recommends a method for a budget."""

    name = "advise"
    help = "Recommend a method for a budget. Exits with 1 if the evidence is insufficient."
    examples = (
        ("Which method is best within 500,000 GMACs?", "peftkit advise runs --budget 5e5gmacs"),
        ("And if training may take 8 GiB?", "peftkit advise runs --budget 2h --memory 8GiB"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_runs(parser)
        parser.add_argument("--budget", required=True, help="Training budget: 5e5gmacs, 2h, 1e6tokens, 3e4samples.")
        parser.add_argument("--memory", default="", help="Peak memory that training may use: 8GiB.")
        parser.add_argument(
            "--forget", metavar="LIMIT", help="The most that may be forgotten on a probe, in relation to the base: 2%%."
        )
        parser.add_argument("--probe", metavar="NAME", help="The probe of --forget. [default: the only one]")
        add_metric(parser)
        add_fairness(parser)

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.compare.budget_ranking import rank_within_budget
        from peftkit.compare.output.table_formats import render_pages
        from peftkit.compare.retention.forgetting import parse_limit
        from peftkit.compare.units import parse_budget, parse_bytes

        if args.probe and not args.forget:
            raise InputError("--probe names the probe of --forget; say how much may be forgotten, as in --forget 2%")
        limit = parse_limit(args.forget) if args.forget else None
        axis, amount = parse_budget(args.budget)
        options: dict[str, Any] = {"metric": args.metric, "margin": args.margin, "baseline": args.baseline}
        options["memory"] = parse_bytes(args.memory) if args.memory else None
        groups = load_compared_runs(args)
        if limit is not None:
            return self._advise_within_forgetting(args, groups, (axis, amount, limit), options)
        advice = [rank_within_budget(group, axis, amount, **options) for group in groups]
        if args.json:
            self.print_json({"advice": [_document(each) for each in advice]}, version=3)
        else:
            print(render_pages([_page(each) for each in advice], "table", "advice").decode(), end="")
        return 0 if any(each.verdict.use for each in advice) else 1

    def _advise_within_forgetting(
        self,
        args: argparse.Namespace,
        groups: Sequence[RunGroup],
        limits: tuple[str, float, float],
        options: Mapping[str, Any],
    ) -> int:
        """Advise on the methods that forget at most so much; limits are a cost axis, a budget and a share."""
        from peftkit.compare.output.retention_pages import advice_document, advice_page
        from peftkit.compare.output.table_formats import render_pages
        from peftkit.compare.retention.advice import rank_within_forgetting
        from peftkit.compare.retention.forgetting import choose_probe

        axis, amount, limit = limits
        advice = [
            rank_within_forgetting(group, axis, amount, choose_probe(group, args.probe), limit, **options)
            for group in groups
        ]
        if args.json:
            documents = [
                advice_document(each) | (_document(each.ranking) if each.ranking else {"candidates": []})
                for each in advice
            ]
            self.print_json({"advice": documents}, version=3)
        else:
            pages = [advice_page(each, _page(each.ranking) if each.ranking else None) for each in advice]
            print(render_pages(pages, "table", "advice").decode(), end="")
        return 0 if any(each.ranking and each.ranking.verdict.use for each in advice) else 1


def _document(advice: BudgetRanking) -> dict[str, Any]:
    document = asdict(advice)
    excluded = [{"method": method, "reason": reason} for method, reason in document.pop("left_out")]
    return {**document, "excluded": excluded, "notes": document.pop("remarks")}


def _page(advice: BudgetRanking) -> Page:
    from peftkit.compare.output.table_formats import Page
    from peftkit.compare.units import format_cost

    verdict = advice.verdict
    heads = ("method", "score", "95 % interval", "P(best)", f"reached at ({verdict.axis})", "note")
    sign = 1.0 if verdict.higher_is_better else -1.0
    ranked = [(-math.inf if each.best is None else sign * each.score, _row(each)) for each in advice.candidates]
    ranked += [
        (sign * score, (name, f"{score:.4f}", "", "", "", "baseline")) for name, score in advice.baselines.items()
    ]
    rows = [row for _, row in sorted(ranked, key=lambda pair: -pair[0])]
    notes = list(advice.remarks)
    for each in advice.candidates:
        notes += [f"{word}: {each.method}: {text}" for word, text in each.notes.items()]
        if each.ended_at is not None:
            notes.append(f"ended before: {each.method}: its runs ended at {format_cost(each.ended_at, verdict.axis)}")
    notes += [f"excluded: {method}: {reason}" for method, reason in advice.left_out]
    title = f"{verdict.task} with {verdict.model}, within {format_cost(verdict.budget or 0.0, verdict.axis)}"
    return Page(title, [heads, *rows], notes, {}, [], verdict.sentences, wide=False)


def _row(candidate: RankedMethod) -> TableRow:
    from peftkit.compare.verdict import format_percent

    known = candidate.low is not None and candidate.high is not None
    return (
        candidate.method,
        f"{candidate.score:.4f}",
        f"{candidate.low:.4f} – {candidate.high:.4f}" if known else "unknown",
        "" if candidate.best is None else format_percent(candidate.best),
        f"{candidate.cost:,.4g}",
        ", ".join([*candidate.notes, *([] if candidate.ended_at is None else ["ended before"])]),
    )
