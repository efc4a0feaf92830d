"""Candidates, and what they become: networks with their heads, and trees."""

from training.models.candidate import Candidate, Model, Predictor
from training.models.cnn import cnn
from training.models.convnet import convnet
from training.models.heads import Head, head_for
from training.models.linear import linear
from training.models.mlp import mlp
from training.models.series import moments, series_cnn
from training.models.text_cnn import byte_runs, text_cnn
from training.models.trees import TREES, TreeCandidate, Trees

#: Whatever may be chosen.
AnyCandidate = Candidate | TreeCandidate

__all__ = [
    "TREES",
    "AnyCandidate",
    "Candidate",
    "Head",
    "Model",
    "Predictor",
    "TreeCandidate",
    "Trees",
    "byte_runs",
    "cnn",
    "convnet",
    "head_for",
    "linear",
    "mlp",
    "moments",
    "series_cnn",
    "text_cnn",
]
