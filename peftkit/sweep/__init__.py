"""Many recipes: a grid over a base recipe, tuned alike, each run once, in processes or on a cluster."""
