"""Requests are what the protocol says, and wrong answers are noticed."""

import json
from typing import Any

import numpy as np
import pytest

from bench import wires
from bench.cases import CASES
from bench.peer_targets import PEERS
from bench.targets import BARE, MODELPORT, NAIVE
from bench.wires import WrongAnswer
from bench.zoo import NETWORKS, VARIANTS

EXPECTED = np.linspace(0, 1, VARIANTS * 10, dtype=np.float32).reshape(VARIANTS, 10)


def split(request: bytes) -> tuple[dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines), body


def response(body: bytes, **headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode() + body


def oip_answer(row: Any) -> bytes:
    return response(json.dumps({"outputs": [{"data": row.tolist()}]}).encode())


def test_a_binary_request_has_its_head_and_its_tensor() -> None:
    network = NETWORKS["cnn28"]

    headers, body = split(wires.oip_binary(network, "/x").requests[3])

    size = int(headers["Inference-Header-Content-Length"])
    document = json.loads(body[:size])
    assert int(headers["Content-Length"]) == len(body)
    assert document["inputs"][0]["parameters"] == {"binary_data_size": len(body) - size}
    assert (np.frombuffer(body[size:], np.float32) == network.make(3).reshape(-1)).all()


def test_json_carries_the_same_numbers() -> None:
    network = NETWORKS["mlp"]

    _, body = split(wires.oip_json(network, "/x").requests[2])

    data = json.loads(body)["inputs"][0]["data"]
    assert (np.array(data, np.float32) == network.make(2)).all()


def test_a_right_answer_passes() -> None:
    wires.oip_json(NETWORKS["mlp"], "/x").check(4, oip_answer(EXPECTED[4]), EXPECTED)


@pytest.mark.parametrize(
    "answer",
    [
        oip_answer(EXPECTED[5]),
        oip_answer(EXPECTED[4][:9]),
        response(b'{"outputs": []}'),
        response(b"no JSON"),
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
    ],
)
def test_a_wrong_answer_does_not(answer: bytes) -> None:
    with pytest.raises(WrongAnswer):
        wires.oip_json(NETWORKS["mlp"], "/x").check(4, answer, EXPECTED)


def test_a_binary_answer_is_read_behind_its_head() -> None:
    answer = response(b"{}" + EXPECTED[0].tobytes(), Inference_Header_Content_Length="2")

    wires.oip_binary(NETWORKS["mlp"], "/x").check(0, answer, EXPECTED)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_case_is_asked_of_the_service_and_can_be_written(case: Any) -> None:
    assert MODELPORT.speaks(case)
    for target in (BARE, NAIVE, MODELPORT, *PEERS):
        if target.speaks(case):
            assert len(set(target.wire(case).requests)) == VARIANTS
