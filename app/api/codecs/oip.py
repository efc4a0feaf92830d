"""Open Inference Protocol v2, REST: tensors in JSON, and raw ones behind it (`oip_binary.py`).

Source: KServe's "Open Inference Protocol (V2)" specification, inference request and response
JSON objects. Tensors are taken as the graph takes them: names, datatypes and shapes are checked,
the vocabulary and range of typed fields are not.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from app.api.codecs import Codec, Content, Decoded, Headers, ModelRef, never
from app.api.codecs.nested import NestedError, array_from_flat, dims_problem, flatten, shares_dims
from app.api.codecs.oip_answers import JsonAnswers, json_output
from app.api.codecs.oip_binary import HEAD_LENGTH, RawTensors, joined, parted, raw_data
from app.api.codecs.oip_document import (
    check_object,
    checked_array,
    flag,
    read_document,
    request_id,
    timeout_us,
)
from app.api.codecs.oip_known import Known, KnownRequests
from app.api.codecs.predictions import refuse_non_finite
from app.api.codecs.shapes import checked_shape
from app.bundle.signature import Signature, TensorSpec
from app.bundle.tensors import NUMPY_DTYPES, Array, datatype_of
from app.errors import InvalidTensor, MalformedBody

_INPUT_KEYS: Final = frozenset({"name", "shape", "datatype", "data", "parameters"})
_OUTPUT_KEYS: Final = frozenset({"name", "parameters"})
_NO_DATA: Final[Mapping[str, bytes | memoryview]] = {}
#: More raw strings than this are taken apart on a worker thread.
_MUCH_TEXT_BYTES: Final = 64 * 1024


class InferRequest(NamedTuple):
    """A request's JSON, and what comes behind it."""

    document: Mapping[str, Any]
    text: bytes
    raw: RawTensors | None = None
    raw_bytes: int | None = None


class Wanted(NamedTuple):
    """Names of the outputs that are asked for, and of those among them that shall be raw."""

    names: Sequence[str]
    binary: Collection[str]


class OipCodec(Codec):
    """See `app.api.codecs.Codec`.

    Args:
        max_rows: most rows of one request.
        max_tensor_bytes: most bytes of one input array, checked before it is made.
        raw_only: bodies must be divided by Inference-Header-Content-Length.
    """

    def __init__(
        self,
        signature: Signature,
        max_rows: int,
        max_tensor_bytes: int,
        *,
        raw_only: bool = False,
    ) -> None:
        self._inputs = {spec.name: spec for spec in signature.inputs}
        self._dims_to_compare = signature.inputs if shares_dims(signature.inputs) else ()
        self._outputs = tuple(spec.name for spec in signature.outputs)
        self._every = {every: Wanted(self._outputs, self._outputs if every else ())
                       for every in (False, True)}  # fmt: skip
        self._answers = JsonAnswers()
        self._known = KnownRequests(signature.inputs)
        self._max_rows = max_rows
        self._max_tensor_bytes = max_tensor_bytes
        self._raw_only = raw_only
        self._has_text = any(spec.datatype == "BYTES" for spec in signature.inputs)

    def parse(self, body: bytes, headers: Headers) -> InferRequest:
        given = headers.get(HEAD_LENGTH)
        if given is None:
            if self._raw_only:
                raise MalformedBody(
                    "send Inference-Header-Content-Length, the length of the JSON before the"
                    " tensors, 0 where there is none; or Content-Type: application/json"
                )
            return InferRequest(read_document(body), body)
        length = int(given)  # judged with the head
        if length > len(body):
            raise MalformedBody(
                f"Inference-Header-Content-Length is {length}, the body has {len(body)} bytes"
            )
        raw = RawTensors(body, length)
        if length == 0:
            return self._lone(body, raw)
        text = body[:length]
        return InferRequest(read_document(text), text, raw, len(body) - length)

    def _lone(self, body: bytes, raw: RawTensors) -> InferRequest:
        """What a body without JSON says: the model's only input, as many rows as there are."""
        spec, *others = self._inputs.values()
        row = spec.shape[1:]
        if others or any(isinstance(dim, str) for dim in row):
            raise MalformedBody(
                "a body without JSON needs a model with one input, of which only the rows are"
                " free; send JSON that names inputs and shapes"
            )
        tensor: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype}
        sizes = [dim for dim in row if isinstance(dim, int)]
        if spec.datatype == "BYTES":
            if math.prod(sizes) != 1:
                raise MalformedBody("a body without JSON is one string; this model takes several")
            try:
                tensor |= {"shape": [1, *sizes], "data": [body.decode()]}
            except UnicodeDecodeError:
                raise InvalidTensor(f"input {spec.name!r} is not UTF-8") from None
            raw = RawTensors(body, len(body))
        else:
            row_bytes = math.prod(sizes) * NUMPY_DTYPES[spec.datatype].itemsize
            if row_bytes == 0 or len(body) % row_bytes:
                raise InvalidTensor(
                    f"input {spec.name!r}: {len(body)} bytes are no whole number of rows of"
                    f" {row_bytes} bytes"
                )
            tensor["shape"] = [len(body) // row_bytes, *sizes]
            tensor["parameters"] = {"binary_data_size": len(body)}
        document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
        return InferRequest(document, b"", raw)

    def takes_long(self, document: InferRequest) -> bool:
        raw = document.raw
        return raw is not None and self._has_text and raw.left_bytes > _MUCH_TEXT_BYTES

    def decode(
        self,
        document: InferRequest,
        is_abandoned: Callable[[], bool] = never,  # noqa: ARG002
    ) -> Decoded:
        head, raw = document.document, document.raw
        inputs: dict[str, Array] = {}
        for index, item in enumerate(checked_array(head.get("inputs"), "inputs")):
            check_object(item, f"inputs[{index}]", _INPUT_KEYS)
            spec = self._spec(item.get("name"), inputs)
            inputs[spec.name] = self._tensor(item, spec, raw)
        if raw is not None:
            raw.end()
        rows = self._rows(inputs)
        wanted = self._wanted(head)
        context = {"id": request_id(head), "outputs": wanted.names, "binary": wanted.binary}
        decoded = Decoded(inputs, rows, context, timeout_us(head))
        if document.text:
            self._known.learn(document.text, decoded, document.raw_bytes)
        return decoded

    def recognise(self, body: bytes, divided_at: int | None) -> Decoded | None:
        return self._known.recognise(body, divided_at)

    def _rows(self, inputs: Mapping[str, Array]) -> int:
        """How many rows the inputs have; all are there, and agree in them and in shared dims."""
        if len(inputs) < len(self._inputs):
            missing = min(self._inputs.keys() - inputs.keys())
            raise InvalidTensor(f"input {missing!r} is missing")
        rows = {array.shape[0] for array in inputs.values()}
        if len(rows) > 1:
            raise InvalidTensor("inputs differ in their first dimension, the rows of the batch")
        dims: dict[str, int] = {}
        for spec in self._dims_to_compare:
            problem = dims_problem(spec, inputs[spec.name].shape, dims)
            if problem:
                raise InvalidTensor(f"input {spec.name!r} {problem}")
        return int(rows.pop())

    def _spec(self, name: Any, seen: Mapping[str, Array]) -> TensorSpec:
        if type(name) is not str:
            raise InvalidTensor("each input needs a 'name' string")
        if name not in self._inputs:
            known = ", ".join(repr(known) for known in self._inputs)
            raise InvalidTensor(f"input {name[:64]!r} is not one of the model's: {known}")
        if name in seen:
            raise InvalidTensor(f"input {name!r} appears twice")
        return self._inputs[name]

    def _tensor(self, item: Mapping[str, Any], spec: TensorSpec, raw: RawTensors | None) -> Array:
        where = f"input {spec.name!r}"
        if item.get("datatype") != spec.datatype:
            raise InvalidTensor(f"{where}: 'datatype' must be {spec.datatype!r}")
        shape = checked_shape(
            item.get("shape"),
            spec,
            where,
            self._max_rows,
            self._max_tensor_bytes,
        )
        parameters = item.get("parameters")
        if parameters and "binary_data_size" in parameters:
            if raw is None:
                raise InvalidTensor(
                    f"{where} has a 'binary_data_size': send Inference-Header-Content-Length, the"
                    " length of the JSON before the tensors"
                )
            if "data" in item:
                raise InvalidTensor(f"{where} has both 'data' and a 'binary_data_size'")
            return raw.take(parameters["binary_data_size"], spec.datatype, shape, where)
        data = checked_array(item.get("data"), f"{where}: 'data'")
        try:
            flat = flatten(data, shape) if data and type(data[0]) is list else data
            return array_from_flat(flat, spec.datatype, shape)
        except NestedError as error:
            raise InvalidTensor(f"{where} {error}") from None

    def _wanted(self, document: Mapping[str, Any]) -> Wanted:
        every = flag(document, "binary_data_output", "body", default=False)
        if document.get("outputs") is None:
            return self._every[every]
        names: list[str] = []
        binary: list[str] = []
        for index, item in enumerate(checked_array(document["outputs"], "outputs")):
            check_object(item, f"outputs[{index}]", _OUTPUT_KEYS)
            name = item.get("name")
            if type(name) is not str:
                raise InvalidTensor("each output needs a 'name' string")
            if name not in self._outputs:
                known = ", ".join(repr(known) for known in self._outputs)
                raise InvalidTensor(f"output {name[:64]!r} is not one of the model's: {known}")
            if name in names:
                raise InvalidTensor(f"output {name!r} appears twice")
            names.append(name)
            if flag(item, "binary_data", f"outputs[{index}]", default=every):
                binary.append(name)
        return Wanted(names, binary) if names else self._every[every]

    def find(self, body: bytes, divided_at: int | None) -> Known | None:
        return self._known.find(body, divided_at)

    def encode_together(
        self, outputs: Mapping[str, Array], known: Known, count: int, model: ModelRef
    ) -> Sequence[Content] | None:
        rows, context, _ = known.rest
        wanted, binary = context["outputs"], context["binary"]
        if not binary:
            return self._answers.contents(outputs, context, count, model)
        arrays = [outputs[name] for name in wanted]
        if len(binary) < len(wanted) or any(array.dtype.hasobject for array in arrays):
            return None
        first = {name: array[:rows] for name, array in outputs.items()}
        body, fields = self.encode(first, known.decoded(arrays[0]), model)
        # All have outputs of the same sizes, so the JSON before them is the same.
        head = body[: len(body) - sum(first[name].nbytes for name in wanted)]
        columns = [parted(raw_data(array), count) for array in arrays]
        return [Content(b"".join((head, *parts)), fields) for parts in zip(*columns, strict=True)]

    def encode(self, outputs: Mapping[str, Array], decoded: Decoded, model: ModelRef) -> Content:
        wanted = decoded.context["outputs"]
        binary = decoded.context.get("binary", ())
        if not binary:
            return self._answers.content(outputs, decoded.context, model)
        in_json = [name for name in wanted if name not in binary]
        refuse_non_finite(outputs, [name for name in in_json if outputs[name].dtype.kind == "f"])
        raw = {name: raw_data(outputs[name]) for name in wanted if name in binary}
        answer: dict[str, Any] = {
            "model_name": model["name"],
            "model_version": str(model["version"]),
            "outputs": [
                _raw_output(name, outputs[name], raw[name])
                if name in raw
                else json_output(name, outputs[name])
                for name in wanted
            ],
        }
        if decoded.context["id"] is not None:
            answer["id"] = decoded.context["id"]
        head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        return joined(head, raw.values())


def _raw_output(name: str, array: Array, data: bytes | memoryview) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": datatype_of(array),
        "shape": list(array.shape),
        "parameters": {"binary_data_size": len(data)},
    }
