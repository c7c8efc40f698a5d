"""Reading and generating candidates and texts: packed sequences, shared caches, greedy search."""
