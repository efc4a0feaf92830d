"""Convolutions for pictures of any size: detail is traded for meaning, stage by stage."""

import torch
from torch import nn

#: Channels of the stages; each but the last halves height and width.
WIDTHS = (32, 64, 128, 192, 256)
#: A picture is not made smaller than this.
SMALLEST = 4
DROPOUT = 0.2


class _Mean(nn.Module):
    """float32 [batch, channels, height, width] to its mean over the pixels, [batch, channels]."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean(dim=(2, 3))


def convnet(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """`shape` is (channels, height, width). Pictures above 32 pixels are halved at once."""
    channels, height, width = shape
    side = min(height, width)
    layers: list[nn.Module] = []
    stride = 2 if side > 32 else 1
    for number, stage in enumerate(WIDTHS):
        layers += _stage(channels, stage, stride)
        channels, side = stage, side // stride
        if side // 2 < SMALLEST or number == len(WIDTHS) - 1:
            break
        layers.append(nn.MaxPool2d(2))
        side, stride = side // 2, 1
    return nn.Sequential(*layers, _Mean(), nn.Dropout(DROPOUT), nn.Linear(channels, outputs))


def _stage(channels: int, width: int, stride: int) -> list[nn.Module]:
    # The normalisation has a bias of its own.
    convolution = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]  # a third less time
