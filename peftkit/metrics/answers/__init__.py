"""Metrics of generated answers: parts of texts that are right, equal or follow instructions."""
