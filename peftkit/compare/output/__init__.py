"""Comparisons for readers: tables, notes, figures, and the HTML report."""
