"""Examples in the documentation work."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest

import peftkit
from peftkit import Callback, Example, Method, Task
from peftkit.plugins import BASE_CLASSES, Registry, load_registry
from peftkit.recipe import load_recipe
from peftkit.testing import METHOD_CHECKS, check_callback, check_objective, check_published_rates, check_task
from tests.tiny_runs import ColourPair

ROOT = Path(__file__).parents[2]


def blocks(file: str, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / file).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


TUTORIAL = blocks("docs/tutorials/method_plugin.md", "python")
PRINTED = [*blocks("README.md", "python"), *blocks("docs/plugins.md", "python"), *TUTORIAL]
PLUGINS = [text for text in PRINTED if "@hookimpl" in text]


def installed(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The registry of a module with this source."""
    (folder / "documented_plugin.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "documented_plugin", raising=False)
    registry = load_registry(points=[EntryPoint("documented", "documented_plugin", "peftkit")])
    # For as long as the test runs, as descriptions of options are read from its source.
    monkeypatch.setitem(sys.modules, "documented_plugin", sys.modules.pop("documented_plugin"))
    return registry


@pytest.mark.parametrize("text", PLUGINS, ids=lambda text: re.findall(r"def register_(\w+)", text)[0])
def test_every_documented_plugin_registers(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = installed(text, tmp_path, monkeypatch)
    assert registry.failures == ()
    if "register_presets" in text:
        assert dict(registry.unavailable) == {"wide_dora": "lora"}  # lora is not among the entry points of this test
        return
    (entry,) = registry.entries
    assert entry.component.model_fields["name"].default == entry.name
    assert entry.summary


def test_the_documented_objective_of_pairs_conforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [text] = [text for text in PLUGINS if "class SimPO" in text]
    documented: Any = installed(text, tmp_path, monkeypatch).all("objective")["simpo"].component

    class OfChoices(documented):  # type: ignore[misc]
        """The objective for a kind of task that has metrics."""

        task_kind = "multiple_choice"

    check_objective(OfChoices(), ColourPair(), tmp_path, runs=False)


def test_the_documented_preset_is_a_method_in_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [text] = [text for text in PLUGINS if "register_presets" in text]
    (tmp_path / "documented_preset.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    built_in = [p for p in entry_points(group="peftkit") if p.dist and p.dist.name == "peftkit"]
    registry = load_registry(points=[*built_in, EntryPoint("documented", "documented_preset", "peftkit")])
    recipe = tmp_path / "x.toml"
    recipe.write_text('[model]\nname = "pocket-t5"\n[task]\nname = "wordnet_topic"\n[method]\nname = "wide_dora"\n')
    method: Any = load_recipe(recipe, registry, ["method.r=4"]).method
    assert (method.name, method.use_dora, method.target_modules, method.r) == ("wide_dora", True, "all-linear", 4)
    assert "(did you mean 'wide_dora'?)" in registry.suggest("broad-dora")
    check_published_rates(method)
    METHOD_CHECKS["trains"](method, "bert", tmp_path / "saved")


def test_the_documented_method_passes_the_documented_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [proof] = [text for text in PRINTED if "conformance" in text]
    [method] = [text for text in PLUGINS if "class TopLayers" in text]
    (tmp_path / "peftkit_top_layers.py").write_text(method, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    namespace: dict[str, Any] = {}
    exec(proof, namespace)  # noqa: S102 - our own document
    assert {name for name in vars(namespace["TestTopLayers"]) if name.startswith("test_")} == {
        "test_options",
        "test_conforms",
    }
    for check in ("trains", "reloads", "checkpointing"):
        METHOD_CHECKS[check](namespace["TopLayers"](number=1), "bert", tmp_path / check)


@pytest.mark.parametrize("architecture", ["t5", "bert"])
def test_the_method_of_the_tutorial_conforms(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (entry,) = installed(TUTORIAL[0], tmp_path, monkeypatch).entries
    method: Any = entry.component
    for check in ("trains", "reloads"):
        METHOD_CHECKS[check](method(biases=True), architecture, tmp_path / check)


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_the_documented_wrapper_conforms(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [text] = [text for text in PLUGINS if "class OutputFactors" in text]
    (entry,) = installed(text, tmp_path, monkeypatch).entries
    method = entry.component()  # type: ignore[call-arg]
    assert isinstance(method, Method)
    for check in ("trains", "reloads", "layer_weights", "merges"):
        METHOD_CHECKS[check](method, architecture, tmp_path / check)


def test_the_documented_task_on_files_conforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [text] = [text for text in PLUGINS if "class Headlines" in text]
    (entry,) = installed(text, tmp_path, monkeypatch).entries
    rows = "article,headline\nIt rained all day.,Rain\nThe sun came out.,Sun\n"
    files = {split: str(tmp_path / f"{split}.csv") for split in ("train", "dev", "test")}
    for file in files.values():
        Path(file).write_text(rows, encoding="utf-8")
    task = entry.component.model_validate({"path": files})
    assert isinstance(task, Task)
    check_task(task)
    [first, _] = task.load()["train"]
    assert task.to_example(first) == Example("headline: It rained all day.", "Rain", truncatable_span=(10, 28))
    assert task.describe_row("train", 1).endswith("train.csv, row 2")


VARIANTS = [
    line.split("|")[2:4]
    for line in (ROOT / "docs/methods.md").read_text(encoding="utf-8").splitlines()
    if "recipes/lora/" in line
]


def test_the_documented_variants_of_lora_are_parsed() -> None:
    assert len(VARIANTS) == 12


@pytest.mark.parametrize(("cell", "link"), VARIANTS)
def test_the_documented_variants_of_lora_equal_their_recipes(cell: str, link: str) -> None:
    options = tomllib.loads("\n".join(re.findall("`([^`]+)`", cell)))
    [file] = re.findall("`([^`]+)`", link)
    method = tomllib.loads((ROOT / file).read_text(encoding="utf-8"))["method"]
    assert options
    assert method == {"name": Path(file).stem, "r": 8, "lora_alpha": 16}
    preset = load_registry().find("method", method["name"]).preset
    assert preset is not None
    assert preset.settings == options


def test_the_documented_functions_are_the_public_ones() -> None:
    text = (ROOT / "docs/python.md").read_text(encoding="utf-8").split("## Functions")[1].split("\n## ")[0]
    cells = "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    documented = set(re.findall(r"`([a-z_]+)\(", cells))
    public = {name for name in peftkit.__all__ if name.islower() and not name.startswith("__")}
    assert documented == public - {"hookimpl", "get_text", "get_texts"}  # those are for plugins


def test_the_documents_show_every_kind_of_component() -> None:
    hooks = {hook for text in PLUGINS for hook in re.findall(r"def (register_\w+)", text)}
    assert hooks == {*(f"register_{kind}s" for kind in BASE_CLASSES), "register_presets"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("target_score", {"target": 0.2, "times": 3}), ("step_log", {})])
def test_the_documented_callbacks_pass_the_documented_check(
    name: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = [t for t in PLUGINS if f'"{name}"' in t and "register_callbacks" in t]
    (entry,) = installed(text, tmp_path, monkeypatch).entries
    callback = entry.component.model_validate(options)
    assert isinstance(callback, Callback)
    check_callback(callback, tmp_path / "runs")
    if name == "step_log":
        (file,) = (tmp_path / "runs" / "with").glob("*/steps.csv")  # of a run that was resumed after its second step
        assert [line.split(",")[0] for line in file.read_text().splitlines()] == ["1", "2", "3", "4"]


def test_the_documented_task_loads_and_builds_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = [t for t in PLUGINS if "class Parity" in t]
    (entry,) = installed(text, tmp_path, monkeypatch).entries
    task = entry.component()  # type: ignore[call-arg]
    data = task.load()  # type: ignore[attr-defined]
    assert {s: len(rows) for s, rows in data.items()} == {"train": 800, "dev": 100, "test": 100}
    expected = Example("parity: 801", "odd", candidates=("even", "odd"))
    assert task.to_example(data["dev"][1]) == expected  # type: ignore[attr-defined]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_links_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_dev_commands_of_the_readme_are_stages_of_the_script() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    script = (ROOT / "scripts/dev.py").read_text(encoding="utf-8")
    stages = re.findall(r"python3 scripts/dev\.py (\w+)", text)
    assert {"quickstart", "test"} <= set(stages)
    assert [stage for stage in stages if f"def {stage}(" not in script] == []


def test_the_files_of_the_architecture_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:peftkit/)?[a-z_]+(?:/[a-z_]+)+)`", text))
    assert len(named) > 100
    bases = [ROOT / base for base in ("peftkit", "", "scripts", "tests")]
    assert sorted(n for n in named if not any((b / n).exists() or (b / f"{n}.py").exists() for b in bases)) == []
