"""From the graph's inputs to what a network takes; fitted on the training split and exported.

A preprocessor is an `nn.Module` of ordinary tensor operations, so that the exported graph holds
it. Strings are the exception, as torch has none: `Lookup` describes how the graph turns them into
numbers, and `features` does the same in Python for training.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from app.bundle.tensors import Array, Tensors
from training.config import RunConfig

#: Where a category is missing or not in the vocabulary.
UNKNOWN = 0


@dataclass(frozen=True)
class Lookup:
    """A string tensor [batch, columns] and the int64 ids of the same shape that replace it.

    Ids start at 1 in the order of each column's vocabulary; everything else is `UNKNOWN`.
    """

    tensor: str
    ids: str
    vocabularies: tuple[tuple[str, ...], ...]

    def __call__(self, strings: Array) -> Array:
        tables = [{word: i + 1 for i, word in enumerate(v)} for v in self.vocabularies]
        ids = [[t.get(s, UNKNOWN) for t, s in zip(tables, row, strict=True)] for row in strings]
        return np.array(ids, dtype=np.int64).reshape(strings.shape)


class Preprocess(nn.Module, ABC):
    """What is between the graph's inputs and the network.

    Attributes:
        names: the torch part's inputs, in the order of `forward`'s arguments.
        lookup: what replaces a string input before the torch part, if there is one.
        shape: shape of one row that `forward` gives.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    lookup: Lookup | None = None

    def features(self, inputs: Tensors) -> tuple[torch.Tensor, ...]:
        """The graph's inputs as the tensors that `forward` takes."""
        arrays = dict(inputs)
        if self.lookup is not None:
            arrays[self.lookup.ids] = self.lookup(arrays.pop(self.lookup.tensor))
        return tuple(torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in self.names)

    @abstractmethod
    def augment(
        self, features: tuple[torch.Tensor, ...], config: RunConfig, generator: torch.Generator
    ) -> tuple[torch.Tensor, ...]:
        """Vary a training batch as serving may; the same shapes, the batch itself unchanged."""

    @abstractmethod
    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        """float32 [batch, *shape]."""


class ImagePreprocess(Preprocess):
    """uint8 [batch, height, width] -> float32 [batch, 1, height, width], standardised."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, tensor: str, train_inputs: Tensors, maximum: int) -> None:
        super().__init__()
        self.names = (tensor,)
        self.shape = (1, *train_inputs[tensor].shape[1:])
        self.maximum = float(maximum)
        pixels = train_inputs[tensor].astype(np.float64) / maximum
        self.register_buffer("mean", torch.tensor(pixels.mean(), dtype=torch.float32))
        self.register_buffer("deviation", torch.tensor(pixels.std() or 1.0, dtype=torch.float32))

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        pixels = features[0].to(torch.float32) / self.maximum
        return ((pixels - self.mean) / self.deviation).unsqueeze(1)

    def augment(
        self, features: tuple[torch.Tensor, ...], config: RunConfig, generator: torch.Generator
    ) -> tuple[torch.Tensor, ...]:
        """Shift each picture by up to `shift_pixels` along each axis; what comes in is 0."""
        most = config.shift_pixels
        if most == 0:
            return features
        (images,) = features
        rows, height, width = images.shape
        padded = nn.functional.pad(images, (most, most, most, most))
        offsets = torch.randint(0, 2 * most + 1, (rows, 2, 1), generator=generator)
        down = offsets[:, 0] + torch.arange(height)
        across = offsets[:, 1] + torch.arange(width)
        return (padded[torch.arange(rows)[:, None, None], down[:, :, None], across[:, None, :]],)


class TablePreprocess(Preprocess):
    """Numbers and categories -> float32 [batch, columns].

    Numbers float32 [batch, n] (NaN is missing) become n standardised values, where the train
    median stands in for a missing one, and n flags of what was missing. Category ids
    int64 [batch, m] become one-hot groups whose first slot is missing or unknown.
    """

    median: torch.Tensor
    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, numbers: str, lookup: Lookup, train_inputs: Tensors) -> None:
        super().__init__()
        self.names = (numbers, lookup.ids)
        self.lookup = lookup
        columns = train_inputs[numbers].astype(np.float64)
        statistics = {
            "median": np.nanmedian(columns, axis=0),
            "mean": np.nanmean(columns, axis=0),
            "deviation": np.nanstd(columns, axis=0),
        }
        statistics["deviation"][statistics["deviation"] == 0] = 1.0
        for name, values in statistics.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))
        self.slots = [len(vocabulary) + 1 for vocabulary in lookup.vocabularies]
        for column, slots in enumerate(self.slots):
            self.register_buffer(f"slots_{column}", torch.arange(slots), persistent=False)
        self.shape = (2 * columns.shape[1] + sum(self.slots),)

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        numbers, ids = features
        missing = torch.isnan(numbers)
        scaled = (torch.where(missing, self.median, numbers) - self.mean) / self.deviation
        one_hot = [
            ids[:, column : column + 1] == cast(torch.Tensor, getattr(self, f"slots_{column}"))
            for column in range(len(self.slots))
        ]
        flags = [part.to(torch.float32) for part in (missing, *one_hot)]
        return torch.cat([scaled, *flags], dim=1)

    def augment(
        self, features: tuple[torch.Tensor, ...], config: RunConfig, generator: torch.Generator
    ) -> tuple[torch.Tensor, ...]:
        """Make some values missing, so that the slots for it are trained."""
        rate = config.missing_rate
        if rate == 0:
            return features
        numbers, ids = features
        gaps = torch.rand(numbers.shape, generator=generator) < rate
        lost = torch.rand(ids.shape, generator=generator) < rate
        return numbers.masked_fill(gaps, torch.nan), ids.masked_fill(lost, UNKNOWN)
