"""The plugin reference is what the code says, and has every public type."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import peftkit

FILE = Path(__file__).parents[2] / "scripts/plugin_reference.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plugin_reference", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_document_is_up_to_date(script: ModuleType) -> None:
    assert script.DOCUMENT.read_text(encoding="utf-8") == script.document(), f"run python {FILE.name} --write"


def test_every_public_class_of_components_and_every_attribute_is_in_it(script: ModuleType) -> None:
    document = script.document()
    prefixes = ("peftkit.components", "peftkit.tasks", "peftkit.errors")
    public = [getattr(peftkit, name) for name in peftkit.__all__]
    classes = [value for value in public if inspect.isclass(value) and value.__module__.startswith(prefixes)]
    assert len(classes) > 15
    assert [c.__name__ for c in classes if not re.search(rf"^(### |\| `){c.__name__}\b", document, re.MULTILINE)] == []
    for given in script.given_types():
        section = document.split(f"### {given.__name__}\n")[1].split("\n#")[0]
        for name in given.__dataclass_fields__:
            assert re.search(rf"^\| `{name}` \| `.+` \| .+ \| .+ \|$", section, re.MULTILINE), (
                f"{given.__name__}.{name}"
            )


PEFT = "wraps peft, whose methods a plugin extends with presets"
BASE = "is the implementation of a public base class"
NOT_PUBLIC_FILES = {
    **dict.fromkeys(("methods/peft_*", "methods/adalora.py", "methods/lora*.py"), PEFT),
    **dict.fromkeys(("methods/prefix_tuning.py", "methods/vera.py"), PEFT),
    **dict.fromkeys(
        ("tasks/dataset_task.py", "tasks/data_check.py", "tasks/labels.py", "tasks/file_task.py", "tasks/sources/*"),
        BASE,
    ),
    "tasks/tag_recognition.py": "of token_tagging",
    **dict.fromkeys(
        ("tasks/columns.py", "tasks/text_tasks/text_task.py", "tasks/bad_rows.py", "metrics/evaluate_module.py"), BASE
    ),
    "tasks/hub_suites/*": BASE,
    "*/__init__.py": "registers the built-in components",
}
"""Modules of built-in components that do not need to do with public names, and why."""
NOT_PUBLIC = {
    **dict.fromkeys(("find_label_names", "find_unmatched_label"), "TextClassification.labels has them"),
    "missing_column_error": "task.load() reports missing columns",
    "load_valid_splits": "task.load() returns them",
    "ROWS_PER_FILE": "of the checks of DatasetTask",
    "EvaluateModule": "EvaluateMetric.module() returns one",
    "FreeGeneration": "of the built-in objectives that generate answers",
    "pseudo_values": "Metric.is_mean_of_examples names its module",
    **dict.fromkeys(
        (
            *("DataSample", "Column", "column_names", "held_out_options", "local_files", "local_splits"),
            *("path_option", "answer_columns", "constant_answer", "decimal_commas", "find_delimiter", "find_pair"),
            *("is_named", "is_rare", "unlabeled_value", "FEW_LABELS", "MAX_WORDS", "ROWS_PER_LABEL"),
        ),
        "of tasks that recognize users' data",
    ),
    **dict.fromkeys(("file_encoding", "file_format", "guess_sample_by"), "of tasks that recognize users' data"),
    **dict.fromkeys(("FileLayout", "SampleBy"), "of tasks with files in a form of their own"),
    **dict.fromkeys(("recognize_conll", "recognize_tags"), "of token_tagging"),
    **dict.fromkeys(("LabelNames", "map_label", "train_feature_names"), "TextClassification.labels has them"),
    **dict.fromkeys(("NO_ANSWER", "SquadFormat"), "of span_qa"),
    **dict.fromkeys(
        ("OUTSIDE", "SCHEMES", "SCHEME_KEY", "SchemeName", "Entity", "entities", "lenient_entities", "strict_entities"),
        "of token_tagging",
    ),
    **dict.fromkeys(("repair_tags", "tag_problem", "ConllFormat", "assign_tokens"), "of token_tagging"),
    **dict.fromkeys(("disk_file", "field_counts", "is_archive", "iterate"), "of token_tagging"),
    "windows_as_texts": "of token_tagging and span_qa",
    "TextTask": "of the built-in tasks of texts and pairs of texts",
    **dict.fromkeys(("VectorObjective", "model_prompts", "RegressionObjective", "read_targets"), "of embeddings"),
    "collapse_blanks": "of embeddings",
    **dict.fromkeys(("format_number", "join_numbers", "parse_numbers", "get_number_text"), "of regression"),
    **dict.fromkeys(
        ("LABELS", "NO_LABEL", "SEPARATOR", "join_labels", "split_labels", "label_extra"), "of multi-label"
    ),
    **dict.fromkeys(
        ("label_name", "natural_sort_key", "split_loading", "DataSource"), "TextMultiLabel.labels has them"
    ),
    **dict.fromkeys(("LabelNames", "is_ignored", "map_label", "train_feature_names"), "of TextClassification's labels"),
    "configurations": "of the presets of peft's methods",
    **dict.fromkeys(
        ("LAYER_NORM", "LAYER_NORM_BY_PEFT", "by_peft", "compared", "compared_by_default"), "learning rates"
    ),
    **dict.fromkeys(("EXTRACTIONS", "Extraction", "are_equal_numbers"), "of metrics that extract answers"),
    **dict.fromkeys(("INSTRUCTIONS_KEY", "detects_languages", "follows", "loose_versions"), "of instruction_following"),
    "rewrite_texts": "of objectives that generate text",
    **dict.fromkeys(("GENERATION_TAG", "TrainOn", "score_trained_tokens"), "of conversations"),
    **dict.fromkeys(("VectorObjective", "RegressionObjective", "read_targets", "model_prompts"), "of embeddings"),
    **dict.fromkeys(
        ("load_harness_tasks", "numbers_among", "value_name", "hold_out"), "of tasks of lm-evaluation-harness"
    ),
    **dict.fromkeys(("TrainerCallback", "EarlyStoppingConfig"), "of [train.early_stopping], a table of the recipe"),
}
"""Names that built-in components import and a plugin does not need, and why."""


def imported_names(file: Path) -> set[str]:
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(re.sub(r"\$\{?(\w+)\}?", r"\1", text) if file.suffix == ".in" else text)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imports = [node for node in imports if re.match(r"peftkit\b(?!\.testing)", node.module or "")]
    names = {alias.name for node in imports for alias in node.names}
    modules = names & {"prompt_templates"}
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    }
    return names - modules | used


def test_what_built_in_components_need_is_public(script: ModuleType) -> None:
    package = Path(peftkit.__file__).parent
    kinds = ("tasks", "objectives", "metrics", "meters", "methods")
    files = [file for kind in kinds for file in sorted((package / kind).rglob("*.py"))]
    files = [f for f in files if not any(f.relative_to(package).match(pattern) for pattern in NOT_PUBLIC_FILES)]
    files += [package / "train" / "early_stopping.py", *(package / "assets" / "scaffold").glob("*.py.in")]
    assert len(files) > 25
    document = script.document()
    unknown = {
        name: file.name
        for file in files
        for name in imported_names(file) - {*peftkit.__all__, *NOT_PUBLIC}
        if not re.search(rf"`{name}[(`]|^### {name}$", document, re.MULTILINE)
    }
    assert unknown == {}


def test_an_attribute_without_documentation_is_an_error(script: ModuleType) -> None:
    assert script.entries("a: First,\n    continued.\nb: Second.\n") == {"a": "First, continued.", "b": "Second."}
    with pytest.raises(KeyError):
        script.of_dataclass(type("Bare", (script.types.StepStats,), {"__doc__": "No attributes."}))
