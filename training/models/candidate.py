"""A candidate, and the module that joins it to its preprocessor."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from app.bundle.tensors import Array, Tensors
from training.preprocess import Preprocess

#: (shape of one row, number of classes) -> float32 [batch, *shape] to logits [batch, classes].
Build = Callable[[tuple[int, ...], int], nn.Module]


@dataclass(frozen=True)
class Candidate:
    """A network that may be chosen."""

    name: str
    description: str
    build: Build


class Classifier(nn.Module):
    """Preprocessor and network in one: from the graph's inputs to scores."""

    def __init__(self, preprocess: Preprocess, network: nn.Module, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.network = network
        self.labels = labels

    def logits(self, *features: torch.Tensor) -> torch.Tensor:
        """float32 [batch, classes], before the softmax."""
        logits: torch.Tensor = self.network(self.preprocess(*features))
        return logits

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        """Scores float32 [batch, classes]; each row sums to 1."""
        return torch.softmax(self.logits(*features), dim=1)

    @torch.no_grad()
    def scores(self, inputs: Tensors) -> Array:
        """Scores float32 [rows, classes] of the graph's inputs, strings included."""
        self.eval()
        scores: Array = self(*self.preprocess.features(inputs)).numpy()
        return scores

    def reference(self, inputs: Tensors) -> dict[str, Array]:
        """What PyTorch answers, as the graph's outputs: `label` str [rows], `scores` [rows, n]."""
        scores = self.scores(inputs)
        labels = np.array(self.labels, dtype=object)
        return {"label": labels[scores.argmax(axis=1)], "scores": scores}

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
