"""The load generator counts what it is for, and leaves out nothing that a caller would feel."""

import pytest

from bench.epoll import Load, is_whole
from tests.bench.slow_server import OK, answering, stalling

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"


def test_the_closed_loop_counts_answers() -> None:
    with answering(lambda _: OK) as address:
        load = Load(address, [REQUEST], connections=1)
        seen = load.closed_loop(0.05, 0.2)
        load.close()

    assert len(seen.latencies_s) > 20
    assert max(seen.latencies_s) < 1
    assert not seen.errors


def test_edges_are_told() -> None:
    edges: list[int] = []
    with answering(lambda _: OK) as address:
        load = Load(address, [REQUEST], 1, lambda: edges.append(len(edges)))
        load.closed_loop(0.05, 0.1)
        load.close()

    assert edges == [0, 1]


def test_statuses_and_cut_connections_are_errors() -> None:
    refusal = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    with answering(lambda count: (OK, refusal, None)[count % 3]) as address:
        load = Load(address, [REQUEST], connections=1)
        seen = load.closed_loop(0.0, 0.3)
        load.close()

    assert seen.errors["503"] > 1
    assert seen.errors["closed"] > 1
    assert abs(seen.errors["503"] - len(seen.latencies_s)) <= 2


def test_requests_go_in_turn_and_answers_are_kept_with_theirs() -> None:
    with answering(lambda count: OK.replace(b"{}", b"%02d" % (count % 3))) as address:
        load = Load(address, [REQUEST] * 3, connections=1)
        seen = load.closed_loop(0.0, 0.1)
        load.close()

    assert len(seen.kept) > 3
    for turn, answer in seen.kept:
        assert answer.endswith(b"%02d" % ((turn - 1) % 3))


def test_the_open_loop_counts_from_when_a_request_was_due() -> None:
    """A pause of 0.3 s is felt by the 30 requests that were due meanwhile, not by one of them."""
    with answering(stalling(at=20, seconds=0.3)) as address:
        load = Load(address, [REQUEST], connections=1)
        seen = load.open_loop([i / 100 for i in range(80)], warm_s=0.0, seconds=0.8)
        load.close()

    assert len(seen.latencies_s) == 80
    assert sum(latency > 0.1 for latency in seen.latencies_s) >= 18


def test_what_was_due_before_the_window_is_not_measured() -> None:
    with answering(lambda _: OK) as address:
        load = Load(address, [REQUEST], connections=1)
        seen = load.open_loop([i / 100 for i in range(40)], warm_s=0.195, seconds=0.2)
        load.close()

    assert len(seen.latencies_s) == 20


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (OK, True),
        (OK[:-1], False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", True),
    ],
)
def test_when_an_answer_is_whole(answer: bytes, whole: bool) -> None:
    assert is_whole(answer) == whole
