"""Fields named as people name the columns of their tables, in every typed form."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from openapi_spec_validator import validate

from app.bundle.signature import NumberField
from app.settings import Settings
from tests.support.bundles import RECIPES, make_bundle

TRIPLES = [
    ("body mass (g)", "Länge", "a,b"),
    ('say "cm"', "x: {y}[0]", "__class__"),
    ("<numbers>", "instances", "身長/体重"),
    ("1", "ß" * 128, "a b"),
]
VALUES = (1.0, 2.5, -3.0)


@pytest.fixture(params=TRIPLES, ids=lambda names: names[0])
def names(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    found: tuple[str, str, str] = request.param
    return found


@pytest.fixture(scope="module")
def named(connect, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with a model of plain names, and one for each three others."""
    root = tmp_path_factory.mktemp("models")
    plain = RECIPES["affine"]().signature
    make_bundle(root, "plain", "affine", signature=plain)
    for names in TRIPLES:
        fields = tuple(
            NumberField(name=name, tensor="x", column=column, maximum=100)
            for column, name in enumerate(names)
        )
        signature = plain.model_copy(update={"fields": fields})
        make_bundle(root, _model(names), "affine", signature=signature)
    with ExitStack() as stack:
        yield connect(stack, Settings(models=root, provider=("cpu",)))


def _model(names: tuple[str, str, str]) -> str:
    return f"named-{TRIPLES.index(names)}"


def _address(names: tuple[str, str, str]) -> str:
    return f"/models/{_model(names)}/predict"


def _answers(
    client: httpx.Client, names: tuple[str, str, str], body: str, media: str
) -> list[dict[str, object]]:
    response = client.post(_address(names), content=body.encode(), headers={"Content-Type": media})
    assert response.status_code == 200, response.text
    predictions: list[dict[str, object]] = response.json()["predictions"]
    return predictions


def test_json_csv_and_lines_answer_as_plain_names_do(
    named: httpx.Client, names: tuple[str, str, str]
) -> None:
    plain = {"instances": [dict(zip("abc", VALUES, strict=True))]}
    row = dict(zip(names, VALUES, strict=True))
    table = io.StringIO()
    csv.writer(table).writerows([names, VALUES])

    wanted = named.post("/models/plain/predict", json=plain).json()["predictions"]

    assert _answers(named, names, json.dumps({"instances": [row]}), "application/json") == wanted
    assert _answers(named, names, table.getvalue(), "text/csv") == wanted
    assert _answers(named, names, json.dumps(row), "application/x-ndjson") == wanted


def test_a_fault_is_placed_by_the_whole_name(
    named: httpx.Client, names: tuple[str, str, str]
) -> None:
    for _at, name in enumerate(names):
        row = dict(zip(names, VALUES, strict=True)) | {name: 1000}

        response = named.post(_address(names), json={"instances": [row]})

        assert response.status_code == 422
        assert response.json()["details"][0]["loc"] == ["instances", 0, name]
        assert "less than or equal to 100" in response.json()["error"]


def test_a_name_that_is_missing_or_twice_is_refused(
    named: httpx.Client, names: tuple[str, str, str]
) -> None:
    first, *others = names
    row = dict.fromkeys(others, 1.0)
    twice = json.dumps({"instances": [row | {first: 1}]})
    twice = twice.replace(f"{json.dumps(first)}: 1", ", ".join([f"{json.dumps(first)}: 1"] * 2))

    missing = named.post(_address(names), json={"instances": [row]})
    doubled = named.post(
        _address(names), content=twice, headers={"Content-Type": "application/json"}
    )

    assert missing.status_code == 422
    assert missing.json()["details"][0]["loc"] == ["instances", 0, first]
    assert doubled.status_code == 400
    assert "appears twice" in doubled.json()["error"]


def test_the_document_has_the_names_and_an_example_that_is_answered(
    named: httpx.Client, names: tuple[str, str, str]
) -> None:
    document = named.get("/openapi.json").json()

    validate(document)
    schemas = [
        schema
        for schema in document["components"]["schemas"].values()
        if list(schema.get("properties", ())) == list(names)
    ]
    assert [schema["required"] for schema in schemas] == [list(names)]


def test_metrics_are_readable_after_such_a_request(
    named: httpx.Client, names: tuple[str, str, str]
) -> None:
    _answers(
        named, names, json.dumps(dict(zip(names, VALUES, strict=True))), "application/x-ndjson"
    )

    lines = named.get("/metrics").text.splitlines()

    assert any(line.startswith("modelport_") and _model(names) in line for line in lines)
