"""Connections: what they may take, how they end, and answers in order. On real sockets."""

import gzip
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from tests.api.answers import ROWS, TENSORS, assert_clean
from tests.api.conftest import SETTINGS
from tests.api.lane import LaneTransport
from tests.api.live import PATIENCE_S, LiveServer, Wire, head
from tests.support.bundles import make_bundle

GOOD = json.dumps(ROWS).encode()
TENSOR = json.dumps(TENSORS).encode()
PREDICT = "/models/affine/predict"
INFER = "/v2/models/affine/infer"
JSON = {"Content-Type": "application/json"}
LIVE = head("/health/live", {}, "GET")
#: No guard of the impatient server waits longer, but for the closing of other routes.
SOON_S = 3.0

Start = Callable[..., LaneTransport]


def post(path: str = PREDICT, body: bytes = GOOD, **headers: str) -> bytes:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return head(path, JSON | {"Content-Length": str(len(body))} | fields) + body


@pytest.fixture(scope="module")
def start_lane(repository: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(**settings: object) -> LaneTransport:
            given = {"models": repository, "provider": ("cpu",), "default_model": "affine"}
            return stack.enter_context(LaneTransport(Settings(**given | SETTINGS | settings)))

        yield start


@pytest.fixture(scope="module")
def lane(start_lane: Start) -> LaneTransport:
    return start_lane()


@pytest.fixture(scope="module")
def slow_lane(start_lane: Start) -> LaneTransport:
    """The same without the fast lane: guards and endings are for every way."""
    return start_lane(fast_lane=False)


@pytest.fixture(scope="module")
def impatient(start_lane: Start) -> LaneTransport:
    return start_lane(
        head_timeout_s=0.2,
        body_timeout_s=0.2,
        idle_timeout_s=0.5,
        write_timeout_s=0.5,
        max_request_rows=1024,
    )


@pytest.fixture
def wire(lane: LaneTransport) -> Iterator[Wire]:
    with Wire(lane.address) as wire:
        yield wire


def refused(wire: Wire, status: int, code: str) -> None:
    """It is, and the connection ends without a reset."""
    got, headers, content = wire.read_response()
    assert (got, headers["connection"]) == (status, "close")
    assert assert_clean(headers["content-type"], content)["code"] == code
    assert wire._stream.read() == b""


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def wait_until(holds: Callable[[], Any], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def wait_until_idle(lane: LaneTransport) -> None:
    wait_until(lambda: lane.ask(len) == 0)
    assert lane.service.handler._pending_body_bytes == 0


class TestHeads:
    @pytest.mark.parametrize("path", [INFER, "/nowhere"])
    @pytest.mark.parametrize("size", [2**20, 20_000, 700], ids=["at once", "in two", "dripped"])
    @pytest.mark.parametrize("what", ["field", "name", "fields", "many fields", "target"])
    def test_a_large_one_is_refused(self, wire: Wire, path: str, size: int, what: str) -> None:
        huge = "a" * 36_000
        fields = {
            "field": {"X-Field": huge},
            "name": {huge: "x"},
            "fields": {f"X-{number}": huge[:4_000] for number in range(9)},
            "many fields": {f"X-{number}": "1" for number in range(101)},
            "target": {},
        }
        target = f"{path}?{huge}" if what == "target" else path
        for piece in in_pieces(head(target, fields[what] | {"Content-Length": "0"}), size):
            wire.send(piece)
            if size < 2**20:
                time.sleep(0.0003)

        refused(wire, 431, "head_too_large")

    def test_those_that_are_refused_are_counted(self, lane: LaneTransport, wire: Wire) -> None:
        key = ("protocol", "", "head_too_large")
        before = lane.service.metrics.outcomes[key]

        wire.send(b"POST /predict HTTP/1.1\r\nX: " + b"x" * 40_000 + b"\r\n\r\n")
        wire.read_response()

        assert lane.service.metrics.outcomes[key] == before + 1
        metrics = lane.service.metrics
        assert metrics.received["protocol"] == sum(
            count for (route, *_), count in metrics.outcomes.items() if route == "protocol"
        )

    def test_one_within_the_limits_is_taken(self, wire: Wire) -> None:
        fields = {f"X_{number}": "a" * 300 for number in range(95)}
        for piece in in_pieces(post(**fields), 5_000):
            wire.send(piece)
            time.sleep(0.001)

        assert wire.read_response()[0] == 200

    def test_those_before_a_large_one_are_answered(self, wire: Wire) -> None:
        wire.send(post() * 3 + LIVE + head(PREDICT, {"X-Field": "a" * 40_000}))

        assert [wire.read_response()[0] for _ in range(4)] == [200] * 4
        refused(wire, 431, "head_too_large")

    @pytest.mark.parametrize("begun", [b"P", LIVE[:-2], post()[:40]])
    def test_a_slow_one_is_given_up(self, impatient: LaneTransport, begun: bytes) -> None:
        with Wire(impatient.address) as wire:
            wire.send(begun)

            refused(wire, 408, "request_timeout")

    def test_one_that_drips_is_given_up(self, impatient: LaneTransport) -> None:
        with Wire(impatient.address) as wire:
            deadline = time.monotonic() + SOON_S
            wire.send(b"GET /health/live HTTP/1.1\r\n")
            while impatient.ask(lambda all_: not any(one._is_deaf for one in all_)):
                assert time.monotonic() < deadline
                wire.send(b"A: b\r\n")
                time.sleep(0.02)

            refused(wire, 408, "request_timeout")

    @pytest.mark.parametrize("behind", [b"X-Field: ", b"", b"X-Request-Id: late\r\nA: "])
    def test_endless_fields_behind_a_body_are_refused(self, wire: Wire, behind: bytes) -> None:
        wire.send(head(PREDICT, JSON | {"Transfer-Encoding": "chunked"}))
        wire.send(b"%x\r\n%b\r\n" % (len(GOOD), GOOD) + (b"0\r\n" if behind else b"1;a=") + behind)
        for _ in range(40):
            time.sleep(0.0005)
            wire.send(b"a" * 1_000)

        refused(wire, 431, "head_too_large")

    def test_fields_behind_a_body_change_nothing(self, wire: Wire) -> None:
        chunked = head(PREDICT, JSON | {"Transfer-Encoding": "chunked"})
        body = b"%x\r\n%b\r\n0\r\n" % (len(GOOD), GOOD)
        late = b"X-Request-Id: late\r\n"
        wire.send(chunked + body + late + b"\r\n" + chunked[:-2] + late + b"\r\n" + body + b"\r\n")

        first, second = wire.read_response(), wire.read_response()

        assert (first[0], second[0]) == (200, 200)
        assert first[1]["x-request-id"] != "late"
        assert second[1]["x-request-id"] == "late"


class TestBodies:
    @pytest.mark.parametrize("path", [PREDICT, INFER])
    @pytest.mark.parametrize(("begun", "size"), [(b"", 100), (b"{", 60_000)])
    def test_a_slow_one_is_given_up(
        self, impatient: LaneTransport, path: str, begun: bytes, size: int
    ) -> None:
        with Wire(impatient.address) as wire:
            wire.send(LIVE + head(path, JSON | {"Content-Length": str(size)}) + begun)

            assert wire.read_response()[0] == 200
            refused(wire, 408, "request_timeout")

    def test_a_slow_one_that_nobody_reads_ends_the_connection(
        self, impatient: LaneTransport
    ) -> None:
        with Wire(impatient.address) as wire:
            wire.send(head("/nowhere", JSON | {"Content-Length": "100"}) + b"{")

            assert wire.read_response()[0] == 404
            started = time.monotonic()
            assert wire.read_rest() == b""
            assert time.monotonic() - started < SOON_S

    def test_one_in_thousands_of_chunks(self, wire: Wire) -> None:
        body = GOOD + b" " * 9_001
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in in_pieces(body, 3))
        wire.send(head(PREDICT, JSON | {"Transfer-Encoding": "chunked"}) + chunks + b"0\r\n\r\n")

        assert wire.read_response()[0] == 200

    def test_one_in_hundreds_of_pieces(self, wire: Wire) -> None:
        for piece in in_pieces(post(body=GOOD + b" " * 20_000), 100):
            wire.send(piece)

        assert wire.read_response()[0] == 200


class TestConnections:
    @pytest.mark.parametrize("before", [b"", LIVE, post() * 5])
    def test_an_idle_one_is_closed(self, impatient: LaneTransport, before: bytes) -> None:
        with Wire(impatient.address) as wire:
            wire.send(before)
            for _ in range(before.count(b"HTTP/1.1")):
                assert wire.read_response()[0] == 200
            started = time.monotonic()
            assert wire.read_rest() == b""
            assert 0.2 < time.monotonic() - started < SOON_S

    def test_one_too_many_is_refused(self, start_lane: Start) -> None:
        lane = start_lane(max_connections=3)
        with ExitStack() as stack:
            wires = [stack.enter_context(Wire(lane.address)) for _ in range(3)]
            for wire in wires:
                wire.send(post())
                assert wire.read_response()[0] == 200
            for _ in range(50):
                with Wire(lane.address) as wire:
                    wire.send(post())
                    refused(wire, 503, "overloaded")
                wait_until(lambda: lane.ask(len) == 3)
            for wire in wires:
                wire.send(post())
                assert wire.read_response()[0] == 200
        wait_until_idle(lane)
        with Wire(lane.address) as wire:
            wire.send(post())
            assert wire.read_response()[0] == 200

    @pytest.mark.parametrize("path", [INFER, "/openapi.json"])
    def test_a_caller_that_never_reads_is_cut_off(
        self, impatient: LaneTransport, path: str
    ) -> None:
        item = TENSORS["inputs"][0] | {"shape": [1024, 3], "data": [0.123456] * 3072}
        request = post(path, json.dumps({"inputs": [item]}).encode())
        if path != INFER:
            request = head(path, {}, "GET")
        most_bytes = 0

        def held_bytes(connections: Any) -> int:
            sizes = [one.transport.get_write_buffer_size() for one in connections]
            bodies = [len(one._line) * len(request) for one in connections]
            return sum(sizes) + sum(bodies)

        with socket.socket() as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.settimeout(0.05)
            caller.connect(impatient.address)
            deadline = time.monotonic() + PATIENCE_S
            sent = 0
            while True:
                assert time.monotonic() < deadline
                try:
                    sent += caller.send(request * 4)
                except TimeoutError:
                    pass
                except OSError:
                    break
                most_bytes = max(most_bytes, impatient.ask(held_bytes))
        wait_until_idle(impatient)
        assert sent > 10 * len(request)
        assert most_bytes < 16 * 2**20

    def test_a_little_that_is_never_read_does_not_keep_a_connection(
        self, impatient: LaneTransport
    ) -> None:
        """Less than what stops the reading: the connection is closed as idle, and then ended."""
        with socket.socket() as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.connect(impatient.address)
            deadline = time.monotonic() + PATIENCE_S
            while impatient.ask(_unread_bytes) == 0:
                assert time.monotonic() < deadline
                caller.sendall(post("/v2/models/affine/infer", TENSOR) * 20)
                time.sleep(0.002)
            assert impatient.ask(_unread_bytes) < 65_536
            wait_until(lambda: impatient.ask(len) == 0, 2 * SOON_S)

    def test_a_caller_that_reads_slowly_is_not_cut_off(self, start_lane: Start) -> None:
        lane = start_lane(write_timeout_s=0.5, idle_timeout_s=0.5)
        # What the server's system takes is small, so that reading shows there soon.
        lane._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        count, got = 1500, b""
        with socket.socket() as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            caller.settimeout(PATIENCE_S)
            caller.connect(lane.address)
            sender = threading.Thread(target=caller.sendall, args=(post(INFER, TENSOR) * count,))
            sender.start()
            started = time.monotonic()
            while got.count(b"HTTP/1.1 200") < count:
                piece = caller.recv(12_000)
                assert piece
                got += piece
                if time.monotonic() - started < 1.2:
                    time.sleep(0.05)
            sender.join()


def _unread_bytes(connections: Any) -> int:
    return sum(one.transport.get_write_buffer_size() for one in connections)


class TestRefusals:
    @pytest.mark.parametrize("way", ["lane", "slow_lane"])
    @pytest.mark.parametrize("dripped", [False, True])
    def test_one_reaches_a_caller_that_is_still_sending(
        self, request: pytest.FixtureRequest, way: str, dripped: bool
    ) -> None:
        server = request.getfixturevalue(way)
        body = b" " * 1_000_000
        for number in range(100):
            with Wire(server.address) as wire:
                wire.send(head((PREDICT, INFER)[number % 2], JSON | {"Content-Length": "1000000"}))
                if dripped:
                    time.sleep(0.003)  # The refusal is there before the body.
                for piece in in_pieces(body, 100_000):
                    wire.send(piece)
                refused(wire, 413, "payload_too_large")
        wait_until_idle(server)

    @pytest.mark.parametrize("way", ["lane", "slow_lane"])
    def test_one_of_a_chunked_body_too(self, request: pytest.FixtureRequest, way: str) -> None:
        server = request.getfixturevalue(way)
        for _ in range(20):
            with Wire(server.address) as wire:
                wire.send(head(PREDICT, JSON | {"Transfer-Encoding": "chunked"}))
                for _ in range(10):
                    wire.send(b"%x\r\n%b\r\n" % (100_000, b" " * 100_000))
                refused(wire, 413, "payload_too_large")
        wait_until_idle(server)

    def test_a_caller_that_never_stops_sending_is_ended(self, lane: LaneTransport) -> None:
        with Wire(lane.address) as wire:
            wire.send(head(PREDICT, JSON | {"Content-Length": "999999999"}))
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                wire.send(b" " * 100_000_000)
        wait_until_idle(lane)

    def test_a_caller_that_never_closes_is_left(self, lane: LaneTransport) -> None:
        with Wire(lane.address) as wire:
            wire.send(post(Content_Type="text/html"))

            refused(wire, 415, "unsupported_media_type")
            wait_until(lambda: lane.ask(len) == 0, 2 * SOON_S)

    def test_a_short_refusal_keeps_the_connection(self, start_lane: Start) -> None:
        lane = start_lane(pending_body_bytes=4096)
        with Wire(lane.address) as wire:
            wire.send((post(body=b" " * 5_000) + post()) * 50)

            assert [wire.read_response()[0] for _ in range(100)] == [503, 200] * 50
        wait_until_idle(lane)


class TestHeadsThatAreAlike:
    """A head that equals the one before is not read again; its body is, as the head says."""

    @pytest.mark.parametrize(("path", "good"), [(PREDICT, GOOD), (INFER, TENSOR)])
    def test_a_plain_body_that_is_said_to_be_compressed(
        self, wire: Wire, path: str, good: bytes
    ) -> None:
        packed = post(path, gzip.compress(good), Content_Encoding="gzip")
        plain = post(path, good, Content_Encoding="gzip")

        for sent, expected in ((packed, 200), (plain, 400), (packed, 200), (plain, 400)):
            wire.send(sent)
            assert wire.read_response()[0] == expected

    @pytest.mark.parametrize(("path", "good"), [(PREDICT, GOOD), (INFER, TENSOR)])
    def test_other_fields(self, lane: LaneTransport, path: str, good: bytes) -> None:
        wire = Wire(lane.address)
        for fields, expected in (
            ({}, 200),
            ({"Content_Type": "text/xml"}, 415),
            ({}, 200),
            ({"Modelport_Timeout_Ms": "0"}, 400),
            ({"Modelport_Timeout_Ms": "9000"}, 200),
            ({"Content_Encoding": "br"}, 415),
            ({}, 200),
        ):
            wire.send(post(path, good, **fields))
            status, headers, _ = wire.read_response()
            assert status == expected
            if headers.get("connection") == "close":
                wire.close()
                wire = Wire(lane.address)
        wire.close()


class TestOrder:
    def test_hundreds_at_once(self, lane: LaneTransport, wire: Wire) -> None:
        makers = (
            lambda name: post(X_Request_Id=name),
            lambda name: post(INFER, TENSOR, X_Request_Id=name),
            lambda name: head("/health/live", {"X-Request-Id": name}, "GET"),
            lambda name: post(body=b"[]", X_Request_Id=name),
            lambda name: post(INFER, TENSOR),
        )
        sent = b"".join(makers[number % 5](f"n-{number}") for number in range(1_000))
        longest = 0
        sender = threading.Thread(target=wire.send, args=(sent,))
        sender.start()
        for number in range(1_000):
            status, headers, _ = wire.read_response()
            assert status == (200, 200, 200, 422, 200)[number % 5]
            if number % 5 != 4:
                assert headers["x-request-id"] == f"n-{number}"
            if number % 100 == 0:
                longest = max(longest, lane.ask(lambda all_: max(len(one._line) for one in all_)))
        sender.join()
        # What one reading brings, at most 256 KiB of some 120 bytes each, and some more.
        assert longest < 2_200

    @pytest.mark.parametrize("request_", [post(), post(INFER, TENSOR), LIVE])
    @pytest.mark.parametrize("garbage", [b"\x00garbage\r\n\r\n", b"X\r\n\r\n", b"\x16\x03\x01"])
    def test_garbage_behind_requests(self, wire: Wire, request_: bytes, garbage: bytes) -> None:
        wire.send(request_ * 3 + garbage)

        assert [wire.read_response()[0] for _ in range(3)] == [200] * 3
        refused(wire, 400, "bad_request")

    @pytest.mark.parametrize("garbage", [b"garbage", post(), LIVE, b" " * 100_000])
    def test_what_is_behind_the_last_request_does_not_matter(
        self, lane: LaneTransport, garbage: bytes
    ) -> None:
        for _ in range(20):
            with Wire(lane.address) as wire:
                wire.send(post() + post(Connection="close") + garbage)

                assert wire.read_response()[0] == 200
                status, headers, _ = wire.read_response()
                assert (status, headers["connection"]) == (200, "close")
                assert wire.read_rest() == b""

    @pytest.mark.parametrize("size", [2**20, 7], ids=["at once", "dripped"])
    @pytest.mark.parametrize("connection", ["Upgrade", "keep-alive, Upgrade, HTTP2-Settings"])
    @pytest.mark.parametrize("to", ["websocket", "h2c"])
    def test_offers_of_another_protocol_are_not_taken(
        self, wire: Wire, to: str, connection: str, size: int
    ) -> None:
        """The request is answered as if it had offered nothing: its body is read."""
        offer = {"Connection": connection, "Upgrade": to}
        sent = post(**offer) + head("/health/live", offer, "GET") + post(INFER, TENSOR, **offer)
        for piece in in_pieces(sent * 10 + b"\x81\x05hello", size):
            wire.send(piece)

        assert [wire.read_response()[0] for _ in range(30)] == [200] * 30
        refused(wire, 400, "bad_request")

    def test_an_offer_does_not_keep_a_connection_that_is_to_close(self, wire: Wire) -> None:
        wire.send(post(Connection="Upgrade, close", Upgrade="h2c"))

        assert wire.read_response()[1]["connection"] == "close"
        assert wire.read_rest() == b""

    @pytest.mark.parametrize("path", [PREDICT, INFER])
    @pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "GET", "PUT"])
    def test_other_methods(self, wire: Wire, path: str, method: str) -> None:
        wire.send(head(path, {}, method))
        line = wire._stream.readline()
        fields = dict(iter(lambda: tuple(wire._stream.readline().strip().split(b": ", 1)), (b"",)))

        assert line.startswith(b"HTTP/1.1 405")
        assert fields[b"allow"] == b"POST"
        if method != "HEAD":
            wire._stream.read(int(fields[b"content-length"]))
        wire.send(post())
        assert wire.read_response()[0] == 200

    @pytest.mark.parametrize(
        "target",
        [
            f"http://else.test{PREDICT}",
            PREDICT.replace("a", "%61"),
            PREDICT + "?a=b",
            INFER.replace("v2", "%762"),
        ],
    )
    def test_other_ways_to_write_an_address(self, wire: Wire, target: str) -> None:
        wire.send(post(target, TENSOR if "infer" in target else GOOD))

        assert wire.read_response()[0] == 200

    @pytest.mark.parametrize("target", ["http://else.test", "http://else.test?a"])
    def test_an_address_without_a_path(self, wire: Wire, target: str) -> None:
        wire.send(post(target))

        refused(wire, 400, "bad_request")

    @pytest.mark.parametrize("path", [PREDICT, "/nowhere"])
    def test_http_1_0_gets_no_word_before_its_answer(self, wire: Wire, path: str) -> None:
        fields = JSON | {"Expect": "100-continue", "Content-Length": str(len(GOOD))}
        wire.send(head(path, fields, version="1.0"))
        time.sleep(0.05)
        wire.send(GOOD)

        status, headers, _ = wire.read_response()
        assert (status, headers["connection"]) == (200 if path == PREDICT else 404, "close")

    def test_a_word_is_given_when_it_is_the_turn(self, wire: Wire) -> None:
        wire.send(post() + head(PREDICT, {"Expect": "100-continue", "Content-Length": "2"}))

        assert [wire.read_response()[0] for _ in range(2)] == [200, 100]
        wire.send(b"[]")
        assert wire.read_response()[0] == 422


class TestLeaving:
    @pytest.mark.parametrize("way", ["lane", "slow_lane"])
    @pytest.mark.parametrize("leave", ["close", "reset"])
    @pytest.mark.parametrize(
        "begun",
        [
            head(PREDICT, JSON | {"Content-Length": "100"}),
            head(INFER, JSON | {"Content-Length": "60000"}) + b"{" * 30_000,
            head(PREDICT, JSON | {"Transfer-Encoding": "chunked"}) + b"4\r\n    \r\n4\r\n",
            post() + head(INFER, JSON | {"Content-Length": "100"}) + b"{",
        ],
        ids=["no body", "half a body", "chunks", "behind another"],
    )
    def test_within_a_body(
        self, request: pytest.FixtureRequest, way: str, leave: str, begun: bytes
    ) -> None:
        server = request.getfixturevalue(way)
        before = outcomes(server)
        with Wire(server.address) as wire:
            wire.send(begun)
            wait_until(lambda: received(server) == sum(before.values()) + begun.count(b"HTTP/1.1"))
            if leave == "reset":
                wire.reset()

        wait_until_idle(server)
        wait_until(lambda: outcomes(server)["cancelled"] == before["cancelled"] + 1)

    @pytest.mark.parametrize("way", ["lane", "slow_lane"])
    @pytest.mark.parametrize("leave", ["close", "reset"])
    def test_before_the_answers(self, request: pytest.FixtureRequest, way: str, leave: str) -> None:
        """Every request is counted once, whether it was answered in time or not."""
        server = request.getfixturevalue(way)
        for number in range(30):
            with Wire(server.address) as wire:
                wire.send((post() + LIVE + post(INFER, TENSOR)) * (1 + number % 7))
                if number % 3 == 0:
                    wire.read_response()
                if leave == "reset":
                    wire.reset()

        wait_until_idle(server)
        wait_until(lambda: received(server) == sum(outcomes(server).values()))


def outcomes(server: LaneTransport) -> dict[str, int]:
    counted: dict[str, int] = {"cancelled": 0}
    for (route, _, outcome), count in list(server.service.metrics.outcomes.items()):
        if route in ("predict", "infer"):
            counted[outcome] = counted.get(outcome, 0) + count
    return counted


def received(server: LaneTransport) -> int:
    return sum(server.service.metrics.received[route] for route in ("predict", "infer"))


class TestEnd:
    def test_no_answer_is_lost_where_callers_send_many_at_once(self, tmp_path: Path) -> None:
        """What was admitted before SIGTERM is answered; the last answer of a connection says so."""
        make_bundle(tmp_path / "models", "affine", "affine")
        with LiveServer(tmp_path / "models", tmp_path / "log") as server:
            callers = [_Caller(server.address, number) for number in range(6)]
            for caller in callers:
                caller.start()
            wait_until(lambda: all(caller.answers > 200 for caller in callers))
            server.signal(signal.SIGTERM)
            for caller in callers:
                caller.join(PATIENCE_S)

            assert server.wait() == 0
            assert [caller.complaints for caller in callers] == [[]] * 6
            lines = server.log_lines()
            assert not [line for line in lines if line["level"] == "error"]


class _Caller(threading.Thread):
    """Sends a burst, reads its answers, and so on until the server ends the connection."""

    def __init__(self, address: tuple[str, int], number: int) -> None:
        super().__init__(daemon=True)
        self._address = address
        one = (post(), post(INFER, TENSOR), LIVE)[number % 3]
        self._count = 5 + 20 * (number % 2)
        self._burst = one * self._count
        self.answers = 0
        self.complaints: list[str] = []

    def run(self) -> None:
        with Wire(self._address) as wire:
            while self._ask(wire):
                pass

    def _ask(self, wire: Wire) -> bool:
        """A burst; false where the connection ended."""
        said_last = False
        try:
            wire.send(self._burst)
            for number in range(self._count):
                if not wire._stream.peek(1):
                    if number and not said_last:
                        self.complaints.append(f"the end came after {number} answers")
                    return False
                status, headers, _ = wire.read_response()
                self.answers += 1
                said_last = headers.get("connection") == "close"
                if status != 200:
                    self.complaints.append(f"status {status}")
        except (BrokenPipeError, ConnectionResetError):
            return False  # between two bursts, where nothing was admitted
        except Exception as error:
            self.complaints.append(repr(error))
            return False
        return True
