"""Typed answers are written piece by piece; they say what their rows say."""

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.codecs.number_rows import NumberRows
from app.api.codecs.predictions import Predictions
from app.bundle.signature import (
    LabelPrediction,
    NumberField,
    ScoresPrediction,
    Signature,
    TensorPrediction,
    TensorSpec,
    ValuePrediction,
)
from app.bundle.tensors import Array
from app.errors import NonFiniteOutput

MODEL = {"name": "m", "version": 1, "digest": "d"}
LABELS = ('a"b', "100 %", "é%b", "nan")
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=("batch", 2)),),
    outputs=(
        TensorSpec(name="label", datatype="BYTES", shape=("batch",)),
        TensorSpec(name="scores", datatype="FP32", shape=("batch", 4)),
        TensorSpec(name="half", datatype="FP16", shape=("batch", 1)),
        TensorSpec(name="count", datatype="INT64", shape=("batch",)),
        TensorSpec(name="grid", datatype="FP64", shape=("batch", 2, 2)),
    ),
    fields=(
        NumberField(name="a", tensor="x", column=0),
        NumberField(name="b", tensor="x", column=1),
    ),
    predictions=(
        LabelPrediction(name="label", tensor="label", labels=LABELS, scores_tensor="scores"),
        ScoresPrediction(name="scores", tensor="scores", labels=LABELS),
        ValuePrediction(name="half", tensor="half"),
        ValuePrediction(name="count", tensor="count"),
        TensorPrediction(name="grid", tensor="grid"),
    ),
)


@st.composite
def outputs(draw: st.DrawFn) -> dict[str, Array]:
    rows = draw(st.integers(1, 4))
    seed = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([1e-30, 1.0, 1e4, 1e30]))
    return {
        "label": np.array(seed.choice(LABELS, rows), object),
        "scores": (scale * seed.normal(size=(rows, 4))).astype(np.float32),
        "half": seed.normal(size=(rows, 1)).astype(np.float16),
        "count": seed.integers(-(2**63), 2**63 - 1, rows),
        "grid": scale * seed.normal(size=(rows, 2, 2)),
    }


@given(outputs())
def test_they_are_the_rows(arrays: dict[str, Array]) -> None:
    predictions, rows = Predictions(SIGNATURE), len(arrays["label"])
    wanted = predictions.rows(arrays, rows)

    one = orjson.loads(predictions.content(arrays, rows, MODEL).body)
    each = predictions.contents(arrays, rows, MODEL)

    plain = orjson.loads(orjson.dumps(wanted, option=orjson.OPT_SERIALIZE_NUMPY))
    assert one == {"predictions": plain, "model": MODEL}
    assert each is not None
    assert [orjson.loads(c.body) for c in each] == [
        {"predictions": [row], "model": MODEL} for row in plain
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["scores", "half", "grid"])
def test_what_is_not_finite_is_refused(name: str, value: float) -> None:
    arrays: dict[str, Any] = {
        "label": np.array(["nan", "nan"], object),
        "scores": np.zeros((2, 4), np.float32),
        "half": np.zeros((2, 1), np.float16),
        "count": np.zeros(2, np.int64),
        "grid": np.zeros((2, 2, 2)),
    }
    arrays[name][1] = value

    with pytest.raises(NonFiniteOutput, match=f"output '{name}' of row 1"):
        Predictions(SIGNATURE).content(arrays, 2, MODEL)
    assert Predictions(SIGNATURE).contents(arrays, 2, MODEL) is None


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2))
def test_packed_rows_are_those_that_numpy_makes(values: list[float]) -> None:
    rows = NumberRows.of(SIGNATURE)
    assert rows is not None
    with np.errstate(over="ignore"):
        wanted = np.array([values], np.float32)

    array = rows.array([dict(zip("ab", values, strict=True))])

    if np.isfinite(wanted).all():
        assert array is not None
        assert array.tobytes() == wanted.tobytes()
    else:
        assert array is None
