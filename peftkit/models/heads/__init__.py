"""Heads: of encoders, new ones and those of checkpoints with their labels; of decoders, their logits of targets only."""
