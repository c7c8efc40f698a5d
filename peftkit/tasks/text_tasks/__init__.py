"""Tasks of texts, or pairs of texts, whose answers are labels or numbers."""
