"""Train every candidate, and choose one: by the validation rows, and by how fast it is served."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from training.config import RunConfig
from training.data.dataset import Rows
from training.data.split import Split
from training.errors import Diverged, ProofFailed, Unsuitable
from training.evaluation.bootstrap import draws
from training.evaluation.metrics import measures_of
from training.evaluation.validate import Evaluation, evaluate
from training.export import runtime
from training.export.graph import export
from training.export.proof import prove
from training.fit.checkpoints import Checkpoint, Checkpoints
from training.fit.train import AfterEpoch, History, train
from training.models import AnyCandidate, Candidate, Model, Predictor, TreeCandidate, head_for
from training.models.space import Setting
from training.models.trees import fit_trees
from training.preprocess.tensors import Preprocess
from training.progress import Progress
from training.selection.latency import BATCH_ROWS, Latency, measure_latency
from training.tasks import Metric, Task

#: Enough for a standard error; an interval would take more.
RESAMPLES = 200


@dataclass(frozen=True)
class Trained:
    """A candidate after training, with what it did on the validation split.

    Attributes:
        latency: of the exported graph, once that was measured.
        fault: why this one must not be chosen, if so.
    """

    candidate: AnyCandidate
    predictor: Model
    history: History
    validation: Evaluation
    latency: Latency | None = None
    fault: str = ""


@dataclass(frozen=True)
class Trial:
    """A candidate with settings that were tried to the end.

    Attributes:
        rank: of the task's chief metric, the mean of the folds where there are some; ascending
            from the best.
        error: its standard error over the folds; 0 without.
    """

    candidate: str
    settings: Mapping[str, Setting]
    rank: float
    error: float
    latency: Latency


@dataclass(frozen=True)
class Selection:
    """All candidates in the order in which they were tried, the chosen one, and why.

    Attributes:
        trials: what a search tried before.
    """

    trained: tuple[Trained, ...]
    chosen: Trained
    reason: str
    trials: tuple[Trial, ...] = ()


#: The standard error of the difference between two candidates in a metric.
Doubt = Callable[[Trained, Trained, Metric], float]


def train_candidates(
    candidates: Sequence[AnyCandidate],
    preprocess: Preprocess,
    split: Split,
    config: RunConfig,
    progress: Progress,
    *,
    checkpoints: Checkpoints | None = None,
) -> tuple[Trained, ...]:
    """Train each candidate from the same seed, so that their order does not matter.

    Candidates that do not suit are left out with a note.

    Raises:
        Diverged: the loss of one of them is not finite.
        Unsuitable: none of them suits.
    """
    trained: list[Trained] = []
    unsuitable: list[str] = []
    for candidate in candidates:
        shapes = preprocess.shape, sorted(candidate.settings.items())
        checkpoint = None if checkpoints is None else checkpoints.of(candidate.name, shapes)
        try:
            one = train_candidate(
                candidate, preprocess, split, config, progress, checkpoint=checkpoint
            )
        except Diverged as error:
            raise Diverged(f"candidate {candidate.name}: {error}") from None
        except Unsuitable as error:
            unsuitable.append(f"candidate {candidate.name} is left out: {error}")
            progress.note(unsuitable[-1])
            continue
        progress.note(_account(one, split.train.task))
        trained.append(one)
    if not trained:
        raise Unsuitable("; ".join(unsuitable))
    return tuple(trained)


def train_candidate(
    candidate: AnyCandidate,
    preprocess: Preprocess,
    split: Split,
    config: RunConfig,
    progress: Progress,
    *,
    checkpoint: Checkpoint | None = None,
    after_epoch: AfterEpoch | None = None,
) -> Trained:
    """Train one and measure it on the validation rows. Errors as for `train` and `fit_trees`."""
    if isinstance(candidate, TreeCandidate):
        started = time.monotonic()
        predictor: Model = fit_trees(
            candidate, preprocess, split, seed=config.seed, threads=config.threads
        )
        history = History((), 0, time.monotonic() - started)
    else:
        config, network = _with_settings(candidate, preprocess, split.train.task, config)
        head = head_for(split.train.task, split.train.targets)
        predictor = Predictor(preprocess, network, head, split.train.task)
        with progress.training(candidate.name, config.epochs, head.metric):
            history = train(
                predictor,
                split.train,
                split.validation,
                config,
                progress,
                checkpoint=checkpoint,
                after_epoch=after_epoch,
            )
    validation = evaluate(predictor.answers(split.validation.inputs), split.validation)
    return Trained(candidate, predictor, history, validation)


def _with_settings(
    candidate: Candidate, preprocess: Preprocess, task: Task, config: RunConfig
) -> tuple[RunConfig, nn.Module]:
    """The candidate's settings that are the run's, and a fresh network by the others."""
    names = set(RunConfig.model_fields)
    of_run = {name: value for name, value in candidate.settings.items() if name in names}
    of_build = {name: value for name, value in candidate.settings.items() if name not in names}
    torch.manual_seed(config.seed)
    network = candidate.build(preprocess.shape, task.width, **of_build)
    return config.with_overrides(of_run), network


def prove_each(
    trained: Sequence[Trained], split: Split, config: RunConfig, progress: Progress
) -> tuple[Trained, ...]:
    """Export every candidate: one whose graph is not proved has a fault, the others a latency.

    Of the test rows only the inputs are looked at, as rows on which the graph must not differ.
    """
    return tuple(_proved(one, split, config, progress) for one in trained)


def _proved(one: Trained, split: Split, config: RunConfig, progress: Progress) -> Trained:
    name = one.candidate.name
    try:
        graph = export(one.predictor, split.test.inputs)
        run = runtime.open_run(graph.SerializeToString())
        prove(run, one.predictor, split.test, config)
    except (ProofFailed, runtime.SessionTrouble, Unsuitable) as error:
        progress.note(f"{name}: cannot be chosen, {error}")
        return replace(one, fault=str(error))
    latency = measure_latency(run, split.validation.inputs)
    progress.note(
        f"{name}: export proved, {latency.one_row_ms:.3f} ms for one row, "
        f"{latency.batch_ms:.3f} ms for {BATCH_ROWS}"
    )
    return replace(one, latency=latency)


def choose(
    trained: Sequence[Trained],
    task: Task,
    *,
    faster_by: float = 0.0,
    doubt: Doubt | None = None,
    trials: Sequence[Trial] = (),
) -> Selection:
    """The best by the task's chief metric on the validation split; equals by the second, then by
    size. One that is as good within the doubt, and served many times as fast, goes before it.

    Args:
        faster_by: how many times as fast; 0 for never.
        doubt: how far the figures of two candidates may differ by chance; None for not at all.
    Raises:
        ProofFailed: every candidate has a fault.
    """
    sound = [one for one in trained if not one.fault]
    if not sound:
        raise ProofFailed(f"no candidate can be exported: {trained[0].fault}")
    ranked = sorted(sound, key=lambda one: _rank(one, task))
    best = ranked[0]
    quicker = [
        one
        for one in ranked[1:]
        if faster_by
        and _times_as_fast(one, best) >= faster_by
        and all(_as_good(one, best, metric, doubt) for metric in (task.chief, task.second))
    ]
    if quicker:
        reason = _why_quicker(quicker[0], best, task)
        return Selection(tuple(trained), quicker[0], reason, tuple(trials))
    return Selection(tuple(trained), best, _why_best(ranked, task), tuple(trials))


def _rank(one: Trained, task: Task) -> tuple[float, float, int]:
    chief, second = (metric.rank(_value(one, metric)) for metric in (task.chief, task.second))
    return chief, second, one.predictor.parameter_count


def _value(one: Trained, metric: Metric) -> float:
    return one.validation.metrics[metric.name]


def _times_as_fast(one: Trained, other: Trained) -> float:
    if one.latency is None or other.latency is None:
        return 0.0
    return one.latency.times_as_fast_as(other.latency)


def _as_good(one: Trained, best: Trained, metric: Metric, doubt: Doubt | None) -> bool:
    behind = metric.rank(_value(one, metric)) - metric.rank(_value(best, metric))
    return behind <= 0 or (doubt is not None and behind <= doubt(one, best, metric))


def _why_best(ranked: Sequence[Trained], task: Task) -> str:
    best, chief = ranked[0], task.chief
    name = chief.name.replace("_", " ")
    if len(ranked) > 1 and _value(ranked[1], chief) == _value(best, chief):
        second = task.second.name.replace("_", " ")
        return f"validation {name} equal to that of {ranked[1].candidate.name}, better {second}"
    return f"{chief.goal} validation {name}, {_value(best, chief):.4f}"


def _why_quicker(one: Trained, best: Trained, task: Task) -> str:
    name = task.chief.name.replace("_", " ")
    return (
        f"validation {name} {_value(one, task.chief):.4f}, within the standard error of "
        f"{best.candidate.name}'s {_value(best, task.chief):.4f}, and served "
        f"{_times_as_fast(one, best):.1f} times as fast"
    )


def pareto(trained: Sequence[Trained], task: Task) -> tuple[Trained, ...]:
    """Those that no other beats in both, the chief metric and the time for a batch; fastest first.

    Candidates with a fault or without a measured time are none of them.
    """
    front: list[Trained] = []
    timed = [(one.latency.batch_ms, _rank(one, task), one) for one in trained if one.latency]
    for _, rank, one in sorted(timed, key=lambda each: each[:2]):
        if not front or rank[0] < _rank(front[-1], task)[0]:
            front.append(one)
    return tuple(front)


def standard_error(rows: Rows, seed: int) -> Doubt:
    """Of the difference between two candidates on the same validation rows, by bootstrap."""

    def doubt(one: Trained, other: Trained, metric: Metric) -> float:
        first, second = (
            measures_of(rows.task, each.validation.answers, rows.targets)[metric.name]
            for each in (one, other)
        )
        counts = draws(len(rows), seed, RESAMPLES)
        return float(np.nanstd(np.concatenate([first(some) - second(some) for some in counts])))

    return doubt


def _account(one: Trained, task: Task) -> str:
    figures = ", ".join(
        f"{metric.name.replace('_', ' ')} {_value(one, metric):.4f}"
        for metric in (task.chief, task.second)
    )
    epochs = f"{len(one.history.epochs)} epochs in " if one.history.epochs else ""
    return f"{one.candidate.name}: {epochs}{one.history.seconds:.1f} s, validation {figures}"
