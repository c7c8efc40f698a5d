"""Sweeps with real processes and short runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from peftkit.cli import main
from peftkit.errors import InputError
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.sweep.grid import expand
from peftkit.sweep.process_executor import Workers, visible_gpus
from peftkit.sweep.scheduler import find_run
from peftkit.sweep.submitit_executor import make_executor, submit
from peftkit.sweep.sweep_file import read_sweep
from peftkit.sweep.sweep_plan import estimate_sweep
from tests.sweep.conftest import Written

AXES = "[axes]\ntrain.learning_rate = [1e-3, 1e30]\nseed = [1]\n"


@pytest.fixture
def short(tmp_path: Path) -> str:
    """Tables of short runs on a small task."""
    from tests.tiny_runs import small_task  # imports torch

    return f"""
[set]
train = {{ batch_size = 4, max_source_length = 32, budget = {{ steps = 2 }} }}
evaluate = {{ every = "100%", at_start = false, train_examples = 0, dev_examples = 4, test_examples = 4 }}
{small_task(tmp_path / "rows")}
"""


def peftkit(*words: str) -> subprocess.CompletedProcess[str]:
    from peftkit.testing.processes import command  # imports torch

    return command(partial(main, [*words]))


@pytest.mark.slow
def test_sweep_command_runs_all_and_reports_failures(written: Written, tmp_path: Path, short: str) -> None:
    path = written(AXES + short)
    done = peftkit("sweep", str(path), "--jobs", "2")
    assert done.returncode == 1, done.stderr
    assert "[2/2]" in done.stdout
    assert "2 of 2 runs done: 0 reused, 1 failed" in done.stdout
    assert "failed: 1e+30 · seed 1" in done.stderr
    assert "loss" in done.stderr
    runs = [RunDirectory(file.parent) for file in (tmp_path / "s" / "runs").glob("*/*/recipe.toml")]
    assert sorted(run.finished for run in runs) == [False, True]
    again = peftkit("sweep", str(path), "--only", "train.learning_rate=0.001")
    assert again.returncode == 0
    assert "1 of 1 runs done: 1 reused, 0 failed" in again.stdout
    status = peftkit("sweep", "status", str(path))
    assert status.stdout.splitlines()[-1].split() == ["all", "1", "1", "0"]


@pytest.mark.slow
def test_the_launcher_precedes_the_run_command(
    written: Written, registry: Registry, tmp_path: Path, short: str
) -> None:
    path = written("[axes]\nseed = [1]\n" + short + f'[local]\nlaunch = ["{sys.executable}"]\n')
    done = peftkit("sweep", str(path))
    assert done.returncode == 0, done.stderr
    recipe = expand(path, read_sweep(path), registry).studies[0].recipes[1]
    run = find_run(recipe)
    assert run is not None
    assert run.finished
    assert "selected at step 2" in (Path(recipe.run.output) / "log.txt").read_text()


@pytest.mark.slow
def test_sigterm_stops_the_runs_and_the_next_sweep_resumes(written: Written, registry: Registry, short: str) -> None:
    path = written("[axes]\nseed = [1]\n" + short.replace("steps = 2", "steps = 4000"))
    process = subprocess.Popen(
        [sys.executable, "-m", "peftkit", "sweep", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    output = Path(expand(path, read_sweep(path), registry).studies[0].recipes[1].run.output)
    limit = time.monotonic() + 200
    while not [*output.glob("*/recipe.toml")] and time.monotonic() < limit:
        time.sleep(0.3)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, stderr
    assert "interrupted; resume with: peftkit sweep" in stderr
    run = RunDirectory(next(output.glob("*/recipe.toml")).parent)
    assert run.summary()["status"] == "interrupted"


@pytest.mark.slow
def test_a_killed_process_is_a_failure_of_its_run(written: Written, registry: Registry, tmp_path: Path) -> None:
    killer = tmp_path / "killer.py"
    killer.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    workers = Workers(1, [sys.executable, str(killer)])
    outcome = workers.run(tmp_path / "recipe.toml", None, tmp_path / "log.txt")
    assert (outcome.code, outcome.last_lines) == (-9, ("killed by signal 9",))


def test_the_fork_server_does_not_initialize_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    # scripts/check_gpu.py checks that forked runs use a GPU.
    monkeypatch.delenv("PYTORCH_NVML_BASED_CUDA_CHECK", raising=False)
    Workers(1)
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"


def test_visible_gpus_follow_cuda_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == ["3", "5"]
    assert Workers(None).jobs == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    assert Workers(None).jobs == 1


@pytest.mark.slow
def test_the_plan_estimates_the_cost_of_all_runs(written: Written, registry: Registry, short: str) -> None:
    path = written('[axes]\nmethod = ["lora", "full"]\nseed = [1, 2]\n' + short + "[tune]\ntrials = 3\n")
    grid = expand(path, read_sweep(path), registry)
    reported: list[str] = []
    plan = estimate_sweep(grid, registry, trial=False, say=reported.append)
    assert reported == ["[1/2] lora", "[2/2] full"]
    assert plan.runs == 4
    lora, full = plan.studies
    assert lora.gmacs is not None
    assert full.gmacs is not None
    assert 1.3 < full.gmacs / lora.gmacs < 1.6
    from peftkit.analysis.cost_estimate import estimate_cost

    one = estimate_cost(grid.studies[0].any_recipe, registry).gmacs
    assert one is not None
    assert lora.gmacs == pytest.approx(one * (2 + 3 + 2 + 2), rel=0.01)  # another seed has other rows
    assert lora.seconds is None
    timed = estimate_sweep(grid, registry, trial=True)
    assert timed.studies[0].seconds is not None
    assert timed.seconds > 0
    assert timed.studies[0].gmacs == lora.gmacs


def test_the_slurm_script_has_the_configured_parameters(
    written: Written, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    table = '[slurm]\npartition = "long"\ntime = 90\ngpus_per_node = 2\narray_parallelism = 3\n'
    path = written('[axes]\nmethod = ["lora", "full"]\n' + table)
    executor = make_executor(expand(path, read_sweep(path), registry))
    script = executor._make_submission_file_text("python -u -m submitit.core._submit", "0")
    for line in ("--partition=long", "--time=90", "--gpus-per-node=2", "--job-name=s"):
        assert f"#SBATCH {line}" in script
    assert "submitit.core._submit" in script
    wrong = written('[axes]\nseed = [1]\n[slurm]\npartitoin = "long"\n')
    with pytest.raises(InputError, match=r"slurm: .*partitoin"):
        make_executor(expand(wrong, read_sweep(wrong), registry))


@pytest.mark.slow
def test_cluster_jobs_run_their_studies(written: Written, registry: Registry, short: str) -> None:
    pytest.importorskip("submitit")
    path = written('[axes]\nmethod = ["lora", "layer_norm"]\nseed = [1]\n' + short)
    grid = expand(path, read_sweep(path), registry)
    jobs = submit(grid, cluster="local")
    assert [job.result() for job in jobs] == [[], []]
    for study in grid.studies:
        run = find_run(study.recipes[1])
        assert run is not None
        assert run.finished
    assert not [job for job in jobs if not job.done()]
