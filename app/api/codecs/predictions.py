"""Output arrays to the predictions of the typed routes: `{"predictions": [{…}], "model": {…}}`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
        answer = {"predictions": self.rows(outputs, rows), "model": model}
        return Content(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))


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
