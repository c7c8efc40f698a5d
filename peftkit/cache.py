"""Where what can be made again is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder: ``PEFTKIT_CACHE``, else one of the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "peftkit"
    return Path(os.environ.get("PEFTKIT_CACHE") or default)
