"""Open Inference Protocol: metadata, and tensors in and out as JSON."""

import math
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from app.api.codecs import Decoded
from app.api.codecs.oip import OipCodec
from app.bundle.tensors import NUMPY_DTYPES
from app.errors import InvalidTensor
from tests.api.answers import ROWS, TENSORS, assert_refusal
from tests.api.repository import lone_signature
from tests.support import models
from tests.support.bundles import make_golden

INFER = "/v2/models/affine/infer"


class TestMetadata:
    def test_server(self, client: httpx.Client) -> None:
        body = client.get("/v2").json()

        assert body["name"] == "modelport"
        assert body["extensions"] == ["binary_tensor_data"]
        assert body["version"]

    def test_health(self, client: httpx.Client) -> None:
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2/health/ready").json() == {"ready": True}

    @pytest.mark.parametrize("path", ["/v2/models/affine", "/v2/models/affine/versions/1"])
    def test_model(self, client: httpx.Client, path: str) -> None:
        assert client.get(path).json() == {
            "name": "affine",
            "versions": ["2", "1"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
            "outputs": [
                {"name": "y", "datatype": "FP32", "shape": [-1, 2]},
                {"name": "total", "datatype": "FP32", "shape": [-1, 1]},
            ],
        }

    @pytest.mark.parametrize(
        "path", ["/v2/models/affine/ready", "/v2/models/affine/versions/2/ready"]
    )
    def test_model_ready(self, client: httpx.Client, path: str) -> None:
        assert client.get(path).json() == {"name": "affine", "ready": True}

    @pytest.mark.parametrize(
        "path",
        [
            "/v2/models/nope",
            "/v2/models/nope/ready",
            "/v2/models/affine/versions/9",
            "/v2/models/affine/versions/9/ready",
        ],
    )
    def test_unknown(self, client: httpx.Client, path: str) -> None:
        assert_refusal(client.get(path), 404, "model_not_found")


class TestInfer:
    def test_every_output_comes_back(self, client: httpx.Client) -> None:
        body = client.post(INFER, json=TENSORS).json()

        y, total = body.pop("outputs")
        assert body == {"model_name": "affine", "model_version": "2"}
        assert (y["name"], y["datatype"], y["shape"]) == ("y", "FP32", [1, 2])
        assert y["data"] == pytest.approx([-1.15, 7.3])
        assert (total["name"], total["datatype"], total["shape"]) == ("total", "FP32", [1, 1])
        assert total["data"] == pytest.approx([6.15])

    def test_a_version_is_addressed_by_number(self, client: httpx.Client) -> None:
        response = client.post("/v2/models/affine/versions/1/infer", json=TENSORS)

        assert response.json()["model_version"] == "1"

    @pytest.mark.parametrize("rows", [1, 2, 16, 17, 64])
    def test_flat_and_nested_data_are_the_same(self, client: httpx.Client, rows: int) -> None:
        x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
        wanted = models.affine({"x": x})["y"]
        for data in (x.ravel().tolist(), x.tolist()):
            tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 3], "data": data}

            y = client.post(INFER, json={"inputs": [tensor]}).json()["outputs"][0]

            assert y["shape"] == [rows, 2]
            assert np.allclose(np.reshape(y["data"], y["shape"]), wanted, rtol=1e-5, atol=1e-4)

    @pytest.mark.parametrize("given", ["a", "", "é\r\nSet-Cookie: a=b", "x" * 256, "\x00\u2028"])
    def test_the_id_is_echoed_in_the_body_only(self, client: httpx.Client, given: str) -> None:
        response = client.post(INFER, json=TENSORS | {"id": given})

        assert response.json()["id"] == given
        assert "set-cookie" not in response.headers

    def test_only_the_outputs_asked_for_come_back(self, client: httpx.Client) -> None:
        response = client.post(INFER, json=TENSORS | {"outputs": [{"name": "total"}]})

        assert [output["name"] for output in response.json()["outputs"]] == ["total"]

    def test_outputs_come_in_the_order_asked_for(self, client: httpx.Client) -> None:
        wanted = [{"name": "total", "parameters": {"binary_data": False}}, {"name": "y"}]

        response = client.post(INFER, json=TENSORS | {"outputs": wanted})

        assert [output["name"] for output in response.json()["outputs"]] == ["total", "y"]

    @pytest.mark.parametrize("extra", [{"outputs": []}, {"parameters": {"a": [1, {"b": None}]}}])
    def test_what_asks_for_nothing_changes_nothing(
        self, client: httpx.Client, extra: dict[str, Any]
    ) -> None:
        body = client.post(INFER, json=TENSORS | extra).json()

        assert [output["name"] for output in body["outputs"]] == ["y", "total"]

    def test_it_says_what_ran_it(self, client: httpx.Client) -> None:
        infer = client.post(INFER, json=TENSORS)
        predict = client.post("/models/affine/predict", json=ROWS)
        refused = client.post(INFER, json={})

        assert infer.headers["modelport-provider"] == "CPUExecutionProvider"
        assert predict.headers["modelport-provider"] == "CPUExecutionProvider"
        assert "modelport-provider" not in refused.headers

    @pytest.mark.parametrize("timeout", [30_000_000, 2**62])
    def test_a_time_limit_in_microseconds_is_taken(
        self, client: httpx.Client, timeout: int
    ) -> None:
        response = client.post(INFER, json={**TENSORS, "parameters": {"timeout": timeout}})

        assert response.status_code == 200

    @pytest.mark.parametrize("headers", [{}, {"Modelport-Timeout-Ms": "60000"}])
    def test_a_time_limit_that_has_passed_is_504(
        self, client: httpx.Client, headers: dict[str, str]
    ) -> None:
        body = {**TENSORS, "parameters": {"timeout": 1}}

        response = client.post(INFER, json=body, headers=headers)

        assert_refusal(response, 504, "deadline_exceeded")

    @pytest.mark.parametrize("timeout", [0, -1, 1.5, "5", True, None, [], 2**70], ids=repr)
    def test_another_time_limit_is_refused(self, client: httpx.Client, timeout: object) -> None:
        response = client.post(INFER, json={**TENSORS, "parameters": {"timeout": timeout}})

        error = assert_refusal(response, 400, "malformed_body")["error"]
        assert error == "parameter 'timeout' must be a whole number of microseconds from 1"

    def test_strings_and_int64(self, client: httpx.Client) -> None:
        colours = ["red", "", "mauve", "blue", "red\x00", "é"]
        tensor = {"name": "colour", "datatype": "BYTES", "shape": [6], "data": colours}

        body = client.post("/v2/models/strings/infer", json={"inputs": [tensor]}).json()

        assert body["outputs"] == [
            {
                "name": "pigment",
                "datatype": "BYTES",
                "shape": [6],
                "data": ["vermilion", "unknown", "unknown", "azurite", "unknown", "unknown"],
            },
            {"name": "id", "datatype": "INT64", "shape": [6], "data": [2, -1, -1, 0, -1, -1]},
        ]

    def test_uint8(self, client: httpx.Client) -> None:
        golden = make_golden("conv")
        pixels = golden.inputs["pixels"]
        tensor = {
            "name": "pixels",
            "datatype": "UINT8",
            "shape": [6, 8, 8],
            "data": pixels.tolist(),
        }

        body = client.post("/v2/models/conv/infer", json={"inputs": [tensor]}).json()

        scores, shape = body["outputs"]
        assert np.allclose(np.reshape(scores["data"], (6, 3)), golden.outputs["scores"], atol=1e-5)
        assert shape["data"] == golden.outputs["shape"].tolist()

    def test_int64_and_a_failing_row(self, client: httpx.Client) -> None:
        def ask(*indices: int) -> httpx.Response:
            tensor = {
                "name": "index",
                "datatype": "INT64",
                "shape": [len(indices)],
                "data": indices,
            }
            return client.post("/v2/models/poison/infer", json={"inputs": [tensor]})

        assert ask(3, 0, -1).json()["outputs"][0]["data"] == [40.0, 10.0, 40.0]
        assert_refusal(ask(3, 4), 500, "model_failed")

    def test_the_tensor_routes_need_a_name(self, client: httpx.Client) -> None:
        assert_refusal(client.post("/v2/infer", json=TENSORS), 404, "not_found")

    def test_an_output_that_is_not_finite_is_an_error(self, client: httpx.Client) -> None:
        huge = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [3e38, 3e38, -3e38]}

        response = client.post(INFER, json={"inputs": [huge]})

        assert_refusal(response, 500, "non_finite_output")


def codec(datatype: str, *dims: int | str) -> OipCodec:
    return OipCodec(lone_signature(datatype, *dims), max_rows=100, max_tensor_bytes=10_000)


def decode(datatype: str, data: object, shape: object) -> np.ndarray:
    """Through the codec: JSON text to an array."""
    bound = codec(datatype, *(f"n{axis}" for axis in range(1, len(shape))))
    tensor = {"name": "x", "datatype": datatype, "shape": shape, "data": data}
    return bound.decode(bound.parse(orjson.dumps({"inputs": [tensor]}), {})).inputs["x"]


INTEGERS = [name for name, dtype in NUMPY_DTYPES.items() if dtype.kind in "iu"]
FLOATS = [name for name, dtype in NUMPY_DTYPES.items() if dtype.kind == "f"]


class TestDatatypes:
    @pytest.mark.parametrize("datatype", INTEGERS)
    def test_whole_numbers_to_the_edge_and_back(self, datatype: str) -> None:
        bounds = np.iinfo(NUMPY_DTYPES[datatype])
        values = [int(bounds.min), 0, 1, int(bounds.max)]

        array = decode(datatype, values, [4])

        assert array.dtype == NUMPY_DTYPES[datatype]
        assert array.tolist() == values
        assert self.encoded(datatype, array) == values

    @pytest.mark.parametrize("datatype", INTEGERS)
    @pytest.mark.parametrize("offset", [1, 2, 2**70])
    def test_whole_numbers_past_the_edge(self, datatype: str, offset: int) -> None:
        bounds = np.iinfo(NUMPY_DTYPES[datatype])
        for value in (int(bounds.min) - offset, int(bounds.max) + offset):
            text = b'{"inputs":[{"name":"x","datatype":"%s","shape":[2],"data":[0,%d]}]}'
            bound = codec(datatype)
            document = bound.parse(text.replace(b"%s", datatype.encode()) % value, {})

            with pytest.raises(InvalidTensor, match=r"'x' (holds a value|must hold whole)"):
                bound.decode(document)

    @pytest.mark.parametrize("datatype", INTEGERS)
    @pytest.mark.parametrize("value", [1.0, 1.7, -0.0, True, None, "1", [1], {}, 1e3])
    def test_what_is_not_a_whole_number(self, datatype: str, value: object) -> None:
        with pytest.raises(InvalidTensor, match=r"value 1 is|axis 1"):
            decode(datatype, [0, value], [2])

    @pytest.mark.parametrize("datatype", FLOATS)
    def test_numbers_to_the_edge_and_back(self, datatype: str) -> None:
        most = float(np.finfo(NUMPY_DTYPES[datatype]).max)
        values = [-most, -0.5, 0, 1, most]

        array = decode(datatype, values, [5])

        assert array.dtype == NUMPY_DTYPES[datatype]
        assert array.tolist() == values
        assert self.encoded(datatype, array) == pytest.approx(values)

    @pytest.mark.parametrize("datatype", FLOATS)
    def test_minus_zero_keeps_its_sign(self, datatype: str) -> None:
        array = decode(datatype, [-0.0, 0.0], [2])

        assert [math.copysign(1, value) for value in array] == [-1, 1]
        assert b"-0.0" in orjson.dumps(self.encoded(datatype, array))

    @pytest.mark.parametrize(
        ("datatype", "value"), [("FP16", 65520), ("FP16", 1e5), ("FP32", 1e39)]
    )
    @pytest.mark.parametrize("sign", [1, -1])
    def test_numbers_past_the_edge(self, datatype: str, value: float, sign: int) -> None:
        with pytest.raises(InvalidTensor, match=f"does not fit {datatype} at 1"):
            decode(datatype, [0, sign * value], [2])

    @pytest.mark.parametrize("datatype", FLOATS)
    @pytest.mark.parametrize("value", [True, None, "1", "NaN", [], {}])
    def test_what_is_not_a_number(self, datatype: str, value: object) -> None:
        with pytest.raises(InvalidTensor, match="value 1 is"):
            decode(datatype, [0, value], [2])

    def test_booleans(self) -> None:
        array = decode("BOOL", [True, False], [2])

        assert array.dtype == np.bool_
        assert self.encoded("BOOL", array) == [True, False]

    @pytest.mark.parametrize("value", [0, 1, 0.0, "true", None, "False"])
    def test_what_is_not_a_boolean(self, value: object) -> None:
        with pytest.raises(InvalidTensor, match="must hold booleans"):
            decode("BOOL", [True, value], [2])

    def test_strings(self) -> None:
        values = ["", "a", "é", "\x00", "\U0001f600", "a" * 500]

        array = decode("BYTES", values, [2, 3])

        assert array.dtype == object
        assert array.shape == (2, 3)
        assert self.encoded("BYTES", array.ravel()) == values

    @pytest.mark.parametrize("value", [0, 1.5, True, None, {}])
    def test_what_is_not_a_string(self, value: object) -> None:
        with pytest.raises(InvalidTensor, match="must hold strings"):
            decode("BYTES", ["a", value], [2])

    def test_free_dims_take_any_length_even_none(self) -> None:
        assert decode("FP32", [], [2, 0]).shape == (2, 0)
        assert decode("FP32", [[[1], [2], [3]]], [1, 3, 1]).tolist() == [[[1], [2], [3]]]

    def encoded(self, datatype: str, array: np.ndarray) -> list[Any]:
        """Through the codec and JSON text back."""
        bound = codec(datatype)
        decoded = Decoded({}, len(array), {"id": None, "outputs": ("y",)})
        content = bound.encode({"y": array}, decoded, {"name": "m", "version": 1, "digest": ""})
        (output,) = orjson.loads(content.body)["outputs"]
        assert output["datatype"] == datatype
        assert output["shape"] == list(array.shape)
        return output["data"]
