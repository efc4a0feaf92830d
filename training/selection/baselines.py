"""What a model that needs no thought reaches on the same test rows.

A figure means little alone: 0.94 is poor where one answer to everything has 0.93. Each baseline is
fitted on the training rows with the settings that scikit-learn has by default.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, assert_never

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from threadpoolctl import threadpool_limits

from app.bundle.quality import Baseline, Interval
from app.bundle.tensors import Array, Tensors, take_rows
from training.config import RunConfig
from training.data.dataset import Rows
from training.data.split import Split
from training.errors import Unsuitable
from training.evaluation.bootstrap import LEVEL, draws
from training.evaluation.metrics import measures_of
from training.evaluation.validate import evaluate
from training.models.trees import estimator_for, table
from training.preprocess.tensors import ImagePreprocess, Preprocess, TablePreprocess
from training.progress import Progress
from training.tasks import Classification, MultiLabel, Regression, Task

#: Numbers that the linear model is fitted to at most; of more rows it takes as many as fit.
LINEAR_CELLS = 20_000_000
LINEAR_STEPS = 200
#: Of a histogram: a column with more categories is taken as a number.
BINS = 255

#: From the graph's inputs to answers, as a `Model` gives them.
Answers = Callable[[Tensors], Array]


@dataclass(frozen=True)
class Fitted:
    """A baseline that can answer."""

    name: str
    description: str
    answers: Answers


def measure_baselines(
    answers: Array, preprocess: Preprocess, split: Split, config: RunConfig, progress: Progress
) -> tuple[Baseline, ...]:
    """Fit each baseline that suits the data, and compare the model with it on the test rows.

    Args:
        answers: the published model's to the test rows.
        preprocess: as fitted on the training rows.
    """
    test, chief = split.test, split.test.task.chief
    found = []
    with threadpool_limits(config.threads):
        for one in fit_baselines(preprocess, split.train, config):
            given = one.answers(test.inputs)
            metrics = evaluate(given, replace(test, task=plain(test.task))).metrics
            change, interval = paired_change(answers, given, test, config.seed)
            found.append(
                Baseline(
                    name=one.name,
                    description=one.description,
                    metrics=metrics,
                    metric=chief.name,
                    change=change,
                    interval=interval,
                )
            )
            figure = f"test {chief.name.replace('_', ' ')} {metrics[chief.name]:.4f}"
            progress.note(f"baseline {one.name}: {figure}, the model's minus this {change:+.4f}")
    return tuple(found)


def fit_baselines(preprocess: Preprocess, train: Rows, config: RunConfig) -> Iterator[Fitted]:
    """From the simplest to the strongest."""
    yield trivial(train)
    if isinstance(preprocess, TablePreprocess | ImagePreprocess):
        yield linear(preprocess, train, config.seed)
    if isinstance(preprocess, TablePreprocess):
        with contextlib.suppress(Unsuitable):
            yield boosting(preprocess, train, config.seed)


def trivial(train: Rows) -> Fitted:
    """The same answer to every row."""
    match train.task:
        case Classification(labels):
            shares = np.bincount(train.targets, minlength=len(labels)) / len(train)
            name, description = "majority", f"always {labels[int(shares.argmax())]}"
        case MultiLabel():
            shares = train.targets.mean(axis=0)
            name, description = "majority", "each label as often as it holds"
        case Regression():
            shares = train.targets.mean(dtype=np.float64)
            name, description = "mean", f"always {float(shares):.6g}"
        case _:
            assert_never(train.task)
    answer = np.asarray(shares, dtype=np.float32)

    def answers(inputs: Tensors) -> Array:
        rows = len(next(iter(inputs.values())))
        return np.repeat(answer[None], rows, axis=0)

    return Fitted(name, description, answers)


def linear(
    preprocess: Preprocess, train: Rows, seed: int, most_cells: int = LINEAR_CELLS
) -> Fitted:
    """Logistic or ridge regression on what a network would get, `most_cells` numbers of it."""
    few, seen = _as_many_as_fit(preprocess, train, seed, most_cells)
    table = prepared(preprocess, few.inputs)
    match train.task:
        case Classification():
            estimator: Any = LogisticRegression(max_iter=LINEAR_STEPS)
            name = "logistic regression"
        case MultiLabel():
            estimator = OneVsRestClassifier(LogisticRegression(max_iter=LINEAR_STEPS))
            name = "logistic regression"
        case Regression():
            estimator, name = Ridge(), "ridge regression"
        case _:
            assert_never(train.task)
    with warnings.catch_warnings():
        # After so many steps it is near enough for a baseline.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # A label that no row has, or every row.
        warnings.filterwarnings("ignore", "Label .* is present in all training examples")
        estimator.fit(table, few.targets)

    def answers(inputs: Tensors) -> Array:
        rows = prepared(preprocess, inputs)
        if isinstance(train.task, Regression):
            return np.asarray(estimator.predict(rows), dtype=np.float32)
        return scores_of(estimator, rows, train.task)

    return Fitted(name, f"scikit-learn's{seen}", answers)


def boosting(preprocess: TablePreprocess, train: Rows, seed: int) -> Fitted:
    """HistGradientBoosting, which takes categories for what they are: `trees` that are exported
    cannot.

    Raises:
        Unsuitable: there is none for the task.
    """
    width = table(preprocess, train.inputs).shape[1]
    few = [width - len(preprocess.slots) + i for i, n in enumerate(preprocess.slots) if n <= BINS]
    estimator = estimator_for(train.task, seed=seed)
    estimator.set_params(categorical_features=few or None)
    estimator.fit(table(preprocess, train.inputs), train.targets)

    def answers(inputs: Tensors) -> Array:
        rows = table(preprocess, inputs)
        if isinstance(train.task, Regression):
            return np.asarray(estimator.predict(rows), dtype=np.float32)
        return scores_of(estimator, rows, train.task)

    return Fitted("gradient boosting", "scikit-learn's HistGradientBoosting", answers)


def scores_of(estimator: Any, rows: Array, task: Task) -> Array:
    """float32 [rows, labels]; 0 for a class that had no row to learn from."""
    scores = np.zeros((len(rows), task.width), dtype=np.float32)
    scores[:, estimator.classes_] = estimator.predict_proba(rows)
    return scores


@torch.no_grad()
def prepared(preprocess: Preprocess, inputs: Tensors) -> Array:
    """What a network would get, float32 [rows, numbers]."""
    rows: Array = preprocess(*preprocess.features(inputs)).flatten(1).numpy()
    return rows


def _as_many_as_fit(
    preprocess: Preprocess, train: Rows, seed: int, most_cells: int
) -> tuple[Rows, str]:
    most = most_cells // int(np.prod(preprocess.shape))
    if len(train) <= most:
        return train, ""
    index = np.sort(np.random.default_rng(seed).permutation(len(train))[:most])
    some = Rows(take_rows(train.inputs, index), train.targets[index], train.task, train.fields)
    return some, f", fitted on {most:,} of the {len(train):,} training rows"


def plain(task: Task) -> Task:
    """The task without the threshold that was chosen for one model."""
    return replace(task, threshold=None) if isinstance(task, Classification) else task


def paired_change(answers: Array, others: Array, rows: Rows, seed: int) -> tuple[float, Interval]:
    """The chief metric of some answers minus that of others, with the middle of its bootstrap.

    A threshold is that of the first; the others choose the likelier class.
    """
    name = rows.task.chief.name
    first = measures_of(rows.task, answers, rows.targets)[name]
    second = measures_of(plain(rows.task), others, rows.targets)[name]
    ones = np.ones((1, len(rows)))
    changes = np.concatenate([first(counts) - second(counts) for counts in draws(len(rows), seed)])
    low, high = np.quantile(changes, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float((first(ones) - second(ones))[0]), Interval(low=float(low), high=float(high))
