"""Carrying out a backfill plan on a gallery store: killable, pausable, reversible."""
