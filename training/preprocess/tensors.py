"""From the graph's inputs to what a network takes; fitted on the training split and exported.

A preprocessor is an `nn.Module` of ordinary tensor operations, so that the exported graph holds
it. Strings are the exception, as torch has none: `Lookup` describes how the graph turns them into
numbers, and `features` does the same in Python for training.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from torch import nn

from app.bundle.tensors import Array, Tensors
from training.config import RunConfig
from training.data.words import most_frequent

#: Where a category is missing or not in the vocabulary.
UNKNOWN = 0
#: Pictures whose pixels are counted at a time.
COUNTED_ROWS = 256


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
        free: names of the inputs' free dims but the batch, by input and axis.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    lookup: Lookup | None = None
    free: Mapping[str, Mapping[int, str]] = MappingProxyType({})

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
        """Vary a training batch as serving may; the batch itself is unchanged."""

    @abstractmethod
    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        """float32 [batch, *shape]."""


class ImagePreprocess(Preprocess):
    """uint8 [batch, height, width] or [batch, height, width, 3] -> float32
    [batch, 1 or 3, height, width], each channel standardised."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, tensor: str, train_inputs: Tensors, maximum: int) -> None:
        super().__init__()
        pixels = train_inputs[tensor]
        self.names = (tensor,)
        self.is_grey = pixels.ndim == 3
        self.shape = (1 if self.is_grey else pixels.shape[3], *pixels.shape[1:3])
        self.maximum = float(maximum)
        mean, deviation = _channel_moments(pixels.reshape(*pixels.shape[:3], -1))
        deviation[deviation == 0] = maximum
        for name, values in (("mean", mean), ("deviation", deviation)):
            statistic = values[0] if self.is_grey else values
            self.register_buffer(name, torch.tensor(statistic / maximum, dtype=torch.float32))

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        pixels = features[0].to(torch.float32) / self.maximum
        scaled = (pixels - self.mean) / self.deviation
        return scaled.unsqueeze(1) if self.is_grey else scaled.permute(0, 3, 1, 2)

    def augment(
        self, features: tuple[torch.Tensor, ...], config: RunConfig, generator: torch.Generator
    ) -> tuple[torch.Tensor, ...]:
        """Shift each picture by up to `shift_pixels` along each axis, where what comes in is 0,
        and with `flip` mirror half of them."""
        most = config.shift_pixels
        if most == 0 and not config.flip:
            return features
        (images,) = features
        rows, height, width = images.shape[:3]
        offsets = torch.randint(0, 2 * most + 1, (rows, 2, 1), generator=generator)
        down = offsets[:, 0] + torch.arange(height)
        across = torch.arange(width).expand(rows, width)
        if config.flip:
            is_mirrored = torch.randint(0, 2, (rows, 1), generator=generator) > 0
            across = torch.where(is_mirrored, across.flip(1), across)
        across = offsets[:, 1] + across
        channels = (0,) * 2 * (images.ndim - 3)
        padded = nn.functional.pad(images, (*channels, most, most, most, most))
        down, across = down.to(images.device), across.to(images.device)
        each = torch.arange(rows, device=images.device)[:, None, None]
        return (padded[each, down[:, :, None], across[:, None, :]],)


def _channel_moments(pixels: Array) -> tuple[Array, Array]:
    """Mean and deviation, float64 [channels], of uint8 [rows, height, width, channels].

    By counting values, some rows at a time: exact, and in little memory.
    """
    counts = np.zeros((pixels.shape[3], 256), dtype=np.int64)
    for start in range(0, len(pixels), COUNTED_ROWS):
        for channel in range(pixels.shape[3]):
            some = pixels[start : start + COUNTED_ROWS, :, :, channel]
            counts[channel] += np.bincount(some.ravel(), minlength=256)
    values, total = np.arange(256), counts.sum(axis=1)
    mean = counts @ values / total
    return mean, np.sqrt(np.maximum(counts @ values**2 / total - mean**2, 0))


class TablePreprocess(Preprocess):
    """Numbers, categories or both -> float32 [batch, columns].

    Numbers float32 [batch, n] (NaN is missing) become n standardised values, where the train
    median stands in for a missing one, and n flags of what was missing. Category ids
    int64 [batch, m] become one-hot groups whose first slot is missing or unknown.
    """

    median: torch.Tensor
    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(
        self,
        numbers: str | None,
        lookup: Lookup | None,
        train_inputs: Tensors,
        may_miss: Array | None = None,
    ) -> None:
        """
        Args:
            numbers: name of the tensor of numbers, if there is one.
            may_miss: bool [n], the numbers that `augment` may lose; None for all.
        """
        super().__init__()
        self.numbers, self.lookup = numbers, lookup
        ids = () if lookup is None else (lookup.ids,)
        self.names = ids if numbers is None else (numbers, *ids)
        width = 0
        if numbers is not None:
            columns = train_inputs[numbers].astype(np.float64)
            width = columns.shape[1]
            for name, values in _column_statistics(columns).items():
                self.register_buffer(name, torch.tensor(values, dtype=torch.float32))
            losable = np.ones(width, dtype=np.bool_) if may_miss is None else may_miss
            self.register_buffer("may_miss", torch.tensor(losable), persistent=False)
        self.slots = [len(words) + 1 for words in lookup.vocabularies] if lookup else []
        for column, slots in enumerate(self.slots):
            self.register_buffer(f"slots_{column}", torch.arange(slots), persistent=False)
        self.shape = (2 * width + sum(self.slots),)

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        parts: list[torch.Tensor] = []
        if self.numbers is not None:
            missing = torch.isnan(features[0])
            filled = torch.where(missing, self.median, features[0])
            parts += [(filled - self.mean) / self.deviation, missing]
        parts += [
            features[-1][:, column : column + 1]
            == cast(torch.Tensor, getattr(self, f"slots_{column}"))
            for column in range(len(self.slots))
        ]
        return torch.cat([part.to(torch.float32) for part in parts], dim=1)

    def augment(
        self, features: tuple[torch.Tensor, ...], config: RunConfig, generator: torch.Generator
    ) -> tuple[torch.Tensor, ...]:
        """Make some values missing, so that the slots for it are trained."""
        if config.missing_rate == 0:
            return features
        return tuple(self._with_gaps(part, config.missing_rate, generator) for part in features)

    def _with_gaps(
        self, part: torch.Tensor, rate: float, generator: torch.Generator
    ) -> torch.Tensor:
        lost = (torch.rand(part.shape, generator=generator) < rate).to(part.device)
        if not part.is_floating_point():
            return part.masked_fill(lost, UNKNOWN)
        return part.masked_fill(lost & cast(torch.Tensor, self.may_miss), torch.nan)


def fit_table(train_inputs: Tensors, numbers: str, categories: str) -> TablePreprocess:
    """Statistics and vocabularies of the training rows of a table, and of no other.

    Args:
        numbers, categories: names of the tensors; one of them may not be there. Numbers without
            a gap in these rows are not made missing while training.
    """
    lookup: Lookup | None = None
    may_miss: Array | None = None
    if categories in train_inputs:
        # A column without any word in these rows gets a slot that nothing reaches.
        words = [most_frequent(column) or ("",) for column in train_inputs[categories].T]
        lookup = Lookup(categories, f"{categories}_id", tuple(words))
    if numbers in train_inputs:
        may_miss = np.asarray(np.isnan(train_inputs[numbers]).any(axis=0))
    has_numbers = numbers in train_inputs
    return TablePreprocess(numbers if has_numbers else None, lookup, train_inputs, may_miss)


def _column_statistics(columns: Array) -> dict[str, Array]:
    """Median, mean and deviation, float64 [n]; of columns without any value 0, 0 and 1."""
    some = ~np.isnan(columns).all(axis=0)
    empty = np.zeros(columns.shape[1])
    found = {"median": empty, "mean": empty.copy(), "deviation": empty.copy()}
    found["median"][some] = np.nanmedian(columns[:, some], axis=0)
    found["mean"][some] = np.nanmean(columns[:, some], axis=0)
    found["deviation"][some] = np.nanstd(columns[:, some], axis=0)
    found["deviation"][found["deviation"] == 0] = 1.0
    return found
