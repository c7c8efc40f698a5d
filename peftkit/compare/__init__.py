"""From run directories to what can be said of methods."""
