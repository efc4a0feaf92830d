"""Candidates: networks from a preprocessor's rows to one logit a class."""

from training.models.candidate import Candidate, Classifier
from training.models.cnn import cnn
from training.models.linear import linear
from training.models.mlp import mlp

__all__ = ["Candidate", "Classifier", "cnn", "linear", "mlp"]
