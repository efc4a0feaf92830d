"""What the owner of a table should know before its model is trusted. Nothing here changes a row."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import polars as pl
from sklearn.metrics import accuracy_score, r2_score
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from app.bundle.signature import CategoryField, InputField
from app.bundle.tensors import Array
from training.data.dataset import Dataset
from training.data.records import Table, named_lines
from training.data.words import FEWEST, most_frequent
from training.tasks import Classification, MultiLabel, Regression

#: The rarest class has less than this share of the rows of the most frequent.
IMBALANCE: Final = 0.1
#: A column that alone explains this much of the target on rows that it was not fitted on.
TOO_GOOD: Final = 0.99
#: A category of which less than this share of the rows has a frequent value says little.
KNOWN: Final = 0.1
#: A tree of so many ends per class or, for numbers, at all.
ENDS_PER_CLASS: Final = 4
ENDS: Final = 64
MOST_ROWS: Final = 20_000


def concerns(dataset: Dataset, table: Table) -> tuple[str, ...]:
    """Warnings, each a line: rows met twice, rare classes, categories of which little is known,
    columns that give the target away."""
    return (*duplicates(table), *imbalance(dataset), *_rare_words(dataset), *_leaks(dataset))


def duplicates(table: Table) -> Iterator[str]:
    """A warning where rows are copies of others."""
    frame = table.frame.with_columns(pl.int_range(pl.len()).alias("\0row"))
    seen = frame.select(~pl.struct(pl.exclude("\0row")).is_first_distinct()).to_series()
    lines = table.lines_where(seen.to_numpy())
    if lines:
        yield (
            f"warning: {len(lines):,} rows are exact copies of earlier ones "
            f"({named_lines(lines)}); copies of a training row may be among the test rows"
        )


def imbalance(dataset: Dataset) -> Iterator[str]:
    """A warning where the rarest class is much rarer than the most frequent."""
    match dataset.task:
        case Regression():
            return
        case Classification(labels):
            counts = np.bincount(dataset.targets, minlength=len(labels))
        case MultiLabel(labels):
            counts = dataset.targets.sum(axis=0).astype(np.int64)
    rare, usual = int(counts.argmin()), int(counts.argmax())
    if counts[rare] < IMBALANCE * counts[usual]:
        yield (
            f"warning: {labels[rare]!r} has {counts[rare]:,} rows, {labels[usual]!r} "
            f"{counts[usual]:,}; look at the figures of each class, not at the accuracy alone"
        )


def _rare_words(dataset: Dataset) -> Iterator[str]:
    """A warning for each open category that is unknown to the model in most rows."""
    for field in dataset.fields:
        if not isinstance(field, CategoryField) or not field.accept_unknown:
            continue
        values = dataset.inputs[field.tensor][:, field.column].tolist()
        present = [value for value in values if value]
        known = set(most_frequent(present))
        share = np.mean([value in known for value in present])
        if share < KNOWN:
            yield (
                f"warning: the frequent values of {field.name!r}, in {FEWEST} rows or more, make "
                f"up {share:.1%} of it; all others are one and the same to the model"
            )


def _leaks(dataset: Dataset) -> Iterator[str]:
    """Fit a small tree to each column on one half of the rows, and ask it about the other."""
    if isinstance(dataset.task, MultiLabel):
        return
    rows = np.random.default_rng(0).permutation(len(dataset.targets))[:MOST_ROWS]
    half = len(rows) // 2
    fitted, asked = rows[:half], rows[half:]
    for field in dataset.fields:
        score = _alone(_codes(dataset, field), dataset, fitted, asked)
        if score is not None and score >= TOO_GOOD:
            yield (
                f"warning: {field.name!r} alone tells the target ({score:.1%} of it on rows that "
                "were held out); leave it out if it is known only with the answer"
            )


def _codes(dataset: Dataset, field: InputField) -> Array:
    """float64 [rows, 1]: the numbers, or the places of the frequent words."""
    values = dataset.inputs[field.tensor][:, field.column]
    if isinstance(field, CategoryField):
        places = {word: place for place, word in enumerate(most_frequent(values), start=1)}
        values = np.array([places.get(value, 0) for value in values.tolist()])
    return np.asarray(values.astype(np.float64)[:, None])


def _alone(codes: Array, dataset: Dataset, fitted: Array, asked: Array) -> float | None:
    """Share of the target that the column explains, 0–1; None where the best guess does as well."""
    targets = dataset.targets
    match dataset.task:
        case Classification(labels):
            majority = np.bincount(targets[asked]).max() / len(asked)
            if majority >= TOO_GOOD:
                return None
            ends = max(2, ENDS_PER_CLASS * len(labels))
            tree = DecisionTreeClassifier(max_leaf_nodes=ends, random_state=0)
            tree.fit(codes[fitted], targets[fitted])
            return float(accuracy_score(targets[asked], tree.predict(codes[asked])))
        case _:
            grower = DecisionTreeRegressor(max_leaf_nodes=ENDS, random_state=0)
            grower.fit(codes[fitted], targets[fitted])
            return float(r2_score(targets[asked], grower.predict(codes[asked])))
