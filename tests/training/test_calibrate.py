import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from tests.training.frames import FIT, numbers_dataset
from training.config import RunConfig
from training.data.penguins import collect_penguins
from training.data.split import Split, split_dataset
from training.errors import UsageError
from training.evaluation.calibrate import GAIN, calibrate, fit_temperature, raw_of, settle
from training.evaluation.threshold import choose_threshold
from training.export import runtime
from training.export.graph import export
from training.models import TREES
from training.models.heads import ClassHead
from training.models.trees import fit_trees
from training.pipeline import Outcome
from training.progress import Progress
from training.tasks import Classification

pytestmark = pytest.mark.training

TWO = Classification(("no", "yes"))
#: Scores of the second class, and the truth.
SECOND = np.array([0.1, 0.2, 0.3, 0.35, 0.4, 0.6, 0.7, 0.8], dtype=np.float32)
TARGETS = np.array([0, 0, 0, 1, 0, 1, 1, 1])
SCORES = np.stack([1 - SECOND, SECOND], axis=1)


def test_temperature_that_a_network_lacks_is_found(digits: Outcome):
    model = copy.deepcopy(digits.predictor)
    model.head.temperature.fill_(0.1)
    was = digits.predictor.head.temperature.item()

    found = calibrate(model, digits.split)

    assert found.kept
    assert found.temperature == pytest.approx(was, rel=1e-3)
    assert model.head.temperature.item() == pytest.approx(found.temperature)
    assert found.after["validation"]["log_loss"] < found.before["validation"]["log_loss"]
    assert found.after["test"] != found.before["test"]


def test_temperature_that_does_not_help_is_not_kept(digits: Outcome):
    model = copy.deepcopy(digits.predictor)
    # What the network gives is made to fit as it is.
    with torch.no_grad():
        last = [part for part in model.network.modules() if isinstance(part, torch.nn.Linear)][-1]
        last.weight /= model.head.temperature
        last.bias /= model.head.temperature
    model.head.temperature.fill_(1.0)

    found = calibrate(model, digits.split)

    assert not found.kept
    assert model.head.temperature.item() == 1.0


def test_published_scores_have_the_temperature(digits: Outcome):
    calibration = digits.manifest.quality.calibration

    assert calibration.kept
    scores = runtime.open_run(digits.bundle.model())(digits.test.inputs)["scores"]
    of_truth = scores[np.arange(len(digits.test)), digits.test.targets]
    assert -np.log(of_truth).mean() == pytest.approx(
        calibration.after["test"]["log_loss"], rel=1e-3
    )


@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
def test_temperature_of_trees_makes_them_honest(load):
    split = split_dataset(numbers_dataset(load), RunConfig())
    sure = TREES.tuned({"max_iter": 60, "learning_rate": 0.5})
    trees = fit_trees(sure, FIT(split.train.inputs), split, seed=0, threads=1)

    found = calibrate(trees, split)

    assert found.temperature != 1.0
    best = found.after["validation"]["log_loss"]
    assert found.kept == (best < found.before["validation"]["log_loss"] - GAIN)
    assert trees.temperature == (found.temperature if found.kept else 1.0)


def test_temperature_that_trees_lack_is_found():
    split = split_dataset(numbers_dataset(load_breast_cancer), RunConfig())
    trees = fit_trees(TREES, FIT(split.train.inputs), split, seed=0, threads=1)
    raw, head = raw_of(trees, split.validation), ClassHead()
    right = fit_temperature(raw, head, split.validation)

    assert fit_temperature(raw / right, head, split.validation) == pytest.approx(1.0, rel=1e-3)
    assert fit_temperature(raw * 2, head, split.validation) == pytest.approx(2 * right, rel=1e-3)


def test_trees_that_answer_with_a_number_have_no_temperature():
    split = split_dataset(numbers_dataset(load_diabetes), RunConfig())
    trees = fit_trees(TREES, FIT(split.train.inputs), split, seed=0, threads=1)

    assert calibrate(trees, split) is None


@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        ("0.5", None),
        ("0.3", 0.3),
        # All four are found from 0.35 on, with one that is none.
        ("recall>=1", 0.325),
        ("f1", 0.325),
        ("recall>=0.7", 0.5),
        ("precision>=0.9", 0.5),
    ],
)
def test_rule_gives_the_threshold(rule: str, threshold: float | None):
    assert choose_threshold(rule, TWO, SCORES, TARGETS) == (
        None if threshold is None else pytest.approx(threshold)
    )


def test_rule_that_no_threshold_meets_is_an_error():
    with pytest.raises(UsageError, match="no threshold reaches that"):
        choose_threshold("precision>=0.9", TWO, SCORES, 1 - TARGETS)


def test_three_classes_have_no_threshold():
    with pytest.raises(UsageError, match="is for two classes; this is multiclass"):
        choose_threshold("f1", Classification(("a", "b", "c")), SCORES, TARGETS)


@pytest.mark.parametrize("rule", ["half", "1.5", "0", "recall>0.9", "recall>=2", "nan"])
def test_unknown_rule_is_refused_as_a_setting(rule: str):
    with pytest.raises(UsageError, match=r"is not like 0\.4, f1, recall>=0\.9"):
        RunConfig().with_overrides({"threshold": rule})


def two_species(penguins: Outcome) -> tuple[object, Split, object]:
    """The penguins' network asked only whether a bird is a Gentoo."""
    labels = ("other", "Gentoo")
    gentoo = penguins.dataset.task.labels.index("Gentoo")
    task = Classification(labels)
    dataset = replace(
        collect_penguins(),
        targets=(penguins.dataset.targets == gentoo).astype(np.int64),
        task=task,
    )
    parts = (penguins.split.train, penguins.split.validation, penguins.split.test)
    split = Split(
        *(replace(p, targets=(p.targets == gentoo).astype(np.int64), task=task) for p in parts)
    )
    model = copy.deepcopy(penguins.predictor)
    model.task = task
    last = [part for part in model.network.modules() if isinstance(part, torch.nn.Linear)][-1]
    others = [index for index in range(3) if index != gentoo]
    with torch.no_grad():
        last.weight = torch.nn.Parameter(
            torch.stack([last.weight[others].mean(0), last.weight[gentoo]])
        )
        last.bias = torch.nn.Parameter(torch.stack([last.bias[others].mean(), last.bias[gentoo]]))
    return dataset, split, model


@pytest.mark.slow
def test_threshold_is_part_of_the_graph(penguins: Outcome):
    dataset, split, model = two_species(penguins)
    config = RunConfig(threshold="0.95")

    settled = settle(model, dataset, split, config, Progress())
    graph = export(model, settled.split.test.inputs)

    got = runtime.open_run(graph.SerializeToString())(settled.split.test.inputs)
    want = np.where(got["scores"][:, 1] >= 0.95, "Gentoo", "other")
    assert got["label"].tolist() == want.tolist()
    assert set(want) == {"Gentoo", "other"}
    (label, _) = settled.dataset.task.predictions()
    assert label.threshold == 0.95
    assert label.description == "Gentoo where its score is at least 0.95"


def test_few_rows_that_are_all_right_do_not_make_it_sure(penguins: Outcome):
    model = copy.deepcopy(penguins.predictor)
    model.head.temperature.fill_(1.0)
    rows = penguins.split.validation
    right = np.flatnonzero(model.answers(rows.inputs).argmax(axis=1) == rows.targets)
    inputs = {name: array[right] for name, array in rows.inputs.items()}
    split = replace(
        penguins.split, validation=replace(rows, inputs=inputs, targets=rows.targets[right])
    )

    calibrate(model, split)

    assert model.answers(inputs).max(axis=1).mean() < 0.9999
