"""Texts and series of any length: padded in the arrays, and masked in the graph.

What these give a network says where each row ends, so that padding changes no answer.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from app.bundle.padding import SERIES_STEPS, TEXT_BYTES, rounded_up, trimmed
from app.bundle.tensors import Array, Tensors
from training.config import RunConfig
from training.preprocess.tensors import Preprocess

#: In a row's shape: as long as the longest row of the batch.
FREE = -1
#: Rows whose moments are taken at a time.
MEASURED_ROWS = 4096


class _Padded(Preprocess):
    """One padded tensor, whose axis 1 is free."""

    #: What lengths are rounded up to.
    unit: int

    def __init__(self, tensor: str, shape: tuple[int, ...], dim: str) -> None:
        super().__init__()
        self.names, self.shape = (tensor,), shape
        self.free: Mapping[str, Mapping[int, str]] = {tensor: {1: dim}}

    def features(self, inputs: Tensors) -> tuple[torch.Tensor, ...]:
        (name,) = self.names
        return super().features({name: trimmed(inputs[name])})

    def augment(
        self,
        features: tuple[torch.Tensor, ...],
        config: RunConfig,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> tuple[torch.Tensor, ...]:
        """Nothing is varied; a batch is as long as its longest row."""
        (padded,) = features
        at = self.is_there(padded).any(dim=0).nonzero()
        longest = int(at[-1]) + 1 if len(at) else 0
        return (padded[:, : rounded_up(longest, self.unit)],)

    def is_there(self, padded: torch.Tensor) -> torch.Tensor:
        """bool [batch, length], false from the end of each row on."""
        raise NotImplementedError


class TextPreprocess(_Padded):
    """uint8 [batch, length], padded with 0 -> int64 [batch, length + 1], where 0 is no byte.

    There is always padding, so that a text without a byte has a position too.
    """

    unit = TEXT_BYTES

    def __init__(self, tensor: str, dim: str = "length") -> None:
        super().__init__(tensor, (FREE,), dim)

    def is_there(self, padded: torch.Tensor) -> torch.Tensor:
        return padded != 0

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(features[0].to(torch.int64), (0, 1))


class SeriesPreprocess(_Padded):
    """float32 [batch, length, channels], padded with NaN -> float32 [batch, channels + 1,
    length + 1]: standardised values, 0 where there is no step, and 1 where there is one.
    """

    unit = SERIES_STEPS
    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, tensor: str, train_inputs: Tensors, dim: str = "length") -> None:
        series = train_inputs[tensor]
        super().__init__(tensor, (series.shape[2] + 1, FREE), dim)
        mean, deviation = step_moments(series)
        deviation[deviation == 0] = 1.0
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32))

    def is_there(self, padded: torch.Tensor) -> torch.Tensor:
        return ~torch.isnan(padded).all(dim=2)

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        steps = nn.functional.pad(features[0], (0, 0, 0, 1), value=torch.nan)
        missing = torch.isnan(steps)
        values = (torch.where(missing, self.mean, steps) - self.mean) / self.deviation
        there = (~missing).any(dim=2, keepdim=True).to(torch.float32)
        return torch.cat([values, there], dim=2).transpose(1, 2)


def step_moments(series: Array) -> tuple[Array, Array]:
    """Mean and deviation of each channel over all real steps, float64 [channels].

    In two passes over some rows at a time, in little memory.
    """
    pieces = [series[at : at + MEASURED_ROWS] for at in range(0, len(series), MEASURED_ROWS)]
    count = sum((~np.isnan(one)).sum(axis=(0, 1)) for one in pieces)
    mean = sum(np.nansum(one, axis=(0, 1), dtype=np.float64) for one in pieces) / count
    squares = sum(np.nansum((one - mean) ** 2, axis=(0, 1)) for one in pieces)
    return mean, np.sqrt(squares / count)
