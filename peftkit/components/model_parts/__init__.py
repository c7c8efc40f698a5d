"""Parts of a model that methods name: its target modules, and the parameters of its head."""
