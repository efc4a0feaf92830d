"""The metrics of each task, as functions of how often each row counts (see `bootstrap`)."""

from collections.abc import Callable, Mapping
from typing import assert_never

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from app.bundle.tensors import Array
from training.evaluation.bootstrap import Counts, Measure
from training.tasks import Classification, MultiLabel, Regression, Targets, Task

RELIABILITY_BINS = 10
#: Above it a label of several holds.
HOLDS = 0.5
#: Scores are at least this far from 0 and 1 where their logarithm is taken.
SURE = 1e-7
#: With more columns than this nearly all cells are 0, and multiplying by them is wasted.
DENSE_COLUMNS = 64

Floats = NDArray[np.float64]


def measures_of(task: Task, answers: Array, targets: Targets) -> dict[str, Measure]:
    """Every metric of the task for these rows, by name.

    Args:
        answers: float32, scores [rows, labels] or values [rows].
    """
    match task:
        case Classification():
            return _of_classes(task, answers, targets)
        case MultiLabel():
            return _of_labels(answers, targets)
        case Regression():
            return _of_values(answers, targets)
        case _:
            assert_never(task)


def _of_classes(task: Classification, scores: Array, targets: Targets) -> dict[str, Measure]:
    chosen = task.choose(scores)
    right = chosen == targets
    found = {
        "accuracy": mean(right),
        "macro_f1": macro_f1(one_hot(targets, task.width), one_hot(chosen, task.width)),
        "log_loss": mean(class_losses(scores, targets)),
        "expected_calibration_error": calibration_error(
            scores.max(axis=1), scores.argmax(axis=1) == targets
        ),
    }
    if task.width == 2 and len(np.unique(targets)) == 2:
        found["roc_auc"] = roc_auc(scores[:, 1], targets == 1)
    return found


def _of_labels(scores: Array, targets: Targets) -> dict[str, Measure]:
    truth = targets > 0
    chosen = scores > HOLDS
    same = chosen == truth
    each = calibration_error(np.maximum(scores, 1 - scores).ravel(), same.ravel())
    return {
        "macro_f1": macro_f1(truth, chosen),
        "micro_f1": micro_f1(truth, chosen),
        "exact_match": mean(same.all(axis=1)),
        "log_loss": mean(label_losses(scores, targets).mean(axis=1)),
        # A row is drawn with all its labels.
        "expected_calibration_error": lambda counts: each(
            np.repeat(counts, truth.shape[1], axis=1)
        ),
    }


def _of_values(values: Array, targets: Targets) -> dict[str, Measure]:
    truth = targets.astype(np.float64)
    residuals = values.astype(np.float64) - truth
    squares = mean(residuals**2)
    # Around its mean the target is small enough to be squared without loss.
    centred = truth - truth.mean()
    first, second = mean(centred), mean(centred**2)

    def r2(counts: Counts) -> Floats:
        spread = second(counts) - first(counts) ** 2
        return np.where(spread > 0, 1 - squares(counts) / np.where(spread > 0, spread, 1), 0.0)

    return {
        "rmse": lambda counts: np.sqrt(squares(counts)),
        "mae": mean(np.abs(residuals)),
        "median_absolute_error": median(np.abs(residuals)),
        "r2": r2,
    }


def class_losses(scores: Array, targets: Targets) -> Floats:
    """-log of each row's score for its truth, the scores of a row taken as shares of their sum."""
    wide = scores.astype(np.float64)
    of_truth = wide[np.arange(len(wide)), targets] / wide.sum(axis=1)
    return np.asarray(-np.log(np.clip(of_truth, SURE, 1.0)))


def label_losses(scores: Array, targets: Targets) -> Floats:
    """Binary cross entropy of each label of each row, [rows, labels]."""
    sure = np.clip(scores.astype(np.float64), SURE, 1 - SURE)
    losses: Floats = -(targets * np.log(sure) + (1 - targets) * np.log1p(-sure))
    return losses


def mean(values: Array) -> Measure:
    """Of one value a row."""
    wide = values.astype(np.float64)
    return lambda counts: np.asarray(counts @ wide / counts.shape[1])


def median(values: Array) -> Measure:
    """Of one value a row; the middle of the two where two are in the middle."""
    order = np.argsort(values, kind="stable")
    ascending = values[order].astype(np.float64)

    def measure(counts: Counts) -> Floats:
        reached = counts[:, order].cumsum(axis=1)
        half = counts.shape[1] / 2
        lower, upper = (reached >= half).argmax(axis=1), (reached > half).argmax(axis=1)
        return np.asarray((ascending[lower] + ascending[upper]) / 2)

    return measure


def one_hot(indices: Array, width: int) -> NDArray[np.bool_]:
    """bool [rows, width]."""
    return np.asarray(indices[:, None] == np.arange(width))


def macro_f1(truth: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> Measure:
    """Mean over the labels of F1; that of a label neither true nor chosen is 0.

    Args:
        truth, chosen: [rows, labels].
    """
    hits, named = _sums(truth & chosen), _sums(truth.astype(np.int8) + chosen.astype(np.int8))
    return lambda counts: (2 * hits(counts) / np.maximum(named(counts), 1)).mean(axis=1)


def micro_f1(truth: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> Measure:
    """F1 over all labels of all rows taken together; 0 where nothing is true and nothing chosen."""
    hits = (truth & chosen).sum(axis=1).astype(np.float64)
    named = (truth.sum(axis=1) + chosen.sum(axis=1)).astype(np.float64)
    return lambda counts: 2 * (counts @ hits) / np.maximum(counts @ named, 1)


def bins_of(confidence: Array) -> NDArray[np.int64]:
    """Which of the equal bins of 0–1 each confidence is in; each bin has its upper end."""
    edges = np.linspace(0, 1, RELIABILITY_BINS + 1)
    return np.clip(np.digitize(confidence, edges[1:-1], right=True), 0, RELIABILITY_BINS - 1)


def calibration_error(confidence: Array, right: Array) -> Measure:
    """Mean |confidence - share that is right| by bins (Guo et al. 2017, arXiv:1706.04599)."""
    surplus = confidence.astype(np.float64) - right
    binned = _sums(one_hot(bins_of(confidence), RELIABILITY_BINS) * surplus[:, None])
    return lambda counts: np.abs(binned(counts)).sum(axis=1) / counts.shape[1]


def roc_auc(scores: Array, truth: NDArray[np.bool_]) -> Measure:
    """How often a true row scores above a false one, a tie being half; NaN without both kinds."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) != 0)
    positive = truth[order].astype(np.float64)

    def measure(counts: Counts) -> Floats:
        drawn = counts[:, order]
        above = drawn * positive
        below = drawn - above
        if len(starts) < len(order):
            above, below = (np.add.reduceat(part, starts, axis=1) for part in (above, below))
        beaten = below.cumsum(axis=1)
        positives = above.sum(axis=1)
        pairs = positives * beaten[:, -1]
        beaten -= below / 2
        wins = np.einsum("ij,ij->i", above, beaten)
        return np.where(pairs > 0, wins / np.where(pairs > 0, pairs, 1), np.nan)

    return measure


def _sums(columns: Array) -> Callable[[Counts], Floats]:
    """Sum of each column over the rows drawn, [resamples, columns]."""
    wide = columns.astype(np.float64)
    if wide.shape[1] <= DENSE_COLUMNS:
        return lambda counts: np.asarray(counts @ wide)
    held = sparse.csc_array(wide).T.tocsr()
    return lambda counts: np.asarray((held @ counts.T).T)


def values_of(measures: Mapping[str, Measure], rows: int) -> dict[str, float]:
    """Each figure of the rows as they are."""
    ones = np.ones((1, rows))
    return {name: float(measure(ones)[0]) for name, measure in measures.items()}
