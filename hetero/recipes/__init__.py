"""Recipes: typed configurations of the whole loop, by name or from a file, changed by key=value pairs."""
