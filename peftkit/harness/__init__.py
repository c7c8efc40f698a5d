"""The library lm-evaluation-harness."""
