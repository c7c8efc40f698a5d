"""Tables and pages as text for a terminal, and as HTML for a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

Row = Sequence[str]


def text_table(head: Row, rows: Iterable[Row]) -> str:
    """Align rows in columns.

    Args:
        head: The names of the columns.
        rows: The cells of each row.
    """
    lines = [head, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def html_table(head: Row, rows: Iterable[Row]) -> str:
    """Write a table as HTML; all text is escaped.

    Args:
        head: The names of the columns.
        rows: The cells of each row.
    """
    names = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def html_paragraphs(texts: Iterable[str]) -> str:
    """Write each text as an escaped paragraph."""
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)


def html_facts(title: str, facts: Mapping[str, str]) -> str:
    """Write named values as HTML; all text is escaped.

    Args:
        title: The text above them.
        facts: The values by name.
    """
    rows = "".join(f"<tr><th>{html.escape(key)}</th><td>{html.escape(text)}</td></tr>" for key, text in facts.items())
    return f"<p><strong>{html.escape(title)}</strong></p><table><tbody>{rows}</tbody></table>"
