"""Parts of the checks of ``recipe.conflicts.find_conflicts``."""
