"""A picture file as a whole request."""

import base64
import io

import httpx
import pytest
from PIL import Image

from app.api.codecs.picture import PictureCodec
from tests.support.bundles import RECIPES

PREDICT = "/models/conv/predict"


def saved(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((40, 30)).save(buffer, form, lossless=True)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_it_is_answered_as_in_base64(client: httpx.Client, form: str) -> None:
    picture = saved(form)
    in_json = {"instances": [{"pixels": base64.b64encode(picture).decode()}]}

    response = client.post(
        PREDICT, content=picture, headers={"Content-Type": f"image/{form.lower()}"}
    )

    assert response.status_code == 200, response.text
    assert response.json() == client.post(PREDICT, json=in_json).json()


def test_its_own_bytes_say_what_it_is(client: httpx.Client) -> None:
    response = client.post(PREDICT, content=saved("JPEG"), headers={"Content-Type": "image/png"})

    assert response.status_code == 200


def test_it_is_decoded_on_a_worker_thread() -> None:
    codec = PictureCodec(RECIPES["conv"]().signature)

    assert codec.takes_long(codec.parse(saved("PNG"), {}))
