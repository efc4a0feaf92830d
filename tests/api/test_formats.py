"""Which wire format a request is in, and that all of them say the same."""

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api import predict, v2
from app.api.codecs import Decoded
from app.api.codecs.npy_tensor import TensorNpyCodec
from app.api.codecs.oip import OipCodec
from app.api.codecs.oip_binary import HEAD_LENGTH
from app.api.handler import InferenceRoute
from app.api.head import wire_format
from app.bundle.tensors import NUMPY_DTYPES, Array
from app.errors import RequestError
from app.settings import Settings
from tests.api.answers import ROWS, assert_refusal
from tests.api.binary import HEAD, divided, npy, npy_of, outputs, raw, tensor
from tests.api.repository import lone_signature

ROUTES = {
    "predict": InferenceRoute("predict", *predict.formats(Settings())),
    "infer": InferenceRoute("infer", *v2.formats(Settings())),
}
MEDIA_TYPES = {
    "predict": [b"application/json", b"text/csv", b"application/x-ndjson", b"application/x-npy",
                b"image/png", b"image/jpeg", b"image/webp"],
    "infer": [b"application/json", b"application/octet-stream", b"application/x-npy"],
}  # fmt: skip


@pytest.mark.parametrize("name", ROUTES)
def test_every_media_type_has_its_format(name: str) -> None:
    route = ROUTES[name]

    for media_type in MEDIA_TYPES[name]:
        for given_type in (media_type, media_type.upper(), b" " + media_type + b" ; q=1"):
            found = wire_format({b"content-type": given_type}, route.by_media_type)
            assert found is not None
            assert media_type in found.media_types
    assert {m for one in route.formats for m in one.media_types} == set(MEDIA_TYPES[name])


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_no_media_type_means_json(route: InferenceRoute) -> None:
    found = wire_format({}, route.by_media_type)

    assert found is not None
    assert found.media_types == (b"application/json",)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/models/affine/predict", ["text/csv", "application/x-ndjson", "application/x-npy"]),
        ("/models/grid/predict", ["application/x-ndjson", "application/x-npy"]),
        ("/models/conv/predict", [m.decode() for m in MEDIA_TYPES["predict"][1:]]),
        ("/v2/models/affine/infer", ["application/octet-stream", "application/x-npy"]),
    ],
)
def test_a_refusal_lists_what_the_model_takes(
    client: httpx.Client, path: str, more: list[str]
) -> None:
    response = client.post(path, content=b"<a/>", headers={"Content-Type": "text/xml"})

    body = assert_refusal(response, 415, "unsupported_media_type")
    listed = body["error"].removeprefix("send the body with one of these as its Content-Type: ")
    assert listed.split(", ") == ["application/json", *more]


def test_unknown_models_come_before_unknown_formats(client: httpx.Client) -> None:
    response = client.post("/models/nope/predict", json=ROWS, headers={"Content-Type": "text/xml"})

    assert_refusal(response, 404, "model_not_found")


@st.composite
def arrays(draw: st.DrawFn) -> tuple[str, Array]:
    """A datatype and an array of it, of values that JSON can say."""
    datatype = draw(st.sampled_from(sorted(NUMPY_DTYPES)))
    dtype = NUMPY_DTYPES[datatype]
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    if dtype.kind == "f":
        width = 8 * dtype.itemsize
        values = st.floats(allow_nan=False, allow_infinity=False, width=width)
    elif dtype.kind == "b":
        values = st.booleans()
    elif dtype.hasobject:
        # NumPy's own text loses NULs at its end.
        values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    else:
        values = st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    count = int(np.prod(shape))
    flat = np.empty(count, dtype)
    flat[:] = draw(st.lists(values, min_size=count, max_size=count))
    return datatype, flat.reshape(shape)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(arrays(), st.booleans())
def test_binary_npy_and_json_give_equal_arrays_and_answers(
    drawn: tuple[str, Array], fortran: bool
) -> None:
    datatype, array = drawn
    signature = lone_signature(datatype, *(f"n{axis}" for axis in range(1, array.ndim)))
    limits = {"max_rows": 100, "max_tensor_bytes": 1_000_000}
    tensors, file = OipCodec(signature, **limits), TensorNpyCodec(signature, **limits)
    in_json = {"name": "x", "datatype": datatype, "shape": list(array.shape),
               "data": array.ravel().tolist()}  # fmt: skip
    body, headers = divided({"inputs": [tensor("x", datatype, array)]}, raw(array))
    plain = array.astype(str) if datatype == "BYTES" else array
    saved = npy(np.asfortranarray(plain) if fortran else plain)

    found = [
        tensors.decode(tensors.parse(orjson.dumps({"inputs": [in_json]}), {})),
        tensors.decode(tensors.parse(body, {HEAD_LENGTH: headers[HEAD].encode()})),
        file.decode(file.parse(saved, {})),
    ]

    for decoded in found:
        got = decoded.inputs["x"]
        assert got.dtype == NUMPY_DTYPES[datatype]
        assert got.shape == array.shape
        assert raw(got) == raw(array)
    answers = [answer(tensors, found[0]), answer(tensors, found[1]), answer(file, found[2])]
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("sizes", [(0, 2**62), (0, 2**31, 2**31, 2**31), (0, 2**70), (2**40, 0)])
@pytest.mark.parametrize("form", ["json", "binary", "npy"])
def test_an_array_without_values_is_no_larger_than_others(sizes: list[int], form: str) -> None:
    signature = lone_signature("FP32", *(f"n{axis}" for axis in range(len(sizes))))
    item = {"name": "x", "datatype": "FP32", "shape": [1, *sizes]}
    data = {"data": []} if form == "json" else {"parameters": {"binary_data_size": 0}}
    body, headers = divided({"inputs": [item | data]})
    codec: OipCodec | TensorNpyCodec = OipCodec(signature, 100, 1000)
    if form == "npy":
        shape = f"(1, {', '.join(map(str, sizes))})"
        body = npy_of(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}")
        codec = TensorNpyCodec(signature, 100, 1000)
    given = {} if form == "json" else {HEAD_LENGTH: headers[HEAD].encode()}

    with pytest.raises(RequestError) as refused:
        codec.decode(codec.parse(body, given))

    assert refused.value.status in (400, 413)


def answer(codec: OipCodec | TensorNpyCodec, decoded: Decoded) -> bytes:
    outputs_of = {"y": decoded.inputs["x"]}
    return codec.encode(outputs_of, decoded, {"name": "m", "version": 1, "digest": ""}).body


@settings(max_examples=100, deadline=None, derandomize=True)
@given(arrays())
def test_raw_answers_hold_the_same_as_those_in_json(drawn: tuple[str, Array]) -> None:
    datatype, array = drawn
    codec = OipCodec(lone_signature(datatype, *array.shape[1:]), 100, 1_000_000)
    decoded = Decoded({}, len(array), {"id": None, "outputs": ("y",), "binary": ("y",)})

    content = codec.encode({"y": array}, decoded, {"name": "m", "version": 1, "digest": ""})

    head = int(dict(content.headers)[HEAD_LENGTH])
    found = outputs(content.body, head)["y"]
    assert raw(found) == raw(array)
    assert found.shape == array.shape
