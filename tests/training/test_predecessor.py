from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.bundle.quality import Predecessor
from training import pipeline
from training.errors import GateFailed
from training.evaluation.predecessor import check_regression, compare_with_published, differs
from training.evaluation.validate import evaluate
from training.pipeline import Outcome
from training.progress import Progress

pytestmark = pytest.mark.training


def against(outcome: Outcome, answers, limit: float | None = None):
    return compare_with_published(
        outcome.bundle.path.parent.parent,
        outcome.run.name,
        signature=outcome.manifest.signature,
        provenance=outcome.manifest.provenance,
        test=outcome.test,
        new=evaluate(answers, outcome.test),
        limit=limit,
    )


def spoilt(outcome: Outcome, rows: int):
    """The model's answers, the first ones turned round."""
    answers = outcome.evaluations["test"].answers.copy()
    answers[:rows] = answers[:rows, ::-1]
    return answers


def test_nothing_published_is_nothing_to_compare_with(digits: Outcome, tmp_path: Path):
    elsewhere = replace(digits, bundle=replace(digits.bundle, path=tmp_path / "digits" / "1"))

    found = against(elsewhere, digits.evaluations["test"].answers)

    assert (found.record, found.note) == (None, "no version is published yet")


def test_the_same_answers_are_equal(digits: Outcome):
    record = against(digits, digits.evaluations["test"].answers).record

    assert isinstance(record, Predecessor)
    assert (record.version, record.digest) == (digits.manifest.version, digits.bundle.digest)
    assert (record.change, record.verdict) == (0.0, "equal within chance")
    assert record.metrics["accuracy"] == digits.evaluations["test"].metrics["accuracy"]
    assert record.same_division


def test_what_is_clearly_worse_is_refused(digits: Outcome):
    found = against(digits, spoilt(digits, 60))

    assert found.record.verdict == "worse"
    assert found.record.interval.high < 0
    with pytest.raises(GateFailed, match=r"against version 1 .* worse, more than max_regression"):
        check_regression(found, Progress())


def test_a_loss_within_the_limit_passes(digits: Outcome):
    found = against(digits, spoilt(digits, 60), limit=0.5)

    assert found.record.verdict == "worse within the limit"
    check_regression(found, Progress())


def test_a_loss_that_may_be_chance_passes(penguins: Outcome):
    answers = penguins.evaluations["test"].answers.copy()
    right = np.flatnonzero(answers.argmax(axis=1) == penguins.test.targets)[0]
    answers[right] = np.roll(answers[right], 1)

    found = against(penguins, answers)

    # One of 69 rows is more than the limit of a hundredth, and yet says nothing.
    assert found.record.change < -0.01
    assert found.record.verdict == "equal within chance"
    check_regression(found, Progress())


def test_a_gain_is_told(digits: Outcome):
    perfect = np.eye(10, dtype=np.float32)[digits.test.targets]

    found = against(digits, perfect)

    assert found.record.verdict == "better"
    assert found.record.interval.low > 0


def test_other_data_may_have_been_trained_on(digits: Outcome):
    provenance = digits.manifest.provenance.model_copy(update={"seed": 5})
    manifest = digits.manifest.model_copy(update={"provenance": provenance})
    other = replace(digits, bundle=replace(digits.bundle, manifest=manifest))

    found = against(other, digits.evaluations["test"].answers)

    assert not found.record.same_division


def test_another_signature_cannot_be_compared(digits: Outcome, penguins: Outcome):
    old, new = digits.manifest.signature, penguins.manifest.signature
    renamed = old.model_copy(
        update={"fields": (old.fields[0].model_copy(update={"name": "picture"}),)}
    )

    assert differs(old, old) is None
    assert differs(old, new) == "other tensors"
    assert differs(old, renamed) == "other fields"


@pytest.mark.slow
def test_a_worse_second_run_is_not_published(tmp_path: Path):
    pipeline.run("digits", tmp_path, {"epochs": 4, "gates": "accuracy>=0.5", "threads": 1})

    with pytest.raises(GateFailed, match="against version 1"):
        pipeline.run(
            "digits",
            tmp_path,
            {"epochs": 1, "gates": "accuracy>=0.1", "learning_rate": 1e-4, "threads": 1},
        )

    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1"]
