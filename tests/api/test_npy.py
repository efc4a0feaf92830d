"""NumPy's own file as a request, and as an answer of tensors."""

import io
import random

import httpx
import numpy as np
import pytest

from app.api.codecs.npy import read_header, read_values, write
from app.api.codecs.npy_tensor import TypedNpyCodec
from app.bundle.tensors import NUMPY_DTYPES
from app.errors import ModelportError
from tests.api.answers import assert_refusal
from tests.api.binary import NPY, npy, npy_of
from tests.api.test_binary_tensors import EDGES
from tests.api.test_codecs import outcome
from tests.support import models
from tests.support.bundles import RECIPES, make_golden

X = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
IS_NPY = {"Content-Type": NPY}


def read(body: bytes) -> np.ndarray:
    return read_values(body, read_header(body))


@pytest.mark.parametrize("model", sorted(RECIPES))
def test_golden_rows_are_answered_as_in_json(client: httpx.Client, model: str) -> None:
    golden = make_golden(model)
    ((name, array),) = golden.inputs.items()
    content = npy(array.astype(str) if array.dtype.hasobject else array)
    spec = RECIPES[model]().signature.input(name)
    tensor = {"name": name, "datatype": spec.datatype, "shape": list(array.shape),
              "data": array.tolist()}  # fmt: skip

    tensors = client.post(f"/v2/models/{model}/infer", content=content, headers=IS_NPY)
    typed = client.post(f"/models/{model}/predict", content=content, headers=IS_NPY)

    in_json = client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]})
    assert tensors.json() == in_json.json()
    assert len(typed.json()["predictions"]) == len(array)
    assert typed.json()["model"]["name"] == model


def test_typed_answers_are_those_of_instances(client: httpx.Client) -> None:
    instances = [dict(zip("abc", row, strict=True)) for row in X.tolist()]

    from_file = client.post("/models/affine/predict", content=npy(X), headers=IS_NPY)

    assert (
        from_file.json()
        == client.post("/models/affine/predict", json={"instances": instances}).json()
    )


@pytest.mark.parametrize("accept", ["application/x-npy", "text/html, Application/X-NPY;q=0.9"])
def test_a_file_comes_back_where_it_is_accepted(client: httpx.Client, accept: str) -> None:
    response = client.post(
        "/v2/models/affine/infer", content=npy(X), headers=IS_NPY | {"Accept": accept}
    )

    assert response.headers["content-type"] == NPY
    y = np.load(io.BytesIO(response.content), allow_pickle=False)
    assert np.allclose(y, models.affine({"x": X})["y"])


def test_strings_come_back_as_json(client: httpx.Client) -> None:
    content = npy(np.array(["red", "mauve"]))

    response = client.post(
        "/v2/models/strings/infer", content=content, headers=IS_NPY | {"Accept": NPY}
    )

    assert response.json()["outputs"][0]["data"] == ["vermilion", "unknown"]


@pytest.mark.parametrize("model", ["affine", "ranged"])
def test_missing_values_are_taken_where_the_field_may_be_missing(
    client: httpx.Client, model: str
) -> None:
    x = np.array([[1, np.nan, 3]], np.float32)

    response = client.post(f"/models/{model}/predict", content=npy(x), headers=IS_NPY)

    # The graph makes NaN of it, which an answer in JSON cannot say.
    status, code = (500, "non_finite_output") if model == "ranged" else (422, "validation_failed")
    assert_refusal(response, status, code)


def test_the_refusal_names_row_field_and_range(client: httpx.Client) -> None:
    x = np.array([[1, 2, 3], [1, 2, 5.5]], np.float32)

    body = assert_refusal(
        client.post("/models/ranged/predict", content=npy(x), headers=IS_NPY), 422
    )

    said = "Input should be a finite number from -5 to 5"
    assert body["details"] == [{"loc": ["instances", 1, "c"], "msg": said, "type": "value_error"}]


def test_a_dtype_that_does_not_fit_says_what_would(client: httpx.Client) -> None:
    response = client.post("/v2/models/affine/infer", content=npy(X.astype("f8")), headers=IS_NPY)

    assert "send array.astype('float32')" in assert_refusal(response, 400)["error"]


def varieties(array: np.ndarray) -> list[np.ndarray]:
    return [
        array,
        np.asfortranarray(array),
        array.astype(array.dtype.newbyteorder(">")),
        np.asfortranarray(array.astype(array.dtype.newbyteorder(">"))),
    ]


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("datatype", [name for name in NUMPY_DTYPES if name != "BYTES"])
def test_every_datatype_order_and_version(datatype: str, version: tuple[int, int]) -> None:
    values = np.array(EDGES[datatype] * 6, NUMPY_DTYPES[datatype]).reshape(4, 2, 3)

    for array in varieties(values):
        found = read(npy(array, version))

        assert found.dtype == NUMPY_DTYPES[datatype]
        assert found.flags.c_contiguous
        assert found.tobytes() == values.tobytes()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_strings_of_either_order(version: tuple[int, int]) -> None:
    values = np.array([["red", ""], ["é", "\U0001f600"], ["a\x00b", "a" * 99]])

    for array in varieties(values):
        found = read(npy(array, version))

        assert found.dtype == object
        assert found.flags.c_contiguous
        assert found.tolist() == values.tolist()


@pytest.mark.parametrize(
    "header",
    [
        '{"shape": (2, 3), "descr": "<f4", "fortran_order": False}',
        "{ 'fortran_order':False , 'shape':(2,3,),\t'descr':'=f4' ,}\n",
        "{'descr': 'f4', 'fortran_order': False, 'shape': (2, 3)}" + " " * 4000,
    ],
)
def test_headers_of_other_writers(header: str) -> None:
    assert read(npy_of(header, X.tobytes())).tolist() == X.tolist()


def test_one_axis_and_none() -> None:
    assert read(npy(np.arange(3, dtype=np.int16))).tolist() == [0, 1, 2]
    assert read_header(npy(np.zeros((), np.int16))).shape == []
    assert read(npy(np.zeros((3, 0), np.int16))).shape == (3, 0)
    assert read(npy(np.array(["", ""]))).tolist() == ["", ""]


def test_values_in_their_own_form_are_not_copied() -> None:
    body = npy(X)

    assert np.shares_memory(read(body), np.frombuffer(body, np.uint8))


def test_a_boolean_of_another_byte_is_refused() -> None:
    body = npy(np.zeros(2, np.bool_))[:-1] + b"\x02"

    with pytest.raises(ModelportError, match="neither 0 nor 1"):
        read(body)


@pytest.mark.parametrize("array", [X, X[:0], X.T, np.float64(2), np.zeros((2, 1, 3), np.bool_)])
def test_what_is_written_numpy_reads(array: np.ndarray) -> None:
    found = np.load(io.BytesIO(write(np.asarray(array))), allow_pickle=False)

    assert found.dtype == array.dtype
    assert np.array_equal(found, array)
    assert found.shape == array.shape


def test_mutated_files() -> None:
    """Whatever bytes arrive, there is an array that fits or an error of ours."""
    chance = random.Random(1)
    codec = TypedNpyCodec(RECIPES["affine"]().signature, 64, 100_000)
    good = npy(X)
    taken = 0
    for _ in range(3000):
        body = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(140) if chance.random() < 0.8 else chance.randrange(len(body))
            body[at % len(body)] = chance.choice([0, 39, 44, 48, 57, 62, 123, 125, 255, 10, 92])
        if chance.random() < 0.2:
            del body[chance.randrange(len(body)) :]
        decoded = outcome(codec, bytes(body))
        if isinstance(decoded, ModelportError):
            assert decoded.status in (400, 413, 422), body
            assert str(decoded).isprintable(), body
            continue
        taken += 1
        assert decoded.inputs["x"].shape == (decoded.rows, 3)
        assert decoded.inputs["x"].dtype == np.float32
    assert taken > 0
