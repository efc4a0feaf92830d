import numpy as np
import pytest
from sklearn import metrics

from app.bundle.manifest import Gate
from training.errors import GateFailed
from training.evaluation.validate import (
    check_gates,
    evaluate,
    expected_calibration_error,
    reliability,
)
from training.pipeline import Outcome

pytestmark = pytest.mark.training


def test_metrics_are_those_of_the_answers(digits: Outcome):
    found = evaluate(digits.predictor.answers(digits.test.inputs), digits.test)

    answers = digits.reference(digits.test.inputs)["label"].tolist()
    right = np.mean([a == b for a, b in zip(answers, digits.test.expected, strict=True)])
    assert found.metrics["accuracy"] == pytest.approx(right)
    assert found.confusion.sum() == len(digits.test)
    assert np.trace(found.confusion) == round(right * len(digits.test))
    assert sum(one.support for one in found.per_class) == len(digits.test)
    assert found.metrics["macro_f1"] == pytest.approx(
        metrics.f1_score(digits.test.expected, answers, average="macro")
    )


def test_worst_rows_come_first(digits: Outcome):
    found = evaluate(digits.predictor.answers(digits.test.inputs), digits.test)

    of_truth = found.answers[np.arange(len(digits.test)), digits.test.targets]
    assert of_truth[list(found.worst)].tolist() == sorted(of_truth.tolist())


def test_calibration_error_of_a_hand_worked_case():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.65], dtype=np.float32)
    correct = np.array([True, True, True, False, False])

    bins = reliability(confidence, correct)

    assert [(b.rows, round(b.accuracy, 2)) for b in bins] == [(1, 0.0), (4, 0.75)]
    assert expected_calibration_error(bins) == pytest.approx((4 * 0.20 + 0.65) / 5, abs=1e-6)


def test_confidence_of_exactly_one_and_zero_has_a_bin():
    bins = reliability(np.array([0.0, 1.0], dtype=np.float32), np.array([False, True]))

    assert [(b.low, b.rows) for b in bins] == [(0.0, 1), (0.9, 1)]


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (
            Gate(metric="accuracy", split="test", minimum=0.95, value=0.9),
            "test accuracy is 0.9000, below the required 0.9500 by 0.0500",
        ),
        (
            Gate(metric="log_loss", split="validation", maximum=0.1, value=0.3),
            "validation log_loss is 0.3000, above the allowed 0.1000 by 0.2000",
        ),
        (Gate(metric="accuracy", split="test", minimum=0.9, value=float("nan")), "nan"),
    ],
)
def test_failed_gate_says_which_and_by_how_much(gate: Gate, message: str):
    with pytest.raises(GateFailed, match=message):
        check_gates([gate])


def test_value_on_the_bar_passes():
    check_gates([Gate(metric="accuracy", split="test", minimum=0.9, value=0.9)])
