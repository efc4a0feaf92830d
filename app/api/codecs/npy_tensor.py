"""One array in NumPy's own file as a whole request, for models with one input tensor."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from app.api.codecs import NPY, Codec, Content, Decoded, Headers, ModelRef, accepts, never
from app.api.codecs.field_check import field_fault
from app.api.codecs.npy import NpyHeader, read_header, read_values, write
from app.api.codecs.oip import OipCodec
from app.api.codecs.predictions import Predictions
from app.api.codecs.rows import invalid
from app.api.codecs.shapes import checked_shape
from app.bundle.signature import Signature
from app.bundle.tensors import NUMPY_DTYPES, Array
from app.errors import InvalidTensor

#: More text than this is made into strings on a worker thread.
_MUCH_TEXT_BYTES: Final = 64 * 1024


def fits(signature: Signature) -> bool:
    return len(signature.inputs) == 1


class NpyFile(NamedTuple):
    """A file whose header fits the model; its values are not looked at yet."""

    body: bytes
    header: NpyHeader
    wants_npy: bool


class _NpyCodec(Codec):
    """The request side, which both kinds of route share."""

    def __init__(self, signature: Signature, max_rows: int, max_tensor_bytes: int) -> None:
        (self._input,) = signature.inputs
        self._max_rows = max_rows
        self._max_tensor_bytes = max_tensor_bytes

    def parse(self, body: bytes, headers: Headers) -> NpyFile:
        spec = self._input
        header = read_header(body)
        if header.datatype != spec.datatype:
            wanted = NUMPY_DTYPES[spec.datatype].name if spec.datatype != "BYTES" else "str"
            raise InvalidTensor(
                f"input {spec.name!r} is {spec.datatype}, the .npy file holds {header.datatype};"
                f" send array.astype({wanted!r})"
            )
        checked_shape(
            header.shape,
            spec,
            f"input {spec.name!r}",
            self._max_rows,
            self._max_tensor_bytes,
        )
        return NpyFile(body, header, accepts(headers, NPY))

    def takes_long(self, document: NpyFile) -> bool:
        return document.header.datatype == "BYTES" and len(document.body) > _MUCH_TEXT_BYTES

    def decode(
        self,
        document: NpyFile,
        is_abandoned: Callable[[], bool] = never,  # noqa: ARG002
    ) -> Decoded:
        array = read_values(document.body, document.header)
        context = {"npy": document.wants_npy}
        return Decoded({self._input.name: array}, array.shape[0], context)


class TensorNpyCodec(_NpyCodec):
    """For `/v2`. It answers in JSON, or with `Accept: application/x-npy` with the first output.

    Strings have no plain form in a .npy file: where the first output holds them, it is JSON too.
    """

    def __init__(self, signature: Signature, max_rows: int, max_tensor_bytes: int) -> None:
        super().__init__(signature, max_rows, max_tensor_bytes)
        self._names = tuple(spec.name for spec in signature.outputs)
        self._json = OipCodec(signature, max_rows, max_tensor_bytes)

    def encode(self, outputs: Mapping[str, Array], decoded: Decoded, model: ModelRef) -> Content:
        first = outputs[self._names[0]]
        if decoded.context["npy"] and first.dtype.kind in "biuf":
            return Content(write(first), ((b"content-type", NPY),))
        context: dict[str, Any] = {"id": None, "outputs": self._names}
        return self._json.encode(outputs, Decoded(decoded.inputs, decoded.rows, context), model)


class TypedNpyCodec(_NpyCodec):
    """For the typed routes: values are held to the fields that they belong to."""

    def __init__(self, signature: Signature, max_rows: int, max_tensor_bytes: int) -> None:
        super().__init__(signature, max_rows, max_tensor_bytes)
        self._fields = signature.fields
        self._predictions = Predictions(signature)

    def decode(self, document: NpyFile, is_abandoned: Callable[[], bool] = never) -> Decoded:
        decoded = super().decode(document, is_abandoned)
        array = decoded.inputs[self._input.name]
        for field in self._fields:
            fault = field_fault(field, self._input, array)
            if fault is not None:
                raise invalid([fault])
        return decoded

    def encode(self, outputs: Mapping[str, Array], decoded: Decoded, model: ModelRef) -> Content:
        return self._predictions.content(outputs, decoded.rows, model)
