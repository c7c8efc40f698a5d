"""The Python interface, re-exported by ``peftkit``; torch is imported when a function needs it.

``recipes`` builds recipes and estimates their cost, ``runs`` trains and reads runs, ``comparisons`` compares them,
``sweeps`` runs grids of recipes, and ``component_views`` lists and describes components.
"""
