"""Finished runs as models: predict, merge, export and push."""
