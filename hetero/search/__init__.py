"""Architecture search by cross-model accuracy under measured cost: spaces, supernet, rewards, algorithms."""
