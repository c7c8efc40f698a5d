"""Tasks of lm-evaluation-harness that need no network."""

from __future__ import annotations

import json
from pathlib import Path

COLOURS = ("red", "green", "blue", "light blue")
CHOICE = """
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
TEXT = """
output_type: generate_until
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def write_harness_tasks(folder: Path) -> Path:
    """Write the tasks ``colour_choice`` and ``colour_text`` with their documents."""
    folder.mkdir()
    for split, count in (("train", 24), ("test", 12)):
        rows = [
            {"question": f"thing {'of ' * (i % 3)}{i} is", "choices": COLOURS[: 3 + i % 2], "answer": i % 3}
            for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    files = "\n".join(f"    {split}: {(folder / split).as_posix()}.jsonl" for split in ("train", "test"))
    data = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n{files}\ntraining_split: train\ntest_split: test\n"
    for name, rest in (("colour_choice", CHOICE), ("colour_text", TEXT)):
        text = f'task: {name}\n{data}doc_to_text: "{{{{question}}}}"\nmetadata: {{version: 1.0}}\n{rest}'
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder
