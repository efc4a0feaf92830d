"""Rows of different lengths, padded to one."""

import numpy as np
import pytest
from pydantic import ValidationError

from app.bundle.padding import (
    TooLarge,
    padded_series,
    padded_texts,
    row_lengths,
    series_of,
    text_of,
    trimmed,
)
from app.bundle.signature import SeriesField, Signature, TensorPrediction, TensorSpec, TextField

WALK = SeriesField(name="walk", tensor="x", channels=("east", "north"))
NOTE = TextField(name="note", tensor="x")


def signature(field: SeriesField | TextField, datatype: str, *dims: int | str) -> Signature:
    return Signature(
        inputs=(TensorSpec(name="x", datatype=datatype, shape=("batch", *dims)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=("batch",)),),
        fields=(field,),
        predictions=(TensorPrediction(name="y", tensor="y"),),
    )


def test_texts_are_their_utf8_then_zeros():
    array = padded_texts(["ab", "", "é" * 20])

    assert (array.dtype, array.shape) == (np.uint8, (3, 64))
    assert array[0].tolist() == [97, 98, *[0] * 62]
    assert not array[1].any()
    assert [text_of(row) for row in array] == ["ab", "", "é" * 20]
    assert row_lengths(array).tolist() == [2, 0, 40]


def test_series_are_their_steps_then_nan():
    array = padded_series([[[1, 2]], [[3, 4]] * 9], 2)

    assert (array.dtype, array.shape) == (np.float32, (2, 16, 2))
    assert array[0, 0].tolist() == [1, 2]
    assert np.isnan(array[0, 1:]).all()
    assert series_of(array[1]).tolist() == [[3, 4]] * 9
    assert row_lengths(array).tolist() == [1, 9]


@pytest.mark.parametrize(
    ("array", "length"),
    [
        (padded_texts(["a" * 33]), 64),
        (padded_texts(["a" * 32]), 32),
        (padded_texts([""]), 32),
        (padded_series([np.ones((8, 1))], 1), 8),
        (padded_series([np.ones((9, 1))], 1), 16),
    ],
)
def test_lengths_are_rounded_up_and_trimmed_to_the_same(array: np.ndarray, length: int):
    filler = 0 if array.ndim == 2 else np.nan
    longer = np.concatenate([array, np.full_like(array, filler), np.full_like(array, filler)], 1)

    assert array.shape[1] == length
    assert np.array_equal(trimmed(longer), array, equal_nan=array.ndim == 3)


@pytest.mark.parametrize(
    ("field", "datatype", "dims"),
    [(WALK, "FP32", ("length", 2)), (NOTE, "UINT8", ("length",)), (NOTE, "BYTES", ())],
)
def test_a_signature_takes_them(field: SeriesField | TextField, datatype: str, dims: tuple):
    assert signature(field, datatype, *dims).fields == (field,)


@pytest.mark.parametrize(
    ("field", "datatype", "dims"),
    [
        (WALK, "FP32", ("length", 3)),
        (WALK, "FP32", (8, 2)),
        (WALK, "FP32", ("length",)),
        (WALK, "UINT8", ("length", 2)),
        (NOTE, "UINT8", (32,)),
        (NOTE, "UINT8", ()),
        (NOTE, "UINT8", ("length", 1)),
        (NOTE.model_copy(update={"column": 0}), "UINT8", (1,)),
        (NOTE, "FP32", ("length",)),
    ],
)
def test_tensors_that_cannot_carry_them_are_refused(
    field: SeriesField | TextField, datatype: str, dims: tuple
):
    with pytest.raises(ValidationError, match=field.name):
        signature(field, datatype, *dims)


@pytest.mark.parametrize("field", [WALK, NOTE])
def test_they_cannot_be_missing(field: SeriesField | TextField):
    gone = field.model_copy(update={"nullable": True})
    datatype, dims = ("UINT8", ("length",)) if field is NOTE else ("FP32", ("length", 2))

    with pytest.raises(ValidationError, match="missing"):
        signature(gone, datatype, *dims)


def test_one_long_row_among_many_may_be_too_much():
    assert padded_texts(["a" * 64, "b"], most_bytes=128).shape == (2, 64)
    with pytest.raises(TooLarge, match="they are 192 bytes; at most 128"):
        padded_texts(["a" * 64, "b", "c"], most_bytes=128)
    with pytest.raises(TooLarge, match="they are 128 bytes; at most 127"):
        padded_series([[[1, 2]], [[3, 4]]], 2, most_bytes=127)


def test_a_series_has_a_range_of_lengths():
    with pytest.raises(ValidationError, match="shorter than its shortest"):
        SeriesField(name="s", tensor="x", channels=("a",), minimum_length=3, maximum_length=2)
