from __future__ import annotations

import html
import json
import tarfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from tests.compare.conftest import Plant, plant

__all__ = ["plant"]  # the fixture

SCRIPT = Path(__file__).parents[2] / "scripts" / "results.py"


@pytest.fixture
def results() -> Any:
    spec = spec_from_file_location("results", SCRIPT)
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_packed_compares_like_the_runs_themselves(plant: Plant, results: Any, tmp_path: Path) -> None:
    from peftkit.compare.comparison import compare
    from peftkit.compare.input.groups import group_runs
    from peftkit.compare.input.load_runs import find_runs

    sweep = tmp_path / "pocket"
    for method in ("full", "lora"):
        for seed in (1, 2):
            folder = sweep / "runs" / f"{method}{seed}"
            folder.mkdir(parents=True)
            plant(method, seed, [0.1, 0.5, 0.6 + seed / 10]).rename(folder / "run")
            (folder / "tuning.json").write_text(json.dumps({"format": 1, "trials": 3, "gmacs": 5.0}))
    (sweep / "runs" / "full1" / "run" / "model").mkdir()
    (sweep / "runs" / "full1" / "run" / "model" / "weights.safetensors").write_bytes(b"0" * 1000)
    unfinished = sweep / "runs" / "new" / "run"
    unfinished.mkdir(parents=True)
    (unfinished / "recipe.toml").write_text("")
    (sweep / "sweep.json").write_text("{}")

    archive = tmp_path / "runs.tar.xz"
    results.pack(sweep, archive)
    first = archive.read_bytes()
    results.pack(sweep, archive)
    assert archive.read_bytes() == first
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        tar.extractall(tmp_path / "again", filter="data")
    assert not [name for name in names if "model" in name or "/new/" in name]

    before, after = ([compare(s) for s in group_runs(find_runs([top])[0])] for top in (sweep, tmp_path / "again"))
    assert before == after
    assert before[0].lines[0].trials == 3
    environments = results.environments(sweep)
    assert environments == "* `m`, 4 runs: None (None of 2 cores); Python 3.11, torch 2.13.0"
    known = [
        {"label": f"{model} · t · {method}", "reason": reason}
        for model, method, reason in (
            (
                "m",
                "cpt",
                "method.name: 'cpt' is incompatible with this recipe: of decoders; task.name: no encoder writes",
            ),
            ("n", "cpt", "method.name: 'cpt' is incompatible with this recipe: of decoders"),
            ("n", "lora", "task.name: no encoder writes"),
        )
    ]
    incompatible = results.incompatible({"incompatible": known})
    assert incompatible == "* `cpt` (m, n): of decoders"
    page = results.PAGE.format(
        notice=results.NOTICE, environments=environments, progress="", incompatible=incompatible, tables="| method |"
    )
    assert environments in page
    assert page.endswith("| method |")


def test_runs_of_excluded_models_are_neither_packed_nor_listed(plant: Plant, results: Any, tmp_path: Path) -> None:
    sweep = tmp_path / "pocket"
    for model in ("m", "pocket-encoder"):
        folder = sweep / "runs" / model
        folder.mkdir(parents=True)
        plant("lora", 1, [0.1, 0.5], tables={"model": {"name": model}}).rename(folder / "run")
        (folder / "tuning.json").write_text(json.dumps({"format": 1, "trials": 3, "gmacs": 5.0}))
    archive = tmp_path / "runs.tar.xz"
    results.pack(sweep, archive)
    with tarfile.open(archive) as tar:
        assert {name.split("/")[2] for name in tar.getnames()} == {"m"}
    reason = "method.name: 'cpt' is incompatible with this recipe: of decoders"
    assert results.incompatible({"incompatible": [{"label": "pocket-encoder · t · cpt", "reason": reason}]}) == ""
    studies = [
        {"label": f"{model} · t · lora", "seeds": {"1": state}}
        for model, state in (("pocket-encoder", "open"), ("m", "done"))
    ]
    assert results.progress({"studies": studies}) == ""


def test_the_notice_stands_at_the_top_of_every_page_and_the_encoder_in_none(results: Any) -> None:
    readme = (results.DOCS / "README.md").read_text(encoding="utf-8")
    page = (results.DOCS / "pocket.html").read_text(encoding="utf-8")
    assert readme.splitlines()[2] == f"> **Notice.** {results.NOTICE}"
    shown = page.partition("</h1>")[2].lstrip()
    assert shown.startswith(f'<p role="alert"><strong>{html.escape(results.NOTICE)}</strong></p>')
    for word in ("do not cite", "by three trials", "frozen"):
        assert word in results.NOTICE
    assert "pocket-encoder" not in readme
    assert "pocket-encoder" not in page
    assert not [*results.DOCS.glob("*pocket-encoder*")]


def test_the_archive_has_no_run_of_an_excluded_model(results: Any) -> None:
    models = set()
    with tarfile.open(results.ARCHIVE) as tar:
        for entry in tar:
            file = tar.extractfile(entry) if entry.name.endswith("/summary.json") else None
            if file is not None:
                models.add(json.load(file)["model"])
    assert models == {"pocket-t5", "pocket-decoder"}
