"""JSON schemas that are the same for every model: errors, and Open Inference Protocol's own."""

from app.api.schemas import Schema, object_schema
from app.bundle.tensors import NUMPY_DTYPES


def shared_schemas() -> Schema:
    text: Schema = {"type": "string"}
    return {
        "Error": object_schema(
            {
                "error": text | {"description": "What is wrong, and where."},
                "code": text | {"description": "A word for machines."},
                "request_id": text,
                "details": {"type": "array", "items": {"$ref": "#/components/schemas/ErrorDetail"}},
            },
            required=("error", "code", "request_id"),
        ),
        "ErrorDetail": object_schema(
            {
                "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                "msg": text,
                "type": text,
            }
        ),
        "ModelRef": object_schema(
            {
                "name": text,
                "version": {"type": "integer"},
                "digest": text | {"description": "sha256 of the version's manifest."},
            }
        ),
        **_protocol_schemas(text),
    }


def _protocol_schemas(text: Schema) -> Schema:
    tensor: Schema = {
        "name": text,
        "datatype": text | {"enum": list(NUMPY_DTYPES)},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "data": {
            "type": "array",
            "items": {},
            "description": "Values in row-major order, flat or nested.",
        },
    }
    parameters: Schema = {"type": "object", "additionalProperties": True}
    return {
        # Data that is binary stands behind the JSON; `parameters.binary_data_size` says how much.
        "InferTensor": object_schema(
            tensor | {"parameters": parameters}, required=("name", "datatype", "shape")
        ),
        "InferRequestedOutput": object_schema(
            {"name": text, "parameters": parameters}, required=("name",)
        ),
        "InferRequest": object_schema(
            {
                "id": text | {"maxLength": 256},
                "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/InferTensor"}},
                "outputs": {
                    "type": "array",
                    "items": {"$ref": "#/components/schemas/InferRequestedOutput"},
                },
                "parameters": parameters,
            },
            required=("inputs",),
        ),
        "InferResponse": object_schema(
            {
                "model_name": text,
                "model_version": text,
                "id": text,
                "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/InferTensor"}},
            },
            required=("model_name", "model_version", "outputs"),
        ),
    }
