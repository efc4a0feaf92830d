"""Answers of the tensor routes as JSON: all but the numbers is alike in many of them."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from app.api.codecs import Content, ModelRef
from app.api.codecs.predictions import refuse_non_finite
from app.bundle.tensors import Array, Datatype, datatype_of

_MOST_KNOWN: Final = 256
#: Stands for an output's numbers where everything else of an answer is written.
_GAP: Final = secrets.token_hex()
_QUOTED_GAP: Final = orjson.dumps(_GAP)


class JsonAnswers:
    """Writes answers of one model."""

    def __init__(self) -> None:
        #: By the outputs' names and shapes: what stands between their numbers.
        self._known: dict[Any, tuple[bytes, ...]] = {}

    def content(
        self, outputs: Mapping[str, Array], context: Mapping[str, Any], model: ModelRef
    ) -> Content:
        """The answer to a request.

        Args:
            context: the request's `id`, and `outputs`, the names of those that are wanted.
        Raises:
            NonFiniteOutput: a number that JSON cannot say.
        """
        wanted = context["outputs"]
        arrays = [outputs[name] for name in wanted]
        key = (*wanted, *[array.shape for array in arrays])
        between = self._known.get(key) or self._learn(key, wanted, arrays, model)
        parts = [between[0]]
        for name, array, text in zip(wanted, arrays, between[1:], strict=True):
            data = _numbers(array)
            # In JSON what is not finite is null, and numbers have no such letter.
            if b"n" in data and array.dtype.kind == "f":
                refuse_non_finite(outputs, [name])
            parts += (data, text)
        if context["id"] is not None:
            parts[-1] = parts[-1][:-1] + b',"id":' + orjson.dumps(context["id"]) + b"}"
        return Content(b"".join(parts))

    def contents(
        self,
        outputs: Mapping[str, Array],
        context: Mapping[str, Any],
        count: int,
        model: ModelRef,
    ) -> list[Content] | None:
        """The answers to `count` requests with equally many rows, whose outputs lie together.

        Returns:
            None where each has to be answered alone.
        """
        wanted = context["outputs"]
        arrays = [outputs[name] for name in wanted]
        each = [array[: len(array) // count] for array in arrays]
        key = (*wanted, *[array.shape for array in each])
        first, *others = self._known.get(key) or self._learn(key, wanted, each, model)
        if context["id"] is not None:
            others[-1] = others[-1][:-1] + b',"id":' + orjson.dumps(context["id"]) + b"}"
        columns: list[Sequence[bytes]] = []
        for array, text in zip(arrays, others, strict=True):
            if array.dtype.hasobject or not array.size:
                return None
            data = orjson.dumps(array.reshape(count, -1), option=orjson.OPT_SERIALIZE_NUMPY)
            if b"n" in data and array.dtype.kind == "f":
                return None
            columns += [data[2:-2].split(b"],["), [b"]" + text] * count]
            columns[-2:-2] = [[b"["] * count]
        return [Content(b"".join((first, *parts))) for parts in zip(*columns, strict=True)]

    def _learn(
        self, key: Any, wanted: list[str], arrays: list[Array], model: ModelRef
    ) -> tuple[bytes, ...]:
        answer = {
            "model_name": model["name"],
            "model_version": str(model["version"]),
            "outputs": [
                json_output(name, array) | {"data": _GAP}
                for name, array in zip(wanted, arrays, strict=True)
            ],
        }
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        made = self._known[key] = tuple(orjson.dumps(answer).split(_QUOTED_GAP))
        return made


def json_output(name: str, array: Array) -> dict[str, Any]:
    datatype: Datatype = datatype_of(array)
    flat = array.reshape(-1)
    return {
        "name": name,
        "datatype": datatype,
        "shape": list(array.shape),
        "data": flat.tolist() if datatype == "BYTES" else flat,
    }


def _numbers(array: Array) -> bytes:
    flat = array if array.ndim == 1 else array.reshape(-1)
    if array.dtype.hasobject:
        return orjson.dumps(flat.tolist())
    return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)
