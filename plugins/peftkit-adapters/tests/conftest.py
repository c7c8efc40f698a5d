from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
# What must hold for every method is written down once, beside the tests of the built-in ones.
sys.path.append(str(Path(__file__).parents[3] / "tests" / "methods"))
pytest.register_assert_rewrite("method_properties")
