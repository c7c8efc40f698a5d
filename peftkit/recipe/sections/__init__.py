"""Parts of the tables of a recipe that have a module of their own."""
