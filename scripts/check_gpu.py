"""Checks what only a GPU can show, in a minute or two: prints one line per check, exits with 1 if one fails.

    .venv/bin/python scripts/check_gpu.py [-o FILE.json]

MACs are the same on CPU and GPU, in each precision and with gradient checkpointing; energy is read from NVML, limits a
budget, and is measured in training only; peak memory is near the estimate of `peftkit cost`; out of memory, steps use
smaller microbatches; no step waits for the device; fp16, bf16 and FSDP2 train; and a model of T5-base's size is
profiled against the device's peak.
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
METHODS = {"pocket-t5": ("full", "lora", "prefix_tuning", "ia3", "vera"), "pocket-decoder": ("full", "lora", "boft"),
         "pocket-encoder": ("full", "lora", "bitfit")}  # fmt: skip
VARIANTS = {
    "": "",
    " sdpa": 'model.attention = "sdpa"',
    " bf16": 'train.mixed_precision = "bf16"',
    " checkpointing": "train.gradient_checkpointing = true",
}
T5_BASE = {
    "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 32128, "d_model": 768,
    "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12, "feed_forward_proj": "relu",
    "tie_word_embeddings": True, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


def recipe(folder: Path, name: str, *lines: str, model: str = "pocket-t5", method: str = "lora") -> Path:
    """Write a recipe of a few steps; ``lines`` of ``key.path = value`` override the defaults, or ``unset`` them."""
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
        "evaluate.full_splits": "false",
        "track.to": "[]",
    }
    keys |= dict(line.split(" = ", 1) for line in lines if line)
    file = folder / f"{name}.toml"
    file.write_text("".join(f"{key} = {value}\n" for key, value in keys.items() if value != "unset"))
    return file


def read_summary(folder: Path, name: str) -> dict[str, Any]:
    """Read the summary of a recipe's run; fails with the end of its log if there is none."""
    files = [*(folder / name).glob("*/summary.json")]
    if not files:
        raise AssertionError((folder / f"{name}.log").read_text()[-600:])
    summary: dict[str, Any] = json.loads(files[0].read_text())
    assert summary["status"] == "done", summary
    return summary


def run_all(folder: Path, files: list[Path], jobs: int) -> None:
    """Run recipes, several at a time, on the GPU, or on the CPU if the GPU is hidden."""
    from concurrent.futures import ThreadPoolExecutor

    from peftkit.sweep.process_executor import Workers

    workers = Workers(jobs)
    with workers.handle_signals(), ThreadPoolExecutor(jobs) as pool:
        [*pool.map(lambda file: workers.run(file, None, folder / f"{file.stem}.log"), files)]


def write_mac_recipes(folder: Path) -> list[Path]:
    """Write the recipes whose MACs are compared."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        recipe(folder, f"{model}-{method}{variant.replace(' ', '-')}", line, model=model, method=method)
        for model, methods in METHODS.items()
        for method in methods
        for variant, line in VARIANTS.items()
        # Not supported with checkpointing, since peft would lose the prefix.
        if not (variant == " checkpointing" and method == "prefix_tuning")
    ]


def same_macs(folder: Path) -> str:
    """MACs equal those of the CPU exactly."""
    with subprocess.Popen(
        [sys.executable, __file__, "--mac-recipes", str(folder / "cpu")],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"},
    ) as cpu:
        files = write_mac_recipes(folder / "gpu")
        run_all(folder / "gpu", files, 4)
        assert cpu.wait() == 0
    keys = ("forward_gmacs", "backward_gmacs", "gmacs", "elementwise_gops", "optimizer_gops")
    differences = []
    for file in files:
        summaries = {device: read_summary(folder / device, file.stem) for device in ("cpu", "gpu")}
        costs = {device: {key: summary["cost"][key] for key in keys} for device, summary in summaries.items()}
        if costs["cpu"] != costs["gpu"]:
            differences.append(f"{file.stem}: {costs}")
        assert summaries["gpu"]["cost"].get("peak_device_bytes"), "it was not trained on the GPU"
    assert not differences, "\n".join(differences)
    return f"{len(files)} runs have the same MACs on CPU and GPU"


def energy(folder: Path) -> str:
    """Joules come from NVML, a budget of joules ends training, and evaluation is not counted."""
    from peftkit.plugins import load_registry

    if "energy" not in load_registry().all("meter"):
        return "skipped: peftkit-energy is not installed"
    files = [
        recipe(folder, "joules", "train.budget.steps = 60"),
        recipe(
            folder, "often", "train.budget.steps = 60", 'evaluate.every = "10 steps"', "evaluate.test_examples = 200"
        ),
        recipe(folder, "budget", "train.budget.steps = unset", "train.budget.joules = 400"),
    ]
    run_all(folder, files, 1)
    one, often, ended = (read_summary(folder, file.stem) for file in files)
    cost = one["cost"]
    assert cost["joules_nvml"] > 0, cost
    watts, often_watts = (each["cost"]["joules"] / each["cost"]["train_seconds"] for each in (one, often))
    assert 0.5 < watts / often_watts < 2, (watts, often_watts)
    joules, per_step = ended["cost"]["joules"], ended["cost"]["joules"] / ended["steps"]
    assert 400 <= joules <= 400 + 5 * per_step, (joules, per_step)
    return (
        f"{watts:.0f} W in training ({often_watts:.0f} W with frequent evaluation); a budget of 400 J ended at "
        f"{joules:.1f} J, {per_step:.2f} J per step"
    )


def memory(folder: Path) -> str:
    """The peak memory of the device is near the estimate."""
    from peftkit.analysis.cost_estimate import estimate_cost
    from peftkit.plugins import load_registry
    from peftkit.recipe import load_recipe

    results = []
    files = {m: recipe(folder, f"memory-{m}", 'train.budget.steps = 20', "train.batch_size = 64", method=m)
             for m in ("full", "lora")}  # fmt: skip
    run_all(folder, [*files.values()], 1)
    registry = load_registry()
    for method, file in files.items():
        estimate = estimate_cost(load_recipe(file, registry), registry).memory_bytes
        peak = read_summary(folder, file.stem)["cost"]["peak_device_bytes"]
        results.append(f"{method} {peak / 2**20:.0f} MiB, estimated {estimate / 2**20:.0f}")
        assert 0.5 < peak / estimate < 2, results
    return "; ".join(results)


def out_of_memory(folder: Path) -> str:
    """Out of memory, steps use smaller microbatches, with the same rows and the same MACs."""
    import torch

    files = [recipe(folder, name, "train.batch_size = 512", "train.budget.steps = 3") for name in ("plenty", "little")]
    run_all(folder, files[:1], 1)
    plenty = read_summary(folder, "plenty")
    share = 0.55 * plenty["cost"]["peak_device_bytes"] / torch.cuda.get_device_properties(0).total_memory
    code = (
        f"import torch; torch.cuda.set_per_process_memory_fraction({share}); "
        f"from peftkit.cli import main; main(['run', {str(files[1])!r}])"
    )
    with (folder / "little.log").open("w") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, stderr=log)
    little = read_summary(folder, "little")
    assert little["microbatch_size"] < plenty["microbatch_size"] == 512, little["microbatch_size"]
    assert little["samples"] == plenty["samples"]
    assert math.isclose(little["cost"]["gmacs"], plenty["cost"]["gmacs"], rel_tol=1e-9)
    gmacs = little["cost"]["gmacs"]
    return f"microbatches of 512 rows became {little['microbatch_size']}, with the same {gmacs:.1f} GMACs"


def offloading(folder: Path) -> str:
    """Activations in host memory leave the losses as they are, and take less memory of the device."""
    files = [
        recipe(
            folder, name, f"train.activation_offloading = {name}", "train.batch_size = 256", "train.budget.steps = 5"
        )
        for name in ("false", "true")
    ]
    run_all(folder, files, 1)
    plain, offloaded = (read_summary(folder, file.stem) for file in files)
    losses = [each["final"]["dev"]["loss"] for each in (plain, offloaded)]
    assert math.isclose(*losses, rel_tol=1e-3), losses
    peaks = [each["cost"]["peak_device_bytes"] for each in (plain, offloaded)]
    assert peaks[1] < peaks[0], peaks
    return f"{peaks[0] / 2**20:.0f} MiB became {peaks[1] / 2**20:.0f}, with the same loss"


def no_waiting(folder: Path) -> str:
    """No step waits for the device, once the first ones have been taken: torch raises an error at a wait."""
    import torch

    from peftkit.analysis.dry_run import dry_run
    from peftkit.monitor.console import ConsoleLogger
    from peftkit.plugins import load_registry
    from peftkit.recipe import load_recipe
    from peftkit.train.callbacks import LoopCallback, MeterList

    registry, steps = load_registry(), 12

    class Strict(LoopCallback):
        def on_step_settled(self) -> None:
            plain = 4 <= self.trainer.progress.step < steps
            torch.cuda.set_sync_debug_mode("error" if plain else "default")

    entries = [entry for entry in registry.all("meter").values() if entry.distribution == "peftkit"]
    failures = []
    for model, methods in METHODS.items():
        for method in methods:
            file = recipe(folder, f"waits-{model}-{method}", 'train.optimizer = "adamw"', model=model, method=method)
            loaded = load_recipe(file, registry)
            meters = MeterList([entry.component() for entry in entries])
            try:
                with dry_run(loaded, registry, steps, [meters, ConsoleLogger(loaded, quiet=True), Strict()]) as trainer:
                    trainer.train()
            except Exception:
                failures.append(f"{model} {method}: {traceback.format_exc(limit=-4)}")
            finally:
                torch.cuda.set_sync_debug_mode("default")
    assert not failures, "\n".join(failures)
    return f"no step of {sum(map(len, METHODS.values()))} combinations of model and method waits"


def precisions(folder: Path) -> str:
    """fp16 with its scaler, bf16 weights, and float32 reach similar losses."""
    lines = {
        "float32": ("",),
        "fp16": ('train.mixed_precision = "fp16"',),
        "bf16-autocast": ('train.mixed_precision = "bf16"',),
        "bf16-weights": ('model.dtype = "bfloat16"',),
    }
    more = ("train.budget.steps = 60", "evaluate.dev_examples = 100")
    files = [recipe(folder, f"precision-{name}", *each, *more) for name, each in lines.items()]
    run_all(folder, files, 4)
    losses = {name: read_summary(folder, f"precision-{name}")["final"]["dev"]["loss"] for name in lines}
    assert all(abs(loss - losses["float32"]) < 0.2 * losses["float32"] for loss in losses.values()), losses
    return ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())


def fsdp(folder: Path) -> str:
    """FSDP2 trains under a launcher, with the same MACs."""
    file = recipe(folder, "fsdp", "train.fsdp = true", 'train.optimizer = "adamw"')
    plain = recipe(folder, "plain", 'train.optimizer = "adamw"')
    run_all(folder, [plain], 1)
    launch = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1")
    launch = (*launch, "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "peftkit", "run", str(file))
    with (folder / "fsdp.log").open("w") as log:
        subprocess.run(launch, stdout=log, stderr=log, cwd=ROOT)
    sharded, whole = read_summary(folder, "fsdp"), read_summary(folder, "plain")
    assert sharded["cost"]["gmacs"] == whole["cost"]["gmacs"]
    return f"dev loss {sharded['final']['dev']['loss']:.4f}, without FSDP {whole['final']['dev']['loss']:.4f}"


def t5_base(folder: Path) -> str:
    """MACs and time of a step of T5-base with random weights, against the peak of the device."""
    from peftkit.analysis.cost_estimate import estimate_cost
    from peftkit.analysis.step_profile import profile_steps
    from peftkit.plugins import load_registry
    from peftkit.recipe import load_recipe

    model = folder / "t5-base"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(T5_BASE))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).write_bytes((ROOT / "peftkit" / "assets" / "pocket-t5" / name).read_bytes())
    results, registry = [], load_registry()
    for method in ("full", "lora"):
        file = recipe(folder, f"base-{method}", "train.batch_size = 64", 'train.mixed_precision = "bf16"',
                      model=str(model), method=method)  # fmt: skip
        loaded = load_recipe(file, registry)
        profile = profile_steps(loaded, registry, folder / f"{method}.json")
        assert profile is not None
        parts = {part: f"{seconds * 1e3:.1f}" for part, seconds in profile.seconds_per_step.items()}
        estimate = estimate_cost(loaded, registry, trial=True)
        results.append(
            f"{method}: {estimate.gmacs_per_step:.0f} GMACs per step in {estimate.seconds_per_step or 0:.4f} s, "
            f"profiled (ms) {parts}, {profile.macs_per_second / 1e12:.2f} of "
            f"{profile.peak_macs_per_second / 1e12:.1f} TMAC/s"
        )
        print(json.dumps(asdict(profile) | {"operations": profile.operations[:5]}))
    return "; ".join(results)


CHECKS: tuple[Callable[[Path], str], ...] = (
    same_macs,
    energy,
    memory,
    out_of_memory,
    offloading,
    no_waiting,
    precisions,
    fsdp,
    t5_base,
)


def main() -> int:
    """Run the checks and print their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, help="write the results as JSON")
    parser.add_argument(
        "--only", action="append", choices=[check.__name__ for check in CHECKS], help="run this check only (repeatable)"
    )
    parser.add_argument("--mac-recipes", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mac_recipes:
        run_all(options.mac_recipes, write_mac_recipes(options.mac_recipes), 4)
        return 0
    import torch

    if not torch.cuda.is_available():
        print("there is no GPU", file=sys.stderr)
        return 2
    results: dict[str, Mapping[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for check in CHECKS:
            if options.only and check.__name__ not in options.only:
                continue
            own_folder = Path(folder) / check.__name__
            own_folder.mkdir()
            try:
                ok, text = True, check(own_folder)
            except Exception:  # the other checks still run
                ok, text = False, traceback.format_exc(limit=2)
            results[check.__name__] = {"ok": ok, "result": text}
            print(f"{'ok' if ok else 'FAILED'}  {check.__name__}: {text}", flush=True)
    if options.out:
        device = {"device": torch.cuda.get_device_name(0), "torch": torch.__version__}
        options.out.write_text(json.dumps({**device, "checks": results}, indent=2) + "\n")
    return 0 if all(each["ok"] for each in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
