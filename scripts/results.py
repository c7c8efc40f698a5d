"""Runs the sweep on the pocket models and writes docs/results/: the page, figures and tables.

    .venv-adapters/bin/python scripts/results.py [--models pocket-t5,...] [--jobs 2] [--no-run]

Finished runs are kept, without weights, in docs/results/runs.tar.xz. The command resumes from them on any machine, and
all results can be recomputed from them (tar xf docs/results/runs.tar.xz; peftkit compare pocket).
"""

from __future__ import annotations

import argparse
import html
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from peftkit.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "results"
ARCHIVE = DOCS / "runs.tar.xz"
SWEEP = "recipes/sweeps/pocket.toml"
KEPT = ("recipe.toml", "environment.json", "evaluations.jsonl", "summary.json", "tuning.json", "sweep.json")
FIGURES = ("curves-gmacs", "pareto", "gmacs-per-step-relative", "memory", "speed")
COLUMNS = ("index", "group", "source", "target", "prediction", "prediction_norm")
LOSS_COLUMNS = ("loss", "tokens")
"""Further columns that are kept if the loss selects checkpoints."""
PLUGINS = "peftkit-adapters,peftkit-lora-xs"
"""Plugins with methods; energy is not measured, since several runs share the machine."""
PAGE = """# Every method on the built-in models

> **Notice.** {notice}

Made by `python scripts/results.py` in the environment of `peftkit-adapters` (`.venv-adapters`) from
[recipes/sweeps/pocket.toml](../../recipes/sweeps/pocket.toml): each installed method that fits a model, on the three
built-in tasks, with three seeds and three trials of its learning rate. The runs are in `runs.tar.xz` and can be
compared again: `tar xf docs/results/runs.tar.xz; peftkit compare pocket`. [pocket.html](pocket.html) is the interactive
report; the figures beside it are those of `peftkit report --figures`.

{environments}
{progress}
Two runs at a time shared these cores, so that seconds compare methods only roughly; MACs, memory and scores do not
depend on it. `wordnet_distractors` is compared by loss: within this budget no method learns to generate correct words.
C3A, VB-LoRA and both Compacters are left out where their defaults do not divide the width of 192. The recipe check
rejects the other missing combinations:

{incompatible}

{tables}"""
EXCLUDED = ("pocket-encoder",)
"""Models whose runs are left out of archive, pages and figures until they are run again: layers of their new heads
stayed frozen at random values with every method but full, so that their scores compare heads and not methods."""
NOTICE = (
    "These results are out of date and will be made anew; do not cite them. The learning rate of each method was "
    "tuned by three trials that lie close together: in 222 of 431 studies within a factor of five. A method may rank "
    "low here because of its learning rate alone. The encoder's tables were taken away: layers of its new "
    "classification head stayed frozen at random values with every method but full."
)
"""The text at the top of every page until the sweep is run again."""
VERSIONS = ("torch", "transformers", "peft", "adapters")
SHOWN = 5
"""The number of predictions that keep their source, for the page."""


def pack(folder: Path, archive: Path) -> None:
    """Pack the finished runs below a folder, reproducibly."""
    file = archive.with_name(f".{archive.name}.tmp")
    with tarfile.open(file, mode="w:xz", preset=9) as tar:
        for path in sorted(folder.rglob("*")):
            predictions = path.parent.name == "predictions" and path.name == "test.jsonl"
            if not (path.name in KEPT or (predictions and "trials" not in path.parts)):
                continue
            run = path.parent.parent if predictions else path.parent
            if (run / "recipe.toml").is_file() and (not finished(run) or model_of(run) in EXCLUDED):
                continue
            if path.name == "tuning.json" and {model_of(each) for each in path.parent.iterdir()} & {*EXCLUDED}:
                continue
            data = slim(path) if predictions else path.read_bytes()
            if path.name == "environment.json":  # the build of the kernel is not of interest
                data = json.dumps(json.loads(data) | {"platform": platform.system()}, sort_keys=True).encode()
            entry = tarfile.TarInfo(str(path.relative_to(folder.parent)))
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    file.replace(archive)


def finished(run: Path) -> bool:
    """Whether a run is finished."""
    try:
        return bool(json.loads((run / "summary.json").read_text(encoding="utf-8"))["status"] == "done")
    except (OSError, ValueError, KeyError):
        return False


def model_of(run: Path) -> str:
    """The model of a run; empty if the folder is not a run."""
    file = run / "recipe.toml"
    return str(tomllib.loads(file.read_text(encoding="utf-8"))["model"]["name"]) if file.is_file() else ""


def insert_notice(page: str) -> str:
    """Insert the notice below the title of an HTML page."""
    heading, end, rest = page.partition("</h1>")
    return f'{heading}{end}<p role="alert"><strong>{html.escape(NOTICE)}</strong></p>{rest}'


def slim(path: Path) -> bytes:
    """The columns of the predictions that the statistics need, as JSON lines."""
    metric = RunDirectory(path.parent.parent).summary()["selection_metric"]
    columns = (*COLUMNS, *(LOSS_COLUMNS if metric == "loss" else ()))
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        lines.append({key: row[key] for key in columns if key in row and (key != "source" or number < SHOWN)})
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in lines).encode()


def peftkit(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a peftkit command in the repository."""
    variables = {**os.environ, "PEFTKIT_PLUGINS": PLUGINS}
    return subprocess.run([sys.executable, "-m", "peftkit", *words], cwd=ROOT, env=variables, text=True, **options)


def status() -> dict[str, Any]:
    """The state of the sweep."""
    output = peftkit("sweep", "status", SWEEP, "--json", stdout=subprocess.PIPE, check=True).stdout
    state: dict[str, Any] = json.loads(output)
    return state


def incompatible(state: dict[str, Any]) -> str:
    """Format the incompatible methods, with the models and the reason."""
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    for each in state["incompatible"]:
        model, _, method = each["label"].split(" · ")
        if model in EXCLUDED:
            continue
        key, _, why = each["reason"].partition("; task.name: ")[0].partition(": ")
        if key.startswith("method."):  # other keys: encoders do not generate
            reason = why.partition(": ")[2] if why.startswith(repr(method)) else why
            reasons.setdefault((method, reason), {})[model] = None
    return "\n".join(
        f"* `{method}` ({', '.join(models)}): {reason}" for (method, reason), models in sorted(reasons.items())
    )


def progress(state: dict[str, Any]) -> str:
    """Format how many runs of the sweep are missing; empty if none are."""
    studies = [study for study in state["studies"] if study["label"].split(" · ")[0] not in EXCLUDED]
    states = [each for study in studies for each in study["seeds"].values()]
    done = states.count("done")
    if done == len(states):
        return ""
    return f"\n**{done:,} of {len(states):,} runs are done so far**; the same command runs the others.\n"


def environments(folder: Path) -> str:
    """Format the environments in which the runs of each model were finished."""
    texts: dict[str, set[str]] = {}
    number: dict[str, int] = {}
    for file in sorted(folder.glob("runs/*/*/environment.json")):
        if not finished(file.parent):
            continue
        environment, summary = json.loads(file.read_text()), json.loads((file.parent / "summary.json").read_text())
        hardware, packages = environment["hardware"], environment["packages"]
        device = ", ".join(hardware.get("devices", ())) or f"{hardware.get('threads')} of {hardware['cores']} cores"
        versions = ", ".join(f"{name} {packages[name]}" for name in VERSIONS if name in packages)
        text = f"{hardware.get('processor')} ({device}); Python {environment['python']}, {versions}"
        texts.setdefault(summary["model"], set()).add(text)
        number[summary["model"]] = number.get(summary["model"], 0) + 1
    return "\n".join(
        f"* `{model}`, {number[model]} runs: {'; also '.join(sorted(each))}" for model, each in texts.items()
    )


def main() -> int:
    """Unpack the archive, run what is missing, pack it again, and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="pocket-t5,pocket-decoder")
    parser.add_argument("--jobs", default="2")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="folder of the runs (default: runs/)")
    parser.add_argument("--no-run", action="store_true", help="only write the pages")
    options = parser.parse_args()
    folder = options.runs / "pocket"
    DOCS.mkdir(parents=True, exist_ok=True)
    if ARCHIVE.is_file() and not folder.exists():
        options.runs.mkdir(parents=True, exist_ok=True)
        with tarfile.open(ARCHIVE) as tar:
            tar.extractall(options.runs, filter="data")
    code = 0
    if not options.no_run:
        only = [word for model in options.models.split(",") for word in ("--only", f"model={model}")]
        code = peftkit("sweep", SWEEP, *only, "--jobs", options.jobs).returncode
    pack(folder, ARCHIVE)
    with tempfile.TemporaryDirectory() as parent, tarfile.open(ARCHIVE) as tar:
        tar.extractall(parent, filter="data")
        return write_pages(Path(parent) / folder.name, status()) or code


def write_pages(folder: Path, state: dict[str, Any]) -> int:
    """Write pages, figures and tables from the unpacked archive."""
    page = DOCS / "pocket.html"
    options = ("-o", str(page), "--title", "Pocket models: PEFT methods by score and cost")
    code = peftkit("report", str(folder), *options, "--figures", str(DOCS), "--form", "svg").returncode
    page.write_text(insert_notice(page.read_text(encoding="utf-8")), encoding="utf-8")
    for file in DOCS.glob("*.svg"):  # keep the figures that the page does not have
        if not file.stem.endswith(FIGURES):
            file.unlink()
    tables = DOCS / "tables.md"
    code = peftkit("compare", str(folder), "--format", "markdown", "-o", str(tables)).returncode or code
    text = PAGE.format(
        notice=NOTICE,
        environments=environments(folder),
        progress=progress(state),
        incompatible=incompatible(state),
        tables=tables.read_text(encoding="utf-8"),
    )
    tables.unlink()
    (DOCS / "README.md").write_text(text, encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
