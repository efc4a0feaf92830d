"""Metrics of a split, and the gates that a model must pass to be published."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from app.bundle.manifest import Gate
from app.bundle.quality import Interval
from app.bundle.tensors import Array
from training.config import Bar
from training.data.dataset import Rows
from training.errors import GateFailed, UsageError
from training.evaluation.bootstrap import intervals
from training.evaluation.metrics import (
    HOLDS,
    RELIABILITY_BINS,
    bins_of,
    label_losses,
    measures_of,
    values_of,
)
from training.tasks import Classification, MultiLabel, Regression, Targets


@dataclass(frozen=True)
class ClassScore:
    """How one class fares; `support` is its number of rows."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows whose highest score is in (low, high]: how sure the model was, how right it was."""

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """A model on one split.

    Attributes:
        answers: float32, scores [rows, labels] or values [rows].
        worst: row numbers by falling loss.
        per_class: nothing where the answer is a number.
        reliability: the same.
        confusion: int64 [true class, predicted class], where one class is chosen.
    """

    metrics: Mapping[str, float]
    answers: Array
    worst: tuple[int, ...]
    per_class: tuple[ClassScore, ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    confusion: NDArray[np.int64] | None = None


def evaluate(answers: Array, rows: Rows) -> Evaluation:
    """Measure the answers to the rows of a split, as its task asks.

    Args:
        answers: float32, scores [rows, labels] or values [rows].
    """
    match rows.task:
        case Classification() as task:
            return _classification(task, answers, rows.targets)
        case MultiLabel() as task:
            return _multilabel(task, answers, rows.targets)
        case Regression() as task:
            return _regression(task, answers, rows.targets)
        case _:
            assert_never(rows.task)


def _classification(task: Classification, scores: Array, targets: Targets) -> Evaluation:
    chosen = task.choose(scores)
    classes = np.arange(len(task.labels))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        targets, chosen, labels=classes, zero_division=0.0
    )
    of_truth = scores[np.arange(len(scores)), targets]
    return Evaluation(
        metrics=values_of(measures_of(task, scores, targets), len(scores)),
        answers=scores,
        worst=_by(of_truth),
        per_class=_class_scores(task.labels, precision, recall, f1, support),
        reliability=reliability(scores.max(axis=1), scores.argmax(axis=1) == targets),
        confusion=metrics.confusion_matrix(targets, chosen, labels=classes),
    )


def _multilabel(task: MultiLabel, scores: Array, targets: Targets) -> Evaluation:
    truth, chosen = targets > 0, scores > HOLDS
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, chosen, average=None, zero_division=0.0
    )
    return Evaluation(
        metrics=values_of(measures_of(task, scores, targets), len(scores)),
        answers=scores,
        worst=_by(-label_losses(scores, targets).sum(axis=1)),
        per_class=_class_scores(task.labels, precision, recall, f1, support),
        reliability=reliability(np.maximum(scores, 1 - scores).ravel(), (chosen == truth).ravel()),
    )


def _regression(task: Regression, values: Array, targets: Targets) -> Evaluation:
    return Evaluation(
        metrics=values_of(measures_of(task, values, targets), len(values)),
        answers=values,
        worst=_by(-np.abs(values.astype(np.float64) - targets)),
    )


def intervals_of(evaluation: Evaluation, rows: Rows, seed: int) -> dict[str, Interval]:
    """Where each metric would lie with other rows of the same kind, by bootstrap.

    Args:
        rows: those that were evaluated.
        seed: the same one draws the same rows, so that models can be compared in pairs.
    """
    measures = measures_of(rows.task, evaluation.answers, rows.targets)
    return intervals(measures, len(rows), seed=seed)


def _by(ascending: Array) -> tuple[int, ...]:
    return tuple(int(row) for row in np.argsort(ascending, kind="stable"))


def _class_scores(
    labels: Sequence[str], precision: Array, recall: Array, f1: Array, support: Array
) -> tuple[ClassScore, ...]:
    return tuple(
        ClassScore(label, float(p), float(r), float(f), int(n))
        for label, p, r, f, n in zip(labels, precision, recall, f1, support, strict=True)
    )


def reliability(
    confidence: NDArray[np.float32], correct: NDArray[np.bool_]
) -> tuple[ReliabilityBin, ...]:
    """Group rows [rows] by their highest score into equal bins of 0–1; empty bins are left out."""
    edges = np.linspace(0, 1, RELIABILITY_BINS + 1)
    place = bins_of(confidence)
    return tuple(
        ReliabilityBin(
            low=float(edges[index]),
            high=float(edges[index + 1]),
            rows=int((place == index).sum()),
            confidence=float(confidence[place == index].mean()),
            accuracy=float(correct[place == index].mean()),
        )
        for index in np.unique(place).tolist()
    )


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Mean |confidence - accuracy| over rows (Guo et al. 2017, arXiv:1706.04599)."""
    rows = sum(part.rows for part in bins)
    return sum(part.rows * abs(part.confidence - part.accuracy) for part in bins) / rows


def gates_of(bars: Sequence[Bar], test: Evaluation) -> Iterator[Gate]:
    """The bars that a run sets, with the values that meet them or do not.

    Raises:
        UsageError: a bar for a metric that the task does not have.
    """
    for bar in bars:
        if bar.metric not in test.metrics:
            raise UsageError(f"no metric {bar.metric!r} here; there are {', '.join(test.metrics)}")
        yield Gate(
            metric=bar.metric,
            split="test",
            minimum=bar.minimum,
            maximum=bar.maximum,
            value=test.metrics[bar.metric],
        )


def check_gates(gates: Sequence[Gate]) -> None:
    """Let nothing below its bar pass.

    Raises:
        GateFailed: the first gate that failed, and by how much.
    """
    for gate in gates:
        if not gate.passed:
            raise GateFailed(f"gate failed: {_shortfall(gate)}; nothing was published")


def _shortfall(gate: Gate) -> str:
    said = f"{gate.split} {gate.metric} is {gate.value:.4f}"
    if gate.minimum is not None and not gate.value >= gate.minimum:
        short = gate.minimum - gate.value
        return f"{said}, below the required {gate.minimum:.4f} by {short:.4f}"
    over = gate.value - (gate.maximum if gate.maximum is not None else 0)
    return f"{said}, above the allowed {gate.maximum:.4f} by {over:.4f}"
