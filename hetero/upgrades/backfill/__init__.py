"""What to re-embed first, what it brings, what it costs, and how to search meanwhile."""
