"""Messages about invalid recipes: what is wrong, and the names of fields and types in them."""
