"""Checkpoints: their files, loading reports, text models inside multimodal ones, and commits on the hub."""
