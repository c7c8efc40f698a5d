"""Batches of token ids: their padding, counts and lengths."""
