"""What ``fuzz_scores.py`` draws, and the plain reference that it holds runs against."""
