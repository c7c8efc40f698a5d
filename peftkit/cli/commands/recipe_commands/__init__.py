"""Commands whose input is a recipe or a sweep."""
