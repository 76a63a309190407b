"""Linear quadratic fine-tuning (LQF): a network's first-order expansion, trained with a quadratic loss.

Achille, Golatkar, Ravichandran, Polito & Soatto, CVPR 2021 (arXiv 2012.11140).
"""
