"""NumPy's file of one array, read and written without NumPy's own reader: nothing is evaluated.

Source: NumPy's "npy format" specification, versions 1.0, 2.0 and 3.0.
"""

import math
import re
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from app.bundle.tensors import NUMPY_DTYPES, Array, Datatype
from app.errors import InvalidTensor, MalformedBody

_MAGIC: Final = b"\x93NUMPY"
#: Of an array with few axes; NumPy writes 128 at most for such.
_MAX_HEADER_BYTES: Final = 4096
_MAX_AXES: Final = 32
#: Size of the header's length, by version.
_LENGTHS: Final = {1: struct.Struct("<H"), 2: struct.Struct("<I"), 3: struct.Struct("<I")}
_ENTRY: Final = re.compile(
    r"""\s*(["'])(descr|fortran_order|shape)\1\s*:\s*"""
    r"""(?:(["'])([^"'\\]*)\3|(True|False)|\(([\d,\s]*)\))\s*(,|(?=\}))""",
    re.ASCII,
)
_MAX_DIGITS: Final = 18
_DESCR: Final = re.compile(r"([<>|=]?)([a-zA-Z])(\d{0,7})", re.ASCII)
_BY_CODE: Final[dict[str, Datatype]] = {
    f"{dtype.kind}{dtype.itemsize}": name
    for name, dtype in NUMPY_DTYPES.items()
    if not dtype.hasobject
}


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """What a file says of its array.

    Attributes:
        dtype: as in the file: of either byte order; for BYTES text of a fixed width.
        start: where the values begin.
    """

    datatype: Datatype
    dtype: np.dtype[Any]
    shape: list[int]
    fortran_order: bool
    start: int


def read_header(body: bytes) -> NpyHeader:
    """The header of a .npy file, checked against the length of the whole.

    Raises:
        MalformedBody: no such file, damaged, cut short or too long.
        InvalidTensor: an array of a kind that no tensor has.
    """
    version = body[6:8]
    if not body.startswith(_MAGIC) or len(version) < 2:
        raise MalformedBody("body is not a .npy file; numpy.save writes one")
    if version[0] not in _LENGTHS or version[1] != 0:
        raise MalformedBody("body is a .npy file of an unknown version; known are 1.0, 2.0, 3.0")
    length = _LENGTHS[version[0]]
    start = 8 + length.size
    if len(body) < start:
        raise MalformedBody("body ends within the .npy header")
    (size,) = length.unpack_from(body, 8)
    if size > _MAX_HEADER_BYTES:
        raise MalformedBody(f"the .npy header has {size} bytes, at most {_MAX_HEADER_BYTES}")
    if len(body) < start + size:
        raise MalformedBody("body ends within the .npy header")
    entries = _entries(body[start : start + size].decode("latin-1"))
    header = _header(entries, start + size)
    needs = math.prod(header.shape) * header.dtype.itemsize
    if len(body) - header.start != needs:
        raise MalformedBody(
            f"the .npy file has {len(body) - header.start} bytes of values, its header says {needs}"
        )
    return header


def _entries(text: str) -> dict[str, str]:
    """The header's three entries. Others, and any other way to write it, are refused."""
    text = text.rstrip()
    entries: dict[str, str] = {}
    at = 1
    while text.startswith("{") and (entry := _ENTRY.match(text, at)):
        _, name, _, word, flag, sizes, _ = entry.groups()
        kind = {"descr": word, "fortran_order": flag, "shape": sizes}[name]
        if kind is None or name in entries:
            break
        entries[name] = kind
        at = entry.end()
    if len(entries) != 3 or text[at:].strip() != "}":
        raise MalformedBody(
            "the .npy header must be a dictionary of 'descr', which is one plain dtype,"
            " 'fortran_order' and 'shape'"
        )
    return entries


def _header(entries: dict[str, str], start: int) -> NpyHeader:
    shape = _sizes(entries["shape"])
    if len(shape) > _MAX_AXES:
        raise MalformedBody(f"the .npy file has {len(shape)} axes, at most {_MAX_AXES}")
    found = _DESCR.fullmatch(entries["descr"])
    order, kind, size = found.groups() if found else ("", "", "")
    if kind == "U" and size:
        datatype: Datatype | None = "BYTES"
    else:
        datatype = _BY_CODE.get(kind + size)
    if datatype is None:
        known = ", ".join(_BY_CODE)
        raise InvalidTensor(f"the .npy file's dtype is none of {known}, or U for strings")
    dtype = np.dtype((order if order in "<>" else "=") + kind + size)
    return NpyHeader(datatype, dtype, shape, entries["fortran_order"] == "True", start)


def _sizes(text: str) -> list[int]:
    """A tuple's items: one alone has a comma behind it, others may."""
    parts = [part.strip() for part in text.split(",")]
    is_tuple = len(parts) > 1 or parts == [""]
    if parts[-1] == "":
        parts.pop()
    if not is_tuple or not all(part.isdigit() and len(part) <= _MAX_DIGITS for part in parts):
        raise MalformedBody("the .npy header's 'shape' must be a tuple of whole numbers")
    return [int(part) for part in parts]


def read_values(body: bytes, header: NpyHeader) -> Array:
    """The array itself, in the tensor's own dtype and row-major.

    A view of the body, which is read-only, where it lies there in that form; else a copy.

    Raises:
        InvalidTensor: a boolean that is neither 0 nor 1, or text that is no Unicode.
    """
    dtype, shape = header.dtype, tuple(header.shape)
    wanted = NUMPY_DTYPES[header.datatype]
    if math.prod(shape) == 0 or dtype.itemsize == 0:
        return np.full(shape, "", object) if wanted.hasobject else np.empty(shape, wanted)
    flat = np.frombuffer(body, dtype, offset=header.start)
    if dtype.kind == "b" and flat.view(np.uint8).max() > 1:
        raise InvalidTensor("the .npy file holds a boolean that is neither 0 nor 1")
    array = flat.reshape(shape, order="F" if header.fortran_order else "C")
    if wanted.hasobject:
        return _texts(array)
    if not array.flags.aligned or not array.dtype.isnative:
        array = array.astype(wanted)
    return np.ascontiguousarray(array)


def _texts(array: Array) -> Array:
    codes = array.ravel().astype(array.dtype.newbyteorder("=")).view(np.uint32)
    if (codes > 0x10FFFF).any() or ((codes >= 0xD800) & (codes <= 0xDFFF)).any():
        raise InvalidTensor("the .npy file holds text that is no Unicode")
    return array.astype(object, order="C")


def write(array: Array) -> bytes:
    """An array of numbers or booleans as a .npy file of version 1.0."""
    plain = np.ascontiguousarray(array).reshape(array.shape)
    entries = {"descr": plain.dtype.str, "fortran_order": False, "shape": plain.shape}
    text = f"{entries!r}".encode()
    start = len(_MAGIC) + 4
    padding = b" " * (-(start + len(text) + 1) % 64)
    length = _LENGTHS[1].pack(len(text) + len(padding) + 1)
    return b"".join((_MAGIC, b"\x01\x00", length, text, padding, b"\n", plain.tobytes()))
