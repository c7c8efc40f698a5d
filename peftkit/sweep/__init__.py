"""Many recipes: a grid over a base recipe, equal tuning for every method, and the executors that run it."""
