"""Convolutions for pictures of any size: detail is traded for meaning, stage by stage."""

from torch import nn

#: Channels of the stages; each halves height and width while there is something to halve.
WIDTHS = (16, 32, 96, 192, 256)
#: No picture is made smaller than this.
SMALLEST = 3
DROPOUT = 0.3


def convnet(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """`shape` is (channels, height, width). Pictures above 32 pixels are halved at once."""
    channels, *size = shape
    stride = 2 if min(size) > 32 else 1
    size = [-(-side // stride) for side in size]
    layers: list[nn.Module] = []
    for width in WIDTHS:
        can_halve = min(size) // 2 >= SMALLEST
        layers += _stage(channels, width, stride, can_halve=can_halve)
        channels, stride = width, 1
        size = [side // 2 for side in size] if can_halve else size
        if not can_halve or min(size) == SMALLEST:
            break
    # No mean over the pixels: where something is says much in pictures of one centred thing.
    last = nn.Linear(channels * size[0] * size[1], outputs)
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(DROPOUT), last)


def _stage(channels: int, width: int, stride: int, *, can_halve: bool) -> list[nn.Module]:
    # The normalisation has a bias of its own, and in the exported graph it is one with the weights.
    convolution = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    # Maximum and ReLU may change places; so the latter has a quarter of the work.
    smaller = [nn.MaxPool2d(2)] if can_halve else []
    return [convolution, nn.BatchNorm2d(width), *smaller, nn.ReLU(inplace=True)]
