"""Run directories and imported results as groups of comparable runs."""
