"""Candidates: networks from a preprocessor's rows to the numbers of a task, and their heads."""

from training.models.candidate import Candidate, Predictor
from training.models.cnn import cnn
from training.models.heads import Head, head_for
from training.models.linear import linear
from training.models.mlp import mlp

__all__ = ["Candidate", "Head", "Predictor", "cnn", "head_for", "linear", "mlp"]
