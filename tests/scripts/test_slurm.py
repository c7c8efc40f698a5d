"""The SLURM script, run with fake SLURM commands and a fake launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm.py"
COMMANDS = {
    "srun": 'shift; exec "$@"',
    "scontrol": 'if [ "$1" = show ]; then echo node7; echo node8; else echo "scontrol $*" >> calls; fi',
    # Like the launcher: it ignores the signal, its process saves and exits, and then it fails.
    "accelerate": """
printf '%s\\n' "$@" > calls
[ "${1}" = launch ] || exit 3
[ -n "${WAIT:-}" ] || exit 0
python3 -c 'import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(138))
open("ready", "w").close()
time.sleep(60)' &
echo "$!" > worker
wait "$!" || exit 1
""",
}


@pytest.fixture
def job(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The rendered script, and an environment with the fake commands."""
    for name, text in COMMANDS.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/usr/bin/env bash\n{text}\n")
        file.chmod(0o755)
    words = ["my recipes/it's.toml", "--nodes", "2", "--gpus", "4", "--cpus", "16", "--hours", "3"]
    rendered = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=True)
    script = tmp_path / "job.sh"
    script.write_text(rendered.stdout)
    slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[7-8]"}
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return script, {**os.environ, **slurm, "SLURM_NODEID": "1", "PATH": path}


def test_the_script_starts_a_launcher_on_every_machine(job: tuple[Path, dict[str, str]]) -> None:
    script, environment = job
    text = script.read_text()
    for line in ("--nodes=2", "--gpus-per-node=4", "--cpus-per-task=16", "--time=3:00:00", "--signal=B:USR1@300"):
        assert f"#SBATCH {line}\n" in text
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    calls = (script.parent / "calls").read_text().splitlines()
    expected = "launch --multi_gpu --num_machines 2 --num_processes 8 --machine_rank 1 --main_process_ip node7"
    expected += " --main_process_port 23456 --mixed_precision no --dynamo_backend no -m peftkit run"
    assert calls == [*expected.split(), "my recipes/it's.toml", "--resume"]


@pytest.mark.parametrize("signalled", [True, False])
def test_a_job_at_its_time_limit_is_requeued_and_a_failed_one_is_not(
    signalled: bool, job: tuple[Path, dict[str, str]]
) -> None:
    script, environment = job
    running = subprocess.Popen(["bash", str(script)], env={**environment, "WAIT": "1"}, stderr=subprocess.PIPE)
    ready, deadline = script.parent / "ready", time.monotonic() + 60
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker = int((script.parent / "worker").read_text())
    if signalled:  # srun forwards the signal to its processes
        running.send_signal(signal.SIGUSR1)
        os.kill(worker, signal.SIGUSR1)
    else:
        os.kill(worker, signal.SIGKILL)
    running.communicate(timeout=60)
    assert running.returncode == 1
    assert ("scontrol requeue 123456" in (script.parent / "calls").read_text()) == signalled
