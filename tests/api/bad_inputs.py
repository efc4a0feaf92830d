"""Requests that must be refused: a table of families, with the documented status of each.

Each value carries `CANARY` where it can, so that an answer that echoes it is seen.
"""

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image

from tests.api.answers import CANARY, ROWS, TENSORS

AFFINE: Final = "/models/affine/predict"
INFER: Final = "/v2/models/affine/infer"


@dataclass(frozen=True)
class Case:
    """One request and what it must get. `operation` is its path in the OpenAPI document."""

    name: str
    status: int
    code: str
    path: str = AFFINE
    body: bytes = b""
    method: str = "POST"
    headers: dict[str, str | bytes] = field(default_factory=dict)


def typed(
    name: str, body: Any, status: int = 422, code: str = "validation_failed", **more: Any
) -> Case:
    return Case(name, status, code, body=_bytes(body), **more)


def row(name: str, instance: Any, model: str = "affine", **more: Any) -> Case:
    """A body that is right but for one instance."""
    body = b'{"instances":[%b]}' % _bytes(instance)
    return typed(name, body, path=f"/models/{model}/predict", **more)


def malformed(name: str, body: Any, path: str = AFFINE) -> Case:
    return Case(name, 400, "malformed_body", path, _bytes(body))


def tensors(name: str, body: Any, code: str = "malformed_body", path: str = INFER) -> Case:
    return Case(name, 400, code, path, _bytes(body))


def tensor(case: str, code: str = "invalid_tensor", /, **change: Any) -> Case:
    """A tensor request that is right but for what `change` says (None leaves a key out)."""
    item = TENSORS["inputs"][0] | change
    item = {key: value for key, value in item.items() if value is not None}
    return tensors(case, {"inputs": [item]}, code)


def _bytes(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def _number(literal: str) -> bytes:
    return b'{"a":%b,"b":2,"c":3}' % literal.encode()


def json_syntax() -> Iterator[Case]:
    good = _bytes(ROWS)
    broken = {
        "empty body": b"",
        "space only": b" \n",
        "cut short": good[:-2],
        "two documents": good + good,
        "trailing comma": b'{"instances":[{"a":1,"b":2,"c":3},]}',
        "comment": b"/* x */" + good,
        "single quotes": good.replace(b'"', b"'"),
        "byte order mark": b"\xef\xbb\xbf" + good,
        "utf-16": good.decode().encode("utf-16"),
        "utf-32": good.decode().encode("utf-32-le"),
        "latin-1": b'{"instances":[{"a":"\xe9"}]}',
        "overlong utf-8": b'{"instances":[{"a":"\xc0\xaf"}]}',
        "utf-8 of a surrogate": b'{"instances":[{"a":"\xed\xa0\x80"}]}',
        "lone surrogate": b'{"instances":[{"a":"\\ud800"}]}',
        "lone surrogate as a name": b'{"\\udc00":1}',
        "raw NUL": b'{"instances":[{"a":"\x00"}]}',
        "raw newline in a string": b'{"instances":[{"a":"\n"}]}',
        "bad escape": b'{"instances":[{"a":"\\x41"}]}',
        "gzip without saying so": zlib.compress(good),
        "leading zero": b'{"instances":[{"a":01}]}',
        "plus sign": b'{"instances":[{"a":+1}]}',
        "hexadecimal": b'{"instances":[{"a":0x10}]}',
        "bare point": b'{"instances":[{"a":.5}]}',
        "5,000 digits": b'{"instances":[{"a":%b}]}' % (b"1" * 5000),
        "undefined": b'{"instances":undefined}',
        "garbage": b"\x00\xff\xfe" + CANARY.encode(),
    }
    for name, body in broken.items():
        yield malformed(name, body)
        yield malformed(f"{name} (tensors)", body.replace(b"instances", b"inputs"), INFER)
    for literal in ("NaN", "Infinity", "-Infinity"):
        yield malformed(f"{literal} as a tensor value", _infer_data(f"[1,2,{literal}]"), INFER)


def _infer_data(data: str) -> bytes:
    good = _bytes(TENSORS)
    assert b"[1, 2, 3]" in good
    return good.replace(b"[1, 2, 3]", data.encode())


def json_types() -> Iterator[Case]:
    for name, body in {
        "null": None,
        "array": [],
        "string": f'"{CANARY}"',
        "number": 1,
        "true": True,
        "empty object": {},
        "no rows": {"instances": []},
        "rows of another type": {"instances": {"a": 1}},
        "rows null": {"instances": None},
        "row null": {"instances": [None]},
        "row array": {"instances": [[1, 2, 3]]},
        "row string": {"instances": [CANARY]},
        "second row bad": {"instances": [*ROWS["instances"], 7]},
        "foreign name beside instances": ROWS | {"parameters": 1},
        "rows under another name": {"inputs": ROWS["instances"]},
    }.items():
        yield typed(f"body is {name}", body)
    for name, body in {
        "null": None,
        "array": [],
        "string": f'"{CANARY}"',
        "number": 1,
        "empty object": {},
        "inputs null": {"inputs": None},
        "inputs object": {"inputs": {}},
        "input null": {"inputs": [None]},
        "input string": {"inputs": [CANARY]},
        "foreign name": TENSORS | {"instances": []},
        "parameters array": TENSORS | {"parameters": []},
        "outputs object": TENSORS | {"outputs": {}},
        "output string": TENSORS | {"outputs": [CANARY]},
        "output foreign name": TENSORS | {"outputs": [{"name": "y", "data": []}]},
        "output parameters number": TENSORS | {"outputs": [{"name": "y", "parameters": 1}]},
    }.items():
        yield tensors(f"tensor body is {name}", body)


def numbers() -> Iterator[Case]:
    for literal in ("1e39", "-1e39", "3.5e38", "1e308", "1e400", "-1e999", "9" * 300,
                    "NaN", "Infinity", "-Infinity", "true", "false", "null", '"1"', '""', "[]",
                    "[1]", "{}", f'"{CANARY}"'):  # fmt: skip
        yield row(f"number is {literal[:20]}", _number(literal))
    for literal in ("9223372036854775808", "-9223372036854775809", str(2**64), str(2**100),
                    "9" * 300, "1.0", "1e0", "0.5", "-0.0", "true", "null", '"1"',
                    "[0]"):  # fmt: skip
        yield row(f"integer is {literal[:24]}", b'{"index":%b}' % literal.encode(), "poison")
    for literal in ("16777217", "-16777217", str(2**53), "9" * 400, "1.0", "true", '"2"'):
        yield row(f"integer in FP32 is {literal[:20]}", _ranged(b=literal), "ranged")
    for name, literals in {"a": ("0.999", "-1", "0"), "c": ("5.0001", "-5.1", "1e39")}.items():
        for literal in literals:
            yield row(f"{name} out of range: {literal}", _ranged(**{name: literal}), "ranged")
    for literal in ("1e39", "-3.5e38"):
        yield tensors(f"FP32 is {literal}", _infer_data(f"[1,2,{literal}]"), "invalid_tensor")
    for value in (True, None, "1", CANARY, [1], {}):
        yield tensor(f"FP32 is {value!r}", data=[1, 2, value])
    for literal in (str(2**63), str(2**64), str(2**100), "1.0", "true", "null", '"1"', "1e3"):
        item = b'{"name":"index","datatype":"INT64","shape":[2],"data":[0,%b]}' % literal.encode()
        body = b'{"inputs":[%b]}' % item
        path = "/v2/models/poison/infer"
        yield tensors(f"INT64 is {literal[:24]}", body, "invalid_tensor", path)
    for value in (300, -1, 256, 1.0, True, "7"):
        pixels = [[0] * 8 for _ in range(8)]
        pixels[7][7] = value
        yield row(f"UINT8 is {value!r}", {"pixels": pixels}, "grid")


def _ranged(**change: str) -> bytes:
    values = {"a": "1", "b": "2", "c": "3"} | change
    return b"{%b}" % ",".join(f'"{name}":{value}' for name, value in values.items()).encode()


def nesting() -> Iterator[Case]:
    shapes = {
        "arrays": b"[" * 101 + b"]" * 101,
        "objects": b'{"a":' * 101 + b"1" + b"}" * 101,
        "10,000 arrays": b"[" * 10_000 + b"]" * 10_000,
        "unclosed": b"[" * 100_000,
        "hidden by brackets in strings": b'["]",' * 200 + b"1" + b',"["]' * 200,
        "hidden by braces in names": b'{"}":' * 200 + b"1" + b',"{":1}' * 200,
        "after an escaped quote": b'["\\"",' + b"[" * 101 + b"]" * 102,
        "after an unclosed string": b"[" * 101 + b'"' + b'\\"' * 50_000,
    }
    for name, shape in shapes.items():
        yield malformed(f"deep {name}", b'{"instances":%b}' % shape)
        body = _bytes(TENSORS)[:-1] + b',"parameters":{"a":%b}}' % shape
        yield tensors(f"deep {name} (tensors)", body)


def duplicates() -> Iterator[Case]:
    yield malformed("row given twice", b'{"instances":[],"instances":[{"a":1,"b":2,"c":3}]}')
    yield malformed("field given twice", b'{"instances":[{"a":1,"a":1,"b":2,"c":3}]}')
    yield malformed("escaped name given twice", b'{"instances":[{"a":1,"\\u0061":1,"b":2,"c":3}]}')
    item = _bytes(TENSORS["inputs"][0])
    yield tensors("inputs given twice", b'{"inputs":[],"inputs":[%b]}' % item)
    yield tensors(
        "data given twice", b'{"inputs":[%b]}' % item.replace(b'"data"', b'"data":[],"data"')
    )
    yield tensors(
        "parameter given twice", _bytes(TENSORS)[:-1] + b',"parameters":{"a":{"b":1,"b":1}}}'
    )
    yield tensors("tensor given twice", {"inputs": TENSORS["inputs"] * 2}, "invalid_tensor")
    twice = TENSORS | {"outputs": [{"name": "y"}, {"name": "y"}]}
    yield tensors("output given twice", twice, "invalid_tensor")


def ids() -> Iterator[Case]:
    for value in ("x" * 257, 1, True, [], {}, 1.5):
        yield tensors(f"id is {str(value)[:9]}", TENSORS | {"id": value})


def shapes() -> Iterator[Case]:
    for shape in ([], [3], [1, 3, 1], [1, 2], [1, 4], [0, 3], [-1, 3], [1, -3], [2, 3], [3, 1],
                  [1.0, 3], [True, 3], ["1", 3], [None, 3], [[1], 3], "1,3", 3, {}, [2**31, 3],
                  [1, 2**62], [1] * 5000):  # fmt: skip
        huge = isinstance(shape, list) and shape[:1] == [2**31]
        if not huge:
            yield tensor(f"shape {str(shape)[:20]}", shape=shape)
    yield tensor("no shape", shape=None)
    yield Case("65 rows declared", 413, "payload_too_large", INFER, _shaped([65, 3]))
    yield Case("2^40 rows declared", 413, "payload_too_large", INFER, _shaped([2**40, 3]))
    for data in ([], [1, 2], [1, 2, 3, 4], [[1, 2]], [[1, 2, 3], [4, 5, 6]], [[1], [2], [3]],
                 [[1, 2], 3], [[[1, 2, 3]]], [1, [2, 3]], [[1, 2, [3]]]):  # fmt: skip
        yield tensor(f"data {data}", data=data)
    for data in ("1,2,3", 7, {}, CANARY):
        yield tensor(f"data {data!r}", "malformed_body", data=data)
    yield tensor("no data", "malformed_body", data=None)
    for pixels in ([], [[0] * 8] * 7, [[0] * 8] * 9, [[0] * 7] * 8, [0] * 64, [[[0]] * 8] * 8,
                   [[0] * 8] * 7 + [[0] * 7], [[0] * 8] * 7 + [0], 0, None, {}):  # fmt: skip
        yield row(f"pixels {str(pixels)[:30]} {len(str(pixels))}", {"pixels": pixels}, "conv")
        yield row(f"grid {str(pixels)[:30]} {len(str(pixels))}", {"pixels": pixels}, "grid")


def _shaped(shape: list[int]) -> bytes:
    return _bytes({"inputs": [TENSORS["inputs"][0] | {"shape": shape}]})


def tensor_names() -> Iterator[Case]:
    for name in ("X", "x ", "", "y", 1, None, ["x"], {"x": 1}, "../x", "x\x00"):
        yield tensor(f"input named {name!r}", name=name)
    for datatype in ("FP64", "fp32", "FP16", "INT64", "BYTES", "", 1, None, ["FP32"], "float"):
        yield tensor(f"datatype {datatype!r}", datatype=datatype)
    yield tensors("no tensors", {"inputs": []}, "invalid_tensor")
    extra = {"inputs": [*TENSORS["inputs"], TENSORS["inputs"][0] | {"name": "z"}]}
    yield tensors("a tensor too many", extra, "invalid_tensor")
    for name in ("z", "x", "", None, 1, [CANARY], {"name": "y"}):
        yield tensors(f"output {name!r}", TENSORS | {"outputs": [{"name": name}]}, "invalid_tensor")
    yield tensor("binary input without a head", parameters={"binary_data_size": 12})
    for instance in (
        {},
        {"a": 1, "b": 2},
        {"a": 1, "b": 2, "c": 3, "d": 4},
        {"A": 1, "b": 2, "c": 3},
    ):
        yield row(f"fields {','.join(instance) or 'none'}", instance)
    for value in (None, 1, True, ["red"], {"colour": "red"}, "x" * 1001):
        yield row(f"category {str(value)[:12]!r}", {"colour": value}, "strings")
    yield row("category outside the vocabulary", {"colour": CANARY}, "survey")
    for value in ("x" * 41, None, 5):
        yield row(f"text {str(value)[:8]!r}", {"text": value}, "notes")


def row_counts() -> Iterator[Case]:
    too_many = {"status": 413, "code": "payload_too_large"}
    yield typed("65 rows", {"instances": ROWS["instances"] * 65}, **too_many)
    yield typed("1,000 rows", {"instances": ROWS["instances"] * 1000}, **too_many)
    mixed = {"instances": ROWS["instances"] * 17}
    yield typed("17 rows of a model that mixes", mixed, path="/models/mixer/predict", **too_many)


def body_sizes() -> Iterator[Case]:
    long = _bytes(ROWS) + b" " * 200_000
    for path in (AFFINE, INFER):
        yield Case(f"a byte over {path}", 413, "payload_too_large", path, b" " * 200_001)
        yield Case(f"good but too long {path}", 413, "payload_too_large", path, long)


def encodings() -> Iterator[Case]:
    good = _bytes(ROWS)
    for encoding in ("br", "zstd", "gzip, gzip", "identity, gzip", "gzip,", "x", ""):
        for path in (AFFINE, INFER):
            yield Case(f"encoding {encoding!r} {path}", 415, "unsupported_media_type", path,
                       zlib.compress(good), headers={"Content-Encoding": encoding})  # fmt: skip
    for media in ("text/plain", "", "application/xml", "application/jsonx", "json", "*/*",
                  "multipart/form-data; boundary=x", "application/x-www-form-urlencoded",
                  "application/json/x", "application/json,text/plain", "image/png", "text/csv,",
                  "application/x-numpy", b"\xff\xfe"):  # fmt: skip
        for path in (AFFINE, INFER):
            yield Case(f"media type {media!r} {path}", 415, "unsupported_media_type", path, good,
                       headers={"Content-Type": media})  # fmt: skip


def header_tricks() -> Iterator[Case]:
    good = _bytes(ROWS)
    for path in (AFFINE, INFER):
        for limit in ("0", "-1", "1.0", "x", "", "9" * 40, "1_0", "1 2"):
            yield Case(f"time limit {limit[:5]!r} {path}", 400, "bad_request", path, good,
                       headers={"Modelport-Timeout-Ms": limit})  # fmt: skip


def methods() -> Iterator[Case]:
    paths = (AFFINE, INFER, "/predict", "/models/affine/versions/1/predict")
    for path in paths:
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            yield Case(f"{method} {path}", 405, "method_not_allowed", path, method=method)
    for path in (
        "/models",
        "/health/live",
        "/v2",
        "/v2/models/affine",
        "/metrics",
        "/openapi.json",
    ):
        for method in ("POST", "DELETE"):
            yield Case(f"{method} {path}", 405, "method_not_allowed", path, method=method)


def targets() -> Iterator[Case]:
    missing = ("/predict/", "/models/affine/predict/", "/models//predict", "/nope",
               "/models/affine/versions//predict", "/v2/", "/v2/models/affine/generate",
               "/.git/config", "/static/../app/main.py", "/docs/../../etc/passwd",
               "/models/affine/predict/extra", "/PREDICT", "/predict%20",
               "/predict%00")  # fmt: skip
    for path in missing:
        yield Case(f"POST {path}", 404, "not_found", path, _bytes(ROWS))
    for name in (
        "..%2F..%2Fetc%2Fpasswd",
        "%2e%2e%2faffine",
        "affine%2f..%2faffine",
        "..%5C..%5Cx%2F",
    ):
        yield Case(f"POST to {name}", 404, "not_found", f"/models/{name}/predict", _bytes(ROWS))
    for name in ("..%5Caffine", "%2e%2e%5cx", "%00", "affine%00", "%0d%0aX:1", "affine%0a", "%ff",
                 "%c0%ae%c0%ae", "..%c0%af", "%252e%252e%252f", "affine.", "Affine", "affine%20",
                 "x" * 5000, "%E2%80%AE", "CON", "affine;v=1", "~root", "$HOME", "%25s%25n",
                 "{name}"):  # fmt: skip
        for path in (f"/models/{name}/predict", f"/v2/models/{name}/infer"):
            yield Case(f"POST to {path[:40]}", 404, "model_not_found", path, _bytes(ROWS))
    for version in ("..%5C1", "0", "-1", "1%00", "1.0", "%31%20", "9" * 400, "%D9%A1", "x"):
        path = f"/models/affine/versions/{version}/predict"
        yield Case(f"version {version[:12]}", 404, "model_not_found", path, _bytes(ROWS))
    yield Case("no model named", 404, "model_required", "/predict", _bytes(ROWS))


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A greyscale PNG that says it has these sides, with whatever data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def saved(form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 7).save(buffer, form, **options)
    return buffer.getvalue()


def pictures() -> Iterator[Case]:
    whole = saved("PNG")
    files = {
        "bomb of 10^9 pixels": png(31_623, 31_623),
        "bomb of 2^62 pixels": png(2**31 - 1, 2**31 - 1),
        "bomb with data": png(6_000, 6_000, bytes(6_000 * 6_001)),
        "no pixels": png(0, 0),
        "no data": png(8, 8),
        "cut short": whole[: len(whole) // 2],
        "cut in the header": whole[:20],
        "flipped byte": whole[:50] + bytes([whole[50] ^ 255]) + whole[51:],
        "JPEG cut short": saved("JPEG")[:100],
        "GIF": saved("GIF"),
        "TIFF": saved("TIFF"),
        "BMP": saved("BMP"),
        "ICO": saved("ICO"),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "text": CANARY.encode(),
        "nothing": b"",
        "PNG signature only": whole[:8],
        "zip": b"PK\x03\x04" + bytes(40),
    }
    for name, content in files.items():
        text = base64.b64encode(content).decode()
        yield row(f"picture: {name}", {"pixels": text}, "conv")
        yield row(f"picture as URL: {name}", {"pixels": f"data:image/png;base64,{text}"}, "conv")
    good = base64.b64encode(whole).decode()
    for name, text in {
        "not base64": f"{CANARY}!!!",
        "padding cut off": good.rstrip("=") + "A",
        "line breaks": good[:20] + "\n" + good[20:],
        "URL-safe alphabet": "-_" + good,
        "not ASCII": "é" + good,
        "file URL": "file:///etc/passwd",
        "http URL": "http://127.0.0.1/x.png",
        "data URL without a comma": "data:image/png;base64" + good,
        "path": "/etc/passwd",
        "hex": whole.hex(),
    }.items():
        yield row(f"picture text: {name}", {"pixels": text}, "conv")


CASES: Final = [
    case
    for family in (
        json_syntax, json_types, numbers, nesting, duplicates, ids, shapes, tensor_names,
        row_counts, body_sizes, encodings, header_tricks, methods, targets, pictures,
    )
    for case in family()
]  # fmt: skip


def operation(case: Case, paths: dict[str, Any]) -> str | None:
    """The documented path that a case is sent to, or None where it is sent to none."""
    for path in paths:
        documented, sent = path.split("/"), case.path.split("/")
        if len(documented) == len(sent) and all(
            want in (got, "{version}") for want, got in zip(documented, sent, strict=True)
        ):
            return path
    return None
