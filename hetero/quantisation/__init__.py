"""Finishing a student for int8: its artefact simulated in torch, corrected, and trained with the anchor."""

from hetero.quantisation.corrections import AdaRound, correct_biases, round_adaptively
from hetero.quantisation.equalisation import equalise
from hetero.quantisation.folding import Folded, fold
from hetero.quantisation.scheme import SCHEMES, Scheme
from hetero.quantisation.simulation import QuantisedDeploy

__all__ = [
    "SCHEMES",
    "AdaRound",
    "Folded",
    "QuantisedDeploy",
    "Scheme",
    "correct_biases",
    "equalise",
    "fold",
    "round_adaptively",
]
