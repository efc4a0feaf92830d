"""Known rows with known answers, and what every refusal must look like."""

import re
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Final

import httpx
import numpy as np

from tests.support import models

ROW: Final = {"a": 1.0, "b": 2.0, "c": 3.0}
ROWS: Final = {"instances": [ROW]}
ROW_Y: Final = [-1.15, 7.3]
ROW_TOTAL: Final = 6.15
TENSORS: Final = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
#: Nothing of this kind may be told to a caller.
_PLACES: Final = "|".join(
    re.escape(str(place)) for place in (Path(__file__).parents[2], Path.home(), Path(gettempdir()))
)
_SECRET: Final = re.compile(rf"Traceback|File \"|\.py\b|{_PLACES}|site-packages|0x[0-9a-f]{{6}}")
#: Put this into a bad value: it may come back nowhere.
CANARY: Final = "cAnArY"


def affine_answer(a: float, b: float, c: float) -> dict[str, Any]:
    outputs = models.affine({"x": np.array([[a, b, c]], np.float32)})
    return {"y": outputs["y"][0].tolist(), "total": float(outputs["total"][0, 0])}


def assert_refusal(
    response: httpx.Response, status: int, code: str | None = None
) -> dict[str, Any]:
    """The one form of every failure, clean; returns its body."""
    assert response.status_code == status, response.text
    body = assert_clean(response.headers.get("content-type", ""), response.content)
    assert body["request_id"] == response.headers["x-request-id"]
    if code is not None:
        assert body["code"] == code
    return body


def assert_clean(content_type: str, content: bytes) -> dict[str, Any]:
    assert content_type == "application/json"
    text = content.decode("utf-8")
    assert not _SECRET.search(text), text
    assert CANARY not in text, text
    body = httpx.Response(200, content=content).json()
    assert set(body) <= {"error", "code", "request_id", "details"}
    assert all(isinstance(body[key], str) and body[key] for key in ("error", "code", "request_id"))
    for detail in body.get("details", []):
        assert set(detail) == {"loc", "msg", "type"}
    return body


def assert_serves(client: httpx.Client) -> None:
    """Alive, and a good request still gets its right answer on both kinds of route."""
    assert client.get("/health/live").json() == {"status": "live"}
    typed = client.post("/models/affine/predict", json=ROWS)
    assert typed.status_code == 200, typed.text
    assert np.allclose(typed.json()["predictions"][0]["y"], ROW_Y, atol=1e-5)
    tensors = client.post("/v2/models/affine/infer", json=TENSORS)
    assert tensors.status_code == 200, tensors.text
    assert np.allclose(tensors.json()["outputs"][0]["data"], ROW_Y, atol=1e-5)
