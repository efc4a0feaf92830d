"""Typed rows as CSV and as JSON lines: the answers, and never less strict than JSON."""

import base64
import csv
import io
import json

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.api.codecs.csv_table import CsvCodec
from app.api.codecs.instances import InstancesCodec
from app.api.codecs.ndjson import NdjsonCodec
from app.bundle.signature import CategoryField, NumberField
from app.errors import ModelportError, ValidationFailed
from tests.api.answers import assert_refusal
from tests.support.bundles import RECIPES

CSV = "text/csv"
NDJSON = "application/x-ndjson"
INSTANCES = [{"a": 1.0, "b": 2.5, "c": -3.0}, {"a": 4e2, "b": 0.0, "c": 6.0}]
TABLE = "a,b,c\r\n1,2.5,-3\r\n4e2,-0,6.0\r\n"


def post(
    client: httpx.Client, model: str, media: str, content: str | bytes, **headers: str
) -> httpx.Response:
    return client.post(
        f"/models/{model}/predict",
        content=content,
        headers={"Content-Type": media} | headers,
    )


@pytest.mark.parametrize(
    ("media", "content"),
    [
        (CSV, TABLE),
        (CSV, TABLE.rstrip()),
        (CSV, TABLE.replace("\r\n", "\n")),
        (CSV, "\ufeff" + TABLE),
        (CSV, '"c","a","b"\n"-3",1,2.5\n6,"4e2",-0'),
        (f"{CSV}; header=present; charset=UTF-8", TABLE),
        (NDJSON, "\n".join(json.dumps(row) for row in INSTANCES)),
        (NDJSON, "\r\n".join(json.dumps(row) for row in INSTANCES) + "\r\n"),
    ],
)
def test_rows_are_answered_as_in_json(client: httpx.Client, media: str, content: str) -> None:
    wanted = client.post("/models/affine/predict", json={"instances": INSTANCES})

    response = post(client, "affine", media, content)

    assert response.headers["content-type"] == "application/json"
    assert response.json() == wanted.json()


class TestCsv:
    def test_quotes_commas_and_line_breaks(self, client: httpx.Client) -> None:
        content = 'text\n"a ""b"", c"\n"two\r\nlines"\n""\nplain\n'

        answered = post(client, "notes", CSV, content).json()

        texts = [{"text": text} for text in ('a "b", c', "two\r\nlines", "", "plain")]
        in_json = client.post("/models/notes/predict", json={"instances": texts})
        assert answered == in_json.json()

    def test_an_empty_cell_is_missing_where_it_may_be(self, client: httpx.Client) -> None:
        predictions = post(client, "survey", CSV, "colour\nred\n\n").json()["predictions"]

        assert [p["pigment"] for p in predictions] == ["vermilion", "unknown"]

    @pytest.mark.parametrize("required", [True, False])
    def test_missing_by_kind_of_field(self, required: bool) -> None:
        fields = (
            NumberField(name="a", tensor="x", column=0, required=required, nullable=True),
            NumberField(name="b", tensor="x", column=1),
            NumberField(name="c", tensor="x", column=2, required=False, nullable=True),
        )
        signature = RECIPES["affine"]().signature.model_copy(update={"fields": fields})

        table = CsvCodec(signature, 10).parse(b"a,b\n,2\n1,3\n", {})

        first = {"a": None, "b": 2.0} if required else {"b": 2.0}
        assert table.rows == [first, {"a": 1.0, "b": 3.0}]

    def test_a_picture_in_base64_is_a_cell(self, client: httpx.Client) -> None:
        picture = base64_png()

        answered = post(client, "conv", CSV, f"pixels\n{picture}\n").json()

        in_json = {"instances": [{"pixels": picture}]}
        assert answered == client.post("/models/conv/predict", json=in_json).json()

    def test_faults_tell_line_and_column(self, client: httpx.Client) -> None:
        content = 'text\n"two\nlines"\n' + "x" * 41 + "\n"

        body = assert_refusal(post(client, "notes", CSV, content), 422)

        (detail,) = body["details"]
        assert detail["loc"] == ["instances", 1, "text"]
        assert detail["msg"].startswith("line 4, column 1: ")
        assert body["error"] == f"instances.1.text: {detail['msg']}"

    def test_so_do_faults_of_values_that_do_not_fit(self, client: httpx.Client) -> None:
        body = assert_refusal(post(client, "affine", CSV, "c,b,a\n1,2,3\n1,1e39,3\n"), 422)

        assert body["details"][0]["msg"] == "line 3, column 2: Input does not fit FP32"

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("a,b,c\n1,2,3\n1,2\n", "line 3 has 2 cells, the first line names 3 fields"),
            ("a,b,c\n1,2,3,4\n", "line 2, column 4: there are only 3 fields"),
            ('a,b,c\n1,"2,3\n', "line 2, column 2: a cell with quotes"),
            ("a,b,b\n", "name 'b' appears twice in the first line"),
        ],
    )
    def test_faults_of_the_form_tell_it_too(
        self, client: httpx.Client, content: str, said: str
    ) -> None:
        body = assert_refusal(post(client, "affine", CSV, content), 400, "malformed_body")

        assert body["error"].startswith(said)

    def test_every_name_that_is_missing_is_told(self, client: httpx.Client) -> None:
        body = assert_refusal(post(client, "affine", CSV, "b\n1\n"), 422)

        assert [detail["loc"] for detail in body["details"]] == [["header", "a"], ["header", "c"]]

    def test_a_table_comes_back_where_it_is_accepted(self, client: httpx.Client) -> None:
        response = post(client, "strings", CSV, "colour\nred\nmauve\n", Accept=CSV)

        assert response.headers["content-type"] == CSV
        assert response.text == "pigment,id\r\nvermilion,2\r\nunknown,-1\r\n"

    def test_scores_are_a_column_a_label(self, client: httpx.Client) -> None:
        content = f"pixels\n{base64_png()}\n"

        response = post(client, "conv", CSV, content, Accept=CSV)

        (row,) = csv.DictReader(io.StringIO(response.text, newline=""))
        (wanted,) = post(client, "conv", CSV, content).json()["predictions"]
        scores = {f"scores.{name}": str(score) for name, score in wanted["scores"].items()}
        assert row == {"shape": wanted["shape"]} | scores

    def test_nested_predictions_stay_json(self, client: httpx.Client) -> None:
        response = post(client, "affine", CSV, TABLE, Accept=CSV)

        assert response.headers["content-type"] == "application/json"


class TestNdjson:
    def test_lines_come_back_where_they_are_accepted(self, client: httpx.Client) -> None:
        content = "\n".join(json.dumps(row) for row in INSTANCES)

        response = post(client, "affine", NDJSON, content, Accept=NDJSON)

        assert response.headers["content-type"] == NDJSON
        wanted = post(client, "affine", NDJSON, content).json()["predictions"]
        assert [json.loads(line) for line in response.text.splitlines()] == wanted

    def test_faults_of_all_lines_are_told(self, client: httpx.Client) -> None:
        body = assert_refusal(post(client, "affine", NDJSON, '{"a":1,"b":2}\n{}\n'), 422)

        missing = [[0, "c"], [1, "a"], [1, "b"], [1, "c"]]
        assert [detail["loc"][1:] for detail in body["details"]] == missing

    def test_at_most_twenty(self, client: httpx.Client) -> None:
        body = assert_refusal(post(client, "affine", NDJSON, "{}\n" * 60), 422)

        assert len(body["details"]) == 20

    def test_a_line_that_is_not_json_is_named(self, client: httpx.Client) -> None:
        body = assert_refusal(post(client, "affine", NDJSON, '{"a":1,"b":2,"c":3}\n{'), 400)

        assert body["error"].startswith("line 2: body is not valid JSON")

    def test_a_picture_in_base64(self, client: httpx.Client) -> None:
        line = json.dumps({"pixels": base64_png()})

        assert post(client, "conv", NDJSON, line).status_code == 200


def base64_png() -> str:
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def outcome(codec, body: bytes):
    """The rows that a codec takes, or the status and the places of its refusal."""
    try:
        document = codec.parse(body, {})
    except ValidationFailed as error:
        return 422, {detail.loc[1:3] for detail in error.details}
    except ModelportError as error:
        return error.status, None
    return document if isinstance(document, list) else document.rows


FIELDS = (
    NumberField(name="n", tensor="x", column=0, minimum=-5, maximum=5),
    NumberField(name="m", tensor="x", column=1, required=False, nullable=True),
    CategoryField(
        name="k", tensor="t", column=0, vocabulary=("red", "blue"), required=True, nullable=True
    ),
)
VALUES = st.none() | st.integers(-7, 7) | st.floats(-6, 6) | st.sampled_from(["red", "", 'x\n,"'])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["n", "m", "k", "z"]), VALUES, min_size=1),
        min_size=1,
        max_size=4,
    )
)
def test_json_lines_are_as_strict_as_json(rows: list[dict[str, object]]) -> None:
    signature = _unchecked()
    body = "\n".join(json.dumps(row) for row in rows).encode()

    wanted = outcome(InstancesCodec(signature, 10), json.dumps({"instances": rows}).encode())

    assert outcome(NdjsonCodec(signature, 10), body) == wanted


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.fixed_dictionaries(dict.fromkeys("nmk", VALUES)), min_size=1, max_size=4))
def test_tables_are_as_strict_as_json(rows: list[dict[str, object]]) -> None:
    """A table has no types: a text of digits is a number where the field is one."""
    signature = _unchecked()
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer)
    table.writerow("nmk")
    table.writerows([_cell(row[name]) for name in "nmk"] for row in rows)
    instances = [
        {name: row[name] for name in "nmk" if not (name == "m" and _cell(row[name]) == "")}
        | {"k": _cell(row["k"]) or None}
        | ({"n": ""} if _cell(row["n"]) == "" else {})
        for row in rows
    ]

    found = outcome(CsvCodec(signature, 10), buffer.getvalue().encode())

    assert found == outcome(
        InstancesCodec(signature, 10), json.dumps({"instances": instances}).encode()
    )


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _unchecked():
    """Fields of several kinds on tensors that nothing runs."""
    base = RECIPES["affine"]().signature
    inputs = (
        base.inputs[0].model_copy(update={"shape": ("batch", 2)}),
        base.inputs[0].model_copy(update={"name": "t", "datatype": "BYTES", "shape": ("batch", 1)}),
    )
    return base.model_copy(update={"inputs": inputs, "fields": FIELDS})
