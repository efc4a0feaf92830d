import numpy as np
import pytest

from app.bundle.signature import CategoryField, ImageField, NumberField
from training.data.dataset import Rows
from training.evaluation.slices import FEW_ROWS, slices_of
from training.pipeline import Outcome
from training.tasks import Classification, Regression

pytestmark = pytest.mark.training

TWO = Classification(("no", "yes"))
SIZE = NumberField(name="size", tensor="numbers", column=0, required=False, nullable=True)
PLACE = CategoryField(
    name="place",
    tensor="words",
    column=0,
    vocabulary=("north", "south"),
    accept_unknown=True,
    required=False,
    nullable=True,
)


def rows(size, place, targets, task=TWO) -> Rows:
    inputs = {
        "numbers": np.array(size, dtype=np.float32)[:, None],
        "words": np.array(place, dtype=object)[:, None],
    }
    return Rows(inputs, np.array(targets), task, (SIZE, PLACE))


def test_the_weak_place_comes_first():
    place = ["north"] * 60 + ["south"] * 40
    test = rows([1.0] * 100, place, [1] * 100)
    second = np.array([0.9] * 60 + [0.9, 0.1] * 20, dtype=np.float32)

    found = slices_of(test, test, np.stack([1 - second, second], axis=1), seed=0)

    assert [(one.values, one.rows, one.value) for one in found] == [
        ("south", 40, 0.5),
        ("north", 60, 1.0),
    ]
    assert found[0].interval.low < 0.5 < found[0].interval.high < 0.7
    assert found[1].interval.low == 1.0


def test_numbers_are_divided_at_the_quartiles_of_the_training_rows():
    train = rows(list(range(101)), ["north"] * 101, [0] * 101)
    test = rows([10, 25, 26, 60, 1000, np.nan], ["south"] * 6, [0, 0, 0, 0, 0, 0])
    scores = np.tile(np.array([[0.9, 0.1]], dtype=np.float32), (6, 1))

    found = {one.values: one.rows for one in slices_of(train, test, scores, seed=0)}

    assert found == {"up to 25": 2, "25 to 50": 1, "50 to 75": 1, "above 75": 1, "missing": 1}


def test_words_that_nobody_knew_and_gaps_are_slices_of_their_own():
    test = rows([1.0] * 4, ["north", "", "east", "south"], [0, 0, 0, 1])
    scores = np.tile(np.array([[0.9, 0.1]], dtype=np.float32), (4, 1))

    found = slices_of(test, test, scores, seed=0)

    assert found[0].values == "south"
    assert {one.values for one in found} == {
        "north",
        "south",
        "missing",
        "not among the known values",
    }
    assert all(one.few for one in found)


def test_of_an_error_the_highest_comes_first():
    test = rows([1.0] * 4, ["north", "north", "south", "south"], np.zeros(4), Regression())

    found = slices_of(test, test, np.array([1, 1, 3, 3], dtype=np.float32), seed=0)

    assert [(one.values, one.metric, one.value) for one in found] == [
        ("south", "rmse", 3.0),
        ("north", "rmse", 1.0),
    ]


def test_pictures_have_none_and_tables_have(digits: Outcome, penguins: Outcome):
    assert isinstance(digits.test.fields[0], ImageField)
    assert digits.manifest.quality.slices == ()
    found = penguins.manifest.quality.slices
    assert {one.field for one in found} == {field.name for field in penguins.test.fields}
    assert found == tuple(sorted(found, key=lambda one: (one.few, one.value)))
    assert all(one.few == (one.rows < FEW_ROWS) for one in found)
