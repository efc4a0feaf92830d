"""Output arrays to the predictions of the typed routes: `{"predictions": [{…}], "model": {…}}`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson

from app.api.codecs import Content, ModelRef
from app.bundle.signature import (
    LabelPrediction,
    PredictionField,
    ScoresPrediction,
    Signature,
    ValuePrediction,
)
from app.bundle.tensors import NUMPY_DTYPES, Array
from app.errors import NonFiniteOutput


class Predictions:
    """Reads what a signature says from output arrays."""

    def __init__(self, signature: Signature) -> None:
        self._writers = [(p.tensor, _writer(p)) for p in signature.predictions]
        names = [orjson.dumps(p.name).replace(b"%", b"%%") for p in signature.predictions]
        self._row = b"{" + b",".join([name + b":%b" for name in names]) + b"}"
        self._ends: dict[str | int, bytes] = {}
        self._readers = [(p.name, p.tensor, _reader(p)) for p in signature.predictions]
        self._float_outputs = _float_outputs(signature)

    def rows(self, outputs: Mapping[str, Array], rows: int) -> list[dict[str, Any]]:
        """One prediction for each row, for orjson with numpy.

        Raises:
            NonFiniteOutput: a number that JSON cannot say.
        """
        refuse_non_finite(outputs, self._float_outputs)
        columns = [(name, read(outputs[tensor])) for name, tensor, read in self._readers]
        return [{name: column[row] for name, column in columns} for row in range(rows)]

    def content(self, outputs: Mapping[str, Array], rows: int, model: ModelRef) -> Content:
        """The typed answer. Raises as `rows` does."""
        written = self._written(outputs, rows)
        return Content(b"".join((_BEGIN, b",".join(written), self._end(model))))

    def contents(
        self, outputs: Mapping[str, Array], count: int, model: ModelRef
    ) -> list[Content] | None:
        """The typed answers to requests of one row each; None where one cannot be answered."""
        try:
            written = self._written(outputs, count)
        except NonFiniteOutput:
            return None
        end = self._end(model)
        return [Content(b"".join((_BEGIN, row, end))) for row in written]

    def _end(self, model: ModelRef) -> bytes:
        end = self._ends.get(model["digest"])
        if end is None:
            end = self._ends[model["digest"]] = b'],"model":' + orjson.dumps(model) + b"}"
        return end

    def _written(self, outputs: Mapping[str, Array], rows: int) -> list[bytes]:
        """Predictions as JSON. Raises as `rows` does."""
        columns = [write(outputs[tensor]) for tensor, write in self._writers]
        # In JSON what is not finite is null, and no number has such a letter; labels may.
        if any(b"n" in text for column in columns for text in column):
            refuse_non_finite(outputs, self._float_outputs)
        row = self._row
        return [row % texts for texts in zip(*columns, strict=True)][:rows]


_BEGIN: Final = b'{"predictions":['
Writer = Callable[[Array], list[bytes]]


def _writer(prediction: PredictionField) -> Writer:
    """How one prediction field is written from its tensor: JSON for each row."""
    match prediction:
        case LabelPrediction() | ValuePrediction():
            return _write_values
        case ScoresPrediction(labels=labels):
            keys = [orjson.dumps(label).replace(b"%", b"%%") for label in labels]
            form = b"{" + b",".join([key + b":%b" for key in keys]) + b"}"
            return functools.partial(_write_scores, form)
        case _:
            return _write_tensors


def _write_values(array: Array) -> list[bytes]:
    flat = _plain(array.reshape(-1))
    if isinstance(flat, list):
        return [orjson.dumps(value) for value in flat]
    return _dumps(flat)[1:-1].split(b",")


def _write_scores(form: bytes, array: Array) -> list[bytes]:
    rows = _dumps(np.ascontiguousarray(_plain(array)))[2:-2].split(b"],[")
    return [form % tuple(row.split(b",")) for row in rows]


def _write_tensors(array: Array) -> list[bytes]:
    return [_dumps(row) for row in _plain(array)]


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


Reader = Callable[[Array], Sequence[Any] | Array]


def _reader(prediction: PredictionField) -> Reader:
    """How one prediction field is read from its tensor: a sequence with a value for each row."""
    match prediction:
        case LabelPrediction():
            return lambda array: array.reshape(-1).tolist()
        case ScoresPrediction(labels=labels):
            return lambda array: [dict(zip(labels, row, strict=True)) for row in _plain(array)]
        case ValuePrediction():
            return lambda array: _plain(array.reshape(-1))
        case _:
            return _plain


def _plain(array: Array) -> Sequence[Any] | Array:
    """Rows that orjson can write: float32 as arrays, which keeps their short form 0.1."""
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return array if array.dtype.kind == "f" else array.tolist()


def _float_outputs(signature: Signature) -> tuple[str, ...]:
    read = {prediction.tensor for prediction in signature.predictions}
    return tuple(
        spec.name
        for spec in signature.outputs
        if spec.name in read and NUMPY_DTYPES[spec.datatype].kind == "f"
    )


def refuse_non_finite(outputs: Mapping[str, Array], names: Sequence[str]) -> None:
    """JSON cannot say NaN or infinity, and null would be another answer.

    Raises:
        NonFiniteOutput: naming the output and its first such row.
    """
    for name in names:
        array = outputs[name]
        if not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0]) if array.ndim else 0
            raise NonFiniteOutput(f"output {name!r} of row {row} is not a finite number")
