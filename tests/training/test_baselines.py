from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier

from tests.training.frames import FIT, numbers_dataset, run_of
from training import pipeline
from training.config import RunConfig
from training.data.dataset import Rows
from training.data.penguins import collect_penguins
from training.data.split import split_dataset
from training.evaluation.validate import evaluate
from training.models import TREES
from training.progress import Progress
from training.runs import LINEAR, find_run
from training.selection.baselines import fit_baselines, linear, paired_change, trivial
from training.tasks import MultiLabel

pytestmark = pytest.mark.training

CONFIG = RunConfig(threads=1)


def test_trivial_answers_are_shares_and_mean_of_the_training_rows():
    wine = split_dataset(numbers_dataset(load_wine), CONFIG)
    diabetes = split_dataset(numbers_dataset(load_diabetes), CONFIG)

    scores = trivial(wine.train).answers(wine.test.inputs)
    values = trivial(diabetes.train).answers(diabetes.test.inputs)

    shares = np.bincount(wine.train.targets) / len(wine.train)
    np.testing.assert_allclose(scores, np.tile(shares, (len(wine.test), 1)), rtol=1e-6)
    np.testing.assert_allclose(values, diabetes.train.targets.mean(), rtol=1e-6)
    assert trivial(wine.train).description == "always class_1"


def test_each_baseline_is_better_than_the_one_before():
    split = split_dataset(collect_penguins(), CONFIG)
    found = list(fit_baselines(FIT(split.train.inputs), split.train, CONFIG))

    names = [one.name for one in found]
    reached = [
        evaluate(one.answers(split.test.inputs), split.test).metrics["log_loss"] for one in found
    ]
    assert names == ["majority", "logistic regression", "gradient boosting"]
    assert reached[0] == pytest.approx(1.05, abs=0.05)
    assert max(reached[1:]) < 0.2


def test_gradient_boosting_is_that_of_scikit_learn_by_default():
    split = split_dataset(numbers_dataset(load_breast_cancer, gaps=True), CONFIG)
    *_, boosting = fit_baselines(FIT(split.train.inputs), split.train, CONFIG)
    theirs = HistGradientBoostingClassifier(random_state=CONFIG.seed)
    theirs.fit(split.train.inputs["numbers"], split.train.targets)

    np.testing.assert_allclose(
        boosting.answers(split.test.inputs),
        theirs.predict_proba(split.test.inputs["numbers"]),
        atol=1e-6,
    )


def test_several_labels_have_shares_and_a_linear_model():
    dataset = numbers_dataset(load_wine)
    labels = np.eye(3, dtype=np.float32)[dataset.targets]
    labels[:, 2] = 1  # holds for every row, from which nothing can be learnt
    rows = Rows(dataset.inputs, labels, MultiLabel(("a", "b", "c")), dataset.fields)

    found = list(fit_baselines(FIT(rows.inputs), rows, CONFIG))

    assert [one.name for one in found] == ["majority", "logistic regression"]
    scores = found[1].answers(rows.inputs)
    assert scores.shape == labels.shape
    assert ((scores > 0.5) == (labels > 0)).mean() > 0.95


def test_linear_model_of_many_numbers_sees_fewer_rows():
    split = split_dataset(numbers_dataset(load_wine), CONFIG)
    preprocess = FIT(split.train.inputs)

    fitted = linear(preprocess, split.train, seed=0, most_cells=50 * preprocess.shape[0])

    assert fitted.description == "scikit-learn's, fitted on 50 of the 106 training rows"
    assert evaluate(fitted.answers(split.test.inputs), split.test).metrics["accuracy"] > 0.9


def test_change_is_paired():
    rows = split_dataset(numbers_dataset(load_wine), CONFIG).test
    right = np.eye(3, dtype=np.float32)[rows.targets]
    wrong = right.copy()
    wrong[:9] = np.roll(wrong[:9], 1, axis=1)

    change, interval = paired_change(right, wrong, rows, seed=0)
    same, none = paired_change(right, right, rows, seed=0)

    assert change == pytest.approx(9 / len(rows))
    assert 0 < interval.low < change < interval.high < 0.5
    assert (same, none.low, none.high) == (0, 0, 0)


def is_no_worse(outcome: pipeline.Outcome) -> bool:
    """Than gradient boosting with its default settings, but for chance."""
    quality = outcome.manifest.quality
    assert quality is not None
    boosting = quality.baselines[-1]
    assert boosting.name == "gradient boosting"
    if outcome.dataset.task.chief.goal == "highest":
        return boosting.interval.high >= 0
    return boosting.interval.low <= 0


@pytest.mark.slow
def test_default_is_no_worse_than_gradient_boosting_on_breast_cancer(tmp_path: Path):
    dataset = numbers_dataset(load_breast_cancer)
    run = run_of("cancer", dataset, (LINEAR, TREES), threads=1, epochs=20)

    outcome = pipeline.travel(run, run.config, tmp_path, Progress())

    assert is_no_worse(outcome)
    card = outcome.bundle.read("card.md").decode()
    page = outcome.bundle.read("report.html").decode()
    for name in ("majority", "logistic regression", "gradient boosting"):
        assert f"| {name} |" in card
        assert f"<td>{name}</td>" in page


@pytest.mark.slow
def test_default_is_no_worse_than_gradient_boosting_on_diamonds(tmp_path: Path):
    run = find_run("diamonds")

    # The networks are left little time: the trees are the ones that must stand the comparison.
    outcome = pipeline.run("diamonds", tmp_path, {"epochs": 1})

    assert run.config.gates
    assert is_no_worse(outcome)
    assert outcome.selection.chosen.candidate.name == "trees"
    assert outcome.evaluations["test"].metrics["rmse"] < 650
