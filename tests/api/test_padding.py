"""Text and series of different lengths in one request, by every way in which they come."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from app.api.codecs.instances import InstancesCodec
from app.api.schemas import example_instance, field_schema
from app.bundle.golden import Golden
from app.bundle.manifest import Batching
from app.bundle.padding import padded_series, padded_texts
from app.bundle.signature import (
    SeriesField,
    Signature,
    TensorPrediction,
    TensorSpec,
    TextField,
    ValuePrediction,
)
from app.errors import ModelportError
from app.settings import Settings
from tests.api.answers import assert_refusal
from tests.api.binary import npy
from tests.support import models
from tests.support.bundles import make_bundle

MOST = 100
TEXTS = ("a", "ab" * 20, "", "日本")
WALKS = ([[1.0, 2.0]] * 3, [[0.5, -1.0]] * 20)


def spec(name: str, datatype: Any, *dims: int | str) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=("batch", *dims))


WORDS = Signature(
    inputs=(spec("text", "UINT8", "length"),),
    outputs=(spec("size", "FP32"), spec("total", "FP32")),
    fields=(TextField(name="text", tensor="text", max_length=MOST, example="hello"),),
    predictions=(
        ValuePrediction(name="size", tensor="size"),
        ValuePrediction(name="total", tensor="total"),
    ),
)
STEPS = Signature(
    inputs=(spec("walk", "FP32", "length", 2),),
    outputs=(spec("way", "FP32", 2),),
    fields=(
        SeriesField(
            name="walk",
            tensor="walk",
            channels=("east", "north"),
            minimum_length=2,
            maximum_length=30,
            description="Steps",
        ),
    ),
    predictions=(TensorPrediction(name="way", tensor="way"),),
)


def publish(
    root: Path, name: str, signature: Signature, inputs: dict[str, Any], as_name: str | None = None
) -> None:
    golden = Golden(inputs, getattr(models, name)(inputs))
    make_bundle(
        root,
        as_name or name,
        model_data=models.model_bytes(name),
        golden=golden,
        signature=signature,
        batching=Batching(row_independent=True, max_rows=16, checked_rows=(1, 2, 16)),
        tolerances={"fp32": {}, "reduced": {}},
    )


@pytest.fixture(scope="module")
def client(connect: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    root = tmp_path_factory.mktemp("padding")
    publish(root, "words", WORDS, {"text": padded_texts(TEXTS)})
    long = WORDS.fields[0].model_copy(update={"max_length": 100_000})
    publish(
        root,
        "words",
        WORDS.model_copy(update={"fields": (long,)}),
        {"text": padded_texts(TEXTS)},
        as_name="novels",
    )
    publish(root, "steps", STEPS, {"walk": padded_series(WALKS, 2)})
    with ExitStack() as stack:
        yield connect(stack, Settings(models=root, provider=("cpu",)))


def answers(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


def sums(text: str) -> dict[str, float]:
    return {"size": float(len(text.encode())), "total": float(sum(text.encode()))}


def test_texts_of_all_lengths_are_answered_together(client: httpx.Client) -> None:
    texts = [*TEXTS, "x" * MOST]

    got = client.post("/models/words/predict", json={"instances": [{"text": t} for t in texts]})

    assert answers(got) == [sums(text) for text in texts]


def test_so_are_series(client: httpx.Client) -> None:
    body = {"instances": [{"walk": walk} for walk in WALKS]}

    got = answers(client.post("/models/steps/predict", json=body))

    assert [row["way"] for row in got] == [[3, 6], [10, -20]]


@pytest.mark.parametrize(
    ("media", "content"),
    [
        ("text/csv", 'text\n"ab, ""c"\nd\n'),
        ("application/x-ndjson", '{"text": "ab, \\"c"}\n{"text": "d"}\n'),
    ],
)
def test_tables_and_lines_of_text(client: httpx.Client, media: str, content: str) -> None:
    headers = {"Content-Type": media}

    got = client.post("/models/words/predict", content=content, headers=headers)

    assert answers(got) == [sums('ab, "c'), sums("d")]


def test_series_are_no_cells(client: httpx.Client) -> None:
    headers = {"Content-Type": "text/csv"}

    got = client.post("/models/steps/predict", content="walk\n1\n", headers=headers)

    assert_refusal(got, 415, "unsupported_media_type")


@pytest.mark.parametrize("length", [1, 5, 32, 50])
def test_tensors_are_taken_as_they_are(client: httpx.Client, length: int) -> None:
    row = [7] * length + [0] * 3
    tensor = {"name": "text", "datatype": "UINT8", "shape": [1, length + 3], "data": row}

    # Twice, as a document that is known comes another way.
    for _ in range(2):
        got = client.post("/v2/models/words/infer", json={"inputs": [tensor]})

        assert got.status_code == 200, got.text
        sizes = {one["name"]: one["data"] for one in got.json()["outputs"]}
        assert sizes == {"size": [length], "total": [7 * length]}


def test_an_array_of_steps_is_held_to_the_field(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/x-npy"}
    good = padded_series(WALKS, 2)
    hole, short = good.copy(), good.copy()
    hole[1, 3] = np.nan
    short[0, 1:] = np.nan

    taken = client.post("/models/steps/predict", content=npy(good), headers=headers)

    assert [row["way"] for row in answers(taken)] == [[3, 6], [10, -20]]
    for array, row in ((hole, 1), (short, 0)):
        refused = client.post("/models/steps/predict", content=npy(array), headers=headers)
        body = assert_refusal(refused, 422, "validation_failed")
        assert body["details"][0]["loc"] == ["instances", row, "walk"]
        assert "2 to 30 steps" in body["error"]


@pytest.mark.parametrize(
    "row", [b"\xff\xfe", b"a\0b", "é".encode() * (MOST + 1)], ids=["not UTF-8", "NUL", "long"]
)
def test_so_is_an_array_of_bytes(client: httpx.Client, row: bytes) -> None:
    headers = {"Content-Type": "application/x-npy"}
    good = np.frombuffer("é".encode() * MOST, np.uint8)
    content = npy(np.frombuffer(row, np.uint8)[None])

    taken = client.post("/models/words/predict", content=npy(good[None]), headers=headers)
    refused = client.post("/models/words/predict", content=content, headers=headers)

    assert answers(taken)[0]["size"] == 2 * MOST
    assert "UTF-8 of at most 100" in assert_refusal(refused, 422, "validation_failed")["error"]


@pytest.mark.parametrize(
    ("model", "value", "place", "said"),
    [
        ("words", "a\0b", ["text"], "no NUL"),
        ("words", "x" * (MOST + 1), ["text"], "100 characters"),
        ("words", None, ["text"], "string"),
        ("words", 1, ["text"], "string"),
        ("steps", [[1, 2]], ["walk"], "at least 2"),
        ("steps", [[1, 2]] * 31, ["walk"], "at most 30"),
        ("steps", [[1, 2], [1]], ["walk", 1], "at least 2"),
        ("steps", [[1, 2], [1, 2, 3]], ["walk", 1], "at most 2"),
        ("steps", [[1, 2], [1, None]], ["walk", 1, 1], "number"),
        ("steps", [[1, 2], [1, "2"]], ["walk", 1, 1], "number"),
        ("steps", [[1, 2], [1, 1e39]], ["walk"], "does not fit FP32"),
        ("steps", [1, 2], ["walk", 0], "array"),
        ("steps", "AAAA", ["walk"], "array"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(
    client: httpx.Client, model: str, value: Any, place: list[Any], said: str
) -> None:
    field = {"words": "text", "steps": "walk"}[model]
    good = {"words": "a", "steps": [[1, 2], [3, 4]]}[model]
    body = {"instances": [{field: good}, {field: value}]}

    got = client.post(f"/models/{model}/predict", json=body)

    refusal = assert_refusal(got, 422, "validation_failed")
    assert refusal["details"][0]["loc"] == ["instances", 1, *place]
    assert said in refusal["error"]


def test_one_long_text_among_many_short_ones_is_refused(client: httpx.Client) -> None:
    texts = ["x" * 90_000, *["y"] * 200]

    got = client.post("/models/novels/predict", json={"instances": [{"text": t} for t in texts]})

    assert "padded to the longest" in assert_refusal(got, 413, "payload_too_large")["error"]
    alone = client.post("/models/novels/predict", json={"instances": [{"text": texts[0]}]})
    assert answers(alone)[0]["size"] == 90_000


@pytest.mark.parametrize("model", ["words", "steps"])
def test_documented_examples_are_answered(client: httpx.Client, model: str) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path in (f"/models/{model}/predict", f"/v2/models/{model}/infer"):
        example = paths[path]["post"]["requestBody"]["content"]["application/json"]["example"]

        assert client.post(path, json=example).status_code == 200, path


def test_a_text_and_a_series_are_described(client: httpx.Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]

    text = schemas["WordsInstance"]["properties"]["text"]
    walk = schemas["StepsInstance"]["properties"]["walk"]
    assert (text["maxLength"], text["type"]) == (MOST, "string")
    assert (walk["minItems"], walk["maxItems"]) == (2, 30)
    assert (walk["items"]["minItems"], walk["items"]["maxItems"]) == (2, 2)
    assert walk["description"] == "Steps. Steps, each with: east, north."
    assert example_instance(STEPS) == {"walk": [[0, 0], [0, 0]]}


VALUES = (
    st.text(max_size=MOST + 2)
    | st.text("\0\n日a", max_size=5)
    | st.lists(st.lists(st.integers(-3, 3) | st.none(), min_size=1, max_size=3), max_size=32)
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(value=VALUES, signature=st.sampled_from([WORDS, STEPS]))
def test_the_schema_says_what_the_codec_does(value: Any, signature: Signature) -> None:
    (field,) = signature.fields
    schema = Draft202012Validator(field_schema(field, signature))
    codec = InstancesCodec(signature, 10)

    try:
        taken = codec.parse(json.dumps({"instances": [{field.name: value}]}).encode(), {})
    except ModelportError:
        taken = None

    assert (taken is not None) == schema.is_valid(value)
