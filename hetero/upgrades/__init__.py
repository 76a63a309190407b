"""Graceful upgrades: a new model beside an old gallery, and how to keep it from breaking anything."""
