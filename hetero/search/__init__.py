"""Searching architectures: what a candidate consists of, and what it will cost on a device."""
