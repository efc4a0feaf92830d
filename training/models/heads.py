"""The last step of a network, by task: from its numbers to the answer, and how far that is off."""

from abc import ABC, abstractmethod
from typing import assert_never

import torch
from torch import nn

from training.tasks import Classification, MultiLabel, Regression, Targets, Task


class Head(nn.Module, ABC):
    """Exported with the network.

    Attributes:
        metric: what `measure` gives, in words.
    """

    metric: str

    @abstractmethod
    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """The answer, from float32 [batch, width]."""

    @abstractmethod
    def loss(self, raw: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """What is minimised: the mean over the rows."""

    @abstractmethod
    def measure(self, raw: torch.Tensor, targets: torch.Tensor) -> float:
        """A figure for the learning curves that a person understands."""


class ClassHead(Head):
    """Softmax of the numbers over a temperature (Guo et al. 2017, arXiv:1706.04599)."""

    metric = "accuracy"
    temperature: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        return torch.softmax(raw / self.temperature, dim=1)

    def loss(self, raw: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(raw, targets)

    def measure(self, raw: torch.Tensor, targets: torch.Tensor) -> float:
        return (raw.argmax(dim=1) == targets).to(torch.float32).mean().item()


class LabelsHead(Head):
    """A sigmoid for each label."""

    metric = "labels that are right"
    temperature: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(raw / self.temperature)

    def loss(self, raw: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(raw, targets)

    def measure(self, raw: torch.Tensor, targets: torch.Tensor) -> float:
        return ((raw > 0) == (targets > 0)).to(torch.float32).mean().item()


class ValueHead(Head):
    """The network's number is in deviations from the mean of the training targets."""

    metric = "RMSE"
    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, train_targets: Targets) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(train_targets.mean(), dtype=torch.float32))
        deviation = float(train_targets.std()) or 1.0
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32))

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        return raw[:, 0] * self.deviation + self.mean

    def loss(self, raw: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(raw[:, 0], (targets - self.mean) / self.deviation)

    def measure(self, raw: torch.Tensor, targets: torch.Tensor) -> float:
        return nn.functional.mse_loss(self(raw), targets).sqrt().item()


def head_for(task: Task, train_targets: Targets) -> Head:
    """A fresh head; statistics are those of the training targets."""
    match task:
        case Classification():
            return ClassHead()
        case MultiLabel():
            return LabelsHead()
        case Regression():
            return ValueHead(train_targets)
        case _:
            assert_never(task)
