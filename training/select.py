"""Train every candidate, and choose one by the validation split alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.config import RunConfig
from training.data.split import Split
from training.errors import Diverged
from training.models import Candidate, Predictor, head_for
from training.preprocess import Preprocess
from training.progress import Progress
from training.tasks import Metric, Task
from training.train import History, train
from training.validate import Evaluation, evaluate


@dataclass(frozen=True)
class Trained:
    """A candidate after training, with what it did on the validation split."""

    candidate: Candidate
    predictor: Predictor
    history: History
    validation: Evaluation


@dataclass(frozen=True)
class Selection:
    """All candidates in the order in which they were tried, the chosen one, and why."""

    trained: tuple[Trained, ...]
    chosen: Trained
    reason: str


def train_candidates(
    candidates: Sequence[Candidate],
    preprocess: Preprocess,
    split: Split,
    config: RunConfig,
    progress: Progress,
) -> tuple[Trained, ...]:
    """Train each candidate from the same seed, so that their order does not matter.

    Raises:
        Diverged: the loss of one of them is not finite.
    """
    trained = []
    task = split.train.task
    for candidate in candidates:
        torch.manual_seed(config.seed)
        network = candidate.build(preprocess.shape, task.width)
        predictor = Predictor(preprocess, network, head_for(task, split.train.targets), task)
        try:
            with progress.training(candidate.name, config.epochs, predictor.head.metric):
                history = train(predictor, split.train, split.validation, config, progress)
        except Diverged as error:
            raise Diverged(f"candidate {candidate.name}: {error}") from None
        validation = evaluate(predictor.answers(split.validation.inputs), split.validation)
        trained.append(Trained(candidate, predictor, history, validation))
        figures = [
            f"{metric.name.replace('_', ' ')} {validation.metrics[metric.name]:.4f}"
            for metric in (task.chief, task.second)
        ]
        progress.note(
            f"{candidate.name}: {len(history.epochs)} epochs in {history.seconds:.1f} s, "
            f"validation {', '.join(figures)}"
        )
    return tuple(trained)


def choose(trained: Sequence[Trained], task: Task) -> Selection:
    """By the task's chief metric on the validation split; equals by the second, then by size."""

    def value(one: Trained, metric: Metric) -> float:
        return one.validation.metrics[metric.name]

    def rank(one: Trained) -> tuple[float, float, int]:
        chief, second = task.chief, task.second
        return (
            chief.rank(value(one, chief)),
            second.rank(value(one, second)),
            one.predictor.parameter_count,
        )

    ranked = sorted(trained, key=rank)
    best, chief = ranked[0], task.chief
    name = chief.name.replace("_", " ")
    reason = f"{chief.goal} validation {name}, {value(best, chief):.4f}"
    if len(ranked) > 1 and value(ranked[1], chief) == value(best, chief):
        second = task.second.name.replace("_", " ")
        reason = f"validation {name} equal to that of {ranked[1].candidate.name}, better {second}"
    return Selection(tuple(trained), best, reason)
