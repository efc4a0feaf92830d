"""Requests as bytes, and what their answers must say, in every form that a server here speaks."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from app.bundle.tensors import Array
from bench.networks import CLASSES
from bench.runtime import INPUT, OUTPUT
from bench.zoo import VARIANTS, Network, jpeg

#: Between a row alone and the same row in a batch.
_ATOL: Final = 1e-3
_RTOL: Final = 1e-2
_HEAD_LENGTH: Final = "inference-header-content-length"


class WrongAnswer(Exception):
    """A server answered, but not what it was asked."""


@dataclass(frozen=True)
class Wire:
    """Requests for the first rows of a network, and how their answers are read.

    Args:
        form: what a server must be programmed for that has no protocol of its own.
        scores: FP32 [10] from the headers (names in lower case) and the body of an answer; None
            where answers are not looked at.
    """

    requests: tuple[bytes, ...]
    scores: Callable[[Mapping[str, str], bytes], Array] | None
    form: Literal["json", "binary", "jpeg"] = "json"

    def check(self, turn: int, answer: bytes, expected: Array) -> None:
        """
        Args:
            expected: FP32 [rows, 10].
        Raises:
            WrongAnswer: it is no success, or has other scores.
        """
        if self.scores is None:
            return
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        if not status.startswith("HTTP/1.1 200"):
            raise WrongAnswer(f"{status}: {body[:300]!r}")
        headers = {
            name.lower(): value.strip() for name, _, value in (n.partition(":") for n in lines)
        }
        try:
            got = np.asarray(self.scores(headers, body), dtype=np.float32)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise WrongAnswer(f"{error!r} in {body[:300]!r}") from None
        if got.shape != (CLASSES,) or not np.allclose(got, expected[turn], _RTOL, _ATOL):
            raise WrongAnswer(f"request {turn}: {got.tolist()}, not {expected[turn].tolist()}")


def post(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A whole request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def post_json(path: str, document: Any) -> bytes:
    body = json.dumps(document, separators=(",", ":")).encode()
    return post(path, body, {"Content-Type": "application/json"})


def _of_all(request: Callable[[int], bytes]) -> tuple[bytes, ...]:
    return tuple(request(index) for index in range(VARIANTS))


def numbers(row: Array) -> list[Any]:
    """A row as short decimal numbers, flat."""
    flat = row.reshape(-1)
    return flat.astype(float).round(4).tolist() if row.dtype.kind == "f" else flat.tolist()


def oip_json(network: Network, path: str) -> Wire:
    def request(index: int) -> bytes:
        tensor = _tensor(network) | {"data": numbers(network.make(index))}
        return post_json(path, {"inputs": [tensor]})

    return Wire(_of_all(request), lambda _, body: _first_output(json.loads(body))["data"])


def oip_binary(network: Network, path: str) -> Wire:
    """With the protocol's binary tensor data extension, in both directions."""

    def request(index: int) -> bytes:
        raw = network.make(index).tobytes()
        tensor = _tensor(network) | {"parameters": {"binary_data_size": len(raw)}}
        document = {
            "inputs": [tensor],
            "outputs": [{"name": OUTPUT, "parameters": {"binary_data": True}}],
        }
        head = json.dumps(document, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        }
        return post(path, head + raw, headers)

    def scores(headers: Mapping[str, str], body: bytes) -> Array:
        return np.frombuffer(body[int(headers[_HEAD_LENGTH]) :], np.float32)

    return Wire(_of_all(request), scores)


def typed(network: Network, path: str) -> Wire:
    """Named fields: one number each."""

    def request(index: int) -> bytes:
        return post_json(path, {"instances": [named_numbers(network, index)]})

    return Wire(_of_all(request), _prediction)


def named_numbers(network: Network, index: int) -> dict[str, Any]:
    names = [field.name for field in network.fields]
    return dict(zip(names, numbers(network.make(index)), strict=True))


def jpeg_file(path: str) -> Wire:
    request = _of_all(lambda index: post(path, jpeg(index), {"Content-Type": "image/jpeg"}))
    return Wire(request, _prediction)


def raw_tensor(network: Network, path: str) -> Wire:
    """The tensor's bytes and nothing else, in both directions."""
    octets = {"Content-Type": "application/octet-stream"}
    requests = _of_all(lambda index: post(path, network.make(index).tobytes(), octets))
    return Wire(requests, lambda _, body: np.frombuffer(body, np.float32), "binary")


def jpeg_bytes(path: str) -> Wire:
    """The file and nothing else, answered with the tensor's bytes."""
    return Wire(jpeg_file(path).requests, lambda _, body: np.frombuffer(body, np.float32), "jpeg")


def plain_scores(requests: Callable[[int], Any], path: str) -> Wire:
    """A document for each row, answered with `{"scores": […]}`: what tutorials do."""
    return Wire(
        _of_all(lambda index: post_json(path, requests(index))),
        lambda _, body: json.loads(body)[OUTPUT],
    )


def picture_in_base64(index: int) -> dict[str, str]:
    return {"image": base64.b64encode(jpeg(index)).decode()}


def _tensor(network: Network) -> dict[str, Any]:
    return {"name": INPUT, "shape": [1, *network.row], "datatype": network.datatype}


def _first_output(document: Any) -> Any:
    return document["outputs"][0]


def _prediction(_: Mapping[str, str], body: bytes) -> Array:
    scores = json.loads(body)["predictions"][0][OUTPUT]
    return np.array([scores[str(index)] for index in range(CLASSES)])
