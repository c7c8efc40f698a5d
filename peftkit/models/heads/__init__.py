"""Heads: of encoders, new ones and those of checkpoints with their labels; of decoders, the logits of targets only."""
