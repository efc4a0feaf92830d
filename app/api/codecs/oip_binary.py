"""Raw tensors behind the JSON of an Open Inference Protocol message, both ways.

Source: KServe's "Binary Tensor Data Extension". Numbers are little-endian, row-major, without
padding; a string is its length in four bytes and its UTF-8.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from app.api.codecs import OCTETS, Content
from app.bundle.tensors import NUMPY_DTYPES, Array, Datatype, datatype_of
from app.errors import InvalidTensor, MalformedBody

HEAD_LENGTH: Final = b"inference-header-content-length"
_LENGTH: Final = struct.Struct("<I")


class RawTensors:
    """The part of a body behind its JSON, from which tensors are taken in order."""

    def __init__(self, body: bytes, start: int) -> None:
        self._body = body
        self._at = start

    @property
    def left_bytes(self) -> int:
        return len(self._body) - self._at

    def take(self, size: Any, datatype: Datatype, shape: Sequence[int], where: str) -> Array:
        """The next `size` bytes as an array; of numbers a view of the body, which is read-only.

        Raises:
            MalformedBody: `size` is no size.
            InvalidTensor: another size than the shape needs, or values that are none of the
                datatype's.
        """
        if type(size) is not int or size < 0:
            raise MalformedBody(f"{where}: 'binary_data_size' must be a whole number from 0")
        if size > self.left_bytes:
            raise InvalidTensor(
                f"{where}: 'binary_data_size' is {size}, the body has {self.left_bytes} bytes left"
            )
        start, self._at = self._at, self._at + size
        if datatype == "BYTES":
            return _texts(self._body[start : start + size], shape, where)
        needs = math.prod(shape) * NUMPY_DTYPES[datatype].itemsize
        if size != needs:
            raise InvalidTensor(
                f"{where}: has {size} bytes, shape {list(shape)} of {datatype} needs {needs}"
            )
        array = _numbers(self._body, start, datatype, shape)
        if datatype == "BOOL" and array.size and array.view(np.uint8).max() > 1:
            raise InvalidTensor(f"{where}: a boolean is a byte of 0 or 1")
        return array

    def end(self) -> None:
        """Raise MalformedBody where something is left."""
        if self.left_bytes:
            raise MalformedBody(
                f"{self.left_bytes} bytes follow the last tensor; each input that has its data"
                " there needs its 'binary_data_size'"
            )


def _numbers(body: bytes, start: int, datatype: Datatype, shape: Sequence[int]) -> Array:
    """Values of a body, row-major; copied only where they are not aligned."""
    dtype = NUMPY_DTYPES[datatype]
    count = math.prod(shape)
    if count == 0:
        return np.empty(shape, dtype)
    array = np.frombuffer(body, dtype, count, start)
    if not array.flags.aligned:
        array = array.copy()
    return array.reshape(shape)


def _texts(data: bytes, shape: Sequence[int], where: str) -> Array:
    count = math.prod(shape)
    if count * _LENGTH.size > len(data):
        raise InvalidTensor(
            f"{where}: has {len(data)} bytes, too few for the lengths of {count} strings"
        )
    texts: list[str] = []
    at = 0
    for index in range(count):
        begins = at + _LENGTH.size
        if begins > len(data):
            raise InvalidTensor(f"{where}: ends before the length of string {index}")
        (length,) = _LENGTH.unpack_from(data, at)
        at = begins + length
        if at > len(data):
            raise InvalidTensor(
                f"{where}: string {index} has {length} bytes, {len(data) - begins} are left"
            )
        try:
            texts.append(data[begins:at].decode())
        except UnicodeDecodeError:
            raise InvalidTensor(f"{where}: string {index} is not UTF-8") from None
    if at != len(data):
        raise InvalidTensor(f"{where}: {len(data) - at} bytes follow the last of {count} strings")
    array = np.empty(count, object)
    array[:] = texts
    return array.reshape(shape)


def raw_data(array: Array) -> bytes | memoryview:
    """An output as raw bytes, exactly; of numbers a view."""
    if datatype_of(array) != "BYTES":
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    pieces: list[bytes] = []
    for text in array.ravel().tolist():
        encoded = text.encode()
        pieces += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(pieces)


def parted(data: bytes | memoryview, count: int) -> list[bytes | memoryview]:
    """Raw data of `count` equal parts."""
    size = len(data) // count
    return [data[start : start + size] for start in range(0, count * size, size or 1)]


def joined(head: bytes, tensors: Iterable[bytes | memoryview]) -> Content:
    """JSON and the raw tensors that it announces, in order."""
    return Content(
        b"".join((head, *tensors)),
        ((b"content-type", OCTETS), (HEAD_LENGTH, str(len(head)).encode())),
    )
