"""Metrics of a split, and the gates that a model must pass to be published."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from app.bundle.manifest import Gate
from app.bundle.tensors import Array
from training.config import Bar
from training.data.dataset import Rows
from training.errors import GateFailed, UsageError
from training.tasks import Classification, MultiLabel, Regression

RELIABILITY_BINS = 10
#: Above it a label of several holds.
HOLDS = 0.5


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
        case Classification():
            return _classification(answers, rows)
        case MultiLabel():
            return _multilabel(answers, rows)
        case Regression():
            return _regression(answers, rows)
        case _:
            assert_never(rows.task)


def _classification(scores: Array, rows: Rows) -> Evaluation:
    targets, labels = rows.targets, rows.task.labels
    chosen = scores.argmax(axis=1)
    classes = np.arange(len(labels))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        targets, chosen, labels=classes, zero_division=0.0
    )
    normalised = scores.astype(np.float64) / scores.sum(axis=1, dtype=np.float64, keepdims=True)
    of_truth = scores[np.arange(len(rows)), targets]
    bins = reliability(scores.max(axis=1), chosen == targets)
    found = {
        "accuracy": float(metrics.accuracy_score(targets, chosen)),
        "macro_f1": float(np.mean(f1)),
        "log_loss": float(metrics.log_loss(targets, normalised, labels=classes)),
        "expected_calibration_error": expected_calibration_error(bins),
    }
    if len(labels) == 2 and len(np.unique(targets)) == 2:
        found["roc_auc"] = float(metrics.roc_auc_score(targets, scores[:, 1]))
    return Evaluation(
        metrics=found,
        answers=scores,
        worst=_by(of_truth),
        per_class=_class_scores(labels, precision, recall, f1, support),
        reliability=bins,
        confusion=metrics.confusion_matrix(targets, chosen, labels=classes),
    )


def _multilabel(scores: Array, rows: Rows) -> Evaluation:
    targets = rows.targets.astype(np.int64)
    chosen = (scores > HOLDS).astype(np.int64)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        targets, chosen, average=None, zero_division=0.0
    )
    sure = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    losses = -(targets * np.log(sure) + (1 - targets) * np.log1p(-sure))
    confidence = np.maximum(scores, 1 - scores).ravel()
    bins = reliability(confidence, (chosen == targets).ravel())
    return Evaluation(
        metrics={
            "macro_f1": float(np.mean(f1)),
            "micro_f1": float(metrics.f1_score(targets, chosen, average="micro", zero_division=0)),
            "exact_match": float((chosen == targets).all(axis=1).mean()),
            "log_loss": float(losses.mean()),
            "expected_calibration_error": expected_calibration_error(bins),
        },
        answers=scores,
        worst=_by(-losses.sum(axis=1)),
        per_class=_class_scores(rows.task.labels, precision, recall, f1, support),
        reliability=bins,
    )


def _regression(values: Array, rows: Rows) -> Evaluation:
    targets = rows.targets.astype(np.float64)
    residuals = values.astype(np.float64) - targets
    spread = float(((targets - targets.mean()) ** 2).sum())
    return Evaluation(
        metrics={
            "rmse": float(np.sqrt((residuals**2).mean())),
            "mae": float(np.abs(residuals).mean()),
            "median_absolute_error": float(np.median(np.abs(residuals))),
            "r2": 1 - float((residuals**2).sum()) / spread if spread else 0.0,
        },
        answers=values,
        worst=_by(-np.abs(residuals)),
    )


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
    place = np.clip(np.digitize(confidence, edges[1:-1], right=True), 0, RELIABILITY_BINS - 1)
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
