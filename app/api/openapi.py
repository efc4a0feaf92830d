"""The OpenAPI document, typed for each served model from its manifest.

The ordinary routes are described by FastAPI; the inference routes are written here, because what
they take and give is known only once models are loaded. Schemas say exactly what the codecs do.
"""

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api import media
from app.api.schemas import (
    Schema,
    example_instance,
    field_schema,
    object_schema,
    prediction_schema,
)
from app.api.shared_schemas import shared_schemas
from app.engine.model import Model
from app.engine.versions.registry import Registry

_ERROR_REF: Final[Schema] = {"$ref": "#/components/schemas/Error"}
_ERRORS: Final[Mapping[int, str]] = {
    400: "The body is not valid JSON, a tensor does not fit, or a header is malformed.",
    401: "The admin key is missing or wrong.",
    404: "No such model or version is served.",
    405: "The method is not allowed at this address.",
    408: "The head or the body took too long to arrive.",
    409: "The version cannot be pinned, or the repository cannot be written.",
    413: "The body or its number of rows is over the limit.",
    415: "The media type or encoding is not supported.",
    422: "The body does not fit the model's signature; `details` says where.",
    500: "The model or the service failed.",
    503: "Overloaded, starting or shutting down; try again after `Retry-After` seconds.",
    504: "The request's time limit passed.",
}
_TYPED_ERRORS: Final = tuple(status for status in _ERRORS if status not in (401, 405, 409))
_TENSOR_ERRORS: Final = tuple(status for status in _TYPED_ERRORS if status != 422)
#: What each model's name is put before.
_MODEL_SCHEMAS: Final = ("Instance", "Request", "Prediction", "Response")
#: What the ordinary routes can answer beside 200, by path.
_ORDINARY_ERRORS: Final[Mapping[str, tuple[int, ...]]] = {
    "/health/ready": (503,),
    "/v2/health/ready": (503,),
    "/models/{name}": (404,),
    "/v2/models/{name}": (404,),
    "/v2/models/{name}/ready": (404,),
    "/v2/models/{name}/versions/{version}": (404,),
    "/v2/models/{name}/versions/{version}/ready": (404,),
    "/admin/models": (401,),
    "/admin/models/{name}/reload": (401, 404, 422, 503),
    "/admin/models/{name}/pin": (401, 404, 408, 409, 413, 422, 503),
}
_DIVISION: Final[Schema] = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "required": False,
    "description": "Length of the JSON before the data of binary inputs; 0 where there is none.",
    "schema": {"type": "integer", "minimum": 0},
}
_ADMIN_PATH: Final = "/admin/models"


def ordinary_routes(app: FastAPI) -> Schema:
    """The part of the document that FastAPI writes. It takes long, and is always the same."""
    document: Schema = _without_null(
        get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
    )
    components: Schema = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    _declare_ordinary_errors(document["paths"])
    components.update(shared_schemas())
    return document


def build(ordinary: Schema, registry: Registry, max_request_rows: int) -> Schema:
    """The whole document for what is served now, on top of the ordinary routes."""
    document = copy.deepcopy(ordinary)
    components: Schema = document["components"]["schemas"]
    names = unique_names(list(registry.served), components)
    for name, model in registry.served.items():
        components.update(_model_schemas(names[name], model, max_request_rows))
        document["paths"].update(_model_paths(names[name], model, name == registry.default_name))
    document["tags"] = [
        {"name": "predict", "description": "Typed predictions"},
        {"name": "models", "description": "What is served, and its proofs"},
        {"name": "open inference protocol", "description": "Tensors in, tensors out"},
        {"name": "health", "description": "For operators"},
    ]
    if _ADMIN_PATH in document["paths"]:
        document["tags"].append({"name": "admin", "description": "For holders of the admin key"})
    return document


def unique_names(models: Sequence[str], reserved: Collection[str] = ()) -> dict[str, str]:
    """A distinct Python-like name for each model, stable as long as the models are the same.

    Args:
        reserved: names of schemas that are not a model's.
    """
    result: dict[str, str] = {}
    taken = {name.lower() for name in reserved}
    for model in models:
        word = re.sub(r"[^A-Za-z0-9]+", "_", model).strip("_").lower()
        if not word or word[0].isdigit():
            word = f"model_{word}"
        candidate, number = word, 2
        while not taken.isdisjoint(_identifiers(candidate)):
            candidate, number = f"{word}_{number}", number + 1
        taken |= _identifiers(candidate)
        result[model] = candidate
    return result


def _identifiers(name: str) -> set[str]:
    """What a model of this name brings into the document, in lower case: generated clients make
    files of them."""
    schemas = {f"{_title(name)}{part}".lower() for part in _MODEL_SCHEMAS}
    return schemas | {name, f"{name}_version"}


def _without_null(node: Any) -> Any:
    """Fields that may be null in Python are left out of answers, so null is no alternative."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _without_null(value) for key, value in node.items()}
    options = node.get("anyOf")
    if options and {"type": "null"} in options:
        rest = [option for option in options if option != {"type": "null"}]
        node.pop("anyOf")
        node |= rest[0] if len(rest) == 1 else {"anyOf": rest}
        node.pop("default", None)
    return node


def _declare_ordinary_errors(paths: Schema) -> None:
    for path, operations in paths.items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            wanted = (*_ORDINARY_ERRORS.get(path, ()), 500)
            operation["responses"] |= _error_responses(wanted)


def _error_responses(statuses: Sequence[int]) -> Schema:
    return {str(status): _error_response(status) for status in statuses}


def _error_response(status: int) -> Schema:
    response: Schema = {
        "description": _ERRORS[status],
        "content": {"application/json": {"schema": _ERROR_REF}},
    }
    if status == 503:
        response["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
        }
    return response


def _model_schemas(name: str, model: Model, max_request_rows: int) -> Schema:
    title = _title(name)
    signature = model.manifest.signature
    instance = object_schema(
        {field.name: field_schema(field, signature) for field in signature.fields},
        required=[field.name for field in signature.fields if field.required],
    )
    limit = max_request_rows
    if not model.manifest.batching.row_independent:
        limit = min(limit, model.plan.max_rows)
    rows: Schema = {
        "type": "array",
        "minItems": 1,
        "maxItems": limit,
        "items": {"$ref": f"#/components/schemas/{title}Instance"},
    }
    return {
        f"{title}Instance": instance | {"example": example_instance(signature)},
        f"{title}Request": object_schema({"instances": rows}),
        f"{title}Prediction": object_schema(
            {p.name: prediction_schema(p, signature) for p in signature.predictions}
        ),
        f"{title}Response": object_schema(
            {
                "predictions": {
                    "type": "array",
                    "items": {"$ref": f"#/components/schemas/{title}Prediction"},
                },
                "model": {"$ref": "#/components/schemas/ModelRef"},
            }
        ),
    }


def _title(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _model_paths(name: str, model: Model, is_default: bool) -> Schema:
    address = f"/models/{model.name}"
    typed = {
        f"{address}/predict": (f"predict_{name}", f"Predict with {model.name}", False),
        f"{address}/versions/{{version}}/predict": (
            f"predict_{name}_version",
            f"Predict with a version of {model.name}",
            True,
        ),
    }
    if is_default:
        typed["/predict"] = ("predict", f"Predict with {model.name}, the default model", False)
    paths: Schema = {
        path: {"post": _typed_operation(name, model, *words)} for path, words in typed.items()
    }
    for path, operation, versioned in (
        (f"/v2{address}/infer", f"infer_{name}", False),
        (f"/v2{address}/versions/{{version}}/infer", f"infer_{name}_version", True),
    ):
        paths[path] = {"post": _tensor_operation(operation, model, versioned)}
    return paths


def _typed_operation(
    name: str, model: Model, operation: str, summary: str, versioned: bool
) -> Schema:
    title = _title(name)
    signature = model.manifest.signature
    return {
        "tags": ["predict"],
        "operationId": operation,
        "summary": summary,
        "description": model.manifest.description,
        "parameters": _parameters(versioned),
        "requestBody": _body(media.typed_request(f"{title}Request", signature)),
        "responses": {
            "200": _success(media.typed_answer(f"{title}Response", signature)),
            **_error_responses(_TYPED_ERRORS),
        },
    }


def _tensor_operation(operation: str, model: Model, versioned: bool) -> Schema:
    signature = model.manifest.signature
    success = _success(media.tensor_answer(signature))
    success["headers"][_DIVISION["name"]] = {
        "description": "Length of the JSON before the data of binary outputs.",
        "schema": _DIVISION["schema"],
    }
    return {
        "tags": ["open inference protocol"],
        "operationId": operation,
        "summary": f"Infer with {model.name}",
        "parameters": [*_parameters(versioned), _DIVISION],
        "requestBody": _body(media.tensor_request(signature, example_tensors(model))),
        "responses": {"200": success, **_error_responses(_TENSOR_ERRORS)},
    }


def example_tensors(model: Model) -> Schema:
    """An inference request of one golden row."""
    row = model.golden_row.inputs
    return {
        "inputs": [
            {
                "name": spec.name,
                "datatype": spec.datatype,
                "shape": list(row[spec.name].shape),
                "data": row[spec.name].reshape(-1).tolist(),
            }
            for spec in model.manifest.signature.inputs
        ]
    }


def _parameters(versioned: bool) -> list[Schema]:
    parameters: list[Schema] = [
        {
            "name": "Modelport-Timeout-Ms",
            "in": "header",
            "required": False,
            "description": "Time limit of this request in milliseconds.",
            "schema": {"type": "integer", "minimum": 1, "maximum": 3_600_000},
        },
        {
            "name": "X-Request-Id",
            "in": "header",
            "required": False,
            "description": "Comes back in the answer and stands in the log.",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
        },
    ]
    if versioned:
        parameters.insert(
            0,
            {
                "name": "version",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"},
            },
        )
    return parameters


def _body(content: Schema) -> Schema:
    return {"required": True, "content": content}


def _success(content: Schema) -> Schema:
    return {
        "description": "The answer, a row for each row of the request, in order.",
        "headers": {"X-Request-Id": {"schema": {"type": "string"}}},
        "content": content,
    }
