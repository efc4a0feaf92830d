"""Media types of inference requests and answers, for the OpenAPI document."""

from typing import Any, Final

from app.api.codecs import CSV, JSON, NDJSON, NPY, OCTETS, csv_table, npy_tensor, picture
from app.api.schemas import Schema, example_instance
from app.bundle.signature import Signature, TensorPrediction

_TEXT: Final[Schema] = {"type": "string"}
_FILE: Final[Schema] = {"type": "string", "format": "binary"}


def typed_request(schema: str, signature: Signature) -> Schema:
    """What the typed routes take, by media type."""
    row = example_instance(signature)
    content = {
        JSON.decode(): _json(schema) | {"example": {"instances": [row]}},
        NDJSON.decode(): {"schema": _TEXT | {"description": "An instance a line."}},
    }
    if csv_table.fits(signature):
        said = "A line of field names, then an instance a line."
        content[CSV.decode()] = {"schema": _TEXT | {"description": said}}
    if npy_tensor.fits(signature):
        content[NPY.decode()] = {"schema": _array(signature)}
    if picture.fits(signature):
        said = "One picture, the only field of one instance."
        for media_type in picture.MEDIA_TYPES:
            content[media_type.decode()] = {"schema": _FILE | {"description": said}}
    return content


def typed_answer(schema: str, signature: Signature) -> Schema:
    """What the typed routes give; all but JSON only to those who accept it."""
    content = {JSON.decode(): _json(schema), NDJSON.decode(): {"schema": _TEXT}}
    if csv_table.fits(signature) and not any(
        isinstance(prediction, TensorPrediction) for prediction in signature.predictions
    ):
        content[CSV.decode()] = {"schema": _TEXT}
    return content


def tensor_request(signature: Signature, example: Any) -> Schema:
    """What `infer` takes, by media type."""
    said = (
        "JSON of Inference-Header-Content-Length bytes, then the data of each input that has a"
        " binary_data_size, in order."
    )
    content = {
        JSON.decode(): _json("InferRequest") | {"example": example},
        OCTETS.decode(): {"schema": _FILE | {"description": said}},
    }
    if npy_tensor.fits(signature):
        content[NPY.decode()] = {"schema": _array(signature)}
    return content


def tensor_answer(signature: Signature) -> Schema:
    """What `infer` gives: binary where the request asks for it."""
    content = {JSON.decode(): _json("InferResponse"), OCTETS.decode(): {"schema": _FILE}}
    if npy_tensor.fits(signature) and signature.outputs[0].datatype != "BYTES":
        content[NPY.decode()] = {"schema": _FILE}
    return content


def _json(schema: str) -> Schema:
    return {"schema": {"$ref": f"#/components/schemas/{schema}"}}


def _array(signature: Signature) -> Schema:
    spec = signature.inputs[0]
    return _FILE | {"description": f"A .npy file of all rows of {spec.name!r}, {spec.datatype}."}
