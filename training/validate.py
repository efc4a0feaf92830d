"""Metrics of a split, and the gates that a model must pass to be published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from app.bundle.manifest import Gate
from app.bundle.tensors import Array
from training.data.dataset import Rows
from training.errors import GateFailed
from training.models import Classifier

RELIABILITY_BINS = 10


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
        scores: float32 [rows, classes].
        confusion: int64 [true class, predicted class].
        worst: row numbers by falling loss.
    """

    metrics: Mapping[str, float]
    per_class: tuple[ClassScore, ...]
    reliability: tuple[ReliabilityBin, ...]
    scores: Array
    confusion: NDArray[np.int64]
    worst: tuple[int, ...]


def evaluate(classifier: Classifier, rows: Rows) -> Evaluation:
    """Measure a model on a split."""
    scores = classifier.scores(rows.inputs)
    chosen = scores.argmax(axis=1)
    classes = np.arange(len(rows.labels))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        rows.targets, chosen, labels=classes, zero_division=0.0
    )
    normalised = scores.astype(np.float64) / scores.sum(axis=1, dtype=np.float64, keepdims=True)
    of_truth = scores[np.arange(len(rows)), rows.targets]
    bins = reliability(scores.max(axis=1), chosen == rows.targets)
    return Evaluation(
        metrics={
            "accuracy": float(metrics.accuracy_score(rows.targets, chosen)),
            "macro_f1": float(np.mean(f1)),
            "log_loss": float(metrics.log_loss(rows.targets, normalised, labels=classes)),
            "expected_calibration_error": expected_calibration_error(bins),
        },
        per_class=tuple(
            ClassScore(label, float(p), float(r), float(f), int(n))
            for label, p, r, f, n in zip(rows.labels, precision, recall, f1, support, strict=True)
        ),
        reliability=bins,
        scores=scores,
        confusion=metrics.confusion_matrix(rows.targets, chosen, labels=classes),
        worst=tuple(int(row) for row in np.argsort(of_truth, kind="stable")),
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
