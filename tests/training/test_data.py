import dataclasses

import numpy as np
import pytest

from training import pipeline
from training.data import penguins as penguins_data
from training.data.digits import collect_digits
from training.data.penguins import collect_penguins, data_file
from training.data.split import random_indices
from training.errors import EnvironmentTrouble, UsageError
from training.pipeline import Outcome

pytestmark = pytest.mark.training


def test_split_is_disjoint_complete_stratified_and_repeatable():
    targets = collect_digits().targets

    parts = random_indices(len(targets), targets, 0.2, 0.2, seed=5)

    assert [len(part) for part in parts] == [1077, 360, 360]
    assert sorted(np.concatenate(parts).tolist()) == list(range(1797))
    everywhere = np.bincount(targets) / len(targets)
    for part in parts:
        assert np.abs(np.bincount(targets[part]) / len(part) - everywhere).max() < 0.005
    again = random_indices(len(targets), targets, 0.2, 0.2, seed=5)
    other = random_indices(len(targets), targets, 0.2, 0.2, seed=6)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not np.array_equal(parts[2], other[2])


def test_class_that_is_too_rare_to_split_is_named_as_a_usage_error():
    with pytest.raises(UsageError, match="cannot be split"):
        random_indices(7, np.array([0, 0, 0, 0, 0, 0, 1]), 0.2, 0.2, seed=0)


def test_digits_are_whole_numbers_up_to_sixteen():
    dataset = collect_digits()

    assert dataset.inputs["image"].shape == (1797, 8, 8)
    assert dataset.inputs["image"].dtype == np.uint8
    assert dataset.inputs["image"].max() == 16
    assert dataset.task.labels == tuple("0123456789")


def test_penguins_keep_their_gaps():
    dataset = collect_penguins()

    numbers, categories = dataset.inputs["numbers"], dataset.inputs["categories"]
    assert numbers.shape == (344, 4)
    assert numbers.dtype == np.float32
    assert np.isnan(numbers).sum(axis=0).tolist() == [2, 2, 2, 2]
    assert (categories == "").sum(axis=0).tolist() == [0, 11]
    assert {type(cell) for cell in categories.ravel()} == {str}
    assert dataset.task.labels == ("Adelie", "Chinstrap", "Gentoo")
    assert all(field.example is not None for field in dataset.fields)


def test_every_value_in_the_data_is_within_its_field():
    dataset = collect_penguins()

    for field in penguins_data.NUMBERS:
        column = dataset.inputs["numbers"][:, field.column]
        assert field.minimum < np.nanmin(column) <= np.nanmax(column) < field.maximum
    for field in penguins_data.CATEGORIES:
        assert set(dataset.inputs["categories"][:, field.column]) <= {"", *field.vocabulary}


def test_missing_data_package_says_how_to_install_it():
    with pytest.raises(EnvironmentTrouble, match="pip install --no-deps -r training/data-packages"):
        data_file("no-such-package-of-data", "penguins.csv")


def test_content_hash_sees_a_change_of_one_cell():
    dataset = collect_penguins()
    changed = {name: array.copy() for name, array in dataset.inputs.items()}
    changed["categories"][7, 1] = "other"

    assert dataset.sha256 == collect_penguins().sha256
    assert dataset.sha256 != dataclasses.replace(dataset, inputs=changed).sha256


def test_instances_are_what_a_client_sends(digits: Outcome, penguins: Outcome):
    picture = digits.test.instances[0]
    assert picture == {"image": digits.test.inputs["image"][0].tolist()}

    names = [field.name for field in penguins.manifest.signature.fields]
    assert all(list(instance) == names for instance in penguins.test.instances)
    gaps = sum(value is None for instance in penguins.test.instances for value in instance.values())
    numbers, categories = penguins.test.inputs["numbers"], penguins.test.inputs["categories"]
    assert gaps == np.isnan(numbers).sum() + (categories == "").sum() > 0


def test_held_out_rows_are_those_of_the_run(digits: Outcome):
    rows = pipeline.held_out("digits")

    assert len(rows) == 360
    assert rows.instances == digits.test.instances
    assert rows.expected == digits.test.expected
