"""What may be trained, and what comes of it: the seam between training and all that follows."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import numpy as np
import torch
from torch import nn

from app.bundle.tensors import Array, Tensors, row_count, take_rows
from training.models.heads import Head
from training.models.space import Setting, Space
from training.preprocess.tensors import Lookup, Preprocess
from training.tasks import Task

#: (shape of one row, width) -> float32 [batch, *shape] to the task's numbers [batch, width].
#: What else it takes, by keyword, are settings of the candidate's space.
Build = Callable[..., nn.Module]
ANSWERED_ROWS = 512


class Model(Protocol):
    """A trained model, whatever trained it: what is asked of it by export, proof and papers."""

    #: Changes once, when the threshold of two classes is chosen.
    task: Task

    @property
    def framework(self) -> str:
        """What trained it, as people call it."""

    @property
    def lookup(self) -> Lookup | None:
        """What replaces a string input before all else, if there is one."""

    @property
    def parameter_count(self) -> int:
        """How large it is, in numbers that were learnt."""

    @property
    def weights_sha256(self) -> str:
        """Hash of all that was learnt."""

    def answers(self, inputs: Tensors) -> Array:
        """float32, scores [rows, labels] or values [rows], from the graph's inputs."""

    def reference(self, inputs: Tensors) -> dict[str, Array]:
        """What the exported graph must answer, as the graph's outputs."""


@dataclass(frozen=True)
class Candidate:
    """A network that may be chosen.

    Attributes:
        space: what a search may vary: settings of the run, and keywords of `build`.
        settings: what it is trained with in place of the run's and the build's own.
    """

    name: str
    description: str
    build: Build
    space: Space = field(default_factory=dict)
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def tuned(self, settings: Mapping[str, Setting]) -> Self:
        return replace(self, settings={**self.settings, **settings})


class Predictor(nn.Module):
    """Preprocessor, network and head in one: from the graph's inputs to the answer."""

    framework = "PyTorch"

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
        """What `forward` gives for the graph's inputs, strings included.

        Some rows at a time: a network's layers need more memory for each than its inputs.
        """
        self.eval()
        rows = range(0, row_count(inputs), ANSWERED_ROWS)
        pieces = (take_rows(inputs, slice(at, at + ANSWERED_ROWS)) for at in rows)
        parts = [self(*self.preprocess.features(piece)).numpy() for piece in pieces]
        return np.concatenate(parts)

    def reference(self, inputs: Tensors) -> dict[str, Array]:
        """What PyTorch answers, as the graph's outputs."""
        return self.task.outputs(self.answers(inputs))

    @property
    def lookup(self) -> Lookup | None:
        return self.preprocess.lookup

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def weights_sha256(self) -> str:
        """Hash of the state dict's names and bytes, in name order."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()
