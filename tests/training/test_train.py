import numpy as np
import pytest

from training.config import RunConfig
from training.data.split import split_dataset
from training.errors import Diverged
from training.fit.train import make_repeatable, weights_sha256
from training.models import Candidate, mlp
from training.progress import Progress
from training.runs import MLP, find_run
from training.selection.select import Trained, choose, train_candidates

pytestmark = pytest.mark.training


def train_once(run_name: str, candidate: Candidate, **overrides: object) -> Trained:
    run = find_run(run_name)
    config = run.config.with_overrides({"threads": 1, "epochs": 3, **overrides})
    make_repeatable(config)
    split = split_dataset(run.collect(), config)
    preprocess = run.fit_preprocess(split.train.inputs)
    (trained,) = train_candidates([candidate], preprocess, split, config, Progress())
    return trained


@pytest.mark.parametrize("name", ["digits", "penguins"])
def test_same_seed_gives_the_same_weights(name: str):
    candidate = find_run(name).candidates[-1]
    first, second = (train_once(name, candidate, seed=4) for _ in range(2))

    assert weights_sha256(first.predictor) == weights_sha256(second.predictor)
    assert first.history.epochs == second.history.epochs


def test_another_seed_gives_other_weights():
    first, second = (train_once("penguins", MLP, seed=seed) for seed in (0, 1))

    assert weights_sha256(first.predictor) != weights_sha256(second.predictor)


def test_training_stops_early_and_keeps_the_best_weights():
    trained = train_once("penguins", MLP, epochs=200, patience=3, learning_rate=0.02)

    losses = [epoch.validation_loss for epoch in trained.history.epochs]
    assert len(losses) < 200
    assert trained.history.best_epoch == int(np.argmin(losses)) + 1
    assert len(losses) == trained.history.best_epoch + 3
    assert trained.validation.metrics["log_loss"] == pytest.approx(min(losses), abs=1e-4)


def test_divergence_names_the_candidate_and_the_epoch():
    with pytest.raises(Diverged, match="candidate mlp: the loss is not finite in epoch 1"):
        train_once("digits", Candidate("mlp", "", mlp), learning_rate=1e30)


def test_choice_follows_validation_and_gives_its_reason():
    run = find_run("penguins")
    config = RunConfig(threads=1, epochs=2)
    make_repeatable(config)
    split = split_dataset(run.collect(), config)
    preprocess = run.fit_preprocess(split.train.inputs)
    trained = train_candidates(run.candidates, preprocess, split, config, Progress())

    selection = choose(trained, split.train.task)

    accuracies = [one.validation.metrics["accuracy"] for one in trained]
    assert selection.chosen is trained[int(np.argmax(accuracies))]
    assert selection.reason == f"highest validation accuracy, {max(accuracies):.4f}"
    assert choose(trained[::-1], split.train.task).chosen is selection.chosen


def test_candidates_do_not_depend_on_the_order_in_which_they_are_trained():
    run = find_run("penguins")
    config = RunConfig(threads=1, epochs=2)
    make_repeatable(config)
    split = split_dataset(run.collect(), config)
    preprocess = run.fit_preprocess(split.train.inputs)

    forth, back = (
        {
            one.candidate.name: weights_sha256(one.predictor)
            for one in train_candidates(order, preprocess, split, config, Progress())
        }
        for order in (run.candidates, run.candidates[::-1])
    )

    assert forth == back
