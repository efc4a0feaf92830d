"""What is settled after training, on the validation rows alone: a temperature and a threshold."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from scipy.optimize import minimize_scalar

from app.bundle.quality import Calibration
from training.config import RunConfig
from training.data.dataset import Dataset, Rows
from training.data.split import Split
from training.evaluation.threshold import choose_threshold
from training.evaluation.validate import evaluate
from training.models import Model, Predictor, Trees
from training.models.heads import ClassHead, LabelsHead
from training.progress import Progress
from training.tasks import Classification

#: Beyond these a temperature makes all scores equal, or all sure.
COLDEST, HOTTEST = 0.05, 20.0
#: By less than this the log loss does not fall, it is rounded.
GAIN = 1e-5
FIGURES = ("log_loss", "expected_calibration_error")


@dataclass(frozen=True)
class Settled:
    """The data with the task as it is answered from now on."""

    dataset: Dataset
    split: Split
    calibration: Calibration | None


def settle(
    model: Model, dataset: Dataset, split: Split, config: RunConfig, progress: Progress
) -> Settled:
    """Calibrate the model in place, then choose the threshold by its calibrated scores.

    Raises:
        UsageError: the threshold that is asked for cannot be had.
    """
    calibration = calibrate(model, split) if config.calibrate else None
    scores = model.answers(split.validation.inputs)
    threshold = choose_threshold(config.threshold, dataset.task, scores, split.validation.targets)
    if calibration is not None:
        progress.note(_account(calibration))
    if threshold is not None and isinstance(dataset.task, Classification):
        task = replace(dataset.task, threshold=threshold)
        model.task = task
        dataset = replace(dataset, task=task)
        parts = (split.train, split.validation, split.test)
        split = Split(*(replace(rows, task=task) for rows in parts))
        progress.note(f"{task.labels[1]} is chosen from a score of {threshold:.4g} on")
    return Settled(dataset, split, calibration)


def _account(found: Calibration) -> str:
    before, after = (part["validation"]["log_loss"] for part in (found.before, found.after))
    kept = "" if found.kept else ", not kept"
    losses = f"validation log loss {before:.4f} to {after:.4f}"
    return f"temperature {found.temperature:.3f}{kept}: {losses}"


def calibrate(model: Model, split: Split) -> Calibration | None:
    """Give the model the temperature at which its scores are honest (Guo et al. 2017,
    arXiv:1706.04599), where that lowers the log loss of the validation rows.

    Returns:
        What it changed, also where it was not kept; None for a model without a temperature.
    """
    head = _scored_by(model)
    if head is None:
        return None
    parts = {"validation": split.validation, "test": split.test}
    before = _figures(model, parts)
    fitted = fit_temperature(raw_of(model, split.validation), head, split.validation)
    set_temperature(model, fitted)
    after = _figures(model, parts)
    kept = before["validation"]["log_loss"] - after["validation"]["log_loss"] > GAIN
    if not kept:
        set_temperature(model, 1.0)
    return Calibration(temperature=fitted, kept=kept, before=before, after=after)


def _scored_by(model: Model) -> ClassHead | LabelsHead | None:
    """What makes scores of the model's numbers; None where it gives none."""
    match model:
        case Predictor(head=ClassHead() | LabelsHead() as head):
            return head
        case Trees(task=Classification()):
            return ClassHead()  # trees have no head, but the same softmax
        case _:
            return None


@torch.no_grad()
def raw_of(model: Model, rows: Rows) -> torch.Tensor:
    """What the temperature divides, float64 [rows, labels]."""
    if isinstance(model, Trees):
        return torch.from_numpy(model.raw(rows.inputs))
    if isinstance(model, Predictor):
        return model.eval().raw(*model.preprocess.features(rows.inputs)).to(torch.float64)
    raise TypeError(f"no temperature for {type(model).__name__}")


def set_temperature(model: Model, temperature: float) -> None:
    """In place; of a model for which `calibrate` is something."""
    if isinstance(model, Trees):
        model.temperature = temperature
    elif isinstance(model, Predictor) and isinstance(model.head, ClassHead | LabelsHead):
        model.head.temperature.fill_(temperature)


@torch.no_grad()
def fit_temperature(raw: torch.Tensor, head: ClassHead | LabelsHead, rows: Rows) -> float:
    """The temperature with the lowest loss on these rows, between `COLDEST` and `HOTTEST`.

    To the rows comes one that is every class alike (as in Platt 1999): without it, few rows that
    are all answered rightly would ask for scores of 1, and the first error would cost dearly.

    Args:
        raw: float64 [rows, labels].
    """
    targets = torch.from_numpy(rows.targets)
    if isinstance(head, ClassHead):
        targets = torch.nn.functional.one_hot(targets, raw.shape[1])
        alike = 1 / raw.shape[1]
    else:
        alike = 0.5
    targets = (targets.to(torch.float64) * len(rows) + alike) / (len(rows) + 1)
    # The loss has one minimum in 1 / temperature, hence in its logarithm.
    bounds = tuple(math.log(end) for end in (COLDEST, HOTTEST))
    found = minimize_scalar(
        lambda log: head.loss(raw / math.exp(log), targets).item(),
        bounds=bounds,
        method="bounded",
    )
    return math.exp(found.x)


def _figures(model: Model, parts: Mapping[str, Rows]) -> dict[str, dict[str, float]]:
    found = {name: evaluate(model.answers(rows.inputs), rows) for name, rows in parts.items()}
    return {name: {key: one.metrics[key] for key in FIGURES} for name, one in found.items()}
