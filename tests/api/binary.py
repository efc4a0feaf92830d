"""Bodies in the binary forms, made apart from the code that reads them."""

import io
import json
import struct
from typing import Any

import numpy as np

OCTETS = "application/octet-stream"
NPY = "application/x-npy"
HEAD = "Inference-Header-Content-Length"


def raw(array: np.ndarray) -> bytes:
    """An array as a raw tensor: little-endian, row-major; strings with their length before them."""
    if array.dtype.kind not in "OUS":
        return array.astype(array.dtype.newbyteorder("<")).tobytes(order="C")
    texts = [text.encode() for text in array.ravel().tolist()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def tensor(name: str, datatype: str, array: np.ndarray, **parameters: Any) -> dict[str, Any]:
    """What the JSON says of an input whose data is raw."""
    size = {"binary_data_size": len(raw(array))} | parameters
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "parameters": size}


def divided(document: Any, *data: bytes) -> tuple[bytes, dict[str, str]]:
    """A body of JSON and raw data, and its headers."""
    head = json.dumps(document).encode()
    return b"".join((head, *data)), {"Content-Type": OCTETS, HEAD: str(len(head))}


def outputs(content: bytes, head_bytes: int) -> dict[str, np.ndarray | list[Any]]:
    """What an answer with raw outputs says, by name; JSON outputs as lists."""
    found: dict[str, Any] = {}
    at = head_bytes
    for output in json.loads(content[:head_bytes])["outputs"]:
        if "data" in output:
            found[output["name"]] = output["data"]
            continue
        size = output["parameters"]["binary_data_size"]
        data, at = content[at : at + size], at + size
        found[output["name"]] = _array(data, output["datatype"]).reshape(output["shape"])
    assert at == len(content)
    return found


def _array(data: bytes, datatype: str) -> np.ndarray:
    if datatype != "BYTES":
        word = datatype.lower().replace("fp", "float")
        return np.frombuffer(data, np.dtype(word).newbyteorder("<"))
    texts = []
    while data:
        (length,) = struct.unpack_from("<I", data)
        texts.append(data[4 : 4 + length].decode())
        data = data[4 + length :]
    return np.array(texts, dtype=object)


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    """A .npy file, written by NumPy."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version, allow_pickle=True)
    return buffer.getvalue()


def npy_of(header: str | bytes, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A .npy file with any header."""
    text = header.encode("latin-1") if isinstance(header, str) else header
    size = struct.pack("<H" if version[:1] == b"\x01" else "<I", len(text))
    return b"\x93NUMPY" + version + size + text + data
