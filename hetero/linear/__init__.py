"""Linear quadratic fine-tuning: the network's first-order expansion, trained by a quadratic loss."""
