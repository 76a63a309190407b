"""Graceful upgrades: what a new model may break, and how to keep it from breaking."""
