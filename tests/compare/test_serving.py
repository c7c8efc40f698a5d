"""What serving takes, in comparisons."""

from __future__ import annotations

import json
from pathlib import Path

from peftkit.compare.comparison import compare
from peftkit.compare.matched_methods import load_groups
from peftkit.compare.output.table_formats import flat_records, render
from tests.compare.conftest import Plant


def record(path: Path, rate: float, prompt_tokens: int = 128) -> None:
    rows = [
        {"merged": merged, "batch_size": 1, "peak_device_bytes": None, "peak_host_bytes": 2**30}
        | {"first_token_seconds": {"median": 0.5}, "tokens_per_second": {"median": rate * (1 + merged)}}
        for merged in (False, True)
    ]
    result = {"format": 1, "prompt_tokens": prompt_tokens, "new_tokens": 32, "measurements": rows}
    (path / "serving.json").write_text(json.dumps(result))


def test_measured_methods_have_columns(plant: Plant) -> None:
    runs = [plant(method, seed, [0.1, 0.9]) for method in ("lora", "full") for seed in (1, 2)]
    for number, path in enumerate(runs[:2]):
        record(path, 10.0 + number)
    [group], _ = load_groups([runs[0].parent])
    comparison = compare(group)
    serving = {row.method: row.serving for row in comparison.lines}
    assert serving == {"lora": {"first token (s)": 0.5, "tokens/s": 21.0, "serving memory (GiB)": 1.0}, "full": {}}
    assert any("serving: of single prompts, 128 tokens in, 32 out" in remark for remark in comparison.remarks)
    [by_method] = [each for each in flat_records([comparison]) if each.get("method") == "lora"]
    assert by_method["serving: tokens/s"] == 21.0
    assert "tokens/s" in render([comparison], "table", wide=True).decode()
    record(runs[0], 10.0, prompt_tokens=64)
    [group], _ = load_groups([runs[0].parent])
    assert any("measured differently" in remark for remark in compare(group).remarks)
