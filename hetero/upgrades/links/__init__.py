"""Post-hoc links: maps fitted between two frozen spaces, each with its direction and its side.

One file a method; `methods.py` lists them, `fit.py` fits one from paired embeddings, `link.py` is what
results. The baseline that needs no map at all is `hetero.upgrades.backfill.mixed`.
"""

from hetero.upgrades.links.fit import fit_link
from hetero.upgrades.links.link import Link, Side
from hetero.upgrades.links.methods import METHODS, LinkMethod, method_named

__all__ = ["METHODS", "Link", "LinkMethod", "Side", "fit_link", "method_named"]
