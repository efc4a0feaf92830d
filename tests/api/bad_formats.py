"""Requests in the other wire formats that must be refused, as in `bad_inputs.py`."""

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from tests.api.answers import CANARY, ROWS, TENSORS
from tests.api.bad_inputs import AFFINE, INFER, Case, png, saved
from tests.api.binary import HEAD, NPY, OCTETS, divided, npy, npy_of, raw, tensor

X: Final = np.array([[1, 2, 3]], np.float32)
GOOD: Final = {"inputs": [tensor("x", "FP32", X)]}


def binary(
    name: str,
    document: Any,
    *data: bytes,
    code: str = "invalid_tensor",
    model: str = "affine",
    status: int = 400,
) -> Case:
    body, headers = divided(document, *data)
    path = f"/v2/models/{model}/infer"
    return Case(f"binary: {name}", status, code, path, body, headers=headers)


def x(**change: Any) -> dict[str, Any]:
    """A request with one raw input that is right but for what `change` says."""
    return {"inputs": [GOOD["inputs"][0] | change]}


def sized(size: Any) -> dict[str, Any]:
    return x(parameters={"binary_data_size": size})


def division() -> Iterator[Case]:
    body, _ = divided(GOOD, raw(X))
    head = len(body) - 12
    for length in ("-1", "x", "", "1.0", "0x10", "1e2", "9" * 40, "1_0", "+3", f"{head}, {head}"):
        for media in (OCTETS, "application/json"):
            yield Case(f"head of {length[:9]!r} {media}", 400, "bad_request", INFER, body,
                       headers={"Content-Type": media, HEAD: length})  # fmt: skip
    for length in (len(body) + 1, 10**9, 10**17, 1, head - 1, head + 1, len(body)):
        yield Case(f"head of {length} bytes", 400, "malformed_body", INFER, body,
                   headers={"Content-Type": OCTETS, HEAD: str(length)})  # fmt: skip
    yield Case("no head", 400, "malformed_body", INFER, body, headers={"Content-Type": OCTETS})
    yield Case("no head, JSON inside", 400, "malformed_body", INFER, json.dumps(TENSORS).encode(),
               headers={"Content-Type": OCTETS})  # fmt: skip
    good = json.dumps(ROWS).encode()
    for length in ("0", "10", "x", str(len(good))):
        yield Case(f"head {length} on a typed route", 400, "malformed_body", AFFINE, good,
                   headers={HEAD: length})  # fmt: skip
    yield Case("octets on a typed route", 415, "unsupported_media_type", AFFINE, good,
               headers={"Content-Type": OCTETS})  # fmt: skip
    yield Case("head before a .npy file", 400, "malformed_body", INFER, npy(X),
               headers={"Content-Type": NPY, HEAD: "0"})  # fmt: skip


def raw_tensors() -> Iterator[Case]:
    data = raw(X)
    for size in (-1, 1.0, "12", True, None, [], {}):
        yield binary(f"size {size!r}", sized(size), data, code="malformed_body")
    for size in (0, 11, 13, 4, 2**31, 2**63, 2**64 - 1):
        yield binary(f"size {str(size)[:12]}", sized(size), data)
    yield binary("data cut short", GOOD, data[:-1])
    yield binary("no data", GOOD)
    yield binary("data too long", GOOD, data, b"\x00", code="malformed_body")
    yield binary("data behind JSON tensors", TENSORS, data, code="malformed_body")
    yield binary("data twice", x(data=[1, 2, 3]), data)
    yield binary("data null besides", x(data=None), data)
    yield binary("no size", x(parameters={}), data, code="malformed_body")
    yield binary("two inputs of one name", {"inputs": GOOD["inputs"] * 2}, data, data)
    yield binary("size over the shape", x(shape=[2, 3]), data)
    yield binary("shape under the size", x(shape=[1, 3], parameters={"binary_data_size": 24}),
                 data, data)  # fmt: skip
    for shape in ([], [3], [1, 4], [-1, 3], [0, 3], [1, 3, 1], [1, 2**62], "1,3", None):
        yield binary(f"shape {str(shape)[:20]}", x(shape=shape), data)
    for rows in (65, 2**40):
        yield binary(f"{rows} rows", x(shape=[rows, 3]), data, status=413, code="payload_too_large")
    yield binary("datatype FP64", x(datatype="FP64"), data)
    for name in ("binary_data", "binary_data_output"):
        for value in (None, 1, 0, "true", [], {}):
            document = GOOD | (
                {"parameters": {name: value}}
                if name == "binary_data_output"
                else {"outputs": [{"name": "y", "parameters": {name: value}}]}
            )
            yield binary(f"{name} {value!r}", document, data, code="malformed_body")
    yield binary("shared memory", x(parameters={"shared_memory_region": "a"}))
    yield binary("classification", GOOD | {"outputs": [{"name": "y", "parameters":
                 {"classification": 2}}]}, data)  # fmt: skip


def raw_strings() -> Iterator[Case]:
    def strings(name: str, data: bytes, shape: Any = (2,), size: int | None = None) -> Case:
        parameters = {"binary_data_size": len(data) if size is None else size}
        document = {"inputs": [{"name": "colour", "datatype": "BYTES", "shape": list(shape),
                                "parameters": parameters}]}  # fmt: skip
        return binary(f"strings, {name}", document, data, model="strings")

    def packed(*texts: bytes) -> bytes:
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)

    yield strings("none", b"")
    yield strings("one of two", packed(b"red"))
    yield strings("three of two", packed(b"red", b"blue", b"red"))
    yield strings("length cut", packed(b"red") + b"\x04\x00")
    yield strings("text cut", packed(b"red", b"blue")[:-1])
    yield strings("length past the end", packed(b"red") + b"\xff\xff\xff\xff")
    yield strings("length past the tensor", struct.pack("<I", 100) + bytes(20), [1])
    yield strings("big-endian lengths", struct.pack(">I", 3) + b"red" + struct.pack(">I", 0))
    yield strings("not UTF-8", packed(b"red", b"\xff" + CANARY.encode()))
    yield strings("a surrogate", packed(b"red", b"\xed\xa0\x80"))
    yield strings("a byte too many", packed(b"red", b"blue") + b"\x00")
    yield strings("no lengths", b"redblue!")


def raw_bodies() -> Iterator[Case]:
    headers = {"Content-Type": OCTETS, HEAD: "0"}
    for name, body, status in (
        ("nothing", b"", 400),
        ("a byte", b"\x00", 400),
        ("half a row", bytes(18), 400),
        ("65 rows", bytes(65 * 12), 413),
    ):
        code = "payload_too_large" if status == 413 else "invalid_tensor"
        yield Case(f"raw body: {name}", status, code, INFER, body, headers=headers)
    yield Case("raw body: not UTF-8", 400, "invalid_tensor", "/v2/models/strings/infer", b"\xff",
               headers=headers)  # fmt: skip


def files(
    name: str, body: bytes, code: str = "malformed_body", status: int = 400
) -> Iterator[Case]:
    for path in (INFER, AFFINE):
        yield Case(f".npy: {name} {path}", status, code, path, body, headers={"Content-Type": NPY})


def npy_files() -> Iterator[Case]:
    good = npy(X)
    start = len(good) - X.nbytes
    head = good[10:start].decode()
    data = X.tobytes()
    plain = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }"
    assert plain in head
    for name, body in {
        "nothing": b"",
        "magic only": b"\x93NUMPY",
        "half a version": good[:7],
        "no length": good[:9],
        "header cut": good[:40],
        "no values": good[:start],
        "values cut": good[:-1],
        "a byte too many": good + b"\x00",
        "other magic": b"\x93NUMPX" + good[6:],
        "JSON": json.dumps(ROWS).encode(),
        "zip": b"PK\x03\x04" + good,
        "version 0": npy_of(head, data, b"\x00\x00"),
        "version 4": npy_of(head, data, b"\x04\x00"),
        "version 1.7": npy_of(head, data, b"\x01\x07"),
        "long header": npy_of(plain + " " * 5000, data),
        "very long header": good[:6] + b"\x02\x00\xff\xff\xff\xff" + good[10:],
        "no header": npy_of("", data),
        "header of a list": npy_of("['<f4', False, (1, 3)]", data),
        "header not closed": npy_of(plain[:-1], data),
        "header goes on": npy_of(plain + "; 1", data),
        "nested header": npy_of("{" * 2000, data),
        "brackets": npy_of(plain.replace("(1, 3)", "(" * 1500 + ")" * 1500), data),
        "two shapes": npy_of(plain.replace("}", "'shape': (1, 3), }"), data),
        "no shape": npy_of(plain.replace("'shape': (1, 3), ", ""), data),
        "another name": npy_of(plain.replace("}", "'other': (1, 3), }"), data),
        "code for a shape": npy_of(plain.replace("(1, 3)", "(__import__('os').getpid(), 3)"), data),
        "product for a shape": npy_of(plain.replace("(1, 3)", "(1*1, 3)"), data),
        "negative shape": npy_of(plain.replace("(1, 3)", "(-1, 3)"), data),
        "comma for a shape": npy_of(plain.replace("(1, 3)", "(,)"), data),
        "gap in a shape": npy_of(plain.replace("(1, 3)", "(1,,3)"), data),
        "space in a number": npy_of(plain.replace("(1, 3)", "(1, 0 3)"), data),
        "much space": npy_of(plain.replace("(1, 3)", "(1, 3" + " " * 3900 + "3)"), data),
        "number for a shape": npy_of(plain.replace("(1, 3)", "(3)"), data),
        "huge shape": npy_of(plain.replace("(1, 3)", "(1, 999999999999999999)"), data),
        "overflowing shape": npy_of(plain.replace("(1, 3)", "(4294967296, 4294967297)"), data),
        "unwritable number": npy_of(plain.replace("(1, 3)", f"(1, {'9' * 50})"), data),
        "33 axes": npy_of(plain.replace("(1, 3)", "(" + "1, " * 33 + ")"), data[:4]),
        "order 1": npy_of(plain.replace("False", "1"), data),
        "records": npy(np.zeros((1, 3), [("a", "<f4")])),
        "NUL": npy_of(plain.replace("shape", "sha\x00pe"), data),
    }.items():
        yield from files(name, body)
    for name, array in {
        "FP64": X.astype(np.float64),
        "whole numbers": X.astype(np.int32),
        "complex numbers": X.astype(np.complex64),
        "dates": np.zeros((1, 3), "M8[s]"),
        "bytes": np.array([[b"a", b"b", b"c"]]),
        "strings": np.array([["a", "b", "c"]]),
        "objects": np.array([[1, {}, CANARY]], dtype=object),
        "one axis": X[0],
        "no axes": np.float32(1),
        "two columns": X[:, :2],
        "no rows": X[:0],
    }.items():
        yield from files(name, npy(np.asarray(array)), "invalid_tensor")
    for dtype in ("V4", "O", "f4,f4", "<f3", "(2,)f4", "<f4\\n", "<c8", "U99999999", "f", ""):
        body = npy_of(plain.replace("'<f4'", f"'{dtype}'"), data)
        code = "malformed_body" if "\\" in dtype else "invalid_tensor"
        yield from files(f"dtype {dtype!r}", body, code)
    yield from files("65 rows", npy(np.zeros((65, 3), np.float32)), "payload_too_large", 413)
    yield from npy_values()


def npy_values() -> Iterator[Case]:
    """Arrays of the right form whose values the typed routes do not take."""

    def typed(name: str, model: str, array: np.ndarray) -> Case:
        return Case(f".npy values: {name}", 422, "validation_failed", f"/models/{model}/predict",
                    npy(array), headers={"Content-Type": NPY})  # fmt: skip

    def three(*values: float) -> np.ndarray:
        return np.array([[1, 2, 3], values], np.float32)

    yield typed("NaN", "affine", three(1, np.nan, 3))
    yield typed("infinity", "affine", three(1, 2, np.inf))
    yield typed("under the least", "ranged", three(0.9, 2, 3))
    yield typed("over the most", "ranged", three(1, 2, 5.1))
    yield typed("not whole", "ranged", three(1, 2.5, 3))
    yield typed("too large to be exact", "ranged", three(1, 2**25, 3))
    yield typed("infinite whole number", "ranged", three(1, -np.inf, 3))
    yield typed("dark pixels", "conv", np.full((2, 8, 8), 17, np.uint8))
    yield typed("a long text", "notes", np.array(["x" * 41]))
    yield typed("an unknown category", "survey", np.array(["red", CANARY]))
    yield typed("a long category", "strings", np.array(["x" * 1001]))
    surrogate = npy(np.array(["abc"])).replace("b".encode("utf-32-le"), b"\x00\xd8\x00\x00")
    beyond = npy(np.array(["abc"])).replace("b".encode("utf-32-le"), b"\x00\x00\x11\x00")
    for name, body in {"a surrogate": surrogate, "no Unicode": beyond}.items():
        yield Case(f".npy values: {name}", 400, "invalid_tensor", "/models/notes/predict", body,
                   headers={"Content-Type": NPY})  # fmt: skip


def tables() -> Iterator[Case]:
    def table(
        name: str, body: str | bytes, model: str = "affine", status: int = 422, media: str = ""
    ) -> Case:
        code = {400: "malformed_body", 413: "payload_too_large", 422: "validation_failed",
                415: "unsupported_media_type"}[status]  # fmt: skip
        content = body if isinstance(body, bytes) else body.encode()
        return Case(f"CSV: {name}", status, code, f"/models/{model}/predict", content,
                    headers={"Content-Type": f"text/csv{media}"})  # fmt: skip

    for name, body in {
        "more cells than names": "a,b,c\n1,2,3,4\n",
        "fewer cells than names": "a,b,c\n1,2\n",
        "an empty line": "a,b,c\n\n1,2,3\n",
        "a name twice": "a,a,b\n1,1,2\n",
        "a quote inside": 'a,b,c\n1,2"3,4\n',
        "text behind quotes": 'a,b,c\n"1"x,2,3\n',
        "quotes not closed": 'a,b,c\n"1,2,3\n',
        "a carriage return alone": "a,b,c\r1,2,3\r",
        "too many names": "a,b,c,a\n",
        "commas only": "," * 100_000,
        "UTF-16": "a,b,c\n1,2,3\n".encode("utf-16"),
        "latin-1": b"a,b,c\n1,2,\xe9\n",
    }.items():
        yield table(name, body, status=400)
    for name, body in {
        "nothing": "",
        "names only": "a,b,c\n",
        "no names": "1,2,3\n4,5,6\n",
        "a name missing": "a,b\n1,2\n",
        "an unknown name": f"a,b,{CANARY.lower()}\n1,2,3\n",
        "names in quotes with space": '"a "," b",c\n1,2,3\n',
        "semicolons": "a;b;c\n1;2;3\n",
        "tabs": "a\tb\tc\n1\t2\t3\n",
    }.items():
        yield table(name, body)
    for cell in ("", '""', "x", CANARY, "1 ", " 1", "+1", "1_0", "0x10", "01", ".5", "1.", "1e",
                 "NaN", "nan", "Infinity", "inf", "true", "null", "1,5".replace(",", "."[:0]) + "٣",
                 "1e999", "1e39", "--1", "9" * 500, "½"):  # fmt: skip
        yield table(f"number is {cell[:12]!r}", f"a,b,c\n1,2,3\n4,{cell},6\n")
    for cell in ("1.0", "1e3", "", "x", "9223372036854775808", "9" * 500, "true", "-"):
        yield table(f"integer is {cell[:24]!r}", f"index\n{cell}\n", "poison")
    for b in ("16777217", "1.5", "x"):
        yield table(f"integer in FP32 is {b}", f"a,b,c\n1,{b},3\n", "ranged")
    yield table("out of range", "a,b,c\n0.5,1,3\n", "ranged")
    yield table("an unknown category", f"colour\nred\n{CANARY}\n", "survey")
    yield table("an empty text in quotes for a category", 'colour\n""\n', "survey")
    yield table("a long text", f"text\n{'x' * 41}\n", "notes")
    yield table("no picture", "pixels\nabc\n", "conv")
    yield table("65 rows", "a,b,c\n" + "1,2,3\n" * 65, status=413)
    yield table("50,000 rows", "index\n" + "1\n" * 50_000, "poison", 413)
    yield table("another charset", "a,b,c\n1,2,3\n", status=415, media="; charset=latin-1")
    yield table("a model of tensors", "pixels\n1\n", "grid", 415)


def lines() -> Iterator[Case]:
    good = json.dumps(ROWS["instances"][0]).encode()

    def case(name: str, body: bytes, status: int = 400, model: str = "affine") -> Case:
        code = {400: "malformed_body", 413: "payload_too_large", 422: "validation_failed"}[status]
        return Case(f"NDJSON: {name}", status, code, f"/models/{model}/predict", body,
                    headers={"Content-Type": "application/x-ndjson"})  # fmt: skip

    for name, body in {
        "nothing": b"",
        "a line break": b"\n",
        "an empty line between": good + b"\n\n" + good,
        "two empty lines behind": good + b"\n\n",
        "two rows in a line": good + b"," + good,
        "two rows, no comma": good + b" " + good,
        "rows that share lines": good + b',{"a":1\n"b":2,"c":3}',
        "a row over two lines": good[:9] + b"\n" + good[9:],
        "a name twice": b'{"a":1,"a":1,"b":2,"c":3}',
        "a name twice, then fewer": good + b'\n{"a":1,"\\u0061":1,"b":2,"c":3}',
        "a bracket that closes": good + b']},{"instances":[' + good,
        "deep": b"[" * 101,
        "NUL": b"\x00",
        "UTF-16": good.decode().encode("utf-16"),
    }.items():
        yield case(name, body)
    for name, body in {
        "a list": b"[" + good + b"]",
        "null": b"null",
        "a number": good + b"\n1",
        "the typed form": json.dumps(ROWS).encode(),
        "a second bad row": good + b'\n{"a":1,"b":"2","c":3}',
        "an unknown name": b'{"a":1,"b":2,"c":3,"d":4}',
        "a name missing": b'{"a":1}',
    }.items():
        yield case(name, body, 422)
    for literal in ("1e39", "NaN", "true", "null", '"1"', "[]"):
        yield case(f"number is {literal}", b'{"a":%b,"b":2,"c":3}' % literal.encode(), 422)
    yield case("65 rows", (good + b"\n") * 65, 413)
    yield case("line breaks", b"\n" * 100_000, 413)
    yield case("braces", b"{" * 100, 413)


def picture_files() -> Iterator[Case]:
    whole = saved("PNG")
    for name, body in {
        "nothing": b"",
        "text": CANARY.encode(),
        "cut short": whole[: len(whole) // 2],
        "a bomb": png(31_623, 31_623),
        "GIF": saved("GIF"),
        "base64": b"iVBORw0KGgo=",
        "JSON": json.dumps(ROWS).encode(),
    }.items():
        for media in ("image/png", "image/jpeg"):
            yield Case(f"picture file: {name} {media}", 422, "validation_failed",
                       "/models/conv/predict", body, headers={"Content-Type": media})  # fmt: skip
    for media in ("image/gif", "image/svg+xml", "image/*", "image/"):
        yield Case(f"picture as {media}", 415, "unsupported_media_type", "/models/conv/predict",
                   whole, headers={"Content-Type": media})  # fmt: skip
    for path in (AFFINE, "/models/grid/predict", "/v2/models/conv/infer"):
        yield Case(f"picture file for {path}", 415, "unsupported_media_type", path, whole,
                   headers={"Content-Type": "image/png"})  # fmt: skip


def compressed() -> Iterator[Case]:
    good = json.dumps(ROWS).encode()
    packed, flat = gzip.compress(good), zlib.compress(good)
    for name, encoding, body in (
        ("nothing", "gzip", b""),
        ("plain JSON", "gzip", good),
        ("plain JSON", "deflate", good),
        ("zlib", "gzip", flat),
        ("gzip", "deflate", packed),
        ("no frame", "deflate", flat[2:-4]),
        ("header only", "gzip", packed[:10]),
        ("cut short", "gzip", packed[:-1]),
        ("cut short", "deflate", flat[:-1]),
        ("cut in half", "gzip", packed[: len(packed) // 2]),
        ("a wrong sum", "gzip", packed[:-8] + bytes(4) + packed[-4:]),
        ("a wrong size", "gzip", packed[:-4] + bytes(4)),
        ("a flipped byte", "gzip", packed[:20] + bytes([packed[20] ^ 255]) + packed[21:]),
        ("something behind", "gzip", packed + b"\x00"),
        ("something behind", "deflate", flat + CANARY.encode()),
        ("a second member", "gzip", packed + gzip.compress(b"")),
        ("an unknown method", "gzip", packed[:2] + b"\x07" + packed[3:]),
        ("a second round", "gzip", gzip.compress(packed)),
        ("not JSON inside", "gzip", gzip.compress(b"{")),
    ):
        yield Case(f"{encoding}: {name}", 400, "malformed_body", AFFINE, body,
                   headers={"Content-Encoding": encoding})  # fmt: skip
    bombs = {"a byte over": gzip.compress(b" " * 200_001), "large": gzip.compress(bytes(10**7))}
    for name, body in bombs.items():
        for path in (AFFINE, INFER):
            yield Case(f"gzip: a bomb, {name} {path}", 413, "payload_too_large", path, body,
                       headers={"Content-Encoding": "gzip"})  # fmt: skip
    yield Case("deflate: a bomb", 413, "payload_too_large", AFFINE, zlib.compress(bytes(10**7)),
               headers={"Content-Encoding": "deflate"})  # fmt: skip


FORMAT_CASES: Final = [
    case
    for family in (
        division, raw_tensors, raw_strings, raw_bodies, npy_files, tables, lines, picture_files,
        compressed,
    )
    for case in family()
]  # fmt: skip
