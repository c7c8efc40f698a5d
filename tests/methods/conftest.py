from __future__ import annotations

import sys
from pathlib import Path

import pytest

# With --import-mode=importlib nothing is on the path, and the plugins' tests use the same helpers.
sys.path.append(str(Path(__file__).parent))
pytest.register_assert_rewrite("method_properties")
