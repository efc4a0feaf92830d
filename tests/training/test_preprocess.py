import numpy as np
import pytest
import torch

from training.config import RunConfig
from training.data.penguins import collect_penguins
from training.data.split import split_dataset
from training.pipeline import Outcome
from training.preprocess.tensors import ImagePreprocess, Lookup, TablePreprocess
from training.runs import find_run

pytestmark = pytest.mark.training

LOOKUP = Lookup("words", "ids", (("a", "b"), ("b",)))
TRAIN = {
    "numbers": np.array([[1.0, 10.0], [3.0, np.nan], [8.0, 30.0]], dtype=np.float32),
    "words": np.array([["a", "b"]] * 3, dtype=object),
}


@pytest.mark.parametrize("name", ["digits", "penguins"])
def test_nothing_is_fitted_on_validation_or_test_rows(name: str):
    run = find_run(name)
    split = split_dataset(run.collect(), RunConfig())
    before = run.fit_preprocess(split.train.inputs).state_dict()

    for part in (split.validation, split.test):
        for array in part.inputs.values():
            array[:] = array[0]
    after = run.fit_preprocess(split.train.inputs).state_dict()

    assert before.keys() == after.keys()
    assert before
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_fitting_sees_the_rows_it_is_given():
    dataset = collect_penguins()
    run = find_run("penguins")
    some, others = (
        run.fit_preprocess({k: v[rows] for k, v in dataset.inputs.items()}).state_dict()
        for rows in (slice(0, 100), slice(200, 300))
    )

    assert not torch.equal(some["median"], others["median"])


def test_lookup_gives_unknown_and_missing_the_same_slot():
    words = np.array([["a", "b"], ["b", "a"], ["", ""], ["A", "b "]], dtype=object)

    assert LOOKUP(words).tolist() == [[1, 1], [2, 0], [0, 0], [0, 0]]
    assert LOOKUP(words).dtype == np.int64


def test_missing_number_becomes_the_train_median_and_raises_its_flag():
    preprocess = TablePreprocess("numbers", LOOKUP, TRAIN)
    rows = {
        "numbers": np.array([[np.nan, 20.0], [3.0, np.nan]], dtype=np.float32),
        "words": np.array([["b", "b"], ["?", ""]], dtype=object),
    }

    out = preprocess(*preprocess.features(rows)).numpy()

    assert out.shape == (2, *preprocess.shape) == (2, 2 + 2 + 3 + 2)
    # The medians 3 and 20 stand in: the scaled numbers of both rows are the same.
    assert np.array_equal(out[0, :2], out[1, :2])
    assert out[:, 2:4].tolist() == [[1, 0], [0, 1]]
    assert out[:, 4:].tolist() == [[0, 0, 1, 0, 1], [1, 0, 0, 1, 0]]


def test_column_without_variation_does_not_divide_by_zero():
    constant = {**TRAIN, "numbers": np.ones((3, 2), dtype=np.float32)}
    preprocess = TablePreprocess("numbers", LOOKUP, constant)

    assert torch.isfinite(preprocess(*preprocess.features(constant))).all()


def test_image_is_standardised_by_the_training_pixels():
    images = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8) % 17
    preprocess = ImagePreprocess("image", {"image": images}, maximum=16)

    out = preprocess(*preprocess.features({"image": images}))

    assert out.shape == (2, 1, 8, 8)
    assert abs(float(out.mean())) < 1e-5
    assert abs(float(out.std(correction=0)) - 1) < 1e-5


def test_masking_loses_about_the_asked_share_and_spares_the_batch():
    preprocess = TablePreprocess("numbers", LOOKUP, TRAIN)
    features = (torch.ones(2000, 2), torch.ones(2000, 2, dtype=torch.int64))

    config = RunConfig(missing_rate=0.1)
    numbers, ids = preprocess.augment(features, config, torch.Generator().manual_seed(0))

    assert 0.08 < torch.isnan(numbers).float().mean() < 0.12
    assert 0.08 < (ids == 0).float().mean() < 0.12
    assert torch.equal(features[0], torch.ones(2000, 2))


def test_nothing_is_augmented_unless_asked_for(outcome: Outcome):
    preprocess = outcome.predictor.preprocess
    features = preprocess.features(outcome.test.inputs)

    assert preprocess.augment(features, RunConfig(), torch.Generator()) is features


def test_shifted_pictures_are_whole_and_differ():
    images = np.zeros((200, 8, 8), dtype=np.uint8)
    images[:, 4, 3] = 16
    preprocess = ImagePreprocess("image", {"image": images}, maximum=16)
    config = RunConfig(shift_pixels=1)

    features = preprocess.features({"image": images})
    (shifted,) = preprocess.augment(features, config, torch.Generator().manual_seed(0))

    assert (shifted.shape, shifted.dtype) == ((200, 8, 8), torch.uint8)
    assert {tuple(place) for place in shifted.nonzero()[:, 1:].tolist()} == {
        (row, column) for row in (3, 4, 5) for column in (2, 3, 4)
    }
    assert shifted.sum() == 200 * 16
