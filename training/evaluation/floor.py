"""The bars of a run: whether they fit its task; without any, better than the trivial answer."""

import numpy as np

from training.config import Bar, RunConfig
from training.data.dataset import Rows
from training.data.split import Split
from training.errors import UsageError, hint_of
from training.evaluation import names
from training.evaluation.threshold import check_threshold
from training.evaluation.validate import evaluate
from training.progress import Progress
from training.selection.baselines import trivial
from training.tasks import Classification, MultiLabel, Regression

#: A model of nothing but chance is as often a little better as a little worse.
MARGIN = 0.01


def check_asked(config: RunConfig, test: Rows) -> None:
    """That gates and threshold fit the task, before anything is trained.

    Raises:
        UsageError: a gate is about a metric that the test rows will not have, or the threshold
            about two classes that there are not.
    """
    check_threshold(config.threshold, test.task)
    known = metric_names(test)
    for bar in config.gates:
        if bar.metric not in known:
            raise UsageError(
                f"setting gates: no metric {bar.metric!r} in a {test.task.kind}"
                f"{hint_of(bar.metric, known)}; there are {', '.join(known)}"
            )


def metric_names(rows: Rows) -> tuple[str, ...]:
    """Of the metrics that `evaluate` gives for these rows."""
    match rows.task:
        case Classification(labels):
            both = len(labels) == 2 and len(np.unique(rows.targets)) == 2
            return (*names.CLASSES, names.BINARY) if both else names.CLASSES
        case MultiLabel():
            return names.LABELS
        case Regression():
            return names.NUMBERS


def bars_of(config: RunConfig, split: Split, progress: Progress) -> tuple[Bar, ...]:
    """The gates that are set; without any, those of `floor_bars`, which are told."""
    if config.gates:
        return config.gates
    bars = floor_bars(split)
    said = ", ".join(map(str, bars))
    progress.note(f"no gates are set: the bars are what one answer to all rows reaches, {said}")
    return bars


def floor_bars(split: Split) -> tuple[Bar, ...]:
    """Bars for the test rows: by `MARGIN` better than an answer that is the same for all rows.

    For numbers that is the mean of the training rows; for classes their shares, whose log loss
    must be beaten, while the accuracy must not be below that of the most frequent class. The
    accuracy alone would refuse good models of rare classes.
    """
    answers = trivial(split.train).answers(split.test.inputs)
    reached = evaluate(answers, split.test).metrics
    name = "rmse" if isinstance(split.test.task, Regression) else "log_loss"
    bars = [Bar(metric=name, maximum=reached[name] * (1 - MARGIN))]
    if "accuracy" in reached:
        bars.append(Bar(metric="accuracy", minimum=reached["accuracy"]))
    return tuple(bars)
