"""The least that a model must do where its owner sets no gates: better than the trivial answer."""

from training.config import Bar, RunConfig
from training.data.split import Split
from training.evaluation.validate import evaluate
from training.progress import Progress
from training.selection.baselines import trivial
from training.tasks import Regression

#: A model of nothing but chance is as often a little better as a little worse.
MARGIN = 0.01


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
