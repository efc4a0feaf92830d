"""JSON schemas and examples of what a model's fields take and its predictions give.

They say exactly what `app.api.codecs.instance_check` does; a test with generated instances asks
both.
"""

from collections.abc import Sequence
from typing import Any

from app.api.codecs.instance_check import MAX_CATEGORY_CHARACTERS, WITHOUT_NUL, integer_range
from app.bundle.signature import (
    CategoryField,
    Dim,
    ImageField,
    InputField,
    IntegerField,
    LabelPrediction,
    NumberField,
    PredictionField,
    ScoresPrediction,
    SeriesField,
    Signature,
    TensorSpec,
    TextField,
    ValuePrediction,
    is_padded,
)
from app.bundle.tensors import NUMPY_DTYPES

Schema = dict[str, Any]


def object_schema(properties: Schema, required: Sequence[str] | None = None) -> Schema:
    """A closed object; every property is required unless `required` says which."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def field_schema(field: InputField, signature: Signature) -> Schema:
    """JSON schema of the values that a field takes; what it refuses, the codec refuses."""
    schema = _value_schema(field, signature.input(field.tensor))
    if field.nullable:
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
    about = [field.description.rstrip(".") + "."] if field.description else []
    if isinstance(field, NumberField | IntegerField) and field.unit:
        about.append(f"Unit: {field.unit}.")
    if isinstance(field, SeriesField):
        about.append(f"Steps, each with: {', '.join(field.channels)}.")
    if isinstance(field, CategoryField) and field.accept_unknown:
        about.append(f"Known: {', '.join(field.vocabulary)}; others are taken as unknown.")
    if about:
        schema["description"] = " ".join(about)
    return schema


def _value_schema(field: InputField, spec: TensorSpec) -> Schema:
    match field:
        case NumberField():
            return {"type": "number"} | _bounds(field.minimum, field.maximum)
        case IntegerField():
            return {"type": "integer"} | _bounds(*integer_range(field, spec))
        case CategoryField(accept_unknown=True):
            return {"type": "string", "maxLength": MAX_CATEGORY_CHARACTERS}
        case CategoryField():
            return {"type": "string", "enum": list(field.vocabulary)}
        case TextField():
            schema: Schema = {"type": "string", "maxLength": field.max_length}
            return schema | {"pattern": WITHOUT_NUL} if is_padded(field, spec) else schema
        case SeriesField():
            steps = _nested({"type": "number"}, (field.minimum_length, len(field.channels)))
            return steps | {"maxItems": field.maximum_length}
        case ImageField():
            encoded: Schema = {
                "type": "string",
                "contentEncoding": "base64",
                "description": "A PNG, JPEG or WebP file in base64.",
            }
            numbers = _nested({"type": "number", "multipleOf": 1} | _bounds(0, field.maximum),
                              field.shape)  # fmt: skip
            return {"oneOf": [numbers, encoded]}
        case _:
            return _nested(_element(spec), spec.shape[1:])


def _bounds(low: float | None, high: float | None) -> Schema:
    found = {"minimum": low, "maximum": high}
    return {key: value for key, value in found.items() if value is not None}


def _nested(element: Schema, dims: Sequence[Dim]) -> Schema:
    for dim in reversed(dims):
        element = {"type": "array", "items": element}
        if isinstance(dim, int):
            element |= {"minItems": dim, "maxItems": dim}
    return element


def _element(spec: TensorSpec) -> Schema:
    kinds = {"f": "number", "i": "integer", "u": "integer", "b": "boolean", "O": "string"}
    return {"type": kinds[NUMPY_DTYPES[spec.datatype].kind]}


def prediction_schema(prediction: PredictionField, signature: Signature) -> Schema:
    """JSON schema of what a prediction field answers."""
    spec = signature.output(prediction.tensor)
    match prediction:
        case LabelPrediction():
            schema: Schema = {"type": "string", "enum": list(prediction.labels)}
        case ScoresPrediction():
            schema = {"type": "object", "additionalProperties": {"type": "number"}}
            schema["description"] = f"A score for each of {', '.join(prediction.labels)}."
        case ValuePrediction():
            schema = _element(spec)
            if prediction.unit:
                schema["description"] = f"Unit: {prediction.unit}."
        case _:
            schema = _nested(_element(spec), spec.shape[1:])
    if prediction.description:
        schema["description"] = prediction.description
    return schema


def example_instance(signature: Signature) -> Schema:
    """An instance that the model answers."""
    return {field.name: _example(field, signature) for field in signature.fields}


def _example(field: InputField, signature: Signature) -> Any:
    if field.example is not None:
        return field.example
    spec = signature.input(field.tensor)
    match field:
        case NumberField():
            return _nearest_to_zero(field.minimum, field.maximum)
        case IntegerField():
            return _nearest_to_zero(*integer_range(field, spec))
        case CategoryField():
            return field.vocabulary[0]
        case TextField():
            return "text"[: field.max_length]
        case SeriesField():
            return _filled(0, (field.minimum_length, len(field.channels)))
        case ImageField():
            return _filled(0, field.shape)
        case _:
            zero = {"O": "", "b": False}.get(NUMPY_DTYPES[spec.datatype].kind, 0)
            return _filled(zero, [dim if isinstance(dim, int) else 1 for dim in spec.shape[1:]])


def _nearest_to_zero(low: float | None, high: float | None) -> float:
    return max(low or 0, 0) or min(high or 0, 0)


def _filled(value: Any, shape: Sequence[int]) -> Any:
    for size in reversed(shape):
        value = [value] * size
    return value
