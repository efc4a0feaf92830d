"""The document says exactly what the service does."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from app.api.openapi import example_instance, unique_names
from app.bundle.signature import IntegerField, NumberField, Signature, TextField
from tests.api.bad_formats import FORMAT_CASES
from tests.api.bad_inputs import CASES, Case, operation
from tests.api.conftest import MakeClient
from tests.support.bundles import RECIPES, make_bundle

OPERATION_IDS = Path(__file__).parent / "operation_ids.txt"
METHODS = {"get", "post", "put", "delete", "patch", "head", "options", "trace"}


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    return client.get("/openapi.json").json()


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    """Of a schema inside the document; its references are followed."""
    return Draft202012Validator(schema | {"components": document["components"]})


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, item)
        for path, methods in document["paths"].items()
        for method, item in methods.items()
        if method in METHODS
    ]


def body_schema(response: dict[str, Any]) -> dict[str, Any]:
    return response["content"]["application/json"]["schema"]


def walk(node: Any):
    yield node
    if isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from walk(child)


@pytest.mark.slow
def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_nothing_is_an_alternative_to_null(document: dict[str, Any]) -> None:
    for node in walk(document):
        if isinstance(node, dict):
            for word in ("anyOf", "oneOf"):
                assert {"type": "null"} not in node.get(word, [])


def test_operation_ids_are_unique_and_stable(document: dict[str, Any]) -> None:
    ids = [item["operationId"] for _, _, item in operations(document)]

    assert len({name.lower() for name in ids}) == len(ids)
    assert sorted(ids) == OPERATION_IDS.read_text().split()


def test_requests_and_answers_are_named_after_the_model(document: dict[str, Any]) -> None:
    post = document["paths"]["/models/conv/predict"]["post"]

    assert body_schema(post["requestBody"]) == {"$ref": "#/components/schemas/ConvRequest"}
    assert body_schema(post["responses"]["200"]) == {"$ref": "#/components/schemas/ConvResponse"}
    assert {"ConvInstance", "ConvPrediction"} <= set(document["components"]["schemas"])


def test_two_names_that_become_one_identifier_are_kept_apart(document: dict[str, Any]) -> None:
    references = {
        path: body_schema(document["paths"][f"/models/{path}/predict"]["post"]["requestBody"])[
            "$ref"
        ]
        for path in ("plan-b", "plan.b")
    }

    assert references["plan-b"].endswith("/PlanBRequest")
    assert references["plan.b"].endswith("/PlanB2Request")


@pytest.mark.parametrize(
    "models",
    [
        ["a-b", "a.b", "a_b"],
        ["a_b_2", "a_b2", "a-b-2"],
        ["foo", "foo_version", "foo.version"],
        ["AB", "ab", "a-b"],
        ["1", "model_1", "model-1"],
        ["x1", "x_1"],
    ],
)
def test_no_two_models_share_a_word_of_the_document(models: list[str]) -> None:
    for order in itertools.permutations(models):
        names = unique_names(order)

        words = [w for n in names.values() for w in (n, f"{n}_version")]
        titles = ["".join(part.capitalize() for part in n.split("_")) for n in names.values()]
        assert len(set(words)) == len(words), names
        assert len({title.lower() for title in titles}) == len(titles), names


def test_a_model_named_like_one_of_our_schemas_does_not_replace_it(
    make_client: MakeClient, tmp_path: Path
) -> None:
    for name in ("infer", "label", "v2", "tensor"):
        make_bundle(tmp_path, name, "affine")

    found = make_client(models=tmp_path).get("/openapi.json").json()

    schemas = found["components"]["schemas"]
    assert "inputs" in schemas["InferRequest"]["properties"]
    assert "labels" in schemas["LabelPrediction"]["properties"]
    assert "instances" in schemas["Infer2Request"]["properties"]


def examples(document: dict[str, Any]) -> list[tuple[str, Any, dict[str, Any]]]:
    found = []
    for path, method, item in operations(document):
        if method == "post":
            media = item["requestBody"]["content"]["application/json"]
            for version in (1, 2) if "{version}" in path and "/affine/" in path else (1,):
                found.append((path.replace("{version}", str(version)), media["example"], item))
    return found


def test_every_example_fits_its_schema_and_is_answered_as_documented(
    client: httpx.Client, document: dict[str, Any]
) -> None:
    found = examples(document)
    assert len(found) > 40
    for path, example, item in found:
        validator(document, body_schema(item["requestBody"])).validate(example)

        response = client.post(path, json=example)

        assert response.status_code == 200, (path, example, response.text)
        validator(document, body_schema(item["responses"]["200"])).validate(response.json())


@pytest.mark.parametrize("path", ["/models", "/models/affine", "/models/conv", "/models/ranged",
                                  "/models/survey", "/v2", "/v2/models/affine", "/health/live",
                                  "/health/ready", "/v2/health/live", "/v2/models/affine/ready",
                                  "/v2/models/affine/versions/1/ready"])  # fmt: skip
def test_every_other_answer_fits_its_schema(
    client: httpx.Client, document: dict[str, Any], path: str
) -> None:
    documented = re.sub(r"/versions/\d", "/versions/{version}", path)
    documented = re.sub(r"/models/\w+", "/models/{name}", documented)
    schema = body_schema(document["paths"][documented]["get"]["responses"]["200"])

    validator(document, schema).validate(client.get(path).json())


def documented_cases(document: dict[str, Any]) -> list[tuple[Case, dict[str, Any]]]:
    """Those of the table that are sent to a documented operation."""
    found = []
    for case in [*CASES, *FORMAT_CASES]:
        path = operation(case, document["paths"])
        if path is not None and case.method.lower() in document["paths"][path]:
            found.append((case, document["paths"][path][case.method.lower()]))
    return found


class TestErrors:
    def test_every_status_of_the_table_is_documented(
        self, client: httpx.Client, document: dict[str, Any]
    ) -> None:
        cases = documented_cases(document)
        assert len(cases) > 300
        assert {case.status for case, _ in cases} >= {400, 404, 413, 415, 422}
        checks: dict[str, Draft202012Validator] = {}
        for case, item in cases:
            assert str(case.status) in item["responses"], case
            schema = body_schema(item["responses"][str(case.status)])
            check = checks.setdefault(json.dumps(schema), validator(document, schema))
            headers = {"Content-Type": "application/json"} | case.headers
            answer = client.request(case.method, case.path, content=case.body, headers=headers)
            assert answer.status_code == case.status, (case, answer.text)
            check.validate(answer.json())

    @pytest.mark.parametrize("path", ["/models/nope", "/v2/models/nope", "/v2/models/nope/ready"])
    def test_so_are_those_of_the_other_routes(
        self, client: httpx.Client, document: dict[str, Any], path: str
    ) -> None:
        item = document["paths"][path.replace("nope", "{name}")]["get"]

        validator(document, body_schema(item["responses"]["404"])).validate(client.get(path).json())

    def test_no_ordinary_route_promises_a_422_that_it_never_gives(
        self, document: dict[str, Any]
    ) -> None:
        for path, method, item in operations(document):
            assert ("422" in item["responses"]) == (method == "post" and "/v2/" not in path), path


# Where JSON schema and the service differ, and why:
# - JSON schema calls 1.0 an integer; the service does not take a float where it wants a whole
#   number. Whole floats are therefore not generated for integers.
# - JSON schema has no largest number; the service refuses what does not fit the tensor's datatype.
#   Numbers are generated within FP32.
# - contentEncoding is an annotation for JSON schema; the service decodes pictures. Encoded pictures
#   are therefore not generated.
NUMBERS = st.integers(-10, 10) | st.floats(-1e30, 1e30)
BROKEN = st.sampled_from([None, True, "", "1", [], {}, [1], -6, 7.5, 0, "x" * 41, "red", 2**70])


def fits(field: str, model: str) -> st.SearchStrategy[Any]:
    match model, field:
        case "poison", _:
            return st.integers(-4, 3)
        case "strings", _:
            return st.text(max_size=30) | st.sampled_from(["red", "green"])
        case "survey", _:
            return st.sampled_from(["red", "green", "blue", None])
        case "notes", _:
            return st.text(max_size=40)
        case "ranged", "a":
            return NUMBERS.map(lambda x: abs(x) + 1)
        case "ranged", "b":
            return st.integers(-(2**24), 2**24)
        case "ranged", "c":
            return st.floats(-5, 5)
        case "conv" | "grid", _:
            whole = st.integers(0, 16)
            return st.lists(st.lists(whole, min_size=8, max_size=8), min_size=8, max_size=8)
        case _:
            return NUMBERS


FIELDS = {
    "affine": ("a", "b", "c"), "poison": ("index",), "strings": ("colour",), "survey": ("colour",),
    "notes": ("text",), "ranged": ("a", "b", "c"), "conv": ("pixels",), "grid": ("pixels",),
}  # fmt: skip


def is_picture(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, list) for v in value)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, Any]:
    """A model and a body: good, or broken in a place or two."""
    model = draw(st.sampled_from(sorted(FIELDS)))
    rows = draw(st.integers(1, 3))
    instances = [{f: draw(fits(f, model)) for f in FIELDS[model]} for _ in range(rows)]
    body: Any = {"instances": instances}
    for _ in range(draw(st.integers(0, 2))):
        row = draw(st.sampled_from(instances))
        field = draw(st.sampled_from(FIELDS[model]))
        match draw(st.integers(0, 6)):
            case 0:
                row.pop(field, None)
            case 1:
                row["other"] = 1
            case 2:
                body["other"] = draw(BROKEN)
            case 3 if is_picture(row.get(field)):
                line = draw(st.sampled_from(row[field]))
                line[draw(st.integers(0, 7))] = draw(
                    st.sampled_from([17, -1, None, "1", True, [0]])
                )
                break
            case 4 if is_picture(row.get(field)):
                draw(st.sampled_from(row[field])).append(0)
                break
            case _:
                row[field] = draw(BROKEN)
    return model, body


class Checks:
    """What the document says of each model's requests.

    A failing example shows every argument: a validator would show the whole document.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        schemas = "#/components/schemas/"
        self._by_model = {
            model: validator(document, {"$ref": f"{schemas}{model.capitalize()}Request"})
            for model in FIELDS
        }

    def agree(self, model: str, body: Any) -> bool:
        return self._by_model[model].is_valid(body)


@pytest.fixture(scope="module")
def checks(document: dict[str, Any]) -> Checks:
    return Checks(document)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(request=requests())
def test_the_schema_and_the_service_agree(
    client: httpx.Client, checks: Checks, request: tuple[str, Any]
) -> None:
    model, body = request
    if model == "conv" and any(isinstance(row.get("pixels"), str) for row in body["instances"]):
        return

    response = client.post(f"/models/{model}/predict", json=body)

    wanted = _answer(model, body) if checks.agree(model, body) else 422
    assert response.status_code == wanted, (model, body, response.text)


def _answer(model: str, body: Any) -> int:
    """What these graphs make of a body that was taken: some fail on it, or give NaN."""
    for row in body["instances"]:
        if model == "poison" and not -4 <= row["index"] <= 3:
            return 500
        if model == "ranged" and row.get("b") is None:
            return 500
    return 200


@pytest.mark.parametrize(
    "field",
    [
        NumberField(name="a", tensor="x", column=0, minimum=5),
        NumberField(name="a", tensor="x", column=0, maximum=-5),
        NumberField(name="a", tensor="x", column=0, minimum=-9, maximum=9),
        IntegerField(name="a", tensor="x", column=0, minimum=5),
        IntegerField(name="a", tensor="x", column=0, maximum=-5),
    ],
)
def test_a_made_up_example_is_within_its_range(field: NumberField | IntegerField) -> None:
    value = example_instance(_lone(field))["a"]

    assert value >= (value if field.minimum is None else field.minimum)
    assert value <= (value if field.maximum is None else field.maximum)


def _lone(field: NumberField | IntegerField) -> Signature:
    """A signature, unchecked, of one field."""
    return RECIPES["affine"]().signature.model_copy(update={"fields": (field,)})


def test_a_made_up_text_is_short_enough() -> None:
    field = TextField(name="t", tensor="colour", max_length=2)
    signature = RECIPES["strings"]().signature.model_copy(update={"fields": (field,)})

    assert example_instance(signature) == {"t": "te"}


class TestDocs:
    def test_the_page_reaches_no_other_host(self, client: httpx.Client) -> None:
        page = client.get("/docs").text

        assert "swagger-ui" in page
        references = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)""", page)
        assert len(references) >= 3
        for reference in references:
            assert reference.startswith("/"), reference
            assert not reference.startswith("//"), reference
            assert client.get(reference).status_code == 200, reference

    def test_they_can_be_switched_off(self, make_client: MakeClient) -> None:
        client = make_client(docs=False)

        for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"):
            assert client.get(path).status_code == 404, path
        assert client.get("/health/ready").status_code == 200
