import dataclasses

import numpy as np
import pytest

from training.config import RunConfig
from training.data.penguins import collect_penguins
from training.data.split import group_indices, split_dataset, split_rule, time_indices
from training.errors import UsageError
from training.tasks import Regression

pytestmark = pytest.mark.training


def test_rows_of_a_group_are_in_one_part():
    groups = np.array([f"g{row % 40}" for row in range(1000)], dtype=object)

    parts = group_indices(groups, 0.2, 0.2, seed=3)

    found = [set(groups[part].tolist()) for part in parts]
    assert [len(one) for one in found] == [24, 8, 8]
    assert set().union(*found) == set(groups.tolist())
    assert sorted(np.concatenate(parts).tolist()) == list(range(1000))
    again = group_indices(groups, 0.2, 0.2, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_the_latest_rows_test_and_equal_times_stay_together():
    times = np.random.default_rng(0).permutation(np.arange(1000) // 7).astype(np.float64)

    train, validation, test = time_indices(times, 0.2, 0.2)

    assert times[train].max() < times[validation].min()
    assert times[validation].max() < times[test].min()
    assert len(train) + len(validation) + len(test) == 1000
    assert abs(len(test) - 200) <= 7


def test_numbers_are_stratified_by_tenths():
    numbers = np.random.default_rng(0).exponential(size=344).astype(np.float32)
    dataset = dataclasses.replace(collect_penguins(), targets=numbers, task=Regression())

    split = split_dataset(dataset, RunConfig(split="stratified"))

    middle = np.median(numbers)
    for part in (split.train, split.validation, split.test):
        assert abs((part.targets < middle).mean() - 0.5) < 0.03


def test_random_and_auto_differ_where_there_are_classes():
    dataset = collect_penguins()

    one, other = (split_dataset(dataset, RunConfig(split=way)) for way in ("random", "auto"))

    assert one.sha256 != other.sha256
    assert split_dataset(dataset, RunConfig(split="stratified")).sha256 == other.sha256


def test_rows_set_apart_for_testing_test():
    rows = np.arange(300, 344, dtype=np.int64)
    dataset = dataclasses.replace(collect_penguins(), test_rows=rows, targets=np.arange(344) % 3)

    split = split_dataset(dataset, RunConfig())

    assert np.array_equal(split.test.inputs["categories"], dataset.inputs["categories"][300:])
    assert (len(split.train), len(split.validation)) == (240, 60)


@pytest.mark.parametrize("text", ["by chance", "group:", "time", "random:x", ""])
def test_a_rule_that_is_none_is_refused(text: str):
    with pytest.raises(UsageError, match="is none of auto, random, stratified"):
        split_rule(text)


def test_a_class_that_no_training_row_has_is_named():
    targets = np.arange(344) // 115
    keys = {"when": targets.astype(np.float64) + np.arange(344) / 1000}
    dataset = dataclasses.replace(collect_penguins(), targets=targets, keys=keys)

    with pytest.raises(UsageError, match="class 'Gentoo' is among the validation rows, but none"):
        split_dataset(dataset, RunConfig(split="time:when"))


def test_a_column_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="cannot be divided by 'when' here"):
        split_dataset(collect_penguins(), RunConfig(split="time:when"))
