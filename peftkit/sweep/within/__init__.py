"""Sweeps within a time: how long runs take, the design that fits, and keeping to it."""
