"""An objective for the tests of data."""

from __future__ import annotations

import pytest
from transformers import AutoConfig, AutoTokenizer

from peftkit.models import BoundObjective
from peftkit.recipe.model_names import model_path
from tests.tiny_runs import bind_objective


@pytest.fixture
def objective() -> BoundObjective:
    path = model_path("pocket-t5")
    tokenizer, config = AutoTokenizer.from_pretrained(path), AutoConfig.from_pretrained(path)
    return bind_objective("encoder-decoder", tokenizer, config, "classification", max_target_length=16)
