"""The rows of probes."""
