"""Prints a SLURM script that runs a recipe on one or more machines, and resumes it when a job ends.

    python scripts/slurm.py recipes/x.toml --nodes 2 --gpus 4 --hours 12 > job.sh && sbatch job.sh

Shortly before the time limit SLURM sends USR1: the run saves a checkpoint and ends, and the job is requeued.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence

SCRIPT = """\
#!/usr/bin/env bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cpus}
#SBATCH --time={hours}:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --output=%x-%j.out
set -uo pipefail
cd "$SLURM_SUBMIT_DIR"

# Every machine runs one launcher, which starts a process per GPU; the first machine is the rendezvous.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS={threads} first port
requeue=
trap 'requeue=1; kill -USR1 "$step"' USR1
# The launcher ignores the signal; its processes handle it: they save and end.
srun --kill-on-bad-exit=0 bash -c 'trap "" USR1; exec accelerate launch --multi_gpu \
    --num_machines {nodes} --num_processes {processes} --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$first" --main_process_port "$port" \
    --mixed_precision no --dynamo_backend no -m peftkit run "$@"' bash {recipe} --resume &
step=$!
while :; do # a signal interrupts `wait`, but not the step
    wait "$step" && status=0 || status=$?
    kill -0 "$step" 2>/dev/null || break
done
if [ -n "$requeue" ] && [ "$status" != 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
"""


def render(recipe: str, *, nodes: int, gpus: int, cpus: int, hours: int, name: str) -> str:
    """Render the script; the path of the recipe is quoted."""
    return SCRIPT.format(
        name=name,
        nodes=nodes,
        gpus=gpus,
        cpus=cpus,
        hours=hours,
        threads=max(1, cpus // gpus),
        processes=nodes * gpus,
        recipe=shlex.quote(recipe),
    )


def _word(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+", text):
        raise argparse.ArgumentTypeError("only letters, digits, '.', '_' and '-' are allowed")
    return text


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--nodes", type=int, default=1, help="number of machines")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs per machine")
    parser.add_argument("--cpus", type=int, default=8, help="CPU cores per machine")
    parser.add_argument("--hours", type=int, default=24, help="time limit, after which the run is saved and requeued")
    parser.add_argument("--name", type=_word, default="peftkit", help="name of the job")
    print(render(**vars(parser.parse_args(words))), end="")


if __name__ == "__main__":
    main()
