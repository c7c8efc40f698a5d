"""Equal tuning of every method: how many trials, which settings they try, running them, and selecting the best."""
