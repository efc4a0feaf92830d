"""Dividing rows into train, validation and test."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from training.config import RunConfig
from training.data.dataset import Dataset, Indices, Rows
from training.errors import UsageError


@dataclass(frozen=True)
class Split:
    """What may be fitted, what may choose, and what only measures."""

    train: Rows
    validation: Rows
    test: Rows


def split_dataset(dataset: Dataset, config: RunConfig) -> Split:
    """Stratified by class and repeatable: the same targets and seed give the same rows."""
    train, validation, test = stratified_indices(
        dataset.targets, config.validation_share, config.test_share, config.seed
    )
    return Split(dataset.rows(train), dataset.rows(validation), dataset.rows(test))


def stratified_indices(
    targets: NDArray[np.int64], validation_share: float, test_share: float, seed: int
) -> tuple[Indices, Indices, Indices]:
    """Row numbers of train, validation and test; disjoint, together all rows, each sorted.

    Raises:
        UsageError: a class has too few rows for these shares.
    """
    everything = np.arange(len(targets), dtype=np.int64)
    try:
        rest, test = train_test_split(
            everything, test_size=test_share, random_state=seed, stratify=targets
        )
        train, validation = train_test_split(
            rest,
            test_size=validation_share / (1 - test_share),
            random_state=seed,
            stratify=targets[rest],
        )
    except ValueError as error:
        raise UsageError(f"the data cannot be split by these shares: {error}") from None
    return np.sort(train), np.sort(validation), np.sort(test)
