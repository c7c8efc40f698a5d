"""Version, changelog, its fragments and the citation agree, and the fragments can be collected."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

import peftkit

ROOT = Path(__file__).parents[2]
TYPES = [t["directory"] for t in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]["type"]]
FRAGMENTS = [f for f in sorted((ROOT / "changelog.d").iterdir()) if f.name not in ("README.md", "template.md.jinja")]


def test_the_latest_release_is_the_version_of_package_and_citation() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## \[(.+)\] - (\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert releases[0] == (peftkit.__version__, citation["date-released"])
    assert citation["version"] == peftkit.__version__
    assert len(re.findall(r"^## ", text, re.MULTILINE)) == len(releases)


def test_every_fragment_has_a_type_and_a_text() -> None:
    assert [f.name for f in FRAGMENTS if not re.fullmatch(rf"[a-z0-9-]+\.({'|'.join(TYPES)})\.md", f.name)] == []
    assert [f.name for f in FRAGMENTS if not f.read_text(encoding="utf-8").strip()] == []


def test_fragments_are_collected_below_their_types(tmp_path: Path) -> None:
    (tmp_path / "changelog.d").mkdir()
    for name in ("pyproject.toml", "CHANGELOG.md", "changelog.d/template.md.jinja"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for kind in TYPES:
        (tmp_path / f"changelog.d/one.{kind}.md").write_text(f"The text of {kind}.\n", encoding="utf-8")
        (tmp_path / f"changelog.d/two.{kind}.md").write_text(f"Another text of {kind}.\n", encoding="utf-8")
    command = (sys.executable, "-m", "towncrier", "build", "--yes", "--version", "9.9.9", "--date", "2030-01-02")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, section, after = re.split(
        r"(?m)^(?=## \[)", (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8"), maxsplit=2
    )
    parts = [f"### {t.title()}\n\n- The text of {t}.\n- Another text of {t}.\n" for t in TYPES]
    assert section.split("\n", 1)[0] == "## [9.9.9] - 2030-01-02"
    assert section.split("\n\n", 1)[1].strip() == "\n".join(parts).strip()
    assert (before + after).strip() == (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").strip()
    assert sorted(f.name for f in (tmp_path / "changelog.d").iterdir()) == ["template.md.jinja"]
