"""Dividing rows into train, validation and test.

auto          as stratified where rows have one class each, else as random
random        by chance
stratified    by chance, with equal shares of each class, or of each tenth of the numbers
group:COLUMN  all rows of one value are in one part: of people, places, devices
time:COLUMN   the earliest rows train, the latest test
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, cast

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from app.bundle.tensors import Array
from training.config import RunConfig
from training.data.dataset import Dataset, Indices, Rows
from training.data.words import fitted_fields
from training.errors import UsageError
from training.tasks import Classification, MultiLabel, Regression, Targets, Task

Way = Literal["auto", "random", "stratified", "group", "time"]
#: In so many parts numbers are divided to be stratified.
QUANTILES: Final = 10

Parts = tuple[Indices, Indices, Indices]


@dataclass(frozen=True)
class SplitRule:
    """How rows are divided; `column` is that of groups or times."""

    way: Way
    column: str | None = None


@dataclass(frozen=True)
class Split:
    """What may be fitted, what may choose, and what only measures."""

    train: Rows
    validation: Rows
    test: Rows

    @cached_property
    def sha256(self) -> str:
        """Hash of the content of each part: of its inputs and targets, in order."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            for name, array in sorted({**part.inputs, "target": part.targets}.items()):
                digest.update(f"\x1e{name} {array.dtype} {array.shape}\x1e".encode())
                words = array.dtype.hasobject
                content = "\x1f".join(array.ravel().tolist()).encode() if words else array.tobytes()
                digest.update(content)
        return digest.hexdigest()


def split_rule(text: str) -> SplitRule:
    """Read `auto`, `random`, `stratified`, `group:COLUMN` or `time:COLUMN`.

    Raises:
        UsageError: it is none of them.
    """
    way, colon, column = text.partition(":")
    if way in ("auto", "random", "stratified") and not colon:
        return SplitRule(cast(Way, way))
    if way in ("group", "time") and column:
        return SplitRule(cast(Way, way), column)
    raise UsageError(
        f"split {text!r} is none of auto, random, stratified, group:COLUMN, time:COLUMN"
    )


def split_dataset(dataset: Dataset, config: RunConfig) -> Split:
    """Repeatable: the same rows and settings give the same parts.

    The open vocabularies of the fields become those of the training rows.

    Raises:
        UsageError: the rows cannot be divided so.
    """
    train, validation, test = _parts(dataset, config)
    _check_parts(dataset, train, validation, test)
    fields = fitted_fields(dataset.fields, dataset.rows(train).inputs)
    fitted = dataclasses.replace(dataset, fields=fields)
    return Split(fitted.rows(train), fitted.rows(validation), fitted.rows(test))


def _parts(dataset: Dataset, config: RunConfig) -> Parts:
    rule = split_rule(config.split)
    if dataset.test_rows is not None:
        return _with_given_test(dataset, dataset.test_rows, rule, config)
    shares = config.validation_share, config.test_share
    match rule:
        case SplitRule("group", str(column)):
            return group_indices(_key(dataset, column), *shares, config.seed)
        case SplitRule("time", str(column)):
            return time_indices(_key(dataset, column), *shares)
        case SplitRule("random"):
            strata = None
        case SplitRule("stratified"):
            strata = _all_strata(dataset.task, dataset.targets)
        case _:
            strata = dataset.task.strata(dataset.targets)
    return random_indices(len(dataset.targets), strata, *shares, config.seed)


def _with_given_test(dataset: Dataset, test: Indices, rule: SplitRule, config: RunConfig) -> Parts:
    """The test rows are settled; of the others the validation share is drawn."""
    if rule.column is not None:
        raise UsageError(f"the test rows of {dataset.source} are settled, not by {rule.column!r}")
    rows = len(dataset.targets)
    rest = np.setdiff1d(np.arange(rows, dtype=np.int64), test)
    strata = None if rule.way == "random" else dataset.task.strata(dataset.targets)
    train, validation = train_test_split(
        rest,
        test_size=config.validation_share,
        random_state=config.seed,
        stratify=None if strata is None else strata[rest],
    )
    return np.sort(train), np.sort(validation), test


def _key(dataset: Dataset, column: str) -> Array:
    if column not in dataset.keys:
        known = ", ".join(dataset.keys) or "none"
        raise UsageError(f"rows cannot be divided by {column!r} here; columns for it: {known}")
    return dataset.keys[column]


def _all_strata(task: Task, targets: Targets) -> Targets:
    match task:
        case Regression():
            edges = np.quantile(targets, np.linspace(0, 1, QUANTILES + 1)[1:-1])
            return np.digitize(targets, np.unique(edges))
        case MultiLabel():
            raise UsageError("rows with several labels cannot be stratified; take split=random")
        case _:
            return targets


def random_indices(
    rows: int, strata: Targets | None, validation_share: float, test_share: float, seed: int
) -> Parts:
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


def group_indices(groups: Array, validation_share: float, test_share: float, seed: int) -> Parts:
    """As `random_indices`, with all rows of a group in one part; the shares are of the groups.

    Args:
        groups: text [rows].
    Raises:
        UsageError: there are fewer than three groups.
    """
    count = len(set(groups.tolist()))
    if count < 3:
        raise UsageError(f"{count} groups cannot be divided into train, validation and test")
    everything = np.arange(len(groups), dtype=np.int64)
    rest, test = _divided(everything, groups, test_share, seed)
    train, validation = _divided(rest, groups, validation_share / (1 - test_share), seed)
    return train, validation, test


def _divided(rows: Indices, groups: Array, share: float, seed: int) -> tuple[Indices, Indices]:
    count = len(set(groups[rows].tolist()))
    held = min(max(1, round(share * count)), count - 1)
    splitter = GroupShuffleSplit(n_splits=1, test_size=held, random_state=seed)
    kept, taken = next(splitter.split(rows, groups=groups[rows]))
    return rows[kept], rows[taken]


def time_indices(times: Array, validation_share: float, test_share: float) -> Parts:
    """The earliest rows, later ones, the latest; rows of one time stay together. Each sorted.

    Args:
        times: float64 [rows].
    Raises:
        UsageError: the times are too few to be cut twice.
    """
    ordered = np.sort(times)
    rows = len(times)
    first = ordered[min(rows - 1, round(rows * (1 - validation_share - test_share)))]
    last = ordered[min(rows - 1, round(rows * (1 - test_share)))]
    parts = tuple(
        np.flatnonzero(mask).astype(np.int64)
        for mask in (times < first, (times >= first) & (times < last), times >= last)
    )
    if not all(len(part) for part in parts):
        raise UsageError("too many rows have one time to be divided by it into three parts")
    return cast(Parts, parts)


def _check_parts(dataset: Dataset, train: Indices, validation: Indices, test: Indices) -> None:
    """Raise UsageError where the training rows lack a class of the others, or a part is tiny."""
    if len(test) < 3:
        raise UsageError(f"{len(test)} test rows are too few; 3 are the least")
    if not isinstance(dataset.task, Classification):
        return
    known = set(dataset.targets[train].tolist())
    for part, name in ((validation, "validation"), (test, "test")):
        for target in sorted(set(dataset.targets[part].tolist()) - known):
            label = dataset.task.labels[target]
            raise UsageError(f"class {label!r} is among the {name} rows, but none of it trains")
