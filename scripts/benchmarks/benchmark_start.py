"""Compares how long commands take to start, in processor time and on the clock, and how much memory runs take.

    python scripts/benchmarks/benchmark_start.py [--rounds N]         # list and check, with importing pydantic
    python scripts/benchmarks/benchmark_start.py --runs [--rounds N]  # a run, with a script that uses `Trainer`

The commands take turns, each in a process of its own, with warm caches; the tables have medians. A run and the script
train LoRA on the same rows for a few steps, evaluate the same rows, and save the adapter; what is neither training nor
evaluation is the start. Processor seconds include these few steps, and are those of the whole process, as is the peak
of its memory (the resident set).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "import": ("-c", "from pydantic import BaseModel; import pluggy"),
    "list": ("-m", "peftkit", "list"),
    "check": ("-m", "peftkit", "check", "recipes/quickstart.toml"),
}
ROWS, STEPS = 2_000, 4
SCRIPT = """
import json, sys
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, DataCollatorForSeq2Seq
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, set_seed

folder, path, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
set_seed(0)
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForSeq2SeqLM.from_pretrained(path)
model = get_peft_model(model, LoraConfig(task_type="SEQ_2_SEQ_LM", r=8))
data = load_dataset("json", data_files={split: f"{folder}/{split}.jsonl" for split in ("train", "dev", "test")})

def tokenize(rows):
    inputs = tokenizer(rows["source"], truncation=True, max_length=512)
    inputs["labels"] = tokenizer(text_target=rows["target"], truncation=True, max_length=64)["input_ids"]
    return inputs

data = data.map(tokenize, batched=True, remove_columns=["source", "target"])
arguments = Seq2SeqTrainingArguments(
    output_dir=f"{folder}/trainer", max_steps=steps, per_device_train_batch_size=8, per_device_eval_batch_size=8,
    learning_rate=1e-3, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
    predict_with_generate=True,
)
collator = DataCollatorForSeq2Seq(tokenizer, model)
trainer = Seq2SeqTrainer(
    model=model, args=arguments, train_dataset=data["train"], data_collator=collator, processing_class=tokenizer
)
training = trainer.train().metrics["train_runtime"]
evaluation = sum(trainer.evaluate(data[split])["eval_runtime"] for split in ("dev", "test"))
trainer.save_model()
json.dump({"training": training, "evaluation": evaluation}, open(f"{folder}/seconds.json", "w"))
"""
RECIPE = """
[model]
name = "pocket-t5"
[task]
name = "text_generation"
prompt = "{source}"
path = {paths}
[method]
name = "lora"
r = 8
[train]
batch_size = 8
learning_rate = 1e-3
checkpoint.every = "off"
budget.steps = {steps}
[evaluate]
every = "100%"
at_start = false
full_splits = false
train_examples = 0
batch_size = 8
[track]
to = []
"""


class Times(NamedTuple):
    """Seconds of a process, and its peak of memory in MiB."""

    clock: float
    processor: float
    memory: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runs", action="store_true", help="compare a run with a script")
    arguments = parser.parse_args()
    if arguments.runs:
        with tempfile.TemporaryDirectory() as folder:
            compare_runs(Path(folder), arguments.rounds)
        return
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(arguments.rounds + 1):
        for name, command in COMMANDS.items():
            seconds[name].append(time_process(command).processor)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    print("| command | processor seconds | relative to the import |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.3f} | {median / medians['import']:.2f} |")


def compare_runs(folder: Path, rounds: int) -> None:
    """Print how long runs and scripts take beside training and evaluation."""
    from peftkit.recipe.model_names import model_path

    for split, rows in (("train", ROWS), ("dev", 8), ("test", 8)):
        lines = [
            json.dumps({"source": f"{split} {i}: which word is next?", "target": f"word {i % 7}"}) for i in range(rows)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    paths = ", ".join(f"{split} = {json.dumps(str(folder / f'{split}.jsonl'))}" for split in ("train", "dev", "test"))
    recipe = RECIPE.replace("{paths}", f"{{ {paths} }}").replace("{steps}", str(STEPS))
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    script = (str(folder / "script.py"), str(folder), model_path("pocket-t5"), str(STEPS))
    starts: dict[str, list[Times]] = {"peftkit run": [], "script": []}
    for number in range(rounds + 1):
        output = folder / "runs" / str(number)
        run = ("-m", "peftkit", "run", str(folder / "recipe.toml"), "--set", f"run.output={json.dumps(str(output))}")
        times = time_process(run)
        [file] = output.rglob("summary.json")
        summary = json.loads(file.read_text(encoding="utf-8"))
        spent = summary["cost"]["train_seconds"] + summary["evaluation_seconds"]
        starts["peftkit run"].append(times._replace(clock=times.clock - spent))
        times = time_process(script)
        spent = sum(json.loads((folder / "seconds.json").read_text(encoding="utf-8")).values())
        starts["script"].append(times._replace(clock=times.clock - spent))
        latest = ", ".join(f"{name} {each[-1].clock:.1f} s" for name, each in starts.items())
        print(f"[{number + 1}/{rounds + 1}] {latest}", file=sys.stderr)
    print_starts(starts)


def print_starts(starts: Mapping[str, Sequence[Times]]) -> None:
    """Print the medians without the first round, which fills caches."""
    medians = {
        name: Times(*(statistics.median(column) for column in zip(*times[1:], strict=True)))
        for name, times in starts.items()
    }
    script = medians["script"]
    columns = ("process", "seconds of the start", "relative", "processor seconds", "relative", "MiB", "relative")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, times in medians.items():
        cells = (f"{value:,.2f} | {value / other:.2f}" for value, other in zip(times, script, strict=True))
        print(f"| {name} | {' | '.join(cells)} |")


def time_process(arguments: Sequence[str]) -> Times:
    """Run Python, and return how long it took, and how much memory."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=variables, stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)  # unlike a total of all children, this is of this one
        clock = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(output.read()[-2000:])
    return Times(clock, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**10)


if __name__ == "__main__":
    main()
