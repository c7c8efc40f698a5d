"""Training: ``run`` runs a recipe, ``trainer`` has the training loop, ``step`` computes one optimizer step."""
