"""The command that a container engine asks for the service's health."""

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app import healthcheck
from app.settings import Settings


@contextmanager
def answering(status: int) -> Iterator[int]:
    """The port of a server that gives this status for `/health/ready`, and 500 for all else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/ready" else 500)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_ready_service_has_no_problem(host: str) -> None:
    with answering(200) as port:
        assert healthcheck.find_problem(Settings(host=host, port=port)) is None


def test_service_that_is_not_ready_is_a_problem() -> None:
    with answering(503) as port:
        assert healthcheck.find_problem(Settings(port=port)) == "status 503"


def test_nobody_listening_is_a_problem() -> None:
    with answering(200) as port:
        pass  # From here on, nobody does.

    problem = healthcheck.find_problem(Settings(port=port))

    assert problem == f"no answer on port {port} (ConnectionRefusedError)"


def test_silence_is_a_problem_after_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        problem = healthcheck.find_problem(Settings(port=port), timeout_s=0.1)

    assert problem == f"no answer on port {port} (TimeoutError)"


@pytest.mark.parametrize(
    ("status", "exit_status", "said"), [(200, 0, ""), (503, 1, "not ready: status 503\n")]
)
def test_exit_status(
    status: int,
    exit_status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with answering(status) as port:
        monkeypatch.setenv("MODELPORT_PORT", str(port))

        assert healthcheck.main() == exit_status

    assert capsys.readouterr().err == said


def test_bad_setting_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELPORT_PROT", "8000")

    assert healthcheck.main() == 1

    assert capsys.readouterr().err == (
        "not ready: unknown setting MODELPORT_PROT; did you mean MODELPORT_PORT?\n"
    )
