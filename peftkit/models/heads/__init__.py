"""The heads of encoders: new ones, and those of checkpoints with their labels."""
