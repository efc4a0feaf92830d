"""From which score on the second of two classes is chosen, decided on the validation rows."""

import numpy as np
from sklearn import metrics

from app.bundle.tensors import Array
from training.errors import UsageError
from training.evaluation.rules import LEAST, USUAL, number_of
from training.tasks import Classification, Targets, Task


def check_threshold(rule: str, task: Task) -> None:
    """That a rule is for this task.

    Raises:
        UsageError: it is not.
    """
    if rule != USUAL and (not isinstance(task, Classification) or len(task.labels) != 2):
        raise UsageError(f"threshold={rule} is for two classes; this is {task.kind}")


def choose_threshold(rule: str, task: Task, scores: Array, targets: Targets) -> float | None:
    """The threshold that a rule asks for; None where the higher score decides.

    Args:
        rule: as `check_rule` passes it: `0.5` or another number between 0 and 1; `f1` for the best
            F1 of the second class;
            `recall>=0.9` for the highest threshold (so the best precision) that still has it;
            `precision>=0.9` for the lowest (so the best recall) that has it.
        scores: float32 [rows, 2], of the validation rows.
    Raises:
        UsageError: no task of two classes, or no threshold that meets the rule.
    """
    check_threshold(rule, task)
    if rule == USUAL:
        return None
    number = number_of(rule)
    if number is not None:
        return number
    precision, recall, thresholds = metrics.precision_recall_curve(targets == 1, scores[:, 1])
    # The last point of the curve has no threshold: nothing is chosen there.
    precision, recall = precision[:-1], recall[:-1]
    if rule == "f1":
        both = np.maximum(precision + recall, np.finfo(float).tiny)
        return _between(thresholds, int(np.argmax(2 * precision * recall / both)))
    asked = LEAST.fullmatch(rule)
    if asked is None:
        raise ValueError(f"unchecked rule {rule!r}")
    of_recall = asked["metric"] == "recall"
    reached = np.flatnonzero((recall if of_recall else precision) >= float(asked["least"]))
    if len(reached) == 0:
        raise UsageError(f"threshold={rule}: no threshold reaches that on the validation rows")
    return _between(thresholds, int(reached[-1 if of_recall else 0]))


def _between(thresholds: Array, place: int) -> float:
    """The middle between a threshold and the score below it, so that no row lies on it."""
    below = float(thresholds[place - 1]) if place else 0.0
    return (float(thresholds[place]) + below) / 2
