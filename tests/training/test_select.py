from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_wine

from tests.training.frames import FIT, numbers_dataset
from training.config import RunConfig
from training.data.split import split_dataset
from training.errors import ProofFailed
from training.evaluation.validate import Evaluation
from training.fit.train import History
from training.models import TREES, Trees
from training.progress import Progress
from training.selection.latency import Latency
from training.selection.select import (
    Trained,
    choose,
    pareto,
    prove_each,
    standard_error,
    train_candidate,
    train_candidates,
)
from training.tasks import Classification, Regression

pytestmark = pytest.mark.training

CONFIG = RunConfig(threads=1)
TASK = Classification(("a", "b"))
SLOW, QUICK = Latency(1.0, 10.0), Latency(0.2, 2.0)


class Sized:
    """As much of a model as a choice looks at."""

    parameter_count = 1


def candidate(name: str, accuracy: float, latency: Latency, log_loss: float = 0.1) -> Trained:
    return Trained(
        candidate=replace(TREES, name=name),
        predictor=Sized(),
        history=History((), 0, 0.0),
        validation=Evaluation({"accuracy": accuracy, "log_loss": log_loss}, np.zeros(0), ()),
        latency=latency,
    )


BEST = candidate("best", 0.95, SLOW)
NEAR = candidate("near", 0.94, QUICK)


def test_one_that_is_as_good_and_clearly_faster_is_chosen():
    selection = choose((BEST, NEAR), TASK, faster_by=3, doubt=lambda *_: 0.02)

    assert selection.chosen is NEAR
    assert selection.reason == (
        "validation accuracy 0.9400, within the standard error of best's 0.9500, "
        "and served 5.0 times as fast"
    )


@pytest.mark.parametrize(
    ("faster_by", "doubt", "other"),
    [
        pytest.param(6, 0.02, NEAR, id="not so much faster"),
        pytest.param(0, 0.02, NEAR, id="never"),
        pytest.param(3, 0.005, NEAR, id="clearly worse"),
        pytest.param(3, 0.02, candidate("x", 0.95, QUICK, 0.2), id="worse by the second metric"),
        pytest.param(3, 0.02, replace(NEAR, fault="not equal"), id="not proved"),
    ],
)
def test_otherwise_the_best_is_chosen(faster_by: float, doubt: float, other: Trained):
    selection = choose((other, BEST), TASK, faster_by=faster_by, doubt=lambda *_: doubt)

    assert selection.chosen is BEST
    assert selection.trained == (other, BEST)


def test_the_next_best_is_taken_where_the_best_cannot_be_exported():
    selection = choose((replace(BEST, fault="off by 0.1"), NEAR), TASK)

    assert selection.chosen is NEAR
    with pytest.raises(ProofFailed, match=r"no candidate can be exported: off by 0\.1"):
        choose((replace(BEST, fault="off by 0.1"),), TASK)


def test_front_holds_what_nothing_beats_in_both():
    beaten = candidate("beaten", 0.93, Latency(0.3, 3.0))
    fastest = candidate("fastest", 0.90, Latency(0.1, 1.0))

    assert pareto((BEST, beaten, NEAR, fastest), TASK) == (fastest, NEAR, BEST)


def test_front_of_errors_is_that_of_the_lowest():
    def off_by(rmse: float, batch_ms: float) -> Trained:
        found = Evaluation({"rmse": rmse, "mae": rmse}, np.zeros(0), ())
        return replace(BEST, validation=found, latency=Latency(1, batch_ms))

    small, large, slow = off_by(1.0, 5.0), off_by(2.0, 1.0), off_by(1.5, 9.0)

    assert pareto((small, large, slow), Regression()) == (large, small)


class OffByALittle(Trees):
    """Trees whose graph is not what they answer."""

    def answers(self, inputs):
        answers = super().answers(inputs)
        return np.roll(answers, 1, axis=1)


def test_a_candidate_whose_graph_differs_has_a_fault_and_no_latency():
    split = split_dataset(numbers_dataset(load_wine), CONFIG)
    few = TREES.tuned({"max_iter": 5})
    right = train_candidate(few, FIT(split.train.inputs), split, CONFIG, Progress())
    trees = right.predictor
    assert isinstance(trees, Trees)
    wrong = replace(right, predictor=OffByALittle(trees.preprocess, trees.estimator, trees.task))

    good, bad = prove_each((right, wrong), split, CONFIG, Progress())

    assert good.fault == ""
    assert good.latency is not None
    assert 0 < good.latency.one_row_ms < 1000
    assert "parity failed at batch 1: scores differ" in bad.fault
    assert bad.latency is None
    assert choose((bad, good), split.train.task).chosen is good


def test_doubt_is_the_standard_error_of_the_difference():
    split = split_dataset(numbers_dataset(load_wine), CONFIG)
    preprocess = FIT(split.train.inputs)
    one, other = train_candidates(
        (TREES.tuned({"max_iter": 20}), TREES.tuned({"max_iter": 1})),
        preprocess,
        split,
        CONFIG,
        Progress(),
    )
    rows, metric = split.validation, split.train.task.chief
    doubt = standard_error(rows, seed=0)

    right, other_right = (
        each.validation.answers.argmax(axis=1) == rows.targets for each in (one, other)
    )
    differences = right.astype(float) - other_right
    assert doubt(one, one, metric) == 0
    assert doubt(one, other, metric) == pytest.approx(
        differences.std() / np.sqrt(len(rows)), rel=0.2, abs=1e-9
    )
