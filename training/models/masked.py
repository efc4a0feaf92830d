"""Layers that heed a mask: what they give a row does not depend on its padding."""

import torch
from torch import nn


class MaskedConv(nn.Module):
    """Convolution and ReLU; what is behind a row's end is 0 before it, and again after it.

    float32 [batch, in, length] and its mask [batch, 1, length] -> [batch, out, shorter] and the
    mask of that, where shorter is the length over the stride, rounded up.
    """

    centre: torch.Tensor

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.conv = nn.Conv1d(
            inputs, outputs, kernel, stride=stride, dilation=dilation, padding=padding
        )
        centre = torch.zeros(1, 1, kernel)
        centre[0, 0, kernel // 2] = 1
        self.register_buffer("centre", centre, persistent=False)

    def forward(
        self, values: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # A convolution too, as the exporter must see that both stay equally long.
        kept = nn.functional.conv1d(
            mask, self.centre, None, self.stride, self.padding, self.dilation
        )
        return torch.relu(self.conv(values)) * kept, kept


def mean_and_highest(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """float32 [batch, 2 * channels] of values from 0 on, [batch, channels, length]."""
    return torch.cat([masked_mean(values, mask), values.amax(dim=2)], dim=1)


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """float32 [batch, channels] of values that are 0 where the mask is; 0 of no value."""
    return values.sum(dim=2) / mask.sum(dim=2).clamp(min=1)
