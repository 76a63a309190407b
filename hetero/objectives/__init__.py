"""Compatibility losses: pure functions of embeddings, and the terms that give them state."""
