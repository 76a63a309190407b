"""Upgrades: a better model for a gallery that is too large to be embedded again at once."""
