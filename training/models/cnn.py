"""Two convolutions and one hidden layer, for small pictures."""

from torch import nn

CHANNELS = 32
HIDDEN = 64
DROPOUT = 0.3


def cnn(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """`shape` is (channels, height, width), height and width at least 2."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, CHANNELS, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(CHANNELS, CHANNELS, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(DROPOUT),
        nn.Linear(CHANNELS * (height // 2) * (width // 2), HIDDEN),
        nn.ReLU(),
        nn.Dropout(DROPOUT),
        nn.Linear(HIDDEN, outputs),
    )
