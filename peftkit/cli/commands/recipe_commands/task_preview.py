"""``peftkit task preview``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftkit import plugins
from peftkit.cli.arguments import add_recipe, count
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError, comma_separated, did_you_mean

if TYPE_CHECKING:
    from peftkit.recipe import Recipe
    from peftkit.recipe.probes.probe_tasks import RecipeProbe

SHOWN_ANSWERS = 20
REPORTS = ("answers", "imbalance", "numbers", "duplicates", "empty", "leakage")
BAR = 40
"""Longest bar of a histogram, in characters."""
IMBALANCE = 5
"""Ratio of the most and the least frequent answer from which it is shown."""
SHOWN_SKIPPED = 5


class TaskPreviewCommand(SubCommand):
    """Shows rows of a task as the model gets them."""

    name = "task preview"
    help = "Show tokenized rows of a recipe's task, and the lengths and answers of each split; loads no weights."
    examples = (
        ("Show five training rows", "peftkit task preview recipes/quickstart.toml"),
        ("Show two test rows", "peftkit task preview recipes/quickstart.toml -n 2 --split test"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_recipe(parser)
        parser.add_argument("-n", "--number", type=count, default=5, help="Number of rows. [default: 5]")
        parser.add_argument(
            "--split", choices=["train", "dev", "test"], default="train", help="Split of the rows. [default: train]"
        )
        parser.add_argument("--probe", metavar="NAME", help="Show the rows of a probe instead of the task's.")

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.recipe import load_recipe

        recipe = load_recipe(args.recipe, plugins.load_registry(), args.overrides)
        from peftkit.analysis.task_preview import preview_task  # imports transformers: only once the recipe is valid

        split = args.split
        if args.probe is not None:
            probe = _find_probe(recipe, args.probe)
            recipe, split = probe.recipe, probe.task.split
        document = _document(preview_task(recipe, split, args.number))
        if args.json:
            self.print_json(document, version=2)
        else:
            print(_page(document))
        return 0


def _find_probe(recipe: Recipe, name: str) -> RecipeProbe:
    """Return the probe of a recipe with a name.

    Raises:
        InputError: There is none.
    """
    probes = {probe.name: probe for probe in recipe.probes}
    if name not in probes:
        has = f"it has {comma_separated([*probes])}" if probes else "it has none"
        raise InputError(f"--probe: the recipe has no probe {name!r}{did_you_mean(name, probes)}; {has}")
    return probes[name]


def _document(preview: Mapping[str, Any]) -> dict[str, Any]:
    examples = [
        {**example, "candidates": [_candidate(candidate) for candidate in example["candidates"]]}
        for example in preview["examples"]
    ]
    splits = {
        name: {
            "rows": split["rows"],
            "rows_measured": split["judged"],
            "rows_ignored": preview["ignored"].get(name, 0),
            "rows_skipped": sum(row["split"] == name for row in preview["skipped"]),
            **({"held_out": preview["held_out"][name]} if name in preview["held_out"] else {}),
            "lengths": split["lengths"],
            "truncated": split["cut"],
            **{key: split[key] for key in REPORTS if key in split},
        }
        for name, split in preview["splits"].items()
    }
    return {
        "task": preview["task"],
        "task_kind": preview["kind"],
        "model": preview["model"],
        "architecture": preview["model_kind"],
        "max_lengths": preview["limits"],
        "splits": splits,
        "skipped": preview["skipped"],
        "split": preview["split"],
        "examples": examples,
    }


def _candidate(candidate: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": candidate["text"], "tokens": candidate["tokens"], "correct": candidate["right"]}


def _page(document: Mapping[str, Any]) -> str:
    limits = document["max_lengths"]
    lines = [f"{document['task']} ({document['task_kind']}), tokenized for {document['model']}"]
    lines[0] += f" ({document['architecture']})"
    for number, example in enumerate(document["examples"], 1):
        kept, whole = example["source_tokens_kept"], example["source_tokens"]
        truncated = f", truncated from {whole}" if kept < whole and whole > limits["source"] else ""
        lines += ["", f"{number}. {example['row']}", f"   source ({kept} tokens{truncated})"]
        lines += _indented(example["source"])
        tokens = f" ({example['target_tokens']} tokens)" if example["target_tokens"] else ""
        lines += [f"   target{tokens}", *_indented(example["target"])]
        if "trained" in example:
            lines.append("   trained on")
            lines += [line for text in example["trained"] for line in _indented(text)]
        if len(example["candidates"]) > 1:
            lines.append("   candidates")
            for candidate in example["candidates"]:
                tokens = f" ({candidate['tokens']} tokens)" if candidate["tokens"] else ""
                lines.append(f"     {'*' if candidate['correct'] else ' '} {candidate['text']}{tokens}")
        for key in ("references", "extra"):
            if key in example:
                lines += [f"   {key}", *_indented(json.dumps(example[key], ensure_ascii=False))]
    lines.append("")
    for name, split in document["splits"].items():
        lines += _split_lines(name, split, limits)
    shown = document["skipped"][:SHOWN_SKIPPED]
    lines += [f"skipped: {row['file']}, row {row['row']}: {row['reason']}" for row in shown]
    return "\n".join(lines)


def _split_lines(name: str, split: Mapping[str, Any], limits: Mapping[str, int]) -> list[str]:
    rows = "streamed" if split["rows"] is None else f"{split['rows']:,} rows"
    skipped = f", {split['rows_skipped']:,} skipped" if split["rows_skipped"] else ""
    skipped += f", {split['rows_ignored']:,} ignored" if split["rows_ignored"] else ""
    lines = [f"{name}: {rows}{skipped}, {split['rows_measured']:,} measured:"]
    if held_out := split.get("held_out"):
        whole = f"{held_out['rows']:,} of the training rows are held out, in {held_out['groups']:,} groups"
        lines.append(f"   {whole}: rows with {held_out['together']} stay together")
    for side, lengths in split["lengths"].items():
        if lengths["longest"]:
            text = ", ".join(f"{word} {tokens}" for word, tokens in lengths.items() if word != "histogram")
            truncated = split["truncated"][side]
            share = truncated / split["rows_measured"]
            more = f"; {truncated:,} ({share:.1%}) truncated to {limits[side]}" if truncated else ""
            lines += [f"   {side} tokens: {text}{more}", *_bars(lengths["histogram"])]
    if "answers" in split:
        shares = sorted(split["answers"].items(), key=lambda pair: -pair[1])
        more = f", and {len(shares) - SHOWN_ANSWERS} more" if len(shares) > SHOWN_ANSWERS else ""
        answers = ", ".join(f"{answer} {share:.1%}" for answer, share in shares[:SHOWN_ANSWERS])
        lines.append(f"   answers: {answers}{more}")
    return [*lines, *_imbalance_lines(split), *_number_lines(split), *_report_lines(split)]


def _imbalance_lines(split: Mapping[str, Any]) -> Iterator[str]:
    imbalance = split.get("imbalance", {})
    if imbalance and imbalance["ratio"] >= IMBALANCE:
        most, least = imbalance["most"], imbalance["least"]
        yield f"   imbalance: {most!r} is {imbalance['ratio']:,.0f} times as frequent as {least!r}"
    if imbalance.get("unseen"):
        yield f"   labels that no measured row has: {', '.join(imbalance['unseen'][:SHOWN_ANSWERS])}"


def _number_lines(split: Mapping[str, Any]) -> Iterator[str]:
    for name, numbers in split.get("numbers", {}).items():
        text = ", ".join(f"{key} {numbers[key]:.4g}" for key in ("lowest", "mean", "highest", "std"))
        yield f"   {name}: {text}"
        yield from _bars(numbers["histogram"])


def _report_lines(split: Mapping[str, Any]) -> Iterator[str]:
    duplicates, empty = split.get("duplicates"), split.get("empty")
    if duplicates and duplicates["rows"]:
        other = duplicates["with_other_answer"]
        more = f", {other:,} of them with another answer" if other else ""
        yield f"   duplicates: {duplicates['rows']:,} of {duplicates['examined']:,} rows{more}"
        yield from (f"     {each['row']} equals {each['same_as']}" for each in duplicates["first"])
    if empty and (empty["inputs"] or empty["answers"]):
        yield f"   empty: {empty['inputs']:,} inputs, {empty['answers']:,} answers"
        yield from (f"     {row}" for row in empty["first"])
    for leak in split.get("leakage", ()):
        near = "near ones not counted, which needs datasketch: pip install 'peftkit[data]'"
        if leak["near"] is not None:
            part = leak["examined_near"][0]
            near = f"{leak['near']:,} nearly" + (f" (of {part:,} compared)" if part < leak["examined"][0] else "")
        groups = f", {leak['groups']:,} in a group that is there too" if leak["groups"] else ""
        rows, others = leak["examined"]
        exact = f"{leak['exact']:,} of {rows:,} rows exactly"
        yield f"   also among {others:,} rows of {leak['of']}: {exact}, {near}{groups}"
        for each in leak["first"]:
            word = next(key for key in each if key != "row")
            yield f"     {each['row']} {word.replace('_', ' ')} {each[word]}"


def _bars(histogram: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """Yields a line for each bin of a histogram; none for a single bin."""
    if len(histogram) < 2:
        return
    most = max(each["rows"] for each in histogram)
    labels = [f"{each['from']:.4g} to {each['to']:.4g}" for each in histogram]
    width = max(map(len, labels))
    for label, each in zip(labels, histogram, strict=True):
        bar = "#" * max(each["rows"] > 0, round(BAR * each["rows"] / most))
        yield " ".join(filter(None, [f"     {label:>{width}}", bar, f"{each['rows']:,}"]))


def _indented(text: str) -> list[str]:
    return [f"     {line}" for line in text.splitlines() or [""]]
