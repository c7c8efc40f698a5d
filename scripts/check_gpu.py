"""What only a GPU can show, in a minute or two: one line a check, exit code 1 if one fails.

    .venv/bin/python scripts/check_gpu.py [-o FILE.json]

The work of runs is counted alike on CPU and GPU, in each precision and with gradient checkpointing; energy is read
from NVML, ends a budget, and is of training alone; memory is what `peftkit cost` estimates; where it runs out, steps
are made of smaller passes; fp16, bf16 and FSDP2 train; and T5-base's geometry is profiled against the device's peak.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KINDS = {"pocket-t5": ("full", "lora", "prefix_tuning", "ia3", "vera"), "pocket-decoder": ("full", "lora", "boft"),
         "pocket-encoder": ("full", "lora", "bitfit")}  # fmt: skip
WAYS = {
    "": "",
    " sdpa": 'model.attention = "sdpa"',
    " bf16": 'train.mixed_precision = "bf16"',
    " checkpointing": "train.gradient_checkpointing = true",
}
GEOMETRY = {
    "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 32128, "d_model": 768,
    "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12, "feed_forward_proj": "relu",
    "tie_word_embeddings": True, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


def recipe(folder: Path, name: str, *lines: str, model: str = "pocket-t5", method: str = "lora") -> Path:
    """Writes a recipe of a few steps; lines are ``key.path = value``, win over what stands here, and may be unset."""
    keys = {
        "run.name": f'"{name}"',
        "run.output": f'"{folder / name}"',
        "model.name": f'"{model}"',
        "task.name": '"wordnet_topic"',
        "method.name": f'"{method}"',
        "train.batch_size": "16",
        "train.budget.steps": "6",
        "train.checkpoint.every": '"off"',
        "evaluate.every": '"100%"',
        "evaluate.at_start": "false",
        "evaluate.train_examples": "0",
        "evaluate.dev_examples": "16",
        "evaluate.test_examples": "16",
        "evaluate.whole": "false",
        "track.wandb": '"off"',
    }
    keys |= dict(line.split(" = ", 1) for line in lines if line)
    file = folder / f"{name}.toml"
    file.write_text("".join(f"{key} = {value}\n" for key, value in keys.items() if value != "unset"))
    return file


def finished(folder: Path, name: str) -> dict[str, Any]:
    """The summary of a recipe's run, or what its log ends with."""
    found = [*(folder / name).glob("*/summary.json")]
    if not found:
        raise AssertionError((folder / f"{name}.log").read_text()[-600:])
    summary: dict[str, Any] = json.loads(found[0].read_text())
    assert summary["status"] == "done", summary
    return summary


def run_all(folder: Path, files: list[Path], jobs: int) -> None:
    """Runs recipes, several at a time, on the GPU or, where it is hidden, on the CPU."""
    from concurrent.futures import ThreadPoolExecutor

    from peftkit.sweep.workers import Workers

    workers = Workers(jobs)
    with workers.heeding_signals(), ThreadPoolExecutor(jobs) as pool:
        [*pool.map(lambda file: workers.run(file, None, folder / f"{file.stem}.log"), files)]


def works(folder: Path) -> list[Path]:
    """The recipes whose work is compared."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        recipe(folder, f"{model}-{method}{way.replace(' ', '-')}", line, model=model, method=method)
        for model, methods in KINDS.items()
        for method in methods
        for way, line in WAYS.items()
        if not (way == " checkpointing" and method == "prefix_tuning")  # peft's would lose the prefix, and is refused
    ]


def same_work(folder: Path) -> str:
    """Multiply-accumulates are those of the CPU, exactly."""
    with subprocess.Popen(
        [sys.executable, __file__, "--works", str(folder / "cpu")],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"},
    ) as other:
        files = works(folder / "gpu")
        run_all(folder / "gpu", files, 4)
        assert other.wait() == 0
    keys = ("forward_gmacs", "backward_gmacs", "gmacs", "elementwise_gops", "optimizer_gops")
    apart = []
    for file in files:
        on = {device: finished(folder / device, file.stem) for device in ("cpu", "gpu")}
        costs = {device: {key: summary["cost"][key] for key in keys} for device, summary in on.items()}
        if costs["cpu"] != costs["gpu"]:
            apart.append(f"{file.stem}: {costs}")
        assert on["gpu"]["cost"].get("peak_device_bytes"), "it was not trained on the GPU"
    assert not apart, "\n".join(apart)
    return f"{len(files)} runs count the same on CPU and GPU"


def energy(folder: Path) -> str:
    """Joules come from NVML, a budget of them ends training, and evaluation is none of them."""
    from peftkit.plugins import load_registry

    if "energy" not in load_registry().of("meter"):
        return "left out: peftkit-energy is not installed"
    files = [
        recipe(folder, "joules", "train.budget.steps = 60"),
        recipe(
            folder, "often", "train.budget.steps = 60", 'evaluate.every = "10 steps"', "evaluate.test_examples = 200"
        ),
        recipe(folder, "budget", "train.budget.steps = unset", "train.budget.joules = 400"),
    ]
    run_all(folder, files, 1)
    one, often, ended = (finished(folder, file.stem) for file in files)
    cost = one["cost"]
    assert cost["joules_nvml"] > 0, cost
    watts, others = (each["cost"]["joules"] / each["cost"]["train_seconds"] for each in (one, often))
    assert 0.5 < watts / others < 2, (watts, others)
    joules, per_step = ended["cost"]["joules"], ended["cost"]["joules"] / ended["steps"]
    assert 400 <= joules <= 400 + 5 * per_step, (joules, per_step)
    return (
        f"{watts:.0f} W in training ({others:.0f} W where it is evaluated often); a budget of 400 J ended at "
        f"{joules:.1f} J, {per_step:.2f} J a step"
    )


def memory(folder: Path) -> str:
    """The peak of the device is near what was estimated."""
    from peftkit.plugins import load_registry
    from peftkit.recipe import load_recipe
    from peftkit.runner.prediction import predict_cost

    told = []
    files = {m: recipe(folder, f"memory-{m}", 'train.budget.steps = 20', "train.batch_size = 64", method=m)
             for m in ("full", "lora")}  # fmt: skip
    run_all(folder, [*files.values()], 1)
    registry = load_registry()
    for method, file in files.items():
        estimate = predict_cost(load_recipe(file, registry), registry).memory_bytes
        peak = finished(folder, file.stem)["cost"]["peak_device_bytes"]
        told.append(f"{method} {peak / 2**20:.0f} MiB, estimated {estimate / 2**20:.0f}")
        assert 0.5 < peak / estimate < 2, told
    return "; ".join(told)


def little_memory(folder: Path) -> str:
    """Steps of smaller passes where memory runs out: the same rows, and the same work."""
    import torch

    files = [recipe(folder, name, "train.batch_size = 512", "train.budget.steps = 3") for name in ("plenty", "little")]
    run_all(folder, files[:1], 1)
    plenty = finished(folder, "plenty")
    share = 0.55 * plenty["cost"]["peak_device_bytes"] / torch.cuda.get_device_properties(0).total_memory
    code = (
        f"import torch; torch.cuda.set_per_process_memory_fraction({share}); "
        f"from peftkit.cli import main; main(['run', {str(files[1])!r}])"
    )
    with (folder / "little.log").open("w") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, stderr=log)
    little = finished(folder, "little")
    assert little["rows_a_pass"] < plenty["rows_a_pass"] == 512, little["rows_a_pass"]
    assert little["samples"] == plenty["samples"]
    assert math.isclose(little["cost"]["gmacs"], plenty["cost"]["gmacs"], rel_tol=1e-9)
    return f"512 rows a pass became {little['rows_a_pass']}, of the same {little['cost']['gmacs']:.1f} GMACs"


def precisions(folder: Path) -> str:
    """fp16 with its scaler, bf16 weights, and float32 end near each other."""
    lines = {
        "float32": ("",),
        "fp16": ('train.mixed_precision = "fp16"',),
        "bf16-autocast": ('train.mixed_precision = "bf16"',),
        "bf16-weights": ('model.dtype = "bfloat16"',),
    }
    more = ("train.budget.steps = 60", "evaluate.dev_examples = 100")
    files = [recipe(folder, f"precision-{name}", *each, *more) for name, each in lines.items()]
    run_all(folder, files, 4)
    losses = {name: finished(folder, f"precision-{name}")["final"]["dev"]["loss"] for name in lines}
    assert all(abs(loss - losses["float32"]) < 0.2 * losses["float32"] for loss in losses.values()), losses
    return ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())


def fsdp(folder: Path) -> str:
    """FSDP2, by a launcher, on as many GPUs as there are; its work is the same."""
    file = recipe(folder, "fsdp", "train.fsdp = true", 'train.optimizer = "adamw"')
    plain = recipe(folder, "plain", 'train.optimizer = "adamw"')
    run_all(folder, [plain], 1)
    launch = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1")
    launch = (*launch, "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "peftkit", "run", str(file))
    with (folder / "fsdp.log").open("w") as log:
        subprocess.run(launch, stdout=log, stderr=log, cwd=ROOT)
    sharded, whole = finished(folder, "fsdp"), finished(folder, "plain")
    assert sharded["cost"]["gmacs"] == whole["cost"]["gmacs"]
    return f"dev loss {sharded['final']['dev']['loss']:.4f}, without {whole['final']['dev']['loss']:.4f}"


def geometry(folder: Path) -> str:
    """T5-base's geometry with weights of chance: work and time of a step, against the peak of the device."""
    from peftkit.plugins import load_registry
    from peftkit.recipe import load_recipe
    from peftkit.runner.prediction import predict_cost
    from peftkit.runner.profile import profile_steps

    own = folder / "t5-base"
    own.mkdir()
    (own / "config.json").write_text(json.dumps(GEOMETRY))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (own / name).write_bytes((ROOT / "peftkit" / "assets" / "pocket-t5" / name).read_bytes())
    told, registry = [], load_registry()
    for method in ("full", "lora"):
        file = recipe(folder, f"base-{method}", "train.batch_size = 64", 'train.mixed_precision = "bf16"',
                      model=str(own), method=method)  # fmt: skip
        loaded = load_recipe(file, registry)
        made = profile_steps(loaded, registry, folder / f"{method}.json")
        assert made is not None
        parts = {part: f"{seconds * 1e3:.1f}" for part, seconds in made.seconds_per_step.items()}
        tried = predict_cost(loaded, registry, trial=True)
        told.append(
            f"{method}: {tried.gmacs_per_step:.0f} GMACs a step in {tried.seconds_per_step or 0:.4f} s, "
            f"profiled (ms) {parts}, {made.macs_per_second / 1e12:.2f} of {made.peak_macs_per_second / 1e12:.1f} TMAC/s"
        )
        print(json.dumps(asdict(made) | {"operations": made.operations[:5]}))
    return "; ".join(told)


CHECKS: tuple[Callable[[Path], str], ...] = (same_work, energy, memory, little_memory, precisions, fsdp, geometry)


def main() -> int:
    """Makes the checks, prints what each found, and writes that if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, help="write what was found as JSON")
    parser.add_argument("--only", action="append", choices=[check.__name__ for check in CHECKS], help="of the checks")
    parser.add_argument("--works", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.works:
        run_all(options.works, works(options.works), 4)
        return 0
    import torch

    if not torch.cuda.is_available():
        print("there is no GPU", file=sys.stderr)
        return 2
    found: dict[str, Mapping[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for check in CHECKS:
            if options.only and check.__name__ not in options.only:
                continue
            room = Path(folder) / check.__name__
            room.mkdir()
            try:
                ok, told = True, check(room)
            except Exception:  # the others are made all the same
                ok, told = False, traceback.format_exc(limit=2)
            found[check.__name__] = {"ok": ok, "told": told}
            print(f"{'ok' if ok else 'FAILED'}  {check.__name__}: {told}", flush=True)
    if options.out:
        device = {"device": torch.cuda.get_device_name(0), "torch": torch.__version__}
        options.out.write_text(json.dumps({**device, "checks": found}, indent=2) + "\n")
    return 0 if all(each["ok"] for each in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
