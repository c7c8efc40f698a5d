"""Write the model card of a finished run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftkit.evaluate.wilson_interval import wilson_interval
from peftkit.models import FAMILIES
from peftkit.models.bound_objective import transformers_class
from peftkit.recipe import Recipe
from peftkit.recipe.model_names import BUILT_IN_MODELS, HUB_ID
from peftkit.run_directory import RunDirectory


def model_card(path: Path, recipe: Recipe, *, merged: bool = False) -> str:
    """Build a model card: base model, task, method, scores with confidence intervals, cost, and the recipe.

    Args:
        path: The run directory.
        recipe: Its recipe.
        merged: Whether the card is for merged weights.

    Returns:
        The card as Markdown with YAML front matter.
    """
    summary = RunDirectory(path).summary()
    environment = json.loads((path / "environment.json").read_text(encoding="utf-8"))
    selected, cost = summary["selected"], summary["cost"]
    objective = recipe.objective_for(summary["model_kind"]) if summary.get("model_kind") else None
    # Other folders have the files of peftkit alone.
    has_files = objective is not None and (merged or recipe.method.loaded_by in ("transformers", "peft"))
    header = ["---", "tags: [peftkit]"]
    if HUB_ID.fullmatch(recipe.model.name):  # a local path means nothing on the hub
        header.insert(1, f"base_model: {json.dumps(recipe.model.name)}")
    metadata = dict(objective.card_metadata) if objective is not None and has_files else {}
    if recipe.method.name != "full" and not merged and (path / "model" / "adapter_config.json").is_file():
        metadata.setdefault("library_name", "peft")
    header += [f"{key}: {value}" for key, value in metadata.items()]
    lines = [*header, "---", f"# {recipe.run.name}", ""]
    weights = "merged weights of the selected checkpoint" if merged else "the selected checkpoint"
    lines += [
        f"`{recipe.model.name}` trained on `{recipe.task.name}` with `{recipe.method.name}` by peftkit: {weights}, "
        f"step {selected['step']} of {summary['steps']}, selected by {summary['selection_metric']} on dev.",
        "",
        "| test | value | 95 % interval |",
        "|---|---|---|",
    ]
    with (path / "predictions" / "test.jsonl").open(encoding="utf-8") as predictions:
        examples = sum(1 for _ in predictions)
    for key, value in selected.get("test", {}).items():
        lines.append(f"| {key} | {value:.4f} | {_interval(key, value, examples)} |")
    for name in summary.get("evaluation_sets", ()):
        rows = summary["rows_evaluated"]["selected"][name]
        lines += ["", f"| {name}, {rows:,} examples | value | 95 % interval |", "|---|---|---|"]
        lines += [f"| {key} | {value:.4f} | {_interval(key, value, rows)} |" for key, value in selected[name].items()]
    trained, total = summary["parameters"]["trainable"], summary["parameters"]["total"]
    lines += ["", "## Usage", "", *_loading_code(path, summary, recipe, merged=merged)]
    if objective is not None and (usage := objective.describe_usage(_loading_record(path), has_files=has_files)):
        lines += ["", usage]
    lines += ["", "## Training"]
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


def _loading_record(path: Path) -> dict[str, Any]:
    """Returns what a run recorded of its model; empty for runs of older versions."""
    file = path / "loading.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _loading_code(path: Path, summary: Mapping[str, Any], recipe: Recipe, *, merged: bool) -> list[str]:
    """Python code that loads the trained model with the library of its format."""
    kind = summary.get("model_kind")
    objective = recipe.objective_for(kind) if kind else None
    needed = objective.head(recipe.task) if objective else None
    auto_class = "AutoModel"
    if objective and kind:
        auto_class = transformers_class(objective, recipe.task, FAMILIES[kind], _loading_record(path).get("config", {}))
    name, dtype = recipe.model.name, f"dtype=torch.{recipe.model.dtype}"
    # A head with a different number of labels is replaced by the one in the files.
    head = f", num_labels={needed.outputs}, ignore_mismatched_sizes=True" if needed and needed.outputs else ""
    if needed and needed.problem_type:
        head = f", problem_type={needed.problem_type!r}{head}"
    base = f"base = {auto_class}.from_pretrained({name!r}, {dtype}{head})"
    imports = ["import torch", f"from transformers import {auto_class}"]
    if name in BUILT_IN_MODELS:
        imports, base = (
            ["from peftkit.recipe.model_names import model_path", *imports],
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
    lines = ["Replace `FOLDER` with the path of this folder:", "", "```python", *code, "```"]
    if summary["parameters"].get("new_head"):
        lines += ["", "The files include the trained classification head."]
    calibration = summary.get("selected", {}).get("calibration", {})
    if objective and (text := objective.describe_outputs(recipe.task, calibration)):
        lines += ["", text]
    return lines


def _interval(key: str, value: float, examples: int) -> str:
    """Wilson's 95 % interval if the metric is a proportion of examples."""
    if key not in ("accuracy", "accuracy_norm", "exact_match") or not examples:
        return ""
    low, high = wilson_interval(round(value * examples), examples)
    return f"{low:.4f} to {high:.4f}"
