"""Whatever bytes arrive, a codec answers with arrays that fit or with an error of ours."""

import json
import random
import re

import numpy as np
import pytest

from app.api.codecs import Codec, Decoded
from app.api.codecs.instances import InstancesCodec
from app.api.codecs.json_guard import refuse_deep_nesting
from app.api.codecs.oip import OipCodec
from app.bundle.signature import IntegerField, NumberField
from app.bundle.tensors import NUMPY_DTYPES
from app.errors import MalformedBody, ModelportError
from tests.support.bundles import RECIPES

TOKEN = re.compile(r'"[^"]*"|-?[0-9.]+|[\[\]{}:,]')
ODD = [
    "null", "true", "NaN", "Infinity", "1e400", "1e39", "-0.0", "1.0", "9" * 400, "1_0", "-1",
    "18446744073709551616", "2147483648", "[]", "{}", "[[]]", '{"a":1}', '""', '"\\ud800"',
    '"\\u0000"', '"name"', "[", "{", "]", "}", ",", ":", '"', "\\", "\x00", "\ufeff", "é",
]  # fmt: skip
GOOD = {
    "affine": {"a": 1, "b": 2.5, "c": -3},
    "poison": {"index": 1},
    "strings": {"colour": "red"},
    "conv": {"pixels": [[1] * 8] * 8},
}


def tensors(model: str) -> str:
    """A good request of one golden row."""
    recipe = RECIPES[model]()
    inputs = [
        {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": [1, *spec.shape[1:]],
            "data": recipe.inputs[spec.name][:1].tolist(),
        }
        for spec in recipe.signature.inputs
    ]
    return json.dumps({"id": "i", "inputs": inputs, "outputs": [], "parameters": {}})


def mutated(text: str, chance: random.Random) -> bytes:
    """The same JSON with a few tokens replaced, dropped, doubled or swapped."""
    tokens = TOKEN.findall(text)
    for _ in range(chance.randint(1, 3)):
        at, other = chance.randrange(len(tokens)), chance.randrange(len(tokens))
        match chance.randrange(4):
            case 0:
                tokens[at] = chance.choice(ODD)
            case 1:
                tokens.insert(at, chance.choice(ODD))
            case 2:
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case _:
                tokens[at:at] = tokens[at : at + chance.randint(1, 5)]
    return "".join(tokens).encode()


def outcome(codec: Codec, body: bytes) -> Decoded | ModelportError:
    try:
        document = codec.parse(body, {})
        codec.takes_long(document)
        return codec.decode(document)
    except ModelportError as error:
        return error


@pytest.mark.parametrize("model", sorted(GOOD))
@pytest.mark.parametrize("form", ["instances", "tensors"])
def test_mutated_requests(model: str, form: str) -> None:
    signature = RECIPES[model]().signature
    good = json.dumps({"instances": [GOOD[model]]}) if form == "instances" else tensors(model)
    codec: Codec = (
        InstancesCodec(signature, 64)
        if form == "instances"
        else OipCodec(signature, 64, max_tensor_bytes=100_000)
    )
    chance = random.Random(f"{model} {form}")
    taken = 0
    for body in (good.encode(), *(mutated(good, chance) for _ in range(2000))):
        decoded = outcome(codec, body)
        if isinstance(decoded, ModelportError):
            assert decoded.status in (400, 413, 422), body
            assert str(decoded).isprintable(), body
            continue
        taken += 1
        for spec in signature.inputs:
            array = decoded.inputs[spec.name]
            assert array.dtype == NUMPY_DTYPES[spec.datatype], body
            assert array.shape == (decoded.rows, *spec.shape[1:]), body
            assert array.dtype.kind != "f" or np.isfinite(array).all(), body
    assert taken > 0


@pytest.mark.parametrize("body", [
    b"[" * 100 + b"]" * 100, b"[]" * 500, b'"' + b"[" * 500 + b'"', b'["\\\\","[[[[["]' * 60,
    b'["\\"' + b"{" * 500 + b'"]', b'"' + b"[" * 500, b"]" * 500,
])  # fmt: skip
def test_nesting_within_the_limit_passes(body: bytes) -> None:
    refuse_deep_nesting(body)


@pytest.mark.parametrize("body", [
    b"[" * 101, b'["]",' * 101, b'{"}":' * 101 + b'"{"' * 101, b'["\\\\",' + b"[" * 100,
    b"[" * 50 + b'"\\\\\\""' + b"{" * 51,
])  # fmt: skip
def test_nesting_past_the_limit_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedBody, match="nests deeper than 100 levels"):
        refuse_deep_nesting(body)


def test_a_whole_number_that_a_float_column_cannot_hold_is_refused() -> None:
    fields = (
        NumberField(name="a", tensor="x", column=0),
        IntegerField(name="b", tensor="x", column=1),
        NumberField(name="c", tensor="x", column=2),
    )
    signature = RECIPES["affine"]().signature.model_copy(update={"fields": fields})
    codec = InstancesCodec(signature, 64)

    exact = codec.decode(codec.parse(b'{"instances":[{"a":0,"b":16777216,"c":0}]}', {}))

    assert exact.inputs["x"].tolist() == [[0.0, 16777216.0, 0.0]]
    with pytest.raises(ModelportError, match=r"instances\.0\.b: .* 16777216"):
        codec.parse(b'{"instances":[{"a":0,"b":16777217,"c":0}]}', {})


def test_missing_numbers_are_nan_for_the_graph() -> None:
    fields = tuple(
        NumberField(name=name, tensor="x", column=column, required=False, nullable=True)
        for column, name in enumerate("abc")
    )
    signature = RECIPES["affine"]().signature.model_copy(update={"fields": fields})
    codec = InstancesCodec(signature, 64)

    decoded = codec.decode(codec.parse(b'{"instances":[{"a":null,"c":-0.0},{"b":2}]}', {}))

    wanted = np.array([[np.nan, np.nan, -0.0], [np.nan, 2, np.nan]], np.float32)
    assert np.array_equal(decoded.inputs["x"], wanted, equal_nan=True)
