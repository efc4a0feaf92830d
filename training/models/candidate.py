"""A candidate, and the module that joins it to its preprocessor."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from app.bundle.tensors import Array, Tensors
from training.models.heads import Head
from training.preprocess import Preprocess
from training.tasks import Task

#: (shape of one row, width) -> float32 [batch, *shape] to the task's numbers [batch, width].
Build = Callable[[tuple[int, ...], int], nn.Module]


@dataclass(frozen=True)
class Candidate:
    """A network that may be chosen."""

    name: str
    description: str
    build: Build


class Predictor(nn.Module):
    """Preprocessor, network and head in one: from the graph's inputs to the answer."""

    def __init__(self, preprocess: Preprocess, network: nn.Module, head: Head, task: Task) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.network = network
        self.head = head
        self.task = task

    def raw(self, *features: torch.Tensor) -> torch.Tensor:
        """float32 [batch, width], before the head."""
        raw: torch.Tensor = self.network(self.preprocess(*features))
        return raw

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        """The answer: scores float32 [batch, labels], or values float32 [batch]."""
        answer: torch.Tensor = self.head(self.raw(*features))
        return answer

    @torch.no_grad()
    def answers(self, inputs: Tensors) -> Array:
        """What `forward` gives for the graph's inputs, strings included."""
        self.eval()
        answers: Array = self(*self.preprocess.features(inputs)).numpy()
        return answers

    def reference(self, inputs: Tensors) -> dict[str, Array]:
        """What PyTorch answers, as the graph's outputs."""
        return self.task.outputs(self.answers(inputs))

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
