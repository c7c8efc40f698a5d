"""Random cases of ``fuzz_scores.py``, and the reference implementation that runs are compared with."""
