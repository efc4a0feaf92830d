import numpy as np
import pytest

from app.bundle.signature import CategoryField, NumberField
from training.papers.drift import reference_distributions
from training.pipeline import Outcome

pytestmark = pytest.mark.training

AGE = NumberField(name="age", tensor="numbers", column=0)
TOWN = CategoryField(name="town", tensor="words", column=0, vocabulary=("Bern", "Genf"))


def test_number_has_edges_shares_and_missing_rate():
    values = np.append(np.arange(100, dtype=np.float32), [np.nan] * 25)[:, None]

    found = reference_distributions({"numbers": values}, [AGE])["age"]

    assert found["missing_rate"] == pytest.approx(0.2)
    assert (found["edges"][0], found["edges"][-1]) == (0, 99)
    assert found["frequencies"] == pytest.approx([0.1] * 10)
    assert found["rows"] == 125


@pytest.mark.parametrize(("value", "frequencies"), [(3.0, [1.0]), (np.nan, [])])
def test_constant_or_absent_number_is_still_described(value: float, frequencies: list[float]):
    values = np.full((4, 1), value, dtype=np.float32)

    found = reference_distributions({"numbers": values}, [AGE])["age"]

    assert found["frequencies"] == frequencies


def test_category_counts_what_is_missing():
    values = np.array([["Bern"], [""], ["Genf"], ["Bern"]], dtype=object)

    found = reference_distributions({"words": values}, [TOWN])["town"]

    assert found["frequencies"] == {"": 0.25, "Bern": 0.5, "Genf": 0.25}
    assert found["missing_rate"] == 0.25


def test_image_is_described_by_its_mean_intensity(digits: Outcome):
    found = digits.manifest.drift["image"]

    assert found["statistic"] == "mean_intensity"
    assert 0 <= found["edges"][0] < found["edges"][-1] <= 1
    assert sum(found["frequencies"]) == pytest.approx(1)
