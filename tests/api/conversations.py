"""What callers may send over one connection, made up from a seed."""

import gzip
import json
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Final

import numpy as np

from tests.api.answers import ROWS, TENSORS
from tests.api.bad_formats import FORMAT_CASES
from tests.api.bad_inputs import CASES
from tests.api.binary import HEAD, NPY, OCTETS, divided, npy, raw, tensor

JSON: Final = "application/json"
_TYPED: Final = ("/predict", "/models/affine/predict", "/models/ranged/predict")
_INFER: Final = "/v2/models/affine/infer"
#: Bad bodies that are short enough to send thousands of times.
_BAD: Final = [case for case in (*CASES, *FORMAT_CASES) if len(case.body) < 4000]
#: Addresses that are no plain name of a model.
_ODD: Final = (
    "/models/%61ffine/predict",
    "/models/affine%2fpredict",
    "/models/affine/predict/",
    "/models/affine/predict?a=1",
    "/models//predict",
    "/models/nobody/predict",
    "/models/no%20body/predict",
    "/models/affine/versions/1/predict",
    "/models/affine/versions/2/predict",
    "/models/affine/versions/9/predict",
    "/models/affine/versions/x/predict",
    "/models/..%2f..%2fetc/predict",
    "http://else.test/models/affine/predict",
    "/v2/models/affine/versions/1/infer",
    "/v2/models/nobody/infer",
    "/v2/models/plan.b/infer",
    "/v2/models/plan-b/infer#part",
    "/v2/models/~/infer",
)
_ORDINARY: Final = (
    "/health/live",
    "/health/ready",
    "/models",
    "/models/affine",
    "/v2",
    "/v2/health/ready",
    "/v2/models/affine",
    "/nowhere",
    "/",
    "*",
)
#: Behind these there is nothing more on a connection.
_BROKEN: Final = (
    b"\x00\x01 hello\r\n\r\n",
    b"BREW /predict HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /predict HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    b"POST /v2/models/affine/infer HTTP/1.1\r\nA\x00b: c\r\n\r\n",
    b"POST /models/affine/predict HTTP/9.9\r\nContent-Length: 0\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://else.test HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nContent-Length: 300000\r\n\r\n[",
    b"POST /predict HTTP/1.1\r\n" + b"X-Field: 1\r\n" * 101 + b"\r\n",
    b"POST /predict HTTP/1.1\r\nX-Field: " + b"1" * 33_000 + b"\r\n\r\n",
    b"POST /" + b"a" * 33_000 + b" HTTP/1.1\r\n\r\n",
)
#: The caller itself ends the connection.
_ENDS: Final = (
    b"POST /predict HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /predict HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /predict HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /health/live HTTP/1.0\r\n\r\n",
    b"HEAD /predict HTTP/1.0\r\n\r\n",
)
_UPGRADES: Final = (
    {"Connection": "Upgrade", "Upgrade": "websocket"},
    {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"},
)
_PACKS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": partial(gzip.compress, mtime=0),
    "deflate": zlib.compress,
}
#: What the heads of a series may have besides, all of them.
_MORE: Final[Sequence[Mapping[str, str]]] = (
    *({"Content-Encoding": way} for way in _PACKS),
    {"Content-Encoding": "identity"},
    {"Modelport-Timeout-Ms": "60000"},
    {"X-Request-Id": "mine"},
    {HEAD: "5"},
)
_LAST: Final = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Conversation:
    """Requests as bytes, in the pieces in which they are sent."""

    requests: tuple[bytes, ...]
    pieces: tuple[bytes, ...]


def conversation(seed: int) -> Conversation:
    """Up to some 40 requests; the last one ends the connection."""
    chance = random.Random(seed)
    requests: list[bytes] = []
    for _ in range(chance.choice((1, 2, 8, 20, 40))):
        requests += _series(chance) if chance.random() < 0.05 else [_request(chance)]
    end = chance.random()
    if end < 0.05:
        requests.append(chance.choice(_ENDS))
    else:
        if end < 0.2:
            requests.append(chance.choice(_BROKEN))
        requests.append(_LAST)
    stream = b"".join(requests)
    cuts = chance.choice((0, 1, 3, 6))
    if chance.random() < 0.02:
        cuts = min(len(stream) // 2, 400)
    at = sorted({0, len(stream), *(chance.randrange(1, len(stream)) for _ in range(cuts))})
    pieces = tuple(stream[a:b] for a, b in pairwise(at))
    return Conversation(tuple(requests), pieces)


def _request(chance: random.Random) -> bytes:
    kind = chance.random()
    if kind < 0.02:
        return _upgrade(chance)
    if kind < 0.12:
        method = chance.choice(("GET", "GET", "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST"))
        return _bytes(chance, method, chance.choice(_ORDINARY), {}, b"")
    if kind < 0.35:
        case = chance.choice(_BAD)
        headers = {"Content-Type": JSON} | _as_text(case.headers)
        return _bytes(chance, case.method, case.path, headers, case.body)
    path, headers, body = _good(chance)
    method = "POST"
    if kind < 0.45:
        path = chance.choice(_ODD)
    elif kind < 0.5:
        method = chance.choice(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"))
    elif kind < 0.55:
        headers |= chance.choice(
            (
                {"Content-Type": "text/html"},
                {"Content-Encoding": "br"},
                {"Content-Encoding": "identity"},
                {"Modelport-Timeout-Ms": "0"},
                {"Modelport-Timeout-Ms": "60000"},
                {HEAD: "x"},
                {"Content-Type": "application/json; charset=utf-8"},
            )
        )
    elif kind < 0.6:
        at = chance.randrange(len(body))
        body = body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :]
    elif kind < 0.63:
        way = chance.choice(tuple(_PACKS))
        headers |= {"Content-Encoding": way}
        body = _PACKS[way](body)
    return _bytes(chance, method, path, headers, body)


def _series(chance: random.Random) -> list[bytes]:
    """Requests that differ in their numbers only, as those of one caller do; some of them bad."""
    kind, rows = chance.randrange(3), chance.choice((1, 1, 1, 3))
    more = chance.choice(({}, {}, {}, *_MORE))
    made: list[bytes] = []
    for _ in range(chance.randrange(2, 20)):
        data = np.array([[chance.uniform(1, 9) for _ in "abc"] for _ in range(rows)], np.float32)
        numbers = [b"%.5f" % value for value in data.ravel().tolist()]
        path, headers = _INFER, {"Host": "a", "Content-Type": JSON}
        if kind == 0:
            document = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[%d,3],"data":[%b]}]}'
            body = document % (rows, b",".join(numbers))
        elif kind == 1:
            path = _TYPED[1]
            a, b, c = numbers[:3]
            body = b'{"instances":[%b]}' % b",".join([b'{"a":%b,"b":%b,"c":%b}' % (a, b, c)] * rows)
        else:
            body, divided_at = divided({"inputs": [tensor("x", "FP32", data)]}, raw(data))
            headers |= divided_at
        if chance.random() < 0.2:
            at = chance.randrange(len(body))
            other = b'eE+-.,[]{}"0 9nN\xff'[chance.randrange(17) :][:1]
            body = body[:at] + other + body[at + 1 :]
        pack = _PACKS.get(more.get("Content-Encoding", ""))
        if pack is not None and chance.random() < 0.7:
            body = pack(body)
        length = {"Content-Length": str(len(body))}
        made.append(_head("POST", path, headers | more | length) + body)
    return made


def _good(chance: random.Random) -> tuple[str, dict[str, str], bytes]:
    numbers = [round(chance.uniform(-9, 9), chance.randrange(4)) for _ in range(3)]
    rows = np.array([numbers] * chance.choice((1, 1, 1, 2, 5)), np.float32)
    match chance.randrange(8):
        case 0 | 1:
            row = dict(zip("abc", numbers, strict=True))
            body = json.dumps({"instances": [row] * len(rows)} if chance.random() < 0.8 else ROWS)
            return chance.choice(_TYPED), {"Content-Type": JSON}, body.encode()
        case 2:
            text = "a,b,c\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows.tolist())
            return _TYPED[1], {"Content-Type": "text/csv"}, text.encode()
        case 3:
            return _INFER, {"Content-Type": OCTETS, HEAD: "0"}, raw(rows)
        case 4:
            asked = {"Accept": NPY} if chance.random() < 0.5 else {}
            return chance.choice((_INFER, _TYPED[1])), {"Content-Type": NPY} | asked, npy(rows)
        case 5:
            document: dict[str, Any] = {"inputs": [tensor("x", "FP32", rows)]}
            if chance.random() < 0.5:
                document["parameters"] = {"binary_data_output": True}
            body, headers = divided(document, raw(rows))
            return _INFER, headers, body
        case _:
            item = TENSORS["inputs"][0] | {"shape": list(rows.shape), "data": rows.ravel().tolist()}
            document = {"inputs": [item]} | ({"id": "some"} if chance.random() < 0.3 else {})
            return (
                _INFER,
                {"Content-Type": JSON} if chance.random() < 0.9 else {},
                json.dumps(document).encode(),
            )


def _upgrade(chance: random.Random) -> bytes:
    headers = chance.choice(_UPGRADES)
    if chance.random() < 0.5:
        return _head("GET", "/health/live", headers)
    body = json.dumps(ROWS).encode() if chance.random() < 0.8 else b""
    length = {"Content-Length": str(len(body))}
    return _head("POST", "/models/affine/predict", headers | length) + body


def _bytes(
    chance: random.Random, method: str, path: str, headers: Mapping[str, str], body: bytes
) -> bytes:
    fields: dict[str, str] = {"Host": "a"} | headers
    if chance.random() < 0.2:
        fields["X-Request-Id"] = chance.choice(("mine", "a.b:c-9", "x" * 129, "no word", "é"))
    if chance.random() < 0.1:
        fields["Connection"] = "keep-alive"
    if body and chance.random() < 0.05:
        fields["Expect"] = "100-continue"
    if chance.random() < 0.3:
        fields = {chance.choice((str.upper, str.lower, str))(n): v for n, v in fields.items()}
    if chance.random() < 0.1:
        fields = {name: f"  {value}\t" for name, value in fields.items()}
    if body and chance.random() < 0.12:
        behind = chance.choice((b"", b"", b"X-Request-Id: late\r\n", b"Expect: 100-continue\r\n"))
        return (
            _head(method, path, fields | {"Transfer-Encoding": "chunked"})
            + _chunks(chance, body)
            + b"0\r\n"
            + behind
            + b"\r\n"
        )
    if body or method == "POST":
        fields["Content-Length"] = str(len(body))
    return _head(method, path, fields) + body


def _chunks(chance: random.Random, body: bytes) -> bytes:
    made = b""
    while body:
        size = chance.randrange(1, len(body) + 1)
        extension = b";a=b" if chance.random() < 0.2 else b""
        made += b"%x%b\r\n%b\r\n" % (size, extension, body[:size])
        body = body[size:]
    return made


def _head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _as_text(headers: Mapping[str, str | bytes]) -> dict[str, str]:
    return {k: v if isinstance(v, str) else v.decode("latin-1") for k, v in headers.items()}
