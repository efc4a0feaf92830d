"""Open Inference Protocol v2, REST, with JSON tensors.

Source: KServe's "Open Inference Protocol (V2)" specification, inference request and response
JSON objects. Tensors are taken as the graph takes them: names, datatypes and shapes are checked,
the vocabulary and range of typed fields are not.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from app.api.codecs import Decoded, ModelRef, never
from app.api.codecs.instances import refuse_non_finite
from app.api.codecs.json_guard import refuse_bulk, refuse_deep_nesting, refuse_duplicate_names
from app.api.codecs.nested import NestedError, array_from_flat, dims_problem, flatten
from app.bundle.signature import Signature, TensorSpec
from app.bundle.tensors import NUMPY_DTYPES, Array, Datatype, datatype_of
from app.errors import InvalidTensor, MalformedBody, PayloadTooLarge

_REQUEST_KEYS: Final = frozenset({"id", "inputs", "outputs", "parameters"})
_INPUT_KEYS: Final = frozenset({"name", "shape", "datatype", "data", "parameters"})
_OUTPUT_KEYS: Final = frozenset({"name", "parameters"})
_MAX_ID_CHARACTERS: Final = 256
#: Of a request with a few dozen tensors and their parameters.
_MAX_OBJECTS: Final = 1_000
_MAX_NAMES: Final = 10_000
#: Parameters that would change the answer and that this service does not know.
_UNSUPPORTED: Final = frozenset(
    {"binary_data_size", "classification", "sequence_id", "sequence_start", "sequence_end"}
)


class OipCodec:
    """See `app.api.codecs.Codec`.

    Args:
        max_rows: most rows of one request.
        max_tensor_bytes: most bytes of one input array, checked before it is made.
    """

    def __init__(self, signature: Signature, max_rows: int, max_tensor_bytes: int) -> None:
        self._inputs = {spec.name: spec for spec in signature.inputs}
        self._outputs = tuple(spec.name for spec in signature.outputs)
        self._max_rows = max_rows
        self._max_tensor_bytes = max_tensor_bytes

    def parse(self, body: bytes) -> dict[str, Any]:
        refuse_deep_nesting(body)
        too_many = f"the body has more than {_MAX_OBJECTS} objects or {_MAX_NAMES} names"
        refuse_bulk(body, _MAX_OBJECTS, _MAX_NAMES, too_many)
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise MalformedBody(
                f"body is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}"
            ) from None
        _object(document, "body", _REQUEST_KEYS)
        refuse_duplicate_names(body, _count_names(document))
        return document  # type: ignore[no-any-return]

    def has_pictures(self, document: dict[str, Any]) -> bool:  # noqa: ARG002
        return False

    def decode(
        self,
        document: dict[str, Any],
        is_abandoned: Callable[[], bool] = never,  # noqa: ARG002
    ) -> Decoded:
        inputs: dict[str, Array] = {}
        for index, item in enumerate(_array(document.get("inputs"), "inputs")):
            _object(item, f"inputs[{index}]", _INPUT_KEYS)
            spec = self._spec(item.get("name"), inputs)
            inputs[spec.name] = self._tensor(item, spec)
        missing = self._inputs.keys() - inputs.keys()
        if missing:
            raise InvalidTensor(f"input {sorted(missing)[0]!r} is missing")
        rows = {array.shape[0] for array in inputs.values()}
        if len(rows) > 1:
            raise InvalidTensor("inputs differ in their first dimension, the rows of the batch")
        dims: dict[str, int] = {}
        for name, array in inputs.items():
            problem = dims_problem(self._inputs[name], array.shape, dims)
            if problem:
                raise InvalidTensor(f"input {name!r} {problem}")
        context = {"id": _request_id(document), "outputs": self._wanted(document)}
        return Decoded(inputs, rows.pop(), context, _timeout_us(document))

    def _spec(self, name: Any, seen: Mapping[str, Array]) -> TensorSpec:
        if type(name) is not str:
            raise InvalidTensor("each input needs a 'name' string")
        if name not in self._inputs:
            known = ", ".join(repr(known) for known in self._inputs)
            raise InvalidTensor(f"input {name[:64]!r} is not one of the model's: {known}")
        if name in seen:
            raise InvalidTensor(f"input {name!r} appears twice")
        return self._inputs[name]

    def _tensor(self, item: Mapping[str, Any], spec: TensorSpec) -> Array:
        where = f"input {spec.name!r}"
        if item.get("datatype") != spec.datatype:
            raise InvalidTensor(f"{where}: 'datatype' must be {spec.datatype!r}")
        shape = _shape(item.get("shape"), spec, where)
        if shape[0] > self._max_rows:
            raise PayloadTooLarge(f"{where}: {shape[0]} rows, at most {self._max_rows}")
        if math.prod(shape) * NUMPY_DTYPES[spec.datatype].itemsize > self._max_tensor_bytes:
            raise PayloadTooLarge(f"{where}: shape {shape} is larger than a request may be")
        data = _array(item.get("data"), f"{where}: 'data'")
        try:
            flat = flatten(data, shape) if data and type(data[0]) is list else data
            return array_from_flat(flat, spec.datatype, shape)
        except NestedError as error:
            raise InvalidTensor(f"{where} {error}") from None

    def _wanted(self, document: Mapping[str, Any]) -> Sequence[str]:
        if document.get("outputs") is None:
            return self._outputs
        names: list[str] = []
        for index, item in enumerate(_array(document["outputs"], "outputs")):
            _object(item, f"outputs[{index}]", _OUTPUT_KEYS)
            name = item.get("name")
            if type(name) is not str:
                raise InvalidTensor("each output needs a 'name' string")
            if name not in self._outputs:
                known = ", ".join(repr(known) for known in self._outputs)
                raise InvalidTensor(f"output {name[:64]!r} is not one of the model's: {known}")
            if name in names:
                raise InvalidTensor(f"output {name!r} appears twice")
            names.append(name)
        return names or self._outputs

    def encode(self, outputs: Mapping[str, Array], decoded: Decoded, model: ModelRef) -> bytes:
        wanted = decoded.context["outputs"]
        refuse_non_finite(outputs, [n for n in wanted if outputs[n].dtype.kind == "f"])
        answer: dict[str, Any] = {
            "model_name": model["name"],
            "model_version": str(model["version"]),
            "outputs": [_output(name, outputs[name]) for name in wanted],
        }
        if decoded.context["id"] is not None:
            answer["id"] = decoded.context["id"]
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _output(name: str, array: Array) -> dict[str, Any]:
    datatype: Datatype = datatype_of(array)
    flat = array.reshape(-1)
    return {
        "name": name,
        "datatype": datatype,
        "shape": list(array.shape),
        "data": flat.tolist() if datatype == "BYTES" else flat,
    }


def _object(value: Any, where: str, keys: frozenset[str]) -> None:
    if type(value) is not dict:
        raise MalformedBody(f"{where} must be an object")
    foreign = value.keys() - keys
    if foreign:
        raise MalformedBody(f"{where} has an unknown name {sorted(foreign)[0][:64]!r}")
    parameters = value.get("parameters")
    if parameters is None:
        return
    if type(parameters) is not dict:
        raise MalformedBody(f"{where}: 'parameters' must be an object")
    unsupported = _UNSUPPORTED & parameters.keys()
    if unsupported or parameters.get("binary_data") or parameters.get("binary_data_output"):
        name = min(unsupported, default="binary_data")
        raise InvalidTensor(f"{where}: parameter {name!r} is not supported; use JSON tensors")


def _array(value: Any, where: str) -> list[Any]:
    if type(value) is not list:
        raise MalformedBody(f"{where} must be an array")
    return value


def _request_id(document: Mapping[str, Any]) -> str | None:
    value = document.get("id")
    if value is not None and (type(value) is not str or len(value) > _MAX_ID_CHARACTERS):
        raise MalformedBody(f"'id' must be a string of at most {_MAX_ID_CHARACTERS} characters")
    return value


def _timeout_us(document: Mapping[str, Any]) -> int | None:
    parameters = document.get("parameters")
    if not parameters or "timeout" not in parameters:
        return None
    value = parameters["timeout"]
    if type(value) is not int or value < 1:
        raise MalformedBody("parameter 'timeout' must be a whole number of microseconds from 1")
    return value


def _shape(value: Any, spec: TensorSpec, where: str) -> list[int]:
    if type(value) is not list or not all(type(size) is int and size >= 0 for size in value):
        raise InvalidTensor(f"{where}: 'shape' must be an array of whole numbers from 0")
    fits = len(value) == len(spec.shape) and all(
        size == dim for size, dim in zip(value, spec.shape, strict=True) if isinstance(dim, int)
    )
    if not fits:
        wanted = ", ".join(str(dim) for dim in spec.shape)
        raise InvalidTensor(f"{where}: shape {value[:16]} does not fit [{wanted}]")
    if not value or value[0] == 0:
        raise InvalidTensor(f"{where}: at least one row is needed")
    return value


def _count_names(value: Any) -> int:
    """Names in all objects of a document; tensor data, which may be long, is looked at lightly."""
    if type(value) is dict:
        return len(value) + sum(_count_names(item) for item in value.values())
    if type(value) is list and value and type(value[0]) in (dict, list):
        return sum(_count_names(item) for item in value)
    return 0
