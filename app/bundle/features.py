"""Raw values to arrays, for what cannot live in an ONNX graph: decoding and resizing pictures.

Training and serving call the same functions, so they cannot differ. Everything else (scaling,
imputation, look-ups) is inside the graph.
"""

import base64
import binascii
import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from app.bundle.signature import ImageField

_FORMATS: Final = ("PNG", "JPEG", "WEBP")
#: Checked from the header, before any pixel is decoded.
MAX_PIXELS: Final = 16_000_000
#: Modes of which blocks of pixels can be averaged.
_REDUCIBLE: Final = frozenset({"L", "LA", "RGB", "RGBA"})


class FeatureError(ValueError):
    """A raw value that cannot become an array; the message is for the person who sent it."""


def image_from_base64(text: str, field: ImageField) -> NDArray[np.uint8]:
    """Decode a base64 picture, with or without a `data:…;base64,` prefix.

    Returns:
        uint8 [height, width] for one channel, [height, width, 3] for three; values 0–maximum.
    Raises:
        FeatureError: not base64, or not a picture (see `image_from_bytes`).
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        encoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FeatureError("is neither nested numbers nor a picture in base64") from None
    return image_from_bytes(encoded, field)


def image_from_bytes(encoded: bytes, field: ImageField) -> NDArray[np.uint8]:
    """Decode a PNG, JPEG or WebP file: upright by EXIF, converted, resized, scaled.

    Returns:
        uint8 [height, width] for one channel, [height, width, 3] for three; values 0–maximum.
    Raises:
        FeatureError: another format, damaged, or more than `MAX_PIXELS` pixels.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise FeatureError(
                    f"has {picture.width} × {picture.height} pixels, more than {MAX_PIXELS:,}"
                )
            upright = ImageOps.exif_transpose(_shrink(picture, field))
            converted = _flatten(upright).convert("L" if field.channels == 1 else "RGB")
            if converted.size != (field.width, field.height):
                converted = converted.resize(
                    (field.width, field.height), Image.Resampling.BILINEAR, reducing_gap=None
                )
            pixels = np.asarray(converted, dtype=np.uint8)
    except FeatureError:
        raise
    except Exception:  # Pillow raises many kinds for damaged files; all mean the same here.
        raise FeatureError("is not a readable PNG, JPEG or WebP picture") from None
    return scale_pixels(pixels, field.maximum)


def _shrink(picture: Image.Image, field: ImageField) -> Image.Image:
    """Bring a large picture to at least twice the field's size, before anything copies it."""
    side = 2 * max(field.height, field.width)
    picture.draft(None, (side, side))  # JPEG decodes at a fraction of its size
    factor = min(picture.width, picture.height) // side
    if factor < 2:
        return picture
    if picture.mode == "P":  # numbers of colours cannot be averaged
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    return picture.reduce(factor) if picture.mode in _REDUCIBLE else picture


def _flatten(picture: Image.Image) -> Image.Image:
    """Reduce 16-bit grey to 8, and put a transparent picture on black, an empty pixel's value."""
    if picture.mode.startswith("I"):  # Pillow's own conversion would clip at 255
        return Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return picture


def scale_pixels(pixels: NDArray[np.uint8], maximum: int) -> NDArray[np.uint8]:
    """Map 0–255 to 0–maximum, rounding to nearest. Same shape, uint8."""
    if maximum == 255:
        return pixels
    scaled = (pixels.astype(np.uint32) * maximum * 2 + 255) // 510
    return scaled.astype(np.uint8)


def image_from_numbers(value: Any, field: ImageField) -> NDArray[np.uint8]:
    """Nested whole numbers of exactly the field's shape.

    Returns:
        uint8 [height, width] for one channel, [height, width, 3] for three.
    Raises:
        FeatureError: ragged, of another shape, not whole, or outside 0–maximum.
    """
    shape = field.shape
    wanted = " × ".join(str(n) for n in shape)
    try:
        array = np.array(value)
    except ValueError:
        raise FeatureError(f"must be {wanted} nested numbers; its rows differ in length") from None
    if array.shape != shape:
        got = " × ".join(str(n) for n in array.shape) or "a single value"
        raise FeatureError(f"must be {wanted} nested numbers, got {got}")
    if array.dtype.kind == "f" and not ((array >= 0) & (array <= field.maximum)).all():
        raise FeatureError(f"must hold numbers from 0 to {field.maximum}")
    if array.dtype.kind == "f" and np.equal(np.mod(array, 1), 0).all():
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise FeatureError("must hold whole numbers only")
    if array.min() < 0 or array.max() > field.maximum:
        raise FeatureError(f"must hold numbers from 0 to {field.maximum}")
    return array.astype(np.uint8)
