"""A picture file as a whole request: one instance of a model whose only field is an image."""

from collections.abc import Callable, Mapping
from typing import Final

from app.api.codecs import Codec, Content, Decoded, Headers, ModelRef, never
from app.api.codecs.predictions import Predictions
from app.api.codecs.rows import invalid
from app.bundle.features import FeatureError, image_from_bytes
from app.bundle.signature import ImageField, Signature
from app.bundle.tensors import NUMPY_DTYPES, Array
from app.errors import Detail

#: What `app.bundle.features` decodes. Which of them a body is, its own first bytes say.
MEDIA_TYPES: Final = (b"image/png", b"image/jpeg", b"image/webp")


def fits(signature: Signature) -> bool:
    return len(signature.fields) == 1 and isinstance(signature.fields[0], ImageField)


class PictureCodec(Codec):
    """See `app.api.codecs.Codec`."""

    def __init__(self, signature: Signature) -> None:
        (field,) = signature.fields
        assert isinstance(field, ImageField)  # noqa: S101 (`fits`)
        self._field = field
        self._dtype = NUMPY_DTYPES[signature.input(field.tensor).datatype]
        self._predictions = Predictions(signature)

    def parse(self, body: bytes, headers: Headers) -> bytes:  # noqa: ARG002
        return body

    def takes_long(self, document: bytes) -> bool:  # noqa: ARG002
        return True

    def decode(
        self,
        document: bytes,
        is_abandoned: Callable[[], bool] = never,  # noqa: ARG002
    ) -> Decoded:
        field = self._field
        try:
            pixels = image_from_bytes(document, field)
        except FeatureError as error:
            place = ("instances", 0, field.name)
            raise invalid([Detail(place, f"Input {error}", "value_error")]) from None
        return Decoded({field.tensor: pixels[None].astype(self._dtype, copy=False)}, 1)

    def encode(self, outputs: Mapping[str, Array], decoded: Decoded, model: ModelRef) -> Content:
        return self._predictions.content(outputs, decoded.rows, model)
