"""The optimizer step: its inputs and gradients, its losses and its time."""
