"""Rows of a split as batches on the device: all of them there, or fetched ahead of their use."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import torch

from app.bundle.tensors import take_rows
from training.data.dataset import Rows
from training.preprocess.tensors import Preprocess

#: Batches that are fetched while one is trained on.
AHEAD: Final = 4


@dataclass(frozen=True)
class Batch:
    """Some rows on the device: what the preprocessor takes, and the targets, each [rows, ...]."""

    features: tuple[torch.Tensor, ...]
    targets: torch.Tensor


class Batches(Protocol):
    """A split, in whatever batches are asked for."""

    def walk(self, indices: Sequence[torch.Tensor]) -> Iterator[Batch]:
        """One batch for each int64 [rows], in that order."""


class Resident:
    """The whole split as tensors on the device."""

    def __init__(self, preprocess: Preprocess, rows: Rows, device: torch.device) -> None:
        self.features = tuple(part.to(device) for part in preprocess.features(rows.inputs))
        self.targets = torch.from_numpy(rows.targets).to(device)
        self.device = device

    def walk(self, indices: Sequence[torch.Tensor]) -> Iterator[Batch]:
        for index in indices:
            there = index.to(self.device)
            yield Batch(tuple(part[there] for part in self.features), self.targets[there])


class Fetched:
    """A split that stays where it is, in memory or in a file; a thread fetches the next batches."""

    def __init__(self, preprocess: Preprocess, rows: Rows, device: torch.device) -> None:
        self.preprocess, self.rows, self.device = preprocess, rows, device

    def walk(self, indices: Sequence[torch.Tensor]) -> Iterator[Batch]:
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            try:
                for index in indices:
                    waiting.append(pool.submit(self._fetch, index))
                    if len(waiting) > AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, index: torch.Tensor) -> Batch:
        rows = index.numpy()
        parts = self.preprocess.features(take_rows(self.rows.inputs, rows))
        targets = torch.from_numpy(self.rows.targets[rows])
        return Batch(tuple(self._move(part) for part in parts), self._move(targets))

    def _move(self, part: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cuda":  # from pinned memory the copy does not hold up the loop
            return part.pin_memory().to(self.device, non_blocking=True)
        return part.to(self.device)


def batches_of(
    preprocess: Preprocess, rows: Rows, device: torch.device, resident_mib: int
) -> Batches:
    """Resident where all inputs together have at most so many MiB."""
    size_bytes = sum(array.nbytes for array in rows.inputs.values())
    kind = Resident if size_bytes <= resident_mib * 2**20 else Fetched
    return kind(preprocess, rows, device)
