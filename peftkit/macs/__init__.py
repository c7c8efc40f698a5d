"""Counts multiply-accumulates (MACs) of training steps on copies of the model without weights."""
