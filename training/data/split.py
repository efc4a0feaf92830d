"""Dividing rows into train, validation and test."""

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split

from training.config import RunConfig
from training.data.dataset import Dataset, Indices, Rows
from training.errors import UsageError
from training.tasks import Targets


@dataclass(frozen=True)
class Split:
    """What may be fitted, what may choose, and what only measures."""

    train: Rows
    validation: Rows
    test: Rows


def split_dataset(dataset: Dataset, config: RunConfig) -> Split:
    """Repeatable: the same targets and seed give the same rows. Classes have equal shares."""
    train, validation, test = random_indices(
        len(dataset.targets),
        dataset.task.strata(dataset.targets),
        config.validation_share,
        config.test_share,
        config.seed,
    )
    return Split(dataset.rows(train), dataset.rows(validation), dataset.rows(test))


def random_indices(
    rows: int, strata: Targets | None, validation_share: float, test_share: float, seed: int
) -> tuple[Indices, Indices, Indices]:
    """Row numbers of train, validation and test; disjoint, together all rows, each sorted.

    Args:
        strata: [rows], what each split has the same share of; None for plain chance.
    Raises:
        UsageError: a class has too few rows for these shares.
    """
    everything = np.arange(rows, dtype=np.int64)
    try:
        rest, test = train_test_split(
            everything, test_size=test_share, random_state=seed, stratify=strata
        )
        train, validation = train_test_split(
            rest,
            test_size=validation_share / (1 - test_share),
            random_state=seed,
            stratify=None if strata is None else strata[rest],
        )
    except ValueError as error:
        raise UsageError(f"the data cannot be split by these shares: {error}") from None
    return np.sort(train), np.sort(validation), np.sort(test)
