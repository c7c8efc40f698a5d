"""Run the commands of the README and of CI with nothing but Python >= 3.11 and pip."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from development.environments import ADAPTERS, MAIN, ROOT, Environment, StageError, environment_variables, run, timed

BUILT_IN = ("quickstart.toml", "kinds/*.toml", "wordnet/*.toml", "lora/*.toml", "adapters/*.toml")
"""Recipes that need no network."""

STEPS = 3
SHORT = (
    f"train.budget.steps={STEPS}",
    "train.batch_size=8",
    "evaluate.every='100%'",
    "evaluate.train_examples=8",
    "evaluate.dev_examples=8",
    "evaluate.test_examples=8",
    "evaluate.full_splits=false",
    "evaluate.max_new_tokens=8",
)
"""Overrides with which any recipe takes seconds."""


LINT = (("ruff", "check"), ("ruff", "format", "--check"), ("mypy",), ("lint-imports",), ("typos",))
"""The commands of lint; the same as in .pre-commit-config.yaml."""


def chromium() -> str:
    """Return the browser for the report's test; root installs a missing one from Debian's packages."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if (browser and shutil.which("chromedriver")) or not (shutil.which("apt-get") and os.geteuid() == 0):
        return browser or ""
    with timed("Chromium, for the report's test"):
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        try:
            run("apt-get", "update", "-qq", **quiet)
            run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium", "chromium-driver", **quiet)
        except StageError as error:
            print(f"   the report's test in a browser is skipped: {error}", flush=True)
    return shutil.which("chromium") or ""


def processes() -> int:
    """Return the number of parallel test processes or runs; each takes a gigabyte of memory."""
    return int(os.environ.get("PEFTKIT_PROCESSES") or min(4, os.cpu_count() or 1))


@contextmanager
def scratch() -> Iterator[str]:
    """Create a folder for temporary files, in memory if there is room, because runs wait for the disk at each file."""
    memory = Path("/dev/shm")  # noqa: S108 - the folder in it has a random name
    fits = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4e9
    if fits and os.statvfs(memory).f_flag & os.ST_NOEXEC:  # DeepSpeed loads what it compiles
        fits = False
    with tempfile.TemporaryDirectory(prefix="peftkit-", dir=memory if fits else None) as folder:
        yield folder


def quickstart(environments: Sequence[Environment]) -> None:
    """Install, then compare three methods by recipes/sweeps/quickstart.toml, and write a report."""
    MAIN.run(
        "peftkit", "sweep", "recipes/sweeps/quickstart.toml", "--jobs", str(min(2, processes())), OMP_NUM_THREADS="1"
    )
    MAIN.run("peftkit", "report", "runs/quickstart", "-o", "runs/quickstart/report.html")


def test(environments: Sequence[Environment]) -> None:
    """Run the tests on both lines of transformers; the second has the plugins' tests, but not those marked one_line."""
    for environment in environments:
        _pytest(environment, "not exhaustive and not one_line" if environment.plugins else "not exhaustive")


def exhaustive(environments: Sequence[Environment]) -> None:
    """Run the tests that take too long for CI; .github/workflows/fuzz.yml does so at night."""
    for environment in environments:
        _pytest(environment, "exhaustive")


def _pytest(environment: Environment, marks: str) -> None:
    """Run the tests with these marks, and those of the plugins that the environment has."""
    folders = ["tests", *(f"{plugin}/tests" for plugin in environment.plugins)]
    words = ["-n", str(processes()), "--dist=worksteal", *folders, "-m", marks]
    environment.prepare()
    if environment is MAIN:
        install_optional("deepspeed")
    variables = {"OMP_NUM_THREADS": "1", "PEFTKIT_CHROMIUM": chromium()}
    with timed(f"tests on transformers {environment.transformers}"), scratch() as folder:
        environment.run("pytest", *words, **variables, TMPDIR=folder)


def install_optional(*packages: str) -> None:
    """Install packages that only some tests need, where they can be installed."""
    if sys.platform == "linux":
        MAIN.install(*(name for name in packages if name != "atheris" or sys.version_info < (3, 14)))


def lint(environments: Sequence[Environment]) -> None:
    """Check style, types, import layers and spelling."""
    for tool, *arguments in LINT:
        with timed(" ".join((tool, *arguments))):
            MAIN.run(tool, *arguments)


def matrix(environments: Sequence[Environment]) -> None:
    """Run every recipe on built-in data for a few steps; recipes with adapters where the plugins are installed."""
    recipes = sorted(f for pattern in BUILT_IN for f in (ROOT / "recipes").glob(pattern))
    for environment in environments:
        environment.prepare()
        chosen = [f for f in recipes if ("adapters" in f.relative_to(ROOT).as_posix()) == bool(environment.plugins)]
        workers = min(processes(), len(chosen))
        with scratch() as output, ThreadPoolExecutor(workers) as pool:
            overrides = [word for key in (f"run.output={output}", *SHORT) for word in ("--set", key)]
            list(pool.map(partial(_recipes, environment, overrides), (chosen[i::workers] for i in range(workers))))
            if environment.plugins:
                with timed("recipes/cqa_adapters.toml on a local folder in the hub's form"):
                    launch_on_fixture(environment, Path(output))


def launch_on_fixture(environment: Environment, output: Path) -> None:
    """Launch a recipe of CommonsenseQA as in the README, on generated rows in the layout of the hub."""
    rows, runs = output / "commonsense_qa", output / "cqa_adapters"
    environment.run("python", "scripts/commonsense_fixture.py", str(rows))
    keys = (f"run.output={runs}", "model.name=pocket-t5", f"task.path={rows}", "track.to=[]", *SHORT)
    overrides = [word for key in keys for word in ("--set", key)]
    environment.run("accelerate", "launch", "-m", "peftkit", "recipes/cqa_adapters.toml", *overrides)
    [summary] = [json.loads(file.read_text(encoding="utf-8")) for file in runs.glob("*/summary.json")]
    if (summary["status"], summary["steps"]) != ("done", STEPS):
        raise StageError(f"recipes/cqa_adapters.toml is {summary['status']} after {summary['steps']} steps")


def _recipes(environment: Environment, overrides: Sequence[str], recipes: Sequence[Path]) -> None:
    """Run recipes in one process: a run of three steps takes less time than importing torch and transformers."""
    files = (str(f.relative_to(ROOT)) for f in recipes)
    command = (environment.tool("python"), "scripts/run_recipes.py", *files, *overrides)
    done = subprocess.run(command, cwd=ROOT, env=environment_variables(OMP_NUM_THREADS="1"), stdin=subprocess.DEVNULL)
    if done.returncode:
        raise StageError(f"a recipe on transformers {environment.transformers} failed, see above")


def fuzz(environments: Sequence[Environment], minutes: float | None = None, seed: int = 1) -> None:
    """Load randomly changed recipes, and compare random runs with a plain reference implementation for --minutes."""
    if MAIN in environments:  # loading recipes does not depend on transformers
        profile = "many" if minutes is None else "random"
        words = ("-n", str(processes()), "-m", "fuzz", f"--hypothesis-profile={profile}", "tests/recipe")
        MAIN.run("pytest", *words, OMP_NUM_THREADS="1")
        if sys.platform == "linux" and sys.version_info < (3, 14):  # elsewhere it cannot be installed
            MAIN.install("atheris")
            MAIN.run("python", "scripts/fuzz_recipes.py", "10" if minutes is None else "60", str(seed))
    for environment in environments:
        with timed(f"runs against a reference on transformers {environment.transformers}"), scratch() as folder:
            # Without --minutes, always the same cases, others on each line: whether CI passes must not depend on the
            # machine's speed.
            limit = ("--minutes", "10", "--most", "20") if minutes is None else ("--minutes", str(minutes))
            options = (*limit, "--seed", str(seed if minutes is not None or environment is MAIN else seed + 1))
            variables = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": folder}
            environment.run("python", "scripts/fuzz_scores.py", *options, **variables)


def scaffold(environments: Sequence[Environment]) -> None:
    """Create a distribution of each kind with `peftkit new`, install them into a folder, and run their tests."""
    names = {kind: f"example_{kind}" for kind in ("method", "task", "objective", "metric", "meter", "callback")}
    with scratch() as parent:
        for kind, name in names.items():
            MAIN.run("peftkit", "new", kind, name, "--in", parent)
        folders = [f"{parent}/peftkit-{name.replace('_', '-')}" for name in names.values()]
        site = f"{parent}/site"
        # Without isolation, and so without a network: setuptools is there.
        options = ("-q", "--no-build-isolation", "--no-deps", "--target", site)
        MAIN.run("python", "-m", "pip", "install", *options, *folders)
        # Of one architecture, because the other ones run the same code of the kit.
        words = ("-q", "-p", "no:cacheprovider", "-k", "not llama and not bert")
        MAIN.run("pytest", *words, *folders, OMP_NUM_THREADS="1", PYTHONPATH=site, TMPDIR=parent)


def build(environments: Sequence[Environment]) -> None:
    """Build the sdist and, from it, the wheel into dist/."""
    MAIN.run("python", "-m", "build", "--no-isolation")


def docs(environments: Sequence[Environment]) -> None:
    """Build the documentation site into site/; a broken link is an error."""
    # In the environment that has the components of all plugins.
    ADAPTERS.run("properdocs", "build", "--quiet", "--strict", "-f", "mkdocs.yml", NO_COLOR="1")


def results(environments: Sequence[Environment]) -> None:
    """Run recipes/sweeps/topic.toml, print its table and draw docs/curve.svg (a quarter of an hour on two cores)."""
    ADAPTERS.run(
        "peftkit", "sweep", "recipes/sweeps/topic.toml", "--jobs", str(min(2, processes())), OMP_NUM_THREADS="1"
    )
    ADAPTERS.run("python", "scripts/curve.py", "runs/topic", "--out", "docs/curve.svg")


JOBS = (
    (
        (MAIN, "test"),
        (ADAPTERS, "test"),
        (ADAPTERS, "matrix"),
        (MAIN, "matrix"),
        (ADAPTERS, "fuzz"),
        (MAIN, "fuzz"),
        (MAIN, "scaffold"),
        (MAIN, "lint"),
    ),
    ((ADAPTERS, "docs"), (MAIN, "build")),
)
"""What runs after the quickstart, two at a time, the longest first; then what writes files into the repository."""


BY_LINE = ("test", "matrix", "fuzz", "docs")
"""The stages that run in the environment of a line of transformers."""


def ci(environments: Sequence[Environment]) -> None:
    """Run everything a change must pass: quickstart, then all stages but exhaustive and results, two at a time."""
    with ThreadPoolExecutor() as pool:
        # Downloads run while the quickstart computes.
        waiting: list[Callable[[], object]] = [chromium, *(e.prepare for e in environments if e is not MAIN)]
        waited = [pool.submit(wait) for wait in waiting]
        _stage("quickstart", environments)
        install_optional("deepspeed", "atheris")  # now, because nothing else runs in this environment
        for each in waited:
            each.result()
    for jobs in JOBS:
        chosen = [(e, stage) for e, stage in jobs if e in environments or stage not in BY_LINE]
        with ThreadPoolExecutor(min(2, processes())) as pool:
            failures = [failure for failure in pool.map(_job, chosen) if failure]
        if failures:
            raise StageError(f"{'; '.join(failures)}, see above")


def _job(job: tuple[Environment, str]) -> str:
    """Run a stage in a subprocess, and print its output when it ends.

    The longest one has as many processes as the machine has cores, and the stages beside it half as many.

    Returns:
        The stage's name if it failed, else an empty text.
    """
    environment, stage = job
    name = f"{stage} on transformers {environment.transformers}"
    print(f"== {name} started", flush=True)
    start = time.monotonic()
    command = (sys.executable, __file__, stage, "--transformers", environment.transformers)
    workers = processes() if job == JOBS[0][0] else max(1, processes() // 2)
    variables = environment_variables(PEFTKIT_PROCESSES=str(workers))
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        done = subprocess.run(
            command, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        output.seek(0)
        print(output.read(), end="", flush=True)
    SECONDS[name] = time.monotonic() - start
    return name if done.returncode else ""


def _stage(name: str, environments: Sequence[Environment], **options: object) -> None:
    """Run a stage and record its duration."""
    start = time.monotonic()
    with timed(name):
        STAGES[name](environments, **options)
    SECONDS[name] = time.monotonic() - start


SECONDS: dict[str, float] = {}
"""The duration of each stage in seconds."""
STAGES: dict[str, Callable[..., None]] = {
    stage.__name__: stage
    for stage in (quickstart, test, lint, matrix, scaffold, fuzz, docs, build, exhaustive, results, ci)
}


def main() -> None:
    """Run the stages given on the command line, up to the first that fails."""
    if sys.version_info < (3, 11):  # noqa: UP036 - an old Python meets this file first
        sys.exit(f"peftkit needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    texts = [f"  {name:<11} {stage.__doc__}" for name, stage in STAGES.items()]
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(["stages:", *texts]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stages", nargs="+", choices=[*STAGES], metavar="STAGE", help="see below")
    lines = "test, matrix, fuzz, exhaustive: only on this line of transformers"
    parser.add_argument("--transformers", choices=["5", "4.57"], help=lines)
    parser.add_argument(
        "--minutes", type=float, help="fuzz: minutes of comparing runs with the reference, on each line"
    )
    parser.add_argument("--seed", type=int, default=1, help="fuzz: the seed of these runs")
    options = parser.parse_args()
    fuzzing = {"minutes": options.minutes, "seed": options.seed}
    start = time.monotonic()
    environments = [e for e in (MAIN, ADAPTERS) if options.transformers in (None, e.transformers)]
    for name in options.stages:
        try:
            _stage(name, environments, **(fuzzing if name == "fuzz" else {}))
        except StageError as error:
            sys.exit(f"== {name} failed: {error}")
        except KeyboardInterrupt:
            sys.exit(130)
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in SECONDS.items())
    print(f"== {times}; {time.monotonic() - start:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
