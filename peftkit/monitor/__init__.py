"""Monitoring of runs: the console, trackers such as W&B, and the recorded environment."""
