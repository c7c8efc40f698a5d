"""How long texts may be for a model, and what is done with longer ones."""
