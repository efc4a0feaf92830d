from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_wine

from tests.training.frames import FIT, numbers_dataset, run_of
from training import pipeline
from training.config import RunConfig
from training.data.split import split_dataset
from training.errors import UsageError
from training.fit.checkpoints import Keep
from training.models import TREES, AnyCandidate, Candidate, TreeCandidate, mlp
from training.models.space import Between, OneOf
from training.progress import Progress
from training.selection.search import Budget, Found, parts_of, search

pytestmark = pytest.mark.training

SMALL_TREES = TreeCandidate(
    "trees", "", {"max_iter": Between(5, 20), "learning_rate": Between(0.05, 0.5, log=True)}
)
NETWORK = Candidate("mlp", "", mlp, {"hidden": OneOf((8, 16)), "dropout": Between(0.0, 0.5)})
SPLIT = split_dataset(numbers_dataset(load_wine), RunConfig())


class Noted(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def searched(
    candidates: Sequence[AnyCandidate],
    storage: Path | None = None,
    progress: Progress | None = None,
    **settings: object,
) -> Found:
    config = RunConfig().with_overrides({"threads": 1, "epochs": 2, "folds": 2, **settings})
    return search(candidates, FIT, SPLIT, config, progress or Progress(), storage)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("30s", Budget(seconds=30)),
        ("10m", Budget(seconds=600)),
        ("2h", Budget(seconds=7200)),
        ("trials=50", Budget(trials=50)),
    ],
)
def test_budget_is_time_or_trials(text: str, budget: Budget):
    assert Budget.of(RunConfig(budget=text).budget) == budget


@pytest.mark.parametrize("text", ["30", "ten", "trials=", "5 m", "-3s"])
def test_other_budgets_are_refused(text: str):
    with pytest.raises(UsageError, match="setting budget="):
        RunConfig().with_overrides({"budget": text})


def test_search_gives_each_candidate_the_best_settings_that_it_tried():
    found = searched((SMALL_TREES, NETWORK), budget="trials=6", faster_by=0)

    assert len(found.trials) == 6
    for candidate in found.candidates:
        own = [trial for trial in found.trials if trial.candidate == candidate.name]
        assert candidate.settings == min(own, key=lambda trial: trial.rank).settings
        assert set(candidate.settings) == set(candidate.space)
        assert all(0 < trial.latency.batch_ms < 1000 for trial in own)
        assert all(0 < -trial.rank <= 1 for trial in own)  # accuracy, the best first
    assert [one.name for one in found.candidates] == ["trees", "mlp"]


def test_first_trial_is_the_candidate_as_it_is():
    found = searched((TREES,), budget="trials=1")

    assert found.trials[0].settings == {name: TREES.settings[name] for name in TREES.space}


def test_same_seed_tries_the_same_settings():
    first, second, other = (
        [dict(t.settings) for t in searched((SMALL_TREES,), budget="trials=3", seed=s).trials]
        for s in (0, 0, 1)
    )

    assert first == second != other


def test_search_goes_on_where_another_process_left_off(tmp_path: Path):
    storage = tmp_path / "search.db"
    before = searched((SMALL_TREES,), storage, budget="trials=2")

    after = searched((SMALL_TREES,), storage, budget="trials=3")
    done = searched((SMALL_TREES,), storage, budget="trials=3")

    assert len(before.trials) == 2
    assert after.trials[:2] == before.trials
    assert done.trials == after.trials
    assert len({trial.settings["learning_rate"] for trial in after.trials}) == 3


def test_time_is_a_budget_too():
    progress = Noted()

    found = searched((SMALL_TREES, NETWORK), progress=progress, budget="1s", epochs=100_000)

    assert [one.name for one in found.candidates][:1] == ["trees"]
    assert "trials to the end" in progress.notes[-1]


def test_hopeless_trials_are_cut_short():
    hopeless = Candidate("mlp", "", mlp, {"learning_rate": OneOf((3e-3, 1e-9))})
    progress = Noted()

    searched((hopeless,), progress=progress, budget="trials=10", folds=1, epochs=8, patience=8)

    assert any("cut short" in note for note in progress.notes[:-1])


def test_folds_hold_every_row_out_once_and_never_the_test_rows():
    parts = parts_of(SPLIT, FIT, RunConfig(folds=5))

    numbers = [SPLIT.train.inputs["numbers"], SPLIT.validation.inputs["numbers"]]
    both = {row.tobytes() for row in np.concatenate(numbers)}
    held = [row.tobytes() for part, _ in parts for row in part.validation.inputs["numbers"]]
    assert len(held) == len(SPLIT.train) + len(SPLIT.validation)
    assert set(held) == both
    for part, preprocess in parts:
        seen = part.train.inputs["numbers"]
        np.testing.assert_allclose(preprocess.mean.numpy(), seen.mean(axis=0), rtol=1e-5)
        assert not {r.tobytes() for r in seen} & {
            r.tobytes() for r in part.validation.inputs["numbers"]
        }


@pytest.mark.parametrize(("folds", "parts"), [(0, 5), (1, 1), (3, 3)])
def test_few_rows_are_divided_in_five(folds: int, parts: int):
    assert len(parts_of(SPLIT, FIT, RunConfig(folds=folds))) == parts


def test_what_was_found_is_trained_proved_and_published(tmp_path: Path):
    run = run_of(
        "cancer",
        numbers_dataset(load_breast_cancer),
        (SMALL_TREES,),
        threads=1,
        budget="trials=3",
        folds=2,
        gates="accuracy>=0.9",
    )

    outcome = pipeline.travel(run, run.config, tmp_path, Progress(), Keep(tmp_path / "kept"))

    trials = outcome.selection.trials
    assert len(trials) == 3
    assert outcome.selection.chosen.candidate.settings in [dict(t.settings) for t in trials]
    assert "found by search: max_iter" in outcome.bundle.read("report.html").decode()
    assert not (tmp_path / "kept").exists()
