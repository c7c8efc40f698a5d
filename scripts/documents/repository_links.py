"""A hook of mkdocs: links of a page to files outside ``docs/`` lead to the repository, if its address is known."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\[([^\[\]]*)\]\((?![a-z]+:|#)([^)#\s]+)[^)]*\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Replace the links that leave the folder of documents; called by mkdocs for each page.

    Args:
        markdown: The text of the page.
        page: The page.
        config: The configuration of the site.
        files: The files of the site.

    Returns:
        The text with the links replaced.
    """

    def replaced(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), match[2]))
        if (path.startswith("docs/") and not _is_excluded(path, config)) or not (ROOT / path).exists():
            return match[0]
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"[{match[1]}]({config.repo_url}/{kind}/main/{path})" if config.repo_url else match[1]

    return LINK.sub(replaced, markdown)


def _is_excluded(path: str, config: Any) -> bool:
    """Whether a file of the folder is not part of the site."""
    return bool(config.exclude_docs and config.exclude_docs.match_file(path.removeprefix("docs/")))
