"""Networks for series: a linear one on the moments of each channel, and convolutions."""

import torch
from torch import nn

from training.models.masked import MaskedConv, masked_mean, mean_and_highest

WIDTH = 64
DROPOUT = 0.2
#: Steps between those that a layer looks at.
DILATIONS = (1, 2, 4)
LEAST_VARIANCE = 1e-6


def series_cnn(
    shape: tuple[int, ...], outputs: int, *, width: int = WIDTH, dropout: float = DROPOUT
) -> nn.Module:
    """`shape` is (channels + 1, length), of which the last channel says where a step is."""
    return _SeriesCnn(shape[0], outputs, width, dropout)


def moments(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """One linear layer on each channel's mean and deviation over the steps."""
    return _Moments(shape[0] - 1, outputs)


class _SeriesCnn(nn.Module):
    def __init__(self, channels: int, outputs: int, width: int, dropout: float) -> None:
        super().__init__()
        widths = (channels, *[width] * len(DILATIONS))
        self.layers = nn.ModuleList(
            MaskedConv(before, width, dilation=dilation)
            for before, dilation in zip(widths[:-1], DILATIONS, strict=True)
        )
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(2 * width, outputs)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        mask = values[:, -1:]
        for layer in self.layers:
            values, mask = layer(values, mask)
        answer: torch.Tensor = self.last(self.dropout(mean_and_highest(values, mask)))
        return answer


class _Moments(nn.Module):
    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.last = nn.Linear(2 * channels, outputs)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        steps, mask = values[:, :-1], values[:, -1:]
        mean = masked_mean(steps, mask)
        away = (steps - mean.unsqueeze(2)) * mask
        deviation = (masked_mean(away * away, mask) + LEAST_VARIANCE).sqrt()
        answer: torch.Tensor = self.last(torch.cat([mean, deviation], dim=1))
        return answer
