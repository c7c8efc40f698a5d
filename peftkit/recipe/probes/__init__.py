"""Probes (`[[probe]]`): what a model could do before training, measured along the curve."""
