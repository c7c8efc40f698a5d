"""Parts of the checks of ``recipe.compatibility``."""
