"""Which operators an ONNX file uses, read from its bytes, and whether they may run.

The manifest says it too, but that is a claim; this looks. Only the few fields that lead to nodes
are followed, so that the service needs no `onnx` package. Source of the field numbers: onnx.proto.
"""

from collections.abc import Iterator
from typing import Final

from app.errors import BundleCorrupt, BundleUnsupported

#: The standard operators, classical ML, and ONNX Runtime's own.
ALLOWED_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
#: Runs a binary that was compiled for some device, which no golden row can vouch for.
FORBIDDEN: Final = frozenset({"EPContext"})

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE = 1
_FUNCTION_NODE = 7
_NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 6, 11
_MOST_NESTED: Final = 100


def check_operators(model: bytes) -> None:
    """Refuse a graph that uses what is not allowed.

    Raises:
        BundleUnsupported: an operator of a foreign domain, or one that is forbidden.
        BundleCorrupt: this is no ONNX file.
    """
    for domain, op_type in sorted(operators(model)):
        if domain not in ALLOWED_DOMAINS or op_type in FORBIDDEN:
            raise BundleUnsupported(
                f"operator {op_type[:64]!r} of domain {domain[:64]!r} is not allowed"
            )


def operators(model: bytes) -> set[tuple[str, str]]:
    """Domain and type of every node, in functions and subgraphs too.

    Raises:
        BundleCorrupt: this is no ONNX file.
    """
    found: set[tuple[str, str]] = set()
    try:
        for number, part in _fields(memoryview(model)):
            if number == _MODEL_GRAPH:
                _collect(part, _GRAPH_NODE, found, 0)
            elif number == _MODEL_FUNCTIONS:
                _collect(part, _FUNCTION_NODE, found, 0)
    except (IndexError, ValueError):
        raise BundleCorrupt("the model is not a readable ONNX file") from None
    return found


def _collect(
    nodes_of: memoryview, node_field: int, found: set[tuple[str, str]], depth: int
) -> None:
    if depth > _MOST_NESTED:
        raise ValueError("subgraphs nest too deep")
    for number, node in _fields(nodes_of):
        if number == node_field:
            found.add(_operator(node))
            for graph in _subgraphs(node):
                _collect(graph, _GRAPH_NODE, found, depth + 1)


def _operator(node: memoryview) -> tuple[str, str]:
    domain = op_type = ""
    for number, part in _fields(node):
        if number == _NODE_DOMAIN:
            domain = bytes(part).decode()
        elif number == _NODE_OP_TYPE:
            op_type = bytes(part).decode()
    return domain, op_type


def _subgraphs(node: memoryview) -> Iterator[memoryview]:
    for number, attribute in _fields(node):
        if number == _NODE_ATTRIBUTE:
            for part_number, part in _fields(attribute):
                if part_number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                    yield part


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each length-delimited field of a protobuf message; others are skipped.

    Raises:
        IndexError, ValueError: it is not one.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("a field is longer than its message")
            yield number, message[at : at + size]
            at += size
        elif kind == _VARINT:
            _, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("not a protobuf field")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at a position, and the position behind it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
