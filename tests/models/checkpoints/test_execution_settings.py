"""Settings of a checkpoint's config that say how to compute have no effect; the recipe decides."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from peftkit.components import Example
from peftkit.models.checkpoints.execution_settings import EXECUTION
from peftkit.models.load_base_model import load_base
from tests.tiny_runs import COLOURS, Make

SETTINGS: dict[str, Any] = {
    "gradient_checkpointing": True,
    "chunk_size_feed_forward": 5,
    "torchscript": True,
    "output_attentions": True,
    "output_hidden_states": True,
    "return_dict": False,
    "_attn_implementation": "eager",
    "attn_implementation": "flash_attention_2",
    "_experts_implementation": "eager",
    "experts_implementation": "grouped_mm",
    "use_cache": False,
}
KINDS = ("decoder", "encoder-decoder", "encoder")


def step(make: Make, kind: str, folder: Path) -> tuple[bytes, bytes, tuple[bool, str, int]]:
    """The loss and a gradient of one batch, and how they were computed."""
    task = "colours" if kind == "encoder" else "colour_text"
    base = load_base(make(kind, f"task.name={task}", f"model.name={folder}"))
    examples = [Example("sky sea " * number, colour, COLOURS) for number, colour in enumerate(COLOURS, 1)]
    batch = base.objective.collate(base.objective.tokenize(examples, training=True))
    base.model.train()
    torch.manual_seed(0)
    loss = base.objective.loss(base.model, batch)
    loss.backward()
    gradient = next(p.grad for p in base.model.parameters() if p.grad is not None)
    model: Any = base.model
    checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    form = checkpointing, model.config._attn_implementation, len([*model.parameters()])
    return loss.detach().numpy().tobytes(), gradient.numpy().tobytes(), form


@pytest.mark.parametrize("kind", KINDS)
def test_settings_of_the_checkpoint_do_not_decide_how_it_computes(
    kind: str, make: Make, models: dict[str, Path], tmp_path: Path
) -> None:
    expected = step(make, kind, models[kind])
    assert not expected[2][0]
    for name, value in SETTINGS.items():
        folder = tmp_path / name
        shutil.copytree(models[kind], folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, name: value}))
        assert step(make, kind, folder) == expected, name


def test_every_reset_setting_is_tried() -> None:
    assert EXECUTION.keys() <= SETTINGS.keys()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_recipe_chooses_the_attention(attention: str, make: Make, models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["decoder"], tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps({**config, "_attn_implementation": "eager"}))
    base = load_base(make("decoder", f"model.name={tmp_path / 'model'}", f"model.attention={attention}"))
    model: Any = base.model
    assert model.config._attn_implementation == attention
