"""Train every candidate, and choose one by the validation split alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.config import RunConfig
from training.data.split import Split
from training.errors import Diverged
from training.models import Candidate, Classifier
from training.preprocess import Preprocess
from training.progress import Progress
from training.train import History, train
from training.validate import Evaluation, evaluate


@dataclass(frozen=True)
class Trained:
    """A candidate after training, with what it did on the validation split."""

    candidate: Candidate
    classifier: Classifier
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
    labels = split.train.labels
    for candidate in candidates:
        torch.manual_seed(config.seed)
        network = candidate.build(preprocess.shape, len(labels))
        classifier = Classifier(preprocess, network, labels)
        try:
            with progress.training(candidate.name, config.epochs):
                history = train(classifier, split.train, split.validation, config, progress)
        except Diverged as error:
            raise Diverged(f"candidate {candidate.name}: {error}") from None
        validation = evaluate(classifier, split.validation)
        trained.append(Trained(candidate, classifier, history, validation))
        progress.note(
            f"{candidate.name}: {len(history.epochs)} epochs in {history.seconds:.1f} s, "
            f"validation accuracy {validation.metrics['accuracy']:.4f}, "
            f"log loss {validation.metrics['log_loss']:.4f}"
        )
    return tuple(trained)


def choose(trained: Sequence[Trained]) -> Selection:
    """Highest validation accuracy; equals are told apart by log loss, then by size."""
    ranked = sorted(
        trained,
        key=lambda one: (
            -one.validation.metrics["accuracy"],
            one.validation.metrics["log_loss"],
            one.classifier.parameter_count,
        ),
    )
    best = ranked[0]
    reason = f"highest validation accuracy, {best.validation.metrics['accuracy']:.4f}"
    if len(ranked) > 1:
        second = ranked[1]
        if second.validation.metrics["accuracy"] == best.validation.metrics["accuracy"]:
            reason = f"validation accuracy equal to that of {second.candidate.name}, lower log loss"
    return Selection(tuple(trained), best, reason)
