"""What a model is asked: how targets are held, and what the graph answers.

Classification  targets int64 [rows], an index into `labels`; answers `label` and `scores`
MultiLabel      targets float32 [rows, labels], 0 or 1; answers `scores` [rows, labels]
Regression      targets float32 [rows]; answers `value` [rows]

What else differs by task is with the stage that it belongs to: the loss with the heads of the
networks, metrics with validation, drawings with the report.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.bundle.golden import chosen_labels
from app.bundle.signature import (
    LabelPrediction,
    PredictionField,
    ScoresPrediction,
    TensorSpec,
    ValuePrediction,
)
from app.bundle.tensors import Array

BATCH = "batch"
LABEL = "label"
SCORES = "scores"
VALUE = "value"

#: Of any task; the dtype and shape are the task's.
Targets = NDArray[Any]


@dataclass(frozen=True)
class Metric:
    """A figure by which models are ranked; `goal` says which end of it is the better one."""

    name: str
    goal: Literal["highest", "lowest"]

    def rank(self, value: float) -> float:
        """Ascending from the best."""
        return -value if self.goal == "highest" else value


@dataclass(frozen=True)
class Classification:
    """One of several classes; `binary` where there are two.

    Attributes:
        threshold: of two classes, the second is chosen where its score reaches this; None for
            the class with the higher score.
    """

    labels: tuple[str, ...]
    threshold: float | None = None

    #: The graph's answer that is a number, by which it is compared with the reference.
    answer = SCORES
    chief = Metric("accuracy", "highest")
    second = Metric("log_loss", "lowest")

    @property
    def kind(self) -> str:
        return "binary classification" if len(self.labels) == 2 else "multiclass classification"

    @property
    def width(self) -> int:
        """Numbers that a network gives for a row."""
        return len(self.labels)

    def strata(self, targets: Targets) -> Targets | None:
        """By which rows are divided in equal shares; None where that makes no sense."""
        return targets

    def expected(self, targets: Targets) -> list[Any]:
        """Each row's target as a client would read it."""
        return [self.labels[index] for index in targets.tolist()]

    def choose(self, scores: Array) -> NDArray[np.int64]:
        """The class of each row, an index into `labels`, from `scores` [rows, labels]."""
        return np.asarray(chosen_labels(scores, self.threshold), dtype=np.int64)

    def outputs(self, answers: Array) -> dict[str, Array]:
        """All that the graph gives, from `scores` [rows, labels]."""
        names = np.array(self.labels, dtype=object)
        return {LABEL: names[self.choose(answers)], SCORES: answers}

    def specs(self) -> tuple[TensorSpec, ...]:
        """The graph's outputs, in order."""
        return (
            TensorSpec(
                name=LABEL, datatype="BYTES", shape=(BATCH,), description="the chosen class"
            ),
            TensorSpec(
                name=SCORES,
                datatype="FP32",
                shape=(BATCH, len(self.labels)),
                description="a score for each class; they sum to 1",
            ),
        )

    @property
    def _how_chosen(self) -> str:
        if self.threshold is None:
            return "The most likely class"
        return f"{self.labels[1]} where its score is at least {self.threshold:.4g}"

    def predictions(self) -> tuple[PredictionField, ...]:
        """What a person gets."""
        return (
            LabelPrediction(
                name=LABEL,
                tensor=LABEL,
                description=self._how_chosen,
                labels=self.labels,
                scores_tensor=SCORES,
                threshold=self.threshold,
            ),
            ScoresPrediction(
                name=SCORES,
                tensor=SCORES,
                description="How likely each class is, 0–1",
                labels=self.labels,
            ),
        )


@dataclass(frozen=True)
class MultiLabel:
    """Any number of labels at once, each of which holds or does not."""

    labels: tuple[str, ...]

    kind = "multilabel classification"
    answer = SCORES
    chief = Metric("macro_f1", "highest")
    second = Metric("log_loss", "lowest")

    @property
    def width(self) -> int:
        return len(self.labels)

    def strata(self, targets: Targets) -> Targets | None:  # noqa: ARG002
        return None

    def expected(self, targets: Targets) -> list[Any]:
        return [
            [label for label, holds in zip(self.labels, row, strict=True) if holds]
            for row in targets.tolist()
        ]

    def outputs(self, answers: Array) -> dict[str, Array]:
        return {SCORES: answers}

    def specs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec(
                name=SCORES,
                datatype="FP32",
                shape=(BATCH, len(self.labels)),
                description="how likely each label is, 0–1; they are independent",
            ),
        )

    def predictions(self) -> tuple[PredictionField, ...]:
        return (
            ScoresPrediction(
                name=SCORES,
                tensor=SCORES,
                description="How likely each label is, 0–1; any number of them may hold",
                labels=self.labels,
            ),
        )


@dataclass(frozen=True)
class Regression:
    """A number."""

    unit: str | None = None
    description: str = "The predicted value"

    kind = "regression"
    answer = VALUE
    chief = Metric("rmse", "lowest")
    second = Metric("mae", "lowest")
    labels: tuple[str, ...] = ()
    width = 1

    def strata(self, targets: Targets) -> Targets | None:  # noqa: ARG002
        return None

    def expected(self, targets: Targets) -> list[Any]:
        return [float(value) for value in targets]

    def outputs(self, answers: Array) -> dict[str, Array]:
        return {VALUE: answers}

    def specs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec(name=VALUE, datatype="FP32", shape=(BATCH,), description=self.description),
        )

    def predictions(self) -> tuple[PredictionField, ...]:
        return (
            ValuePrediction(name=VALUE, tensor=VALUE, description=self.description, unit=self.unit),
        )


Task = Classification | MultiLabel | Regression
