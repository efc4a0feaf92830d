import base64
import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.bundle.features import (
    MAX_PIXELS,
    FeatureError,
    image_from_base64,
    image_from_bytes,
    image_from_numbers,
    scale_pixels,
)
from app.bundle.signature import ImageField

GREY = ImageField(name="image", tensor="image", height=2, width=3)
RGB = ImageField(name="image", tensor="image", height=2, width=3, channels=3)
SIXTEEN = ImageField(name="image", tensor="image", height=2, width=3, maximum=16)
PIXELS = np.array([[0, 51, 102], [153, 204, 255]], dtype=np.uint8)


def encode(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def test_grey_png_is_taken_as_it_is():
    assert image_from_bytes(encode(Image.fromarray(PIXELS)), GREY).tolist() == PIXELS.tolist()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_format_gives_the_field_s_shape_and_type(kind: str):
    encoded = encode(Image.new("RGB", (31, 17), (200, 200, 200)), kind)

    grey, colours = image_from_bytes(encoded, GREY), image_from_bytes(encoded, RGB)

    assert (grey.shape, grey.dtype) == ((2, 3), np.uint8)
    assert (colours.shape, colours.dtype) == ((2, 3, 3), np.uint8)
    assert np.abs(grey.astype(int) - 200).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_a_white_png_is_white(mode: str):
    white = Image.new("RGB", (3, 2), "white")
    picture = Image.new("I;16", (3, 2), 65535) if mode == "I;16" else white.convert(mode)

    assert image_from_bytes(encode(picture), GREY).tolist() == [[255] * 3] * 2
    assert image_from_bytes(encode(picture), RGB).tolist() == [[[255] * 3] * 3] * 2


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    picture = Image.new("I;16", (3, 2), 128 * 257)

    assert image_from_bytes(encode(picture), GREY).tolist() == [[128] * 3] * 2


def test_transparent_pixels_are_background():
    picture = Image.new("RGBA", (3, 2), (255, 255, 255, 0))

    assert image_from_bytes(encode(picture), GREY).max() == 0


def test_picture_is_turned_upright_by_its_exif():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    encoded = encode(Image.fromarray(PIXELS), "PNG", exif=exif)

    assert image_from_bytes(encoded, GREY).tolist() == PIXELS[::-1, ::-1].tolist()


def test_picture_is_scaled_to_the_maximum():
    assert image_from_bytes(encode(Image.fromarray(PIXELS)), SIXTEEN).tolist() == [
        [0, 3, 6],
        [10, 13, 16],
    ]


@given(st.integers(1, 255))
def test_scaling_rounds_to_nearest(maximum: int):
    every = np.arange(256, dtype=np.uint8)

    scaled = scale_pixels(every, maximum)

    assert np.abs(scaled - every.astype(float) * maximum / 255).max() <= 0.5
    assert (scaled[0], scaled[-1]) == (0, maximum)


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"\x00" * 64)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [5_000, 10_000, 14_000, 60_000])
def test_bomb_is_refused_by_its_header(side: int):
    assert side * side > MAX_PIXELS

    with pytest.raises(FeatureError):
        image_from_bytes(png_that_claims(side, side), GREY)


@pytest.mark.parametrize(
    "encoded",
    [b"", b"GIF89a", encode(Image.new("L", (3, 2)), "GIF"), encode(Image.new("L", (3, 2)), "BMP")],
)
def test_other_formats_are_refused(encoded: bytes):
    with pytest.raises(FeatureError, match="not a readable PNG, JPEG or WebP"):
        image_from_bytes(encoded, GREY)


@given(st.data())
def test_damaged_picture_is_refused_or_read(data: st.DataObject):
    encoded = bytearray(
        encode(Image.fromarray(PIXELS), data.draw(st.sampled_from(["PNG", "JPEG"])))
    )
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(encoded)))
    try:
        found = image_from_bytes(bytes(encoded[:cut]), GREY)
    except FeatureError:
        return
    assert found.shape == (2, 3)


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_base64_is_taken_with_and_without_a_prefix(prefix: str):
    text = prefix + base64.b64encode(encode(Image.fromarray(PIXELS))).decode()

    assert image_from_base64(text, GREY).tolist() == PIXELS.tolist()


@pytest.mark.parametrize("text", ["%%%", "abc", "ä", "data:image/png;base64", "aGk="])
def test_text_that_is_no_picture_is_refused(text: str):
    with pytest.raises(FeatureError):
        image_from_base64(text, GREY)


def test_nested_numbers_are_taken():
    found = image_from_numbers([[0, 1, 2], [3.0, 4, 16]], SIXTEEN)

    assert found.tolist() == [[0, 1, 2], [3, 4, 16]]
    assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[0, 1], [2, 3]], "got 2 × 2"),
        ([[0, 1, 2], [3]], "rows differ in length"),
        (5, "got a single value"),
        ([], "must be 2 × 3"),
        ([[0, 1, 2], [3, 4, 0.5]], "whole numbers"),
        ([[0, 1, 2], [3, 4, 17]], "from 0 to 16"),
        ([[0, 1, 2], [3, 4, -1]], "from 0 to 16"),
        ([[0, 1, 2], [3, 4, "5"]], "whole numbers"),
        ([[0, 1, 2], [3, 4, None]], "whole numbers"),
        ([[0, 1, 2], [3, 4, float("nan")]], "whole numbers|from 0"),
        ([[0, 1, 2], [3, 4, float("inf")]], "whole numbers|from 0"),
        ([[0, 1, 2], [3, 4, 1e300]], "whole numbers|from 0"),
        ([[0, 1, 2], [3, 4, 2**70]], "whole numbers|from 0"),
        ([[True] * 3] * 2, "whole numbers"),
    ],
)
def test_numbers_that_are_no_such_picture_are_refused(value: object, message: str):
    with pytest.raises(FeatureError, match=message):
        image_from_numbers(value, SIXTEEN)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "L"), ("JPEG", "RGB")]
    + [("PNG", mode) for mode in ("L", "LA", "P", "RGB", "RGBA", "I;16", "1")],
)
def test_a_large_picture_looks_as_a_small_one_does(kind: str, mode: str):
    field = ImageField(name="a", tensor="x", height=8, width=8)
    bright_below = np.zeros((8, 8), dtype=np.uint8)
    bright_below[4:] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    large = Image.fromarray(bright_below).resize((800, 600), Image.Resampling.NEAREST)
    if mode == "I;16":
        large = Image.fromarray(np.asarray(large).astype(np.uint16) * 257)
    else:
        large = large.convert(mode)

    row = image_from_bytes(encode(large, kind, exif=exif), field)

    np.testing.assert_allclose(row[:3], 255, atol=3)
    np.testing.assert_allclose(row[5:], 0, atol=3)
