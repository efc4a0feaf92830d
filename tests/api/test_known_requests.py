"""Requests that are recognised but for their numbers: never another answer than the long way's.

`KnownRequests.recognise` may say None to anything. What it does say must be what the long way
says, byte for byte, and of a body that the long way refuses it must say nothing.
"""

import json
import random
import re
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.api.codecs import Decoded
from app.api.codecs.oip import OipCodec
from app.api.codecs.oip_binary import HEAD_LENGTH
from app.errors import RequestError
from tests.api.binary import divided, raw, tensor
from tests.api.repository import lone_signature

#: Of each test; as many as there is patience for find the same.
few = settings(max_examples=40)
_ROWS = 64
_BYTES = 2**20
_TYPES = ("FP32", "FP64", "INT8", "UINT8", "INT16", "UINT32", "INT64", "UINT64")
#: What may stand where a number or a seam is.
_WORDS = (
    b"[", b"]", b"[]", b"],[", b",", b",,", b" ", b"\n", b"\t", b"\x0b", b"\x00", b"{", b"}", b":",
    b'"', b'"data":[', b'"data":[1,2,3]', b"NaN", b"Infinity", b"-Infinity", b"nan", b"inf",
    b"null", b"true", b"false", b"1e", b"1e5", b"1E+5", b"e", b"E5", b"+1", b"-", b"-0", b"-0.0",
    b"0e0", b"01", b"1.", b".5", b"1e38", b"3.4028235e38", b"3.4028236e38", b"1e39", b"-1e39",
    b"1e308", b"1e309", b"1e400", b"1e-46", b"1e-400", b"16777217", b"9007199254740993",
    b"18446744073709551615", b"18446744073709551616", b"-9223372036854775809", b"9" * 40,
    b"340282356779733661637539395458142568448", b"1,2", b"1 2", b"[1,2,3]", b"[1,[2],3]", b"\xff",
    b"/**/", b"0x1", b"1_0", b"36028797018963969", b"0.1", b"2", b'"1"',
)  # fmt: skip
numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.sampled_from([0, -0.0, 1e38, 3.4028235e38, 3.4028236e38, 16777217, 2**53 + 1, 2**64 - 1]),
)
texts = st.text(max_size=12) | st.sampled_from(
    ['"data":[', 'a "data":[1,2,3]', "data", '\\"data\\":[', '],"data":[', "\\", "]}]}", "[[["]
)


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """A good document, in one of the ways in which callers write it."""
    rows = draw(st.integers(1, 3))
    datatype = draw(st.sampled_from(_TYPES))
    allowed = numbers if datatype.startswith("FP") else st.integers(0, 127)
    values = draw(st.lists(allowed, min_size=3 * rows, max_size=3 * rows))
    data = values if draw(st.booleans()) else [values[i : i + 3] for i in range(0, len(values), 3)]
    item = {"name": "x", "datatype": datatype, "shape": [rows, 3], "data": data}
    if draw(st.booleans()):
        item["parameters"] = {draw(texts): draw(texts)}
    document = {"inputs": [dict(draw(st.permutations(list(item.items()))))]}
    if draw(st.booleans()):
        document["id"] = draw(texts)
    if draw(st.booleans()):
        document["outputs"] = [{"name": "y"}]
    document = dict(draw(st.permutations(list(document.items()))))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r ")]))
    ascii_only = draw(st.booleans())
    return json.dumps(document, separators=separators, ensure_ascii=ascii_only).encode(
        "utf-8", "replace"
    )


@st.composite
def mutations(draw: st.DrawFn, text: bytes) -> bytes:
    """The same with a few bytes or words put in, over, or left out; mostly around the numbers."""
    begins = text.find(b"data")
    for _ in range(draw(st.integers(0, 3))):
        low = draw(st.sampled_from([0, max(0, begins), max(0, text.find(b"[", max(0, begins)))]))
        at = draw(st.integers(low, min(len(text), low + 60)) if low < len(text) else st.just(0))
        gone = draw(st.integers(0, 4))
        put = draw(st.sampled_from(_WORDS) | st.binary(max_size=2) | st.just(b""))
        text = text[:at] + put + text[at + gone :]
    return text


def datatype_of(text: bytes) -> str:
    return json.loads(text)["inputs"][0]["datatype"]


def a_codec(datatype: str) -> OipCodec:
    return OipCodec(lone_signature(datatype, 3), _ROWS, _BYTES)


def long_way(datatype: str, body: bytes, divided_at: int | None = None) -> Decoded | None:
    """What a codec says that knows nothing; None where it refuses."""
    codec = a_codec(datatype)
    headers = {} if divided_at is None else {HEAD_LENGTH: b"%d" % divided_at}
    try:
        return codec.decode(codec.parse(body, headers))
    except RequestError:
        return None


def learned(datatype: str, *bodies: bytes, divided_at: int | None = None) -> OipCodec:
    """A codec that took these before, as far as they are good."""
    codec = a_codec(datatype)
    headers = {} if divided_at is None else {HEAD_LENGTH: b"%d" % divided_at}
    for body in bodies:
        with suppress(RequestError):
            codec.decode(codec.parse(body, headers))
    return codec


def assert_says_nothing_else(
    codec: OipCodec, datatype: str, body: bytes, at: int | None = None
) -> bool:
    """Whether it was recognised."""
    recognised = codec.recognise(body, at)
    if recognised is None:
        return False
    expected = long_way(datatype, body, at)
    assert expected is not None, f"recognised, but to be refused: {body!r}"
    assert recognised.inputs.keys() == expected.inputs.keys()
    for name, array in expected.inputs.items():
        got = recognised.inputs[name]
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        assert got.tobytes() == array.tobytes(), body
    assert recognised[1:] == expected[1:]
    return True


def with_numbers(text: bytes, put: list[bytes]) -> bytes:
    """Other numbers in a document with a flat list of them."""
    return re.sub(
        rb'("data"\s*:\s*\[)[^\[\]]*\]', lambda m: m[1] + b",".join(put) + b"]", text, count=1
    )


@few
@given(st.data(), documents())
def test_mutated_documents(data: st.DataObject, text: bytes) -> None:
    datatype = datatype_of(text)
    codec = learned(datatype, text)

    assert_says_nothing_else(codec, datatype, text)
    for _ in range(3):
        assert_says_nothing_else(codec, datatype, data.draw(mutations(text)))


@few
@given(documents(), st.lists(numbers, min_size=3, max_size=9))
@example(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3]}]}',
         [2**53 + 1, 9007199791611905, 16777217])  # fmt: skip
def test_other_numbers(text: bytes, values: list[float]) -> None:
    datatype = datatype_of(text)
    codec = learned(datatype, text)

    assert_says_nothing_else(
        codec, datatype, with_numbers(text, [json.dumps(v).encode() for v in values])
    )


@few
@given(documents(), documents(), documents())
def test_one_of_several_known_documents(one: bytes, other: bytes, third: bytes) -> None:
    for datatype in map(datatype_of, (one, other, third)):
        codec = learned(datatype, one, other, third)

        for body in (one, other, third, one[: len(one) // 2] + other[len(other) // 2 :]):
            assert_says_nothing_else(codec, datatype, body)


@few
@given(st.data(), st.sampled_from(["FP32", "FP64", "INT64", "UINT8", "INT16", "BOOL"]))
def test_mutated_raw_tensors(data: st.DataObject, datatype: str) -> None:
    word = {"FP32": "f4", "FP64": "f8", "INT64": "i8", "UINT8": "u1", "INT16": "i2", "BOOL": "?"}
    array = np.ones((data.draw(st.integers(1, 3)), 3), word[datatype])
    body, headers = divided({"inputs": [tensor("x", datatype, array)]}, raw(array))
    at = int(headers["Inference-Header-Content-Length"])
    codec = learned(datatype, body, divided_at=at)

    assert_says_nothing_else(codec, datatype, body, at)
    head, behind = body[:at], body[at:]
    other = head + data.draw(st.binary(min_size=len(behind), max_size=len(behind)))
    assert_says_nothing_else(codec, datatype, other, at)
    mutated = data.draw(mutations(body))
    for divided_at in (at, len(mutated) - len(behind), data.draw(st.integers(0, len(mutated) + 2))):
        if divided_at >= 0:
            assert_says_nothing_else(codec, datatype, mutated, divided_at)
    assert_says_nothing_else(codec, datatype, mutated)


@pytest.mark.parametrize("datatype", _TYPES)
def test_the_words_at_every_place(datatype: str) -> None:
    """Each word put in, and over one or two bytes, everywhere from the brackets on."""
    text = (
        b'{"id":"i","inputs":[{"name":"x","datatype":"%b","shape":[1,3],"data":[1,20,3]}]}'
        % datatype.encode()
    )
    codec = learned(datatype, text)
    recognised = 0
    for at in range(text.index(b'"data"') - 1, len(text) + 1):
        for word in _WORDS:
            for gone in range(3):
                body = text[:at] + word + text[at + gone :]
                recognised += assert_says_nothing_else(codec, datatype, body)

    assert recognised > 25


def test_a_thousand_good_requests_are_recognised() -> None:
    """Or this file would show nothing."""
    chance = random.Random(1)
    text = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[2,3],"data":[1,2,3,4,5,6]}]}'
    codec = learned("FP32", text)

    for _ in range(1000):
        values = [b"%.9g" % chance.uniform(-1e6, 1e6) for _ in range(6)]
        assert assert_says_nothing_else(codec, "FP32", with_numbers(text, values))


@pytest.mark.parametrize("data", ["[1,2,3]", "[7,8,9]"])
def test_data_that_is_no_tensor_is_not_taken_for_it(data: str) -> None:
    """The tensor's own name is written with an escape, and another list has the name plainly."""
    text = (
        '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"d\\u0061ta":[1,2,3],'
        '"parameters":{"data":%s}}]}'
    )
    codec = learned("FP32", (text % data).encode())

    assert_says_nothing_else(codec, "FP32", (text % data).encode())
    assert_says_nothing_else(codec, "FP32", (text % "[4,5,6]").encode())
