import pytest

from app.bundle.manifest import Gate
from app.bundle.quality import Baseline, Interval, Quality
from training.evaluation.caveats import caveats, is_narrow, standing
from training.pipeline import Outcome
from training.tasks import Classification, Regression

pytestmark = pytest.mark.training

HIGHEST, LOWEST = Classification(("a", "b")).chief, Regression().chief


def gate(value: float, *, minimum: float | None = None, maximum: float | None = None) -> Gate:
    return Gate(metric="accuracy", split="test", minimum=minimum, maximum=maximum, value=value)


def baseline(name: str, low: float, high: float) -> Baseline:
    return Baseline(
        name=name,
        description="always <b>a</b>",
        metrics={"accuracy": 0.8},
        metric="accuracy",
        change=(low + high) / 2,
        interval=Interval(low=low, high=high),
    )


def quality(*baselines: Baseline) -> Quality:
    spread = Interval(low=0.85, high=0.95)
    return Quality(intervals={"test": {"accuracy": spread}}, baselines=baselines)


@pytest.mark.parametrize(
    ("one", "narrow"),
    [
        (gate(0.9, minimum=0.86), True),
        (gate(0.9, minimum=0.85), False),
        (gate(0.9, maximum=0.94), True),
        (gate(0.9, maximum=0.95), False),
        (gate(0.9, minimum=0.1, maximum=1.0), False),
    ],
)
def test_a_bar_within_the_interval_is_narrowly_passed(one: Gate, narrow: bool):
    assert is_narrow(one, quality()) == narrow
    assert not is_narrow(one, Quality())


@pytest.mark.parametrize(
    ("chief", "low", "high", "said"),
    [
        (HIGHEST, 0.01, 0.02, "better"),
        (HIGHEST, -0.01, 0.02, "equal within chance"),
        (HIGHEST, -0.02, -0.01, "worse"),
        (LOWEST, -0.02, -0.01, "better"),
        (LOWEST, 0.01, 0.02, "worse"),
    ],
)
def test_against_a_baseline_the_paired_interval_decides(chief, low, high, said):
    assert standing(baseline("linear", low, high), chief) == said


def test_doubts_are_told_in_words(penguins: Outcome):
    doubtful = penguins.manifest.model_copy(
        update={
            "gates": (gate(0.9, minimum=0.8), gate(0.9, minimum=0.88)),
            "quality": quality(
                baseline("majority", -0.01, 0.03),
                baseline("linear", -0.01, 0.03),
                baseline("boosting", -0.03, -0.01),
            ),
        }
    )

    said = caveats(doubtful, penguins.dataset.task)

    assert len(said) == 3
    assert said[0] == (
        "The bar of test accuracy, at least 0.8800, was passed with 0.9000, which may be chance: "
        "on other rows it would be 0.8500 to 0.9500, 19 times of 20, and the bar lies within."
    )
    assert said[1] == (
        "By test accuracy the model is not shown to be better than majority (always <b>a</b>): "
        "the difference, +0.0100 (-0.0100 to +0.0300), may be chance."
    )
    assert said[2] == (
        "By test accuracy the model is worse than boosting (always <b>a</b>), which needs no "
        "thought: -0.0200 (-0.0300 to -0.0100)."
    )


def test_nothing_is_doubted_without_reason(penguins: Outcome):
    sure = penguins.manifest.model_copy(
        update={
            "gates": (gate(0.9, minimum=0.8),),
            "quality": quality(baseline("majority", 0.1, 0.2), baseline("linear", -0.1, 0.1)),
        }
    )

    assert caveats(sure, penguins.dataset.task) == ()
    assert caveats(sure.model_copy(update={"quality": None}), penguins.dataset.task) == ()
