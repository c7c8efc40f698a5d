"""Answers that are more than a text, as texts: numbers, and sets of labels."""
