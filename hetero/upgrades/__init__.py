"""Graceful upgrades: a new model beside an old gallery, and old models beside a new one."""
