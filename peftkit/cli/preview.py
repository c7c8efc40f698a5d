"""The verb ``task preview``: what a model gets to see."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from peftkit.output import shows_all_characters
from peftkit.plugins import load_registry
from peftkit.recipe import load_recipe

MOST_ANSWERS = 20


def preview_task(recipe: str, overrides: Iterable[str], split: str, number: int, *, as_json: bool) -> int:
    """Prints rows of the recipe's task as they are encoded, and what can be said of all.

    Raises:
        PeftkitError: the recipe, the data or the tokenizer are wrong.
    """
    loaded = load_recipe(recipe, load_registry(), overrides)
    from peftkit.runner.preview import preview  # transformers: only once the recipe is known to be right

    told = preview(loaded, split, number)
    print(_json(told) if as_json else _page(told))
    return 0


def _json(preview: Mapping[str, Any]) -> str:
    return json.dumps({"format": 1, **preview}, indent=2, ensure_ascii=not shows_all_characters(sys.stdout))


def _page(told: Mapping[str, Any]) -> str:
    lines = [f"{told['task']} ({told['kind']}) as {told['model']} sees it ({told['model_kind']})"]
    for number, example in enumerate(told["examples"], 1):
        kept, whole = example["source_tokens_kept"], example["source_tokens"]
        cut = f", cut from {whole}" if kept < whole and whole > told["limits"]["source"] else ""
        lines += ["", f"{number}. {example['row']}", f"   source ({kept} tokens{cut})", *_indented(example["source"])]
        tokens = f" ({example['target_tokens']} tokens)" if example["target_tokens"] else ""
        lines += [f"   target{tokens}", *_indented(example["target"])]
        if len(example["candidates"]) > 1:
            lines.append("   candidates")
            for candidate in example["candidates"]:
                tokens = f" ({candidate['tokens']} tokens)" if candidate["tokens"] else ""
                lines.append(f"     {'*' if candidate['right'] else ' '} {candidate['text']}{tokens}")
        for key in ("references", "extra"):
            if key in example:
                lines += [f"   {key}", *_indented(json.dumps(example[key], ensure_ascii=False))]
    lines.append("")
    for name, split in told["splits"].items():
        rows = "streamed" if split["rows"] is None else f"{split['rows']:,} rows"
        lines.append(f"{name}: {rows}; of {split['judged']:,}:")
        for side, lengths in split["lengths"].items():
            if lengths["longest"]:
                measured = ", ".join(f"{word} {tokens}" for word, tokens in lengths.items())
                cut = f"; {split['cut'][side]:,} cut to {told['limits'][side]}" if split["cut"][side] else ""
                lines.append(f"   {side} tokens: {measured}{cut}")
        if "answers" in split:
            shares = sorted(split["answers"].items(), key=lambda pair: -pair[1])
            more = f", and {len(shares) - MOST_ANSWERS} more" if len(shares) > MOST_ANSWERS else ""
            lines.append("   right: " + ", ".join(f"{a} {share:.1%}" for a, share in shares[:MOST_ANSWERS]) + more)
    return "\n".join(lines)


def _indented(text: str) -> list[str]:
    return [f"     {line}" for line in text.splitlines() or [""]]
