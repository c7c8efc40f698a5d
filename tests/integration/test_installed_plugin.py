"""A third-party plugin: an installed distribution with an entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository.test_docs import blocks

[NORM_TUNING] = [block for block in blocks("README.md", "python") if "register_methods" in block]
"""The plugin in the README."""


@pytest.mark.slow
def test_an_installed_plugin_is_listed_shown_and_checked(tmp_path: Path) -> None:
    info = tmp_path / "site" / "peftkit_norm_tuning-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: peftkit-norm-tuning\nVersion: 1.2\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[peftkit]\nnorm_tuning = peftkit_norm_tuning\n", encoding="utf-8")
    (tmp_path / "site" / "peftkit_norm_tuning.py").write_text(NORM_TUNING, encoding="utf-8")
    recipe = '[model]\nname = "pocket-decoder"\n[task]\nname = "wordnet_topic"\n[method]\nname = "norm_tuning"\n'
    (tmp_path / "x.toml").write_text(recipe, encoding="utf-8")

    def peftkit(*words: str, **variables: str) -> tuple[int, str, str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(tmp_path / "site"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "COLUMNS": "200",
            **variables,
        }
        command = [sys.executable, "-m", "peftkit", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        return done.returncode, done.stdout, done.stderr

    code, out, err = peftkit("list", "methods")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines() if "norm_tuning" in line] == [
        ["norm_tuning", "peftkit-norm-tuning", "Train", "the", "layer", "norms", "only."]
    ]
    code, out, err = peftkit("show", "norm_tuning")
    assert (code, err) == (0, "")
    assert out.startswith("norm_tuning (method, from peftkit-norm-tuning 1.2)\n\nTrain the layer norms only.\n")
    assert peftkit("check", "x.toml") == (0, "x.toml: OK (norm_tuning on wordnet_topic, pocket-decoder)\n", "")
    code, out, err = peftkit("check", "x.toml", PEFTKIT_PLUGINS="")
    assert (code, out) == (2, "")
    assert err.startswith("peftkit: error: x.toml:6: method.name: no method is called 'norm_tuning'")
