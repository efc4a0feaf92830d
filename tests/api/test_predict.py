"""The typed routes: right answers to good requests."""

import base64
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from app.settings import Settings
from tests.api.answers import ROW, ROW_TOTAL, ROW_Y, ROWS, affine_answer, assert_refusal
from tests.api.conftest import MakeClient
from tests.support import models
from tests.support.bundles import make_bundle, make_golden


def predict(client: httpx.Client, model: str, *instances: object) -> list[dict[str, object]]:
    response = client.post(f"/models/{model}/predict", json={"instances": list(instances)})
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


def test_a_row_gets_its_answer_and_the_model_that_gave_it(client: httpx.Client) -> None:
    response = client.post("/models/affine/predict", json=ROWS)

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body["predictions"] == [{"y": pytest.approx(ROW_Y), "total": pytest.approx(ROW_TOTAL)}]
    assert set(body) == {"predictions", "model"}
    assert body["model"]["name"] == "affine"
    assert body["model"]["version"] == 2
    assert re.fullmatch("[0-9a-f]{64}", body["model"]["digest"])


def test_float32_numbers_are_written_short(client: httpx.Client) -> None:
    assert '"y":[-1.15,7.3]' in client.post("/models/affine/predict", json=ROWS).text


@pytest.mark.parametrize("rows", [2, 16, 17, 63, 64])
def test_rows_come_back_in_order_when_a_request_is_cut_into_runs(
    client: httpx.Client, rows: int
) -> None:
    instances = [{"a": float(n), "b": -n / 2, "c": 1.0} for n in range(rows)]

    predictions = predict(client, "affine", *instances)

    wanted = [affine_answer(**instance) for instance in instances]
    assert np.allclose([p["y"] for p in predictions], [w["y"] for w in wanted], atol=1e-4)


def test_more_rows_than_a_request_may_have_are_refused(client: httpx.Client) -> None:
    response = client.post("/models/affine/predict", json={"instances": [ROW] * 65})

    body = assert_refusal(response, 413, "payload_too_large")
    assert "64" in body["error"]


def test_a_model_whose_rows_depend_on_each_other_takes_one_run(client: httpx.Client) -> None:
    rows = np.array([[1.0, 2.0, 3.0], [3.0, 6.0, 9.0]])

    predictions = predict(client, "mixer", *(dict(zip("abc", r, strict=True)) for r in rows))

    assert np.allclose([p["y"] for p in predictions], [[-1, -2, -3], [1, 2, 3]])
    too_many = client.post("/models/mixer/predict", json={"instances": [ROW] * 17})
    assert_refusal(too_many, 413, "payload_too_large")


def test_versions_are_addressed_by_number(client: httpx.Client) -> None:
    first, second = (
        client.post(f"/models/affine/versions/{version}/predict", json=ROWS).json()["model"]
        for version in (1, 2)
    )

    assert (first["version"], second["version"]) == (1, 2)
    assert first["digest"] != second["digest"]


@pytest.mark.parametrize("version", ["3", "0", "01", "1.0", "+1", "-1", "latest", "1_0", "१"])
def test_a_version_that_is_not_loaded_is_not_found(client: httpx.Client, version: str) -> None:
    response = client.post(f"/models/affine/versions/{version}/predict", json=ROWS)

    assert "loaded: 2, 1" in assert_refusal(response, 404, "model_not_found")["error"]


def test_an_unknown_model_is_not_found_and_the_known_are_named(client: httpx.Client) -> None:
    body = assert_refusal(client.post("/models/nope/predict", json=ROWS), 404, "model_not_found")

    assert "affine, conv" in body["error"]


def test_several_models_without_a_default_need_a_name(client: httpx.Client) -> None:
    body = assert_refusal(client.post("/predict", json=ROWS), 404, "model_required")

    assert "affine, conv, grid" in body["error"]


def test_the_default_model_answers_without_a_name(make_client: MakeClient) -> None:
    response = make_client(default_model="strings").post(
        "/predict", json={"instances": [{"colour": "blue"}]}
    )

    assert response.json()["predictions"] == [{"pigment": "azurite", "id": 0}]


def test_the_only_model_is_the_default(connect, tmp_path: Path) -> None:
    make_bundle(tmp_path, "lonely", "affine")
    with ExitStack() as stack:
        client = connect(stack, Settings(models=tmp_path, provider=("cpu",)))

        response = client.post("/predict", json=ROWS)

    assert response.json()["model"]["name"] == "lonely"
    assert response.json()["predictions"][0]["y"] == pytest.approx(ROW_Y)


class TestCategories:
    def test_known_values_are_answered(self, client: httpx.Client) -> None:
        answers = predict(client, "strings", {"colour": "green"}, {"colour": "red"})

        assert answers == [{"pigment": "malachite", "id": 1}, {"pigment": "vermilion", "id": 2}]

    @pytest.mark.parametrize("colour", ["mauve", "", "RED", "red ", "red\x00", "赤", "é\n\t'\""])
    def test_a_foreign_value_is_unknown_where_the_field_accepts_it(
        self, client: httpx.Client, colour: str
    ) -> None:
        assert predict(client, "strings", {"colour": colour}) == [{"pigment": "unknown", "id": -1}]

    @pytest.mark.parametrize("colour", ["mauve", "", "RED", "red ", "red\x00"])
    def test_a_foreign_value_is_refused_where_it_does_not(
        self, client: httpx.Client, colour: str
    ) -> None:
        response = client.post("/models/survey/predict", json={"instances": [{"colour": colour}]})

        body = assert_refusal(response, 422, "validation_failed")
        assert body["details"][0]["loc"] == ["instances", 0, "colour"]

    @pytest.mark.parametrize("instance", [{}, {"colour": None}])
    def test_missing_and_null_mean_the_same(
        self, client: httpx.Client, instance: dict[str, None]
    ) -> None:
        assert predict(client, "survey", instance, {"colour": "blue"}) == [
            {"pigment": "unknown", "id": -1},
            {"pigment": "azurite", "id": 0},
        ]

    @pytest.mark.parametrize("instance", [{}, {"colour": None}])
    def test_a_required_field_may_be_neither(
        self, client: httpx.Client, instance: dict[str, None]
    ) -> None:
        response = client.post("/models/strings/predict", json={"instances": [instance]})

        assert_refusal(response, 422, "validation_failed")


def test_text_reaches_the_graph_as_it_is(client: httpx.Client) -> None:
    assert predict(client, "notes", {"text": "red"}, {"text": "r" * 40}) == [
        {"pigment": "vermilion", "id": 2},
        {"pigment": "unknown", "id": -1},
    ]


def test_whole_numbers_fill_float_columns(client: httpx.Client) -> None:
    (answer,) = predict(client, "ranged", {"a": 1, "b": 2, "c": 3})

    assert answer["y"] == pytest.approx(ROW_Y)


@pytest.mark.parametrize("instance", [{"a": 1, "b": None, "c": 3}, {"a": 1, "c": 3}])
def test_an_answer_that_json_cannot_say_is_an_error(
    client: httpx.Client, instance: dict[str, object]
) -> None:
    response = client.post(
        "/models/ranged/predict", json={"instances": [{"a": 1, "b": 2, "c": 3}, instance]}
    )

    body = assert_refusal(response, 500, "non_finite_output")
    assert body["error"] == "output 'y' of row 1 is not a finite number"


class TestPictures:
    PIXELS = make_golden("conv").inputs["pixels"]

    def encoded(self, pixels: np.ndarray, form: str = "PNG", **options: object) -> str:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, form, **options)
        return base64.b64encode(buffer.getvalue()).decode()

    def wanted(self, pixels: np.ndarray) -> dict[str, object]:
        outputs = models.conv({"pixels": pixels[None].astype(np.uint8)})
        scores = dict(zip(models.SHAPES, outputs["scores"][0].tolist(), strict=True))
        return {"shape": outputs["shape"][0], "scores": pytest.approx(scores, abs=1e-5)}

    @pytest.mark.parametrize("dtype", [int, float])
    def test_nested_numbers(self, client: httpx.Client, dtype: type) -> None:
        instances = [{"pixels": p.astype(dtype).tolist()} for p in self.PIXELS]

        answers = predict(client, "conv", *instances)

        assert answers == [self.wanted(p) for p in self.PIXELS]

    @pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "data:;base64,"])
    def test_a_png_in_base64(self, client: httpx.Client, prefix: str) -> None:
        grey = (np.arange(64).reshape(8, 8) * 4).astype(np.uint8)
        scaled = (grey.astype(int) * 16 * 2 + 255) // 510

        answers = predict(client, "conv", {"pixels": prefix + self.encoded(grey)})

        assert answers == [self.wanted(scaled)]

    def test_a_png_and_the_same_pixels_as_numbers_agree(self, client: httpx.Client) -> None:
        grey = np.where(np.eye(8, dtype=bool), 255, 0).astype(np.uint8)

        picture, numbers = predict(
            client,
            "conv",
            {"pixels": self.encoded(grey)},
            {"pixels": np.where(np.eye(8, dtype=bool), 16, 0).tolist()},
        )

        assert picture == numbers

    @pytest.mark.parametrize("form", ["JPEG", "WEBP"])
    def test_other_formats(self, client: httpx.Client, form: str) -> None:
        flat = np.full((8, 8), 255, np.uint8)

        answers = predict(client, "conv", {"pixels": self.encoded(flat, form, quality=100)})

        assert answers == [self.wanted(np.full((8, 8), 16))]

    def test_a_larger_colour_picture_is_converted_and_resized(self, client: httpx.Client) -> None:
        white = np.full((120, 50, 3), 255, np.uint8)

        answers = predict(client, "conv", {"pixels": self.encoded(white)})

        assert answers == [self.wanted(np.full((8, 8), 16))]

    def test_a_tensor_field_takes_nested_numbers(self, client: httpx.Client) -> None:
        answers = predict(client, "grid", *({"pixels": p.tolist()} for p in self.PIXELS))

        assert answers == [self.wanted(p) for p in self.PIXELS]


def test_each_of_many_concurrent_callers_gets_their_own_row(client: httpx.Client) -> None:
    def ask(n: int) -> bool:
        (answer,) = predict(client, "affine", {"a": n, "b": n * n, "c": -n})
        return np.allclose(answer["y"], affine_answer(n, n * n, -n)["y"], rtol=1e-5)

    with ThreadPoolExecutor(32) as threads:
        assert all(threads.map(ask, range(320)))


def test_a_bad_row_of_one_caller_does_not_fail_the_others(client: httpx.Client) -> None:
    def ask(index: int) -> httpx.Response:
        return client.post("/models/poison/predict", json={"instances": [{"index": index}]})

    indices = [99 if n == 17 else n % 4 for n in range(64)]
    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(ask, indices))

    for index, answer in zip(indices, answers, strict=True):
        if index == 99:
            assert_refusal(answer, 500, "model_failed")
        else:
            assert answer.json()["predictions"] == [{"y": models.POISON_TABLE[index]}]


class TestRequestIds:
    @pytest.mark.parametrize("given", ["a", "trace-1:2_3.4", "x" * 128])
    def test_a_plain_one_is_echoed(self, client: httpx.Client, given: str) -> None:
        for path in ("/models/affine/predict", "/v2/models/affine/infer", "/models", "/nowhere"):
            response = client.post(path, json=ROWS, headers={"X-Request-Id": given})

            assert response.headers["x-request-id"] == given

    @pytest.mark.parametrize("given", ["", "x" * 129, "a b", 'a"b', "a/b", "<b>", "é", "a;b"])
    def test_another_is_replaced(self, client: httpx.Client, given: str) -> None:
        headers = {"X-Request-Id": given.encode()}

        made = client.post("/models/affine/predict", json={}, headers=headers)

        assert re.fullmatch("[0-9a-f]{12}-[0-9a-f]+", made.headers["x-request-id"])
        assert made.json()["request_id"] == made.headers["x-request-id"]

    def test_made_ones_differ(self, client: httpx.Client) -> None:
        made = {client.get("/health/live").headers["x-request-id"] for _ in range(20)}

        assert len(made) == 20


class TestTimeouts:
    @pytest.mark.parametrize("given", ["1000", "3600000", "0001000"])
    def test_a_time_limit_is_taken(self, client: httpx.Client, given: str) -> None:
        headers = {"Modelport-Timeout-Ms": given}

        assert client.post("/models/affine/predict", json=ROWS, headers=headers).is_success

    @pytest.mark.parametrize(
        "given", ["0", "-1", "1.5", "1e3", "", "3600001", "9" * 30, "1_0", "١"]
    )
    def test_another_is_refused(self, client: httpx.Client, given: str) -> None:
        headers = {"Modelport-Timeout-Ms": given.encode()}

        response = client.post("/models/affine/predict", json=ROWS, headers=headers)

        assert "Modelport-Timeout-Ms" in assert_refusal(response, 400, "bad_request")["error"]

    def test_a_limit_that_passed_while_the_body_was_read_is_504(self, client: httpx.Client) -> None:
        grey = np.zeros((2000, 2000), np.uint8)
        picture = TestPictures().encoded(grey)

        response = client.post(
            "/models/conv/predict",
            content=json.dumps({"instances": [{"pixels": picture}] * 4}),
            headers={"Modelport-Timeout-Ms": "1"},
        )

        assert_refusal(response, 504, "deadline_exceeded")


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health_answers_head_as_load_balancers_send_it(client, path):
    answer = client.request("HEAD", path)

    assert answer.status_code == 200
    assert answer.content == b""


def test_an_unknown_name_is_answered_with_the_known_ones(client: httpx.Client) -> None:
    inside = client.post("/models/affine/predict", json={"instances": [{**ROW, "d": 1}]})
    outside = client.post("/models/affine/predict", json={"instances": [ROW], "instance": 1})

    said = inside.json()["error"]
    assert "instances.0.d: Not a field of the model, leave it out; known: a, b, c" in said
    assert "instance: Unknown name; known: instances" in outside.json()["error"]


@pytest.mark.parametrize("pixels", [5, [], [[1, 2], [3, 4]], [[0] * 8] * 7, [[0] * 7] * 8, None])
def test_a_wrong_form_of_a_picture_is_told_once_and_in_its_own_words(
    client: httpx.Client, pixels: object
) -> None:
    response = client.post("/models/conv/predict", json={"instances": [{"pixels": pixels}]})

    (detail,) = assert_refusal(response, 422, "validation_failed")["details"]
    assert detail["loc"] == ["instances", 0, "pixels"]
    assert detail["msg"] == "Input must be 8 × 8 nested numbers, or a picture in base64"


def test_the_address_itself_leads_to_the_documentation(client: httpx.Client) -> None:
    answer = client.get("/")

    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")


def test_a_bodys_many_faults_are_not_collected(client: httpx.Client) -> None:
    names = ",".join(f'"n{number}":1' for number in range(15_000))
    body = '{"instances":[{' + names + "}]}"

    response = client.post("/models/affine/predict", content=body, headers=JSON_TYPE)

    assert_refusal(response, 413, "payload_too_large")


JSON_TYPE = {"Content-Type": "application/json"}
