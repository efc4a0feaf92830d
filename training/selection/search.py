"""Search for settings of the candidates within a budget, by Optuna.

Each candidate has a study of its own, as they have different settings. All see the training and
validation rows only. A search makes candidates of candidates: what it finds is trained, proved and
chosen from like any other.
"""

import itertools
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sklearn.model_selection import KFold, StratifiedKFold
from sqlalchemy.exc import DBAPIError

from app.bundle.tensors import Tensors, take_rows
from training.config import RunConfig
from training.data.dataset import Indices, Rows
from training.data.split import Split
from training.errors import Diverged, EnvironmentTrouble, Unsuitable
from training.export import runtime
from training.export.graph import export
from training.fit.train import Epoch
from training.models import AnyCandidate, Predictor
from training.models.space import Between, OneOf, Setting
from training.preprocess.tensors import Preprocess
from training.progress import Progress
from training.selection.latency import Latency, measure_latency
from training.selection.select import Trained, Trial, train_candidate

SMALL_ROWS: Final = 2000
SMALL_FOLDS: Final = 5
#: So many trials of a candidate before any of its trials is cut short.
TRIALS_BEFORE_PRUNING: Final = 4
EPOCHS_BEFORE_PRUNING: Final = 3
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}

FitPreprocess = Callable[[Tensors], Preprocess]


@dataclass(frozen=True)
class Budget:
    """How long is searched: until either is used up."""

    seconds: float = math.inf
    trials: float = math.inf

    @classmethod
    def of(cls, text: str) -> "Budget":
        """From what `RunConfig.budget` lets pass: 30s, 10m, 2h or trials=50."""
        number = int("".join(re.findall(r"\d", text)))
        if text.startswith("trials="):
            return cls(trials=number)
        return cls(seconds=number * _SECONDS[text[-1]])


@dataclass(frozen=True)
class Found:
    """What came of a search.

    Attributes:
        candidates: each with its best settings, and faster ones that are as good.
        trials: all that were tried to the end.
    """

    candidates: tuple[AnyCandidate, ...]
    trials: tuple[Trial, ...]


class OutOfTime(Exception):
    """The budget was used up in the middle of a trial, which counts for nothing."""


def search(  # noqa: PLR0917
    candidates: Sequence[AnyCandidate],
    fit_preprocess: FitPreprocess,
    split: Split,
    config: RunConfig,
    progress: Progress,
    storage: Path | None = None,
) -> Found:
    """Try settings until the budget is used up: the candidates by turns, the leader every other.

    Args:
        storage: an SQLite file; what an earlier search of the same left there counts as done. None
            keeps nothing.
    Raises:
        Unsuitable: no candidate suits task and data.
        EnvironmentTrouble: the file cannot be written.
    """
    budget = Budget.of(config.budget)
    parts = parts_of(split, fit_preprocess, config)
    progress.note(
        f"budget {config.budget}, "
        + (f"{len(parts)} folds of training and validation rows" if len(parts) > 1 else "no folds")
    )
    with quiet(), _written(storage):
        studies = [Study(one, parts, config, storage) for one in candidates]
        deadline = time.monotonic() + budget.seconds - sum(one.seconds for one in studies)
        for turn in itertools.count():
            studies = [one for one in studies if not one.fault]
            if not studies:
                raise Unsuitable("no candidate suits task and data")
            trials_made = sum(one.count for one in studies)
            if trials_made >= budget.trials or time.monotonic() >= deadline:
                break
            try:
                whose_turn(turn, studies).try_once(deadline, progress)
            except OutOfTime:
                break
    trials = tuple(trial for one in studies for trial in one.complete)
    progress.note(
        f"{len(trials)} trials to the end, {sum(one.pruned for one in studies)} cut short"
    )
    return Found(tuple(itertools.chain(*(finalists(one, config) for one in studies))), trials)


@contextmanager
def _written(storage: Path | None) -> Iterator[None]:
    """A file that cannot be written is an error of ours; SQLite keeps whole what is in it."""
    try:
        yield
    except (DBAPIError, StorageInternalError) as error:
        if storage is None:
            raise
        said = str(getattr(error, "orig", None) or error.__cause__ or error).partition("\n")[0]
        raise EnvironmentTrouble(
            f"the trials cannot be kept in {storage}: {said}; nothing was published "
            "(--checkpoints names another folder)"
        ) from None


def whose_turn(turn: int, studies: Sequence["Study"]) -> "Study":
    """Everyone once, then round again, with the leader in between."""
    if turn >= len(studies) and turn % 2 == 1:
        return min(studies, key=lambda one: one.best_rank)
    return studies[(turn if turn < len(studies) else turn // 2) % len(studies)]


class Study:
    """The trials of one candidate.

    Attributes:
        fault: why there are none, if so.
    """

    def __init__(
        self,
        candidate: AnyCandidate,
        parts: Sequence[tuple[Split, Preprocess]],
        config: RunConfig,
        storage: Path | None,
    ) -> None:
        self.candidate = candidate
        self.config = config
        self.fault = ""
        self._parts = parts
        self._latencies: dict[int, Latency] = {}
        self._space = {name: _distribution(one) for name, one in candidate.space.items()}
        self._study = self._open(storage)

    def _open(self, storage: Path | None) -> optuna.Study:
        study = optuna.create_study(
            study_name=self.candidate.name,
            storage=None if storage is None else f"sqlite:///{storage}",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=TRIALS_BEFORE_PRUNING, n_warmup_steps=EPOCHS_BEFORE_PRUNING
            ),
        )
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)  # of a process that is no more
        # Another seed in each process that goes on, or it would draw the same once more.
        study.sampler = optuna.samplers.TPESampler(seed=self.config.seed + len(study.trials))
        if not study.trials:
            study.enqueue_trial(self._usual())
        return study

    def _usual(self) -> dict[str, Setting]:
        """The settings without a search, as far as they are in the space."""
        run = dict(self.config)
        known = {name: self.candidate.settings.get(name, run.get(name)) for name in self._space}
        return {
            name: value
            for name, value in known.items()
            if value is not None and self._space[name]._contains(value)
        }

    @property
    def _finished(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    @property
    def complete(self) -> list[Trial]:
        return [_trial(self.candidate.name, one) for one in self._finished]

    @property
    def pruned(self) -> int:
        return len(self._study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)))

    @property
    def count(self) -> int:
        return len(self._finished) + self.pruned

    @property
    def seconds(self) -> float:
        """That all trials took so far, in this process and before it."""
        durations = [one.duration for one in self._study.get_trials(deepcopy=False)]
        return sum(one.total_seconds() for one in durations if one is not None)

    @property
    def best_rank(self) -> float:
        return min((one.value for one in self._finished if one.value is not None), default=math.inf)

    def try_once(self, deadline: float, progress: Progress) -> None:
        """One trial: to the end, or until it is clear that it is none of the better ones.

        Raises:
            OutOfTime: at the deadline, by the clock `time.monotonic`.
        """
        trial = self._study.ask(self._space)
        name = f"{self.candidate.name} {trial.number + 1}"
        try:
            ranks, last = self._measure(trial, deadline)
        except optuna.TrialPruned:
            self._study.tell(trial, state=TrialState.PRUNED)
            progress.note(f"{name}: cut short")
        except (Diverged, runtime.SessionTrouble) as error:
            self._study.tell(trial, state=TrialState.FAIL)
            progress.note(f"{name}: {error}")
        except Unsuitable as error:
            self._study.tell(trial, state=TrialState.FAIL)
            self.fault = str(error)
            progress.note(f"{self.candidate.name} is left out: {error}")
        except OutOfTime:
            self._study.tell(trial, state=TrialState.FAIL)
            raise
        else:
            value = float(np.mean(ranks))
            spread = float(np.std(ranks, ddof=1)) if len(ranks) > 1 else 0.0
            latency = self._latency(last)
            trial.set_user_attr("error", spread / math.sqrt(len(ranks)))
            trial.set_user_attr("latency", [latency.one_row_ms, latency.batch_ms])
            self._study.tell(trial, value)
            progress.note(f"{name}: {_shown(trial.params)}: {abs(value):.4f}")

    def _measure(self, trial: optuna.Trial, deadline: float) -> tuple[list[float], Trained]:
        """The rank by the chief metric on each part, and what was trained on the last."""
        candidate = self.candidate.tuned(trial.params)
        chief = self._parts[0][0].train.task.chief
        ranks: list[float] = []

        def after_epoch(number: int, epoch: Epoch) -> None:
            if time.monotonic() >= deadline:
                raise OutOfTime
            if len(self._parts) == 1:
                self._report(trial, epoch.validation_loss, number)

        for split, preprocess in self._parts:
            one = train_candidate(
                candidate, preprocess, split, self.config, Progress(), after_epoch=after_epoch
            )
            ranks.append(chief.rank(one.validation.metrics[chief.name]))
            if len(ranks) < len(self._parts):
                self._report(trial, float(np.mean(ranks)), len(ranks) + EPOCHS_BEFORE_PRUNING)
        return ranks, one

    def _report(self, trial: optuna.Trial, value: float, step: int) -> None:
        trial.report(value, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    def _latency(self, one: Trained) -> Latency:
        """Measured once for networks of one size: other settings do not change their graph."""
        size = one.predictor.parameter_count
        if isinstance(one.predictor, Predictor) and size in self._latencies:
            return self._latencies[size]
        inputs = self._parts[-1][0].validation.inputs
        graph = export(one.predictor, inputs)
        run = runtime.open_run(graph.SerializeToString())
        self._latencies[size] = measure_latency(run, inputs)
        return self._latencies[size]


def finalists(study: Study, config: RunConfig) -> Iterator[AnyCandidate]:
    """The candidate with its best settings, and with faster ones that are as good; as it was where
    no trial came to an end."""
    trials = sorted(study.complete, key=lambda one: one.rank)
    if not trials:
        yield study.candidate
        return
    best = trials[0]
    yield _named(study.candidate, best, "")
    as_good = [one for one in trials if one.rank <= best.rank + max(one.error, best.error)]
    quickest = max(as_good, key=lambda one: one.latency.times_as_fast_as(best.latency))
    if config.faster_by and quickest.latency.times_as_fast_as(best.latency) >= config.faster_by:
        yield _named(study.candidate, quickest, ", faster")


def _named(candidate: AnyCandidate, trial: Trial, suffix: str) -> AnyCandidate:
    tuned = candidate.tuned(trial.settings)
    description = f"{candidate.description}; found by search: {_shown(trial.settings)}"
    return replace(tuned, name=candidate.name + suffix, description=description)


def _shown(settings: Mapping[str, Setting]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in settings.items())


def _trial(candidate: str, one: FrozenTrial) -> Trial:
    return Trial(
        candidate=candidate,
        settings=one.params,
        rank=one.value if one.value is not None else math.inf,
        error=one.user_attrs["error"],
        latency=Latency(*one.user_attrs["latency"]),
    )


def _distribution(one: Between | OneOf) -> BaseDistribution:
    match one:
        case OneOf(values):
            return CategoricalDistribution(values)
        case Between(int() as low, int() as high, log):
            return IntDistribution(low, high, log=log)
        case Between(low, high, log):
            return FloatDistribution(low, high, log=log)


def parts_of(
    split: Split, fit_preprocess: FitPreprocess, config: RunConfig
) -> tuple[tuple[Split, Preprocess], ...]:
    """The division itself, or, where rows are few, several of its training and validation rows.

    Each has a preprocessor that saw its own training rows alone. The test rows stay what they are.
    """
    both = together(split.train, split.validation)
    folds = config.folds or (SMALL_FOLDS if len(both) < SMALL_ROWS else 1)
    if folds == 1:
        return ((split, fit_preprocess(split.train.inputs)),)
    strata = both.task.strata(both.targets)
    kind = KFold if strata is None else StratifiedKFold
    divided = kind(folds, shuffle=True, random_state=config.seed).split(both.targets, strata)
    parts = [Split(_some(both, seen), _some(both, held), split.test) for seen, held in divided]
    return tuple((part, fit_preprocess(part.train.inputs)) for part in parts)


def together(first: Rows, second: Rows) -> Rows:
    inputs = {name: np.concatenate([a, second.inputs[name]]) for name, a in first.inputs.items()}
    targets = np.concatenate([first.targets, second.targets])
    return Rows(inputs, targets, first.task, first.fields)


def _some(rows: Rows, index: Indices) -> Rows:
    return Rows(take_rows(rows.inputs, index), rows.targets[index], rows.task, rows.fields)


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna's own account of every trial is left out: ours is shorter."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
