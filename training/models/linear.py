"""The baseline that everything else must beat: one linear layer."""

import math

from torch import nn


def linear(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), outputs))
