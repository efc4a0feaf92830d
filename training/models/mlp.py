"""Hidden layers, two where nothing else is said."""

import math

from torch import nn

HIDDEN = 64
LAYERS = 2
DROPOUT = 0.2


def mlp(
    shape: tuple[int, ...],
    outputs: int,
    *,
    hidden: int = HIDDEN,
    layers: int = LAYERS,
    dropout: float = DROPOUT,
) -> nn.Module:
    """`layers` hidden ones of `hidden` numbers each."""
    parts: list[nn.Module] = [nn.Flatten()]
    width = math.prod(shape)
    for _ in range(layers):
        parts += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout)]
        width = hidden
    return nn.Sequential(*parts, nn.Linear(width, outputs))
