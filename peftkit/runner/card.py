"""The model card of a finished run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from peftkit.recipe import Recipe
from peftkit.recipe.names import BUILT_IN_MODELS, HUB_ID
from peftkit.runner.forms import FORMS
from peftkit.runs import RunDirectory


def model_card(path: Path, recipe: Recipe, *, merged: bool = False) -> str:
    """A model card: base model, task, method, scores with their intervals, cost, and the recipe."""
    summary = RunDirectory(path).summary()
    environment = json.loads((path / "environment.json").read_text(encoding="utf-8"))
    selected, cost = summary["selected"], summary["cost"]
    header = ["---", "tags: [peftkit]"]
    if HUB_ID.fullmatch(recipe.model.name):  # a folder of this machine is nothing to a hub
        header.insert(1, f"base_model: {json.dumps(recipe.model.name)}")
    if recipe.method.name != "full" and not merged and (path / "model" / "adapter_config.json").is_file():
        header.append("library_name: peft")
    lines = [*header, "---", f"# {recipe.run.name}", ""]
    how = "with the update folded into its weights" if merged else "the selected checkpoint"
    lines += [
        f"`{recipe.model.name}` trained on `{recipe.task.name}` with `{recipe.method.name}` by peftkit; {how}, step "
        f"{selected['step']} of {summary['steps']}, chosen by {summary['selects']} on dev.",
        "",
        "| test | value | 95 % interval |",
        "|---|---|---|",
    ]
    with (path / "predictions" / "test.jsonl").open(encoding="utf-8") as lines_of_test:
        examples = sum(1 for _ in lines_of_test)
    for key, value in selected.get("test", {}).items():
        lines.append(f"| {key} | {value:.4f} | {_interval(key, value, examples)} |")
    trained, total = summary["parameters"]["trainable"], summary["parameters"]["total"]
    lines += ["", "## Load it", "", *_how_to_load(summary, recipe, merged=merged), "", "## How it was trained"]
    lines += [
        "",
        f"{examples} test examples, seed {summary['seed']}. Trainable parameters: {trained:,} of {total:,}. Cost: "
        + ", ".join(f"{key} {value:,.6g}" for key, value in cost.items())
        + f"; {summary['samples']:,} samples.",
        "",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in environment["packages"].items() if v) + ".",
        "",
        "```toml",
        (path / "recipe.toml").read_text(encoding="utf-8").rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _how_to_load(summary: Mapping[str, Any], recipe: Recipe, *, merged: bool) -> list[str]:
    """The lines of Python that load the trained model, by the library whose format it has."""
    kind = summary.get("model_kind")
    auto_class = FORMS[kind].auto_class if kind else "AutoModel"
    name, dtype = recipe.model.name, f"dtype=torch.{recipe.model.dtype}"
    # A head for other labels gives way to the one in the files.
    head = f", num_labels={len(recipe.task.labels) or 1}, ignore_mismatched_sizes=True" if kind == "encoder" else ""
    base = f"base = {auto_class}.from_pretrained({name!r}, {dtype}{head})"
    imports = ["import torch", f"from transformers import {auto_class}"]
    if name in BUILT_IN_MODELS:
        imports, base = (
            ["from peftkit.recipe.names import model_path", *imports],
            base.replace(repr(name), f"model_path({name!r})"),
        )
    library = "transformers" if merged else recipe.method.loaded_by
    code = {
        "transformers": [
            *("import torch", f"from transformers import {auto_class}", ""),
            f'model = {auto_class}.from_pretrained("FOLDER", {dtype})',
        ],
        "peft": [
            *("from peft import PeftModel", *imports, ""),
            *(base, 'model = PeftModel.from_pretrained(base, "FOLDER")'),
        ],
        "adapters": [
            *("import adapters", *imports, ""),
            *(base, "adapters.init(base)", 'base.load_adapter("FOLDER", set_active=True, use_safetensors=True)'),
        ],
        "peftkit": ["import peftkit", "", 'model, tokenizer = peftkit.load_model("FOLDER")'],
    }[library]
    lines = ["`FOLDER` is this folder, with all of its files:", "", "```python", *code, "```"]
    if summary["parameters"].get("new_head"):
        lines += ["", "The classification head was new and is part of the files."]
    return lines


def _interval(key: str, value: float, examples: int) -> str:
    """Wilson's interval where the value is a share of the examples."""
    if key not in ("accuracy", "accuracy_norm", "exact_match") or not examples:
        return ""
    interval = binomtest(round(value * examples), examples).proportion_ci(method="wilson")
    return f"{interval.low:.4f} to {interval.high:.4f}"
