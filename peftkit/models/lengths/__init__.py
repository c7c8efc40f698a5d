"""How long texts may be for a model, and what is done with longer ones."""

LONGER_SOURCES = "raise train.max_source_length"
"""What to do about sources that are too long, unless the model has no more positions."""
LONGER_TARGETS = "raise train.max_target_length"
"""The same for targets."""
