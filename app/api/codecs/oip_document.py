"""The JSON of an Open Inference Protocol request: its objects, lists and parameters."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from app.api.codecs.json_guard import refuse_bulk, refuse_deep_nesting, refuse_duplicate_names
from app.errors import InvalidTensor, MalformedBody

_REQUEST_KEYS: Final = frozenset({"id", "inputs", "outputs", "parameters"})
_MAX_ID_CHARACTERS: Final = 256
#: Of a request with a few dozen tensors and their parameters.
_MAX_OBJECTS: Final = 1_000
_MAX_NAMES: Final = 10_000
#: Parameters that would change the answer and that this service does not know.
_UNSUPPORTED: Final = frozenset(
    {
        "classification",
        "sequence_id",
        "sequence_start",
        "sequence_end",
        "shared_memory_region",
    }
)


def read_document(body: bytes) -> dict[str, Any]:
    refuse_deep_nesting(body)
    too_many = f"the body has more than {_MAX_OBJECTS} objects or {_MAX_NAMES} names"
    refuse_bulk(body, _MAX_OBJECTS, _MAX_NAMES, too_many)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(
            f"body is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from None
    check_object(document, "body", _REQUEST_KEYS)
    refuse_duplicate_names(body, _count_names(document))
    return document  # type: ignore[no-any-return]


def check_object(value: Any, where: str, keys: frozenset[str]) -> None:
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
    if unsupported:
        raise InvalidTensor(f"{where}: parameter {min(unsupported)!r} is not supported")


def flag(value: Mapping[str, Any], name: str, where: str, *, default: bool) -> bool:
    parameters = value.get("parameters")
    given = parameters.get(name, default) if parameters else default
    if type(given) is not bool:
        raise MalformedBody(f"{where}: parameter {name!r} must be true or false")
    return given


def checked_array(value: Any, where: str) -> list[Any]:
    if type(value) is not list:
        raise MalformedBody(f"{where} must be an array")
    return value


def request_id(document: Mapping[str, Any]) -> str | None:
    value = document.get("id")
    if value is not None and (type(value) is not str or len(value) > _MAX_ID_CHARACTERS):
        raise MalformedBody(f"'id' must be a string of at most {_MAX_ID_CHARACTERS} characters")
    return value


def timeout_us(document: Mapping[str, Any]) -> int | None:
    parameters = document.get("parameters")
    if not parameters or "timeout" not in parameters:
        return None
    value = parameters["timeout"]
    if type(value) is not int or value < 1:
        raise MalformedBody("parameter 'timeout' must be a whole number of microseconds from 1")
    return value


def _count_names(value: Any) -> int:
    """Names in all objects of a document; tensor data, which may be long, is looked at lightly."""
    if type(value) is dict:
        return len(value) + sum(_count_names(item) for item in value.values())
    if type(value) is list and value and type(value[0]) in (dict, list):
        return sum(_count_names(item) for item in value)
    return 0
