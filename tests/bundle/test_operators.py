import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bundle import BundleCorrupt, BundleUnsupported
from app.bundle.operators import check_operators, operators

DATA = Path(__file__).parents[1] / "data"


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field of less than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def node(op_type: str, domain: str = "", *attributes: bytes) -> bytes:
    parts = [field(4, op_type.encode()), field(7, domain.encode())]
    return b"".join([*parts, *(field(5, attribute) for attribute in attributes)])


def model(*nodes: bytes) -> bytes:
    return field(7, b"".join(field(1, one) for one in nodes))


def test_operators_of_real_files_are_found():
    assert ("", "Conv") in operators((DATA / "conv.onnx").read_bytes())
    assert ("ai.onnx.ml", "LabelEncoder") in operators((DATA / "strings.onnx").read_bytes())


@pytest.mark.parametrize("name", ["affine", "conv", "mixer", "poison", "strings"])
def test_ordinary_files_are_allowed(name: str):
    check_operators((DATA / f"{name}.onnx").read_bytes())


def test_a_foreign_domain_is_refused_whatever_else_is_there():
    with pytest.raises(BundleUnsupported, match=r"'Run' of domain 'evil\.example'"):
        check_operators(model(node("Add"), node("Run", "evil.example")))


def test_it_is_found_in_a_subgraph_and_in_a_function():
    subgraph = field(6, field(1, node("Run", "evil")))
    function = bytes([25 << 3 & 0x7F | 2 | 0x80, 25 << 3 >> 7])
    content = field(7, node("Run", "evil"))

    assert ("evil", "Run") in operators(model(node("If", "", subgraph)))
    assert ("evil", "Run") in operators(function + bytes([len(content)]) + content)


def test_compiled_binaries_are_refused():
    with pytest.raises(BundleUnsupported, match="EPContext"):
        check_operators(model(node("EPContext", "com.microsoft")))


def test_deep_nesting_is_refused():
    inner = node("Add")
    for _ in range(3):
        inner = node("If", "", field(6, field(1, inner)))

    assert operators(model(inner)) == {("", "If"), ("", "Add")}


@given(st.binary(max_size=300))
def test_whatever_is_no_model_is_corrupt_or_empty(data: bytes):
    with contextlib.suppress(BundleCorrupt):
        operators(data)


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_a_truncated_model_is_corrupt(cut: int):
    with pytest.raises(BundleCorrupt):
        operators((DATA / "conv.onnx").read_bytes()[:-cut])
