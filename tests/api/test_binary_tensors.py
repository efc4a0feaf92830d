"""Open Inference Protocol: raw tensors behind the JSON, both ways."""

import json

import httpx
import numpy as np
import pytest

from app.api.codecs import Decoded
from app.api.codecs.oip import OipCodec
from app.api.codecs.oip_binary import HEAD_LENGTH, RawTensors
from app.bundle.signature import Signature
from app.bundle.tensors import NUMPY_DTYPES
from app.errors import InvalidTensor, ModelportError, PayloadTooLarge
from tests.api.answers import ROW_TOTAL, ROW_Y, TENSORS, assert_refusal
from tests.api.binary import HEAD, OCTETS, divided, outputs, raw, tensor
from tests.api.repository import lone_signature
from tests.support import models
from tests.support.bundles import RECIPES, make_golden

INFER = "/v2/models/affine/infer"
X = np.array([[1, 2, 3]], np.float32)
REF = {"name": "m", "version": 1, "digest": ""}
ALL_RAW = {"parameters": {"binary_data_output": True}}


def infer(client: httpx.Client, model: str, document: object, *data: bytes) -> httpx.Response:
    body, headers = divided(document, *data)
    response = client.post(f"/v2/models/{model}/infer", content=body, headers=headers)
    assert response.status_code == 200, response.text
    return response


def raw_outputs(response: httpx.Response) -> dict[str, np.ndarray]:
    assert response.headers["content-type"] == OCTETS
    return outputs(response.content, int(response.headers[HEAD]))


def test_a_raw_input_is_answered_in_json(client: httpx.Client) -> None:
    response = infer(client, "affine", {"inputs": [tensor("x", "FP32", X)]}, raw(X))

    assert response.headers["content-type"] == "application/json"
    assert HEAD not in response.headers
    y, total = response.json()["outputs"]
    assert y["data"] == pytest.approx(ROW_Y)
    assert total["data"] == pytest.approx([ROW_TOTAL])


def test_a_json_input_is_answered_raw(client: httpx.Client) -> None:
    response = client.post(INFER, json=TENSORS | ALL_RAW | {"id": "é"})

    found = raw_outputs(response)
    assert np.allclose(found["y"], [ROW_Y])
    assert np.allclose(found["total"], [[ROW_TOTAL]])
    assert json.loads(response.content[: int(response.headers[HEAD])])["id"] == "é"
    assert response.headers["modelport-provider"] == "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("every", "y", "is_raw"),
    [(True, None, True), (True, False, False), (False, True, True), (False, None, False)],
)
def test_an_outputs_own_word_wins(
    client: httpx.Client, every: bool, y: bool | None, is_raw: bool
) -> None:
    own = {} if y is None else {"parameters": {"binary_data": y}}
    wanted = [{"name": "total", "parameters": {"binary_data": True}}, {"name": "y"} | own]
    document = TENSORS | {"outputs": wanted, "parameters": {"binary_data_output": every}}

    response = client.post(INFER, json=document)

    found = raw_outputs(response)
    assert list(found) == ["total", "y"]
    assert np.allclose(found["total"], [[ROW_TOTAL]])
    assert isinstance(found["y"], np.ndarray) == is_raw
    assert np.allclose(np.ravel(found["y"]), ROW_Y)


@pytest.mark.parametrize("model", sorted(RECIPES))
@pytest.mark.parametrize("media", [OCTETS, "application/json", "Application/JSON; charset=utf-8"])
def test_golden_rows_both_ways(client: httpx.Client, model: str, media: str) -> None:
    golden = make_golden(model)
    recipe = RECIPES[model]()
    specs = recipe.signature.inputs
    document = {"inputs": [tensor(s.name, s.datatype, golden.inputs[s.name]) for s in specs]}
    data = [raw(golden.inputs[spec.name]) for spec in specs]
    body, headers = divided(document | ALL_RAW, *data)

    response = client.post(
        f"/v2/models/{model}/infer", content=body, headers=headers | {"Content-Type": media}
    )

    found = raw_outputs(response)
    assert set(found) == set(golden.outputs)
    for name, wanted in golden.outputs.items():
        assert found[name].shape == wanted.shape
        if wanted.dtype.kind == "f":
            assert np.allclose(found[name], wanted, atol=1e-5)
        else:
            assert found[name].tolist() == wanted.tolist()


@pytest.mark.parametrize("rows", [1, 16, 17, 64])
def test_rows_stay_in_order_through_several_runs(client: httpx.Client, rows: int) -> None:
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)

    response = infer(client, "affine", {"inputs": [tensor("x", "FP32", x)]} | ALL_RAW, raw(x))

    assert np.allclose(raw_outputs(response)["y"], models.affine({"x": x})["y"], atol=1e-4)


def test_raw_outputs_keep_bits_that_json_cannot_say(client: httpx.Client) -> None:
    x = np.array([[3e38, 3e38, -3e38], [np.nan, 1, 2]], np.float32)
    document = {"inputs": [tensor("x", "FP32", x)]}

    response = infer(client, "affine", document | ALL_RAW, raw(x))

    y = raw_outputs(response)["y"]
    assert np.isinf(y[0, 0])
    assert np.isnan(y[1]).all()
    body, headers = divided(document, raw(x))
    refused = client.post(INFER, content=body, headers=headers)
    assert_refusal(refused, 500, "non_finite_output")


class TestWithoutJson:
    @pytest.mark.parametrize("rows", [1, 17])
    def test_the_size_says_how_many_rows(self, client: httpx.Client, rows: int) -> None:
        x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)

        response = client.post(INFER, content=raw(x), headers={"Content-Type": OCTETS, HEAD: "0"})

        assert np.allclose(raw_outputs(response)["y"], models.affine({"x": x})["y"], atol=1e-4)

    def test_a_string_is_the_body_itself(self, client: httpx.Client) -> None:
        response = client.post(
            "/v2/models/strings/infer", content=b"red", headers={"Content-Type": OCTETS, HEAD: "0"}
        )

        assert raw_outputs(response)["pigment"].tolist() == ["vermilion"]

    @pytest.mark.parametrize(
        ("dims", "more"), [(("n",), ()), ((0,), ()), ((2,), ("z",))], ids=["free", "empty", "two"]
    )
    def test_another_model_needs_json(self, dims: tuple[int | str, ...], more: tuple[str]) -> None:
        signature = several("FP32", dims, "x", *more)
        bound = OipCodec(signature, 10, 10_000)

        with pytest.raises(ModelportError) as refused:
            bound.decode(bound.parse(bytes(24), {HEAD_LENGTH: b"0"}))

        assert refused.value.status == 400


def several(datatype: str, dims: tuple[int | str, ...], *names: str) -> Signature:
    """Inputs of one kind, with one output."""
    lone = lone_signature(datatype, *dims)
    inputs = tuple(lone.inputs[0].model_copy(update={"name": name}) for name in names)
    return lone.model_copy(update={"inputs": inputs})


def bound(datatype: str, *dims: int | str) -> OipCodec:
    return OipCodec(lone_signature(datatype, *dims), max_rows=100, max_tensor_bytes=10_000)


def decode(codec: OipCodec, document: object, *data: bytes) -> Decoded:
    body, headers = divided(document, *data)
    return codec.decode(codec.parse(body, {HEAD_LENGTH: headers[HEAD].encode()}))


EDGES = {
    **{
        name: [int(np.iinfo(dtype).min), 0, 1, int(np.iinfo(dtype).max)]
        for name, dtype in NUMPY_DTYPES.items()
        if dtype.kind in "iu"
    },
    **{
        name: [-float(np.finfo(dtype).max), -0.0, np.nan, np.inf]
        for name, dtype in NUMPY_DTYPES.items()
        if dtype.kind == "f"
    },
    "BOOL": [True, False, False, True],
    "BYTES": ["", "é\x00", "\U0001f600", "a" * 300],
}


@pytest.mark.parametrize("datatype", NUMPY_DTYPES)
def test_every_datatype_both_ways(datatype: str) -> None:
    values = np.array(EDGES[datatype], NUMPY_DTYPES[datatype]).reshape(2, 2)
    codec = bound(datatype, 2)

    decoded = decode(codec, {"inputs": [tensor("x", datatype, values)]} | ALL_RAW, raw(values))
    content = codec.encode({"y": decoded.inputs["x"]}, decoded, REF)

    array = decoded.inputs["x"]
    assert array.dtype == NUMPY_DTYPES[datatype]
    assert raw(array) == raw(values)
    head = int(dict(content.headers)[HEAD_LENGTH])
    assert content.body[head:] == raw(values)


@pytest.mark.parametrize("value", [2, 255])
def test_a_boolean_of_another_byte_is_refused(value: int) -> None:
    document = {"inputs": [tensor("x", "BOOL", np.zeros(2, np.bool_))]}

    with pytest.raises(InvalidTensor, match="a boolean is a byte of 0 or 1"):
        decode(bound("BOOL"), document, bytes([1, value]))


def test_raw_and_json_inputs_mix_in_any_order() -> None:
    codec = OipCodec(several("INT16", (2,), "a", "b", "c"), 100, 10_000)
    a, b, c = (np.array([[n, -n]], np.int16) for n in (1, 2, 3))
    in_json = {"name": "b", "datatype": "INT16", "shape": [1, 2], "data": [2, -2]}
    document = {"inputs": [tensor("c", "INT16", c), in_json, tensor("a", "INT16", a)]}

    inputs = decode(codec, document, raw(c), raw(a)).inputs

    assert [inputs[name].tolist() for name in "abc"] == [a.tolist(), b.tolist(), c.tolist()]


def test_free_dims_may_be_empty() -> None:
    empty = np.zeros((2, 0), np.float32)

    decoded = decode(bound("FP32", "n"), {"inputs": [tensor("x", "FP32", empty)]})

    assert decoded.inputs["x"].shape == (2, 0)


def test_a_size_is_judged_before_anything_is_made_of_it() -> None:
    huge = {"name": "x", "datatype": "FP64", "shape": [100, 2**61],
            "parameters": {"binary_data_size": 0}}  # fmt: skip

    with pytest.raises(PayloadTooLarge):
        decode(bound("FP64", "n"), {"inputs": [huge]})


@pytest.mark.parametrize("shift", range(8))
@pytest.mark.parametrize("datatype", ["UINT8", "FP16", "FP32", "FP64"])
def test_aligned_data_is_not_copied(datatype: str, shift: int) -> None:
    values = np.arange(4, dtype=NUMPY_DTYPES[datatype])
    body = bytes(shift) + values.tobytes()

    array = RawTensors(body, shift).take(values.nbytes, datatype, [4], "x")

    assert array.flags.aligned
    assert array.tolist() == values.tolist()
    is_view = np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert is_view == (shift % values.itemsize == 0)
    assert array.flags.writeable != is_view


def test_an_answer_has_memory_of_its_own() -> None:
    codec = bound("FP32", 2)
    y = np.ones((1, 2), np.float32)
    decoded = Decoded({}, 1, {"id": None, "outputs": ("y",), "binary": ("y",)})

    body = codec.encode({"y": y}, decoded, REF).body
    y[:] = 2

    assert body.endswith(np.ones((1, 2), np.float32).tobytes())


def test_much_text_is_for_a_worker_thread() -> None:
    def takes_long(texts: np.ndarray) -> bool:
        codec = bound("BYTES")
        body, headers = divided({"inputs": [tensor("x", "BYTES", texts)]}, raw(texts))
        return codec.takes_long(codec.parse(body, {HEAD_LENGTH: headers[HEAD].encode()}))

    assert not takes_long(np.array(["a"] * 50, object))
    assert takes_long(np.array(["a" * 10_000] * 50, object))


def test_much_text_is_answered(client: httpx.Client) -> None:
    texts = np.array(["red", "x" * 3000] * 32, object)

    response = infer(client, "strings", {"inputs": [tensor("colour", "BYTES", texts)]}, raw(texts))

    assert response.json()["outputs"][0]["data"] == ["vermilion", "unknown"] * 32
