import time

import numpy as np
import pytest
from sklearn import metrics

from training.evaluation.bootstrap import draws, intervals
from training.evaluation.metrics import mean, measures_of, values_of
from training.tasks import Classification, MultiLabel, Regression

pytestmark = pytest.mark.training

TWO = Classification(("no", "yes"))
THREE = Classification(("a", "b", "c"))
RNG = np.random.default_rng(7)


def scores_of(targets, width, sure=1.0):
    raw = RNG.normal(size=(len(targets), width)) + sure * (targets[:, None] == np.arange(width))
    share = np.exp(raw)
    return (share / share.sum(axis=1, keepdims=True)).astype(np.float32)


def test_metrics_of_classes_are_those_of_scikit_learn():
    targets = RNG.integers(0, 3, 400)
    scores = scores_of(targets, 3)

    found = values_of(measures_of(THREE, scores, targets), 400)

    chosen = scores.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(targets, chosen))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(targets, chosen, average="macro"))
    wide = scores.astype(np.float64)
    wide /= wide.sum(axis=1, keepdims=True)
    assert found["log_loss"] == pytest.approx(metrics.log_loss(targets, wide))
    assert "roc_auc" not in found


def test_area_under_the_curve_counts_ties_as_half():
    targets = RNG.integers(0, 2, 300)
    scores = scores_of(targets, 2).round(1)

    found = values_of(measures_of(TWO, scores, targets), 300)

    assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(targets, scores[:, 1]))


def test_metrics_of_labels_are_those_of_scikit_learn():
    truth = RNG.integers(0, 2, (200, 4)).astype(np.float32)
    scores = RNG.random((200, 4)).astype(np.float32)

    found = values_of(measures_of(MultiLabel(("a", "b", "c", "d")), scores, truth), 200)

    chosen = scores > 0.5
    for average in ("macro", "micro"):
        want = metrics.f1_score(truth, chosen, average=average)
        assert found[f"{average}_f1"] == pytest.approx(want)
    assert found["exact_match"] == pytest.approx((chosen == truth).all(axis=1).mean())
    want = np.mean([metrics.log_loss(truth[:, i], scores[:, i]) for i in range(4)])
    assert found["log_loss"] == pytest.approx(want)


@pytest.mark.parametrize("rows", [201, 200])
def test_metrics_of_values_are_those_of_scikit_learn(rows: int):
    targets = (1e6 + RNG.normal(size=rows)).astype(np.float32)
    values = targets + RNG.normal(scale=0.3, size=rows).astype(np.float32)

    found = values_of(measures_of(Regression(), values, targets), rows)

    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(targets, values))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(targets, values))
    want = metrics.median_absolute_error(targets, values)
    assert found["median_absolute_error"] == pytest.approx(want)
    wide = targets.astype(np.float64), values.astype(np.float64)
    assert found["r2"] == pytest.approx(metrics.r2_score(*wide), abs=1e-9)


def test_counts_are_what_repeated_rows_would_give():
    targets = RNG.integers(0, 2, 50)
    scores = scores_of(targets, 2)
    (counts,) = draws(50, seed=3, resamples=1)
    again = np.repeat(np.arange(50), counts[0].astype(int))

    drawn = {n: float(m(counts)[0]) for n, m in measures_of(TWO, scores, targets).items()}

    want = values_of(measures_of(TWO, scores[again], targets[again]), 50)
    assert drawn == pytest.approx(want)


def test_interval_of_a_share_is_that_of_theory():
    right = np.arange(1000) < 800

    found = intervals({"accuracy": mean(right)}, 1000, seed=0)["accuracy"]

    deviation = np.sqrt(0.8 * 0.2 / 1000)
    assert found.low == pytest.approx(0.8 - 1.96 * deviation, abs=0.004)
    assert found.high == pytest.approx(0.8 + 1.96 * deviation, abs=0.004)


def test_same_seed_draws_the_same_rows():
    right = {"accuracy": mean(RNG.random(99) < 0.7)}

    assert intervals(right, 99, seed=1) == intervals(right, 99, seed=1)
    assert intervals(right, 99, seed=1) != intervals(right, 99, seed=2)


def test_figure_that_some_resamples_lack_comes_from_the_others():
    targets = np.array([0, 0, 0, 0, 0, 1])
    scores = scores_of(targets, 2, sure=9.0)

    found = intervals(measures_of(TWO, scores, targets), 6, seed=0)

    assert found["roc_auc"].high == 1.0


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_seconds():
    targets = RNG.integers(0, 10, 100_000)
    scores = scores_of(targets, 10)
    started = time.monotonic()

    intervals(measures_of(Classification(tuple("0123456789")), scores, targets), 100_000, seed=0)

    assert time.monotonic() - started < 30
