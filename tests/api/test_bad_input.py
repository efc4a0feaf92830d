"""Every bad request gets its documented status and a clean body, and nobody else notices."""

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.api.answers import (
    CANARY,
    assert_clean,
    assert_refusal,
    assert_serves,
)
from tests.api.bad_formats import FORMAT_CASES
from tests.api.bad_inputs import CASES, Case
from tests.api.live import LiveServer, Wire, head

GOOD = b'{"instances":[{"a":1,"b":2,"c":3}]}'
JSON = {"Content-Type": "application/json"}
PREDICT = "/models/affine/predict"
ALL = [*CASES, *FORMAT_CASES]


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_a_bad_request_is_refused(client: httpx.Client, case: Case) -> None:
    headers = {"Content-Type": "application/json"} | case.headers

    response = client.request(case.method, case.path, content=case.body, headers=headers)

    assert_refusal(response, case.status, case.code)
    assert_serves(client)


def test_the_table_has_no_case_twice() -> None:
    requests = [(c.method, c.path, c.body, str(c.headers)) for c in ALL]
    names = [c.name for c in ALL]

    assert len(set(requests)) == len(requests)
    assert len(set(names)) == len(names)


def test_a_hostile_nesting_costs_no_time(client: httpx.Client) -> None:
    body = b'{"instances":' + b"[" * 101 + b'"' + b'\\"' * 90_000

    started = time.monotonic()
    response = client.post(PREDICT, content=body)

    assert_refusal(response, 400, "malformed_body")
    assert time.monotonic() - started < 1


def test_brackets_inside_strings_do_not_count(client: httpx.Client) -> None:
    text = b"[[[[{{{{" + b'\\"' + b"[[[[]"
    rows = b",".join([b'{"text":"%b"}' % text] * 60)

    response = client.post("/models/notes/predict", content=b'{"instances":[%b]}' % rows)

    assert response.status_code == 200


def test_colons_inside_strings_are_no_duplicates(client: httpx.Client) -> None:
    response = client.post("/models/notes/predict", json={"instances": [{"text": 'a:b,":c":'}]})

    assert response.status_code == 200


@pytest.mark.parametrize("path", [PREDICT, "/v2/models/affine/infer"])
def test_a_chunked_body_over_the_limit_is_refused(client: httpx.Client, path: str) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(300):
            yield b" " * 1000

    response = client.post(path, content=chunks(), headers=JSON)

    assert_refusal(response, 413, "payload_too_large")
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize("name", ["a" * 65, "é" * 70, "\r\nx", "\u202e", "<script>"])
def test_a_foreign_name_comes_back_cut_and_escaped(client: httpx.Client, name: str) -> None:
    instance = {"a": 1, "b": 2, "c": 3, name + CANARY.lower(): 1}

    body = assert_refusal(client.post(PREDICT, json={"instances": [instance]}), 422)

    assert body["details"][0]["loc"] == ["instances", 0, (name + CANARY.lower())[:64]]


def test_at_most_twenty_details_are_told(client: httpx.Client) -> None:
    body = assert_refusal(client.post(PREDICT, json={"instances": [{}] * 60}), 422)

    assert len(body["details"]) == 20


class TestOnTheWire:
    """What only a socket can say; the server is a child process."""

    @pytest.fixture
    def wire(self, live: LiveServer) -> Iterator[Wire]:
        with live.connect() as wire:
            yield wire
        with live.client() as client:
            assert_serves(client)

    def refused(self, wire: Wire, status: int, code: str, *, closes: bool = True) -> None:
        got, headers, content = wire.read_response()
        assert got == status
        body = assert_clean(headers["content-type"], content)
        assert body["code"] == code
        if closes:
            assert headers["connection"] == "close"
            assert wire.read_rest() == b""

    @pytest.mark.parametrize("extra", [{}, {"Expect": "100-continue"}])
    @pytest.mark.parametrize("path", [PREDICT, "/v2/models/affine/infer"])
    @pytest.mark.parametrize("length", ["200001", "2147483648", "9" * 18])
    def test_a_length_over_the_limit_is_refused_before_the_body(
        self, wire: Wire, path: str, length: str, extra: dict[str, str]
    ) -> None:
        wire.send(head(path, JSON | {"Content-Length": length} | extra))

        self.refused(wire, 413, "payload_too_large")

    def test_a_refused_head_does_not_ask_for_the_body(self, wire: Wire) -> None:
        headers = {"Content-Type": "text/html", "Content-Length": "9", "Expect": "100-continue"}
        wire.send(head(PREDICT, headers))

        self.refused(wire, 415, "unsupported_media_type")

    def test_a_good_head_asks_for_the_body(self, wire: Wire) -> None:
        length = {"Content-Length": str(len(GOOD)), "Expect": "100-continue"}
        wire.send(head(PREDICT, JSON | length))

        assert wire.read_response()[0] == 100
        wire.send(GOOD)
        assert wire.read_response()[0] == 200

    @pytest.mark.parametrize("begun", [b"", b"{", GOOD[:-1]])
    def test_a_slow_body_is_given_up(self, wire: Wire, begun: bytes) -> None:
        wire.send(head(PREDICT, JSON | {"Content-Length": str(len(GOOD))}) + begun)

        self.refused(wire, 408, "request_timeout")

    def test_a_body_that_drips_is_given_up_too(self, wire: Wire) -> None:
        wire.send(head(PREDICT, JSON | {"Transfer-Encoding": "chunked"}))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            drip(wire, seconds=5)

    def test_chunks_are_joined(self, wire: Wire) -> None:
        chunks = b"".join(b"%x\r\n%b\r\n" % (1, GOOD[i : i + 1]) for i in range(len(GOOD)))
        wire.send(head(PREDICT, JSON | {"Transfer-Encoding": "chunked"}) + chunks + b"0\r\n\r\n")

        assert wire.read_response()[0] == 200

    def test_a_chunked_body_over_the_limit(self, wire: Wire) -> None:
        wire.send(head(PREDICT, JSON | {"Transfer-Encoding": "chunked"}))
        wire.send(b"%x\r\n" % 200_001 + b" " * 200_001)

        self.refused(wire, 413, "payload_too_large")

    def test_http_1_0(self, wire: Wire) -> None:
        wire.send(head(PREDICT, JSON | {"Content-Length": str(len(GOOD))}, version="1.0") + GOOD)

        status, headers, _ = wire.read_response()
        assert (status, headers["connection"]) == (200, "close")
        assert wire.read_rest() == b""

    def test_pipelined_requests_are_answered_in_order(self, wire: Wire) -> None:
        good = (
            head(PREDICT, JSON | {"Content-Length": str(len(GOOD)), "X-Request-Id": "first"}) + GOOD
        )
        bad = head(PREDICT, JSON | {"Content-Length": "2", "X-Request-Id": "second"}) + b"[]"
        live = head("/health/live", {"X-Request-Id": "third"}, "GET")
        wire.send(good + bad + live + good.replace(b"first", b"fourth"))

        answers = [wire.read_response() for _ in range(4)]

        assert [status for status, _, _ in answers] == [200, 422, 200, 200]
        ids = [headers["x-request-id"] for _, headers, _ in answers]
        assert ids == ["first", "second", "third", "fourth"]

    @pytest.mark.parametrize(
        "data",
        [
            b"\x00\x01\x02 hello\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
            b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"BREW /predict HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            b"GET / HTTP/1.1\r\nA\x00b: c\r\n\r\n",
            b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
            head(PREDICT, {"Content-Length": "-1"}),
            head(PREDICT, {"Content-Length": "1e3"}),
            head(PREDICT, {"Content-Length": "9" * 40}),
            head(PREDICT, {"Content-Length": "5", "Transfer-Encoding": "chunked"}) + b"0\r\n\r\n",
            head(PREDICT, {"Content-Length": "5", "content-length": "6"}) + b"12345",
            head(PREDICT, {"Transfer-Encoding": "chunked"}) + b"zz\r\n",
            head(PREDICT, {"Transfer-Encoding": "gzip"}) + b"0\r\n\r\n",
        ],
        ids=lambda data: repr(data[:24]),
    )
    def test_what_is_not_http_is_refused(self, wire: Wire, data: bytes) -> None:
        wire.send(data)

        self.refused(wire, 400, "bad_request")

    def test_a_caller_that_leaves_within_the_body_is_counted_as_cancelled(
        self, live: LiveServer
    ) -> None:
        with live.client() as client:
            before = cancelled(client)
            for leave in ("close", "reset"):
                with live.connect() as wire:
                    wire.send(head(PREDICT, JSON | {"Content-Length": "100"}) + b"{")
                    time.sleep(0.1)
                    if leave == "reset":
                        wire.reset()

            wait_until(lambda: cancelled(client) == before + 2)
            assert_serves(client)


def drip(wire: Wire, seconds: float) -> None:
    """A byte of a chunked body now and then, for a limited time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        wire.send(b"1\r\n \r\n")
        time.sleep(0.02)


def cancelled(client: httpx.Client) -> int:
    lines = client.get("/metrics").text.splitlines()
    return sum(
        int(float(line.rpartition(" ")[2]))
        for line in lines
        if line.startswith("modelport_requests_total") and 'outcome="cancelled"' in line
    )


def wait_until(condition, patience_s: float = 10) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
