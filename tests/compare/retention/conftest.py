"""Runs of two methods with two seeds, with a probe of texts and one of choices."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest

from peftkit.compare.input.groups import RunGroup
from peftkit.compare.matched_methods import load_groups
from peftkit.plugins import Registry

TEXTS = [f"a {size} {thing} is {colour}" for size in ("big", "old") for thing in ("leaf", "sea") for colour in "ab"]


@pytest.fixture(scope="package")
def probed_runs(models: dict[str, Path], registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peftkit.train.run import run
    from tests.tiny_runs import recipe_maker

    folder = tmp_path_factory.mktemp("probed")
    (folder / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    texts = f'{{name = "texts", path = "{(folder / "texts.txt").as_posix()}", examples = 5}}'
    probes = f'probe=[{texts}, {{name = "choices", task = {{name = "colour_choice"}}}}]'
    make = recipe_maker(models, registry, folder)
    with mock.patch.dict(os.environ, {"PEFTKIT_CACHE": str(folder / "cache")}):
        for method in ("full", "ia3"):
            for seed in (1, 2):
                run(make("decoder", f"method.name={method}", f"run.seed={seed}", probes), registry, quiet=True)
    return folder / "runs"


@pytest.fixture(scope="package")
def probed_group(probed_runs: Path) -> RunGroup:
    [group] = load_groups([probed_runs])[0]
    return group
