"""The process: what it loads, when it says ready, and how it ends."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.api.live import PATIENCE_S, ROOT, LiveServer, environment, head
from tests.conftest import StartServer
from tests.support.bundles import make_bundle
from tests.team import callers, wait_until

BODY = b'{"instances":[{"a":1,"b":2,"c":3}]}'
HEAD = head("/predict", {"Content-Type": "application/json", "Content-Length": str(len(BODY))})


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_bundle(root, "affine", "affine")
    return root


def wait_for_status(client: httpx.Client, path: str, status: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while client.get(path).status_code != status:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def refuses_connections(server: LiveServer) -> bool:
    try:
        socket.create_connection(server.address, timeout=1).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it was closing at that moment
        return False
    return False


class TestStart:
    def test_port_0_is_a_free_one_and_the_log_names_it(
        self, start_server: StartServer, repository: Path
    ) -> None:
        server = start_server(repository)

        assert server.address[1] > 0
        assert server.wait_for_line("serving")["models"] == "affine"
        assert httpx.get(f"{server.url}/health/ready", trust_env=False).status_code == 200

    def test_it_can_listen_on_ipv6(self, start_server: StartServer, repository: Path) -> None:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("no IPv6 here")

        server = start_server(repository, host="::1")

        assert server.url.startswith("http://[::1]:")
        assert httpx.get(f"{server.url}/health/ready", trust_env=False).status_code == 200

    def test_two_that_race_for_one_port_do_not_both_start(
        self, start_server: StartServer, repository: Path
    ) -> None:
        """Both are bound before either listens; the later one ends with one line."""
        with socket.socket() as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(("127.0.0.1", 0))
            port = bound.getsockname()[1]
            child = subprocess.Popen(
                [sys.executable, "-m", "app", "serve"],
                cwd=ROOT,
                env=environment(models=repository, port=port, log_format="json"),
                stderr=subprocess.PIPE,
                text=True,
            )
            assert child.stderr is not None
            for line in child.stderr:
                if '"message": "cores"' in line:  # it has bound and is proving its model
                    bound.listen()
                    break
            _, rest = child.communicate(timeout=PATIENCE_S)

        assert child.returncode == 2
        assert "Traceback" not in rest
        last = json.loads(rest.splitlines()[-1])
        assert last["error"].startswith(f"cannot listen on 127.0.0.1 port {port}")


class TestEnd:
    def test_sigterm_answers_what_is_in_flight(
        self, start_server: StartServer, repository: Path
    ) -> None:
        server = start_server(repository)
        with server.connect() as wire:
            wire.send(HEAD + BODY[:10])
            time.sleep(0.1)
            server.signal(signal.SIGTERM)
            deadline = time.monotonic() + PATIENCE_S
            while not refuses_connections(server):
                assert time.monotonic() < deadline
            wire.send(BODY[10:])
            status, headers, body = wire.read_response()

            assert status == 200
            assert headers["connection"] == "close"
            assert json.loads(body)["predictions"][0]["y"] == pytest.approx([-1.15, 7.3])
        assert server.wait() == 0
        assert server.log_lines()[-1]["message"] == "stopped"

    def test_sigterm_ends_an_idle_server_with_open_connections(
        self, start_server: StartServer, repository: Path
    ) -> None:
        server = start_server(repository, grace_s=20)
        with server.connect() as wire:
            wire.send(HEAD + BODY)
            assert wire.read_response()[0] == 200
            started = time.monotonic()
            server.signal(signal.SIGTERM)

            assert server.wait() == 0
            assert time.monotonic() - started < 5

    def test_a_request_that_never_ends_is_cut_off_after_the_grace_period(
        self, start_server: StartServer, repository: Path
    ) -> None:
        server = start_server(repository, grace_s=1)
        with server.connect() as wire:
            wire.send(HEAD)
            time.sleep(0.1)
            server.signal(signal.SIGTERM)
            status, _, body = wire.read_response()

            assert server.wait() == 0
            assert (status, json.loads(body)["code"]) == (503, "draining")
            assert "Traceback" not in json.dumps(server.log_lines())

    def test_sigterm_while_models_load_ends_it(self, tmp_path: Path) -> None:
        for number in range(60):
            make_bundle(tmp_path / "models", f"model-{number}")
        log = tmp_path / "log"
        with log.open("wb") as stderr:
            child = subprocess.Popen(
                [sys.executable, "-m", "app", "serve"],
                cwd=ROOT,
                env=environment(models=tmp_path / "models", port=0, log_format="json"),
                stderr=stderr,
            )
        try:
            deadline = time.monotonic() + PATIENCE_S
            while b'"message": "cores"' not in log.read_bytes():
                assert time.monotonic() < deadline
                time.sleep(0.005)
            child.send_signal(signal.SIGTERM)

            assert child.wait(PATIENCE_S) == 128 + signal.SIGTERM
        finally:
            child.kill()
            child.wait(PATIENCE_S)
        assert b'"message": "serving"' not in log.read_bytes()

    def test_it_accepts_but_is_not_ready_during_the_drain_delay(
        self, start_server: StartServer, repository: Path
    ) -> None:
        server = start_server(repository, drain_delay_s=1)
        with server.client() as client:
            server.signal(signal.SIGTERM)
            wait_for_status(client, "/health/ready", 503)
            refused = client.get("/v2/health/ready")
            assert refused.status_code == 503
            assert refused.json()["code"] == "not_ready"
            assert refused.headers["retry-after"] == "1"
            assert client.get("/health/live").status_code == 200

            # A second one changes nothing, and new connections are still taken.
            server.signal(signal.SIGTERM)
            with server.client() as another:
                answer = another.post("/predict", content=BODY)
                assert answer.status_code == 200
            assert "modelport_ready 0.0" in client.get("/metrics").text
        assert server.wait() == 0

    def test_sigint_ends_at_once(self, start_server: StartServer, repository: Path) -> None:
        server = start_server(repository, drain_delay_s=60)
        server.signal(signal.SIGINT)

        assert server.wait() == 0
        assert server.log_lines()[-1]["message"] == "stopped"

    def test_sigint_cuts_a_drain_delay_short(
        self, start_server: StartServer, repository: Path
    ) -> None:
        server = start_server(repository, drain_delay_s=60)
        with server.client() as client:
            server.signal(signal.SIGTERM)
            wait_for_status(client, "/health/ready", 503)
        server.signal(signal.SIGINT)

        assert server.wait() == 0

    @pytest.mark.slow
    def test_no_request_is_lost_by_sigterm_under_load(
        self, start_server: StartServer, repository: Path
    ) -> None:
        """Callers stop once it is not ready, as a balancer does; all that they sent is served."""
        for _ in range(5):
            server = start_server(repository, drain_delay_s=0.5)
            with callers(server, retries=0, count=8) as tally, server.client() as balancer:
                wait_until(lambda tally=tally: tally.right > 50, "answers come")
                server.signal(signal.SIGTERM)
                wait_for_status(balancer, "/health/ready", 503)
            assert (tally.wrong, tally.failed) == (0, [])
            assert server.wait() == 0


class TestBodies:
    def test_all_bodies_together_are_limited(
        self, start_server: StartServer, repository: Path
    ) -> None:
        server = start_server(repository, pending_body_bytes=3000)
        announced = head("/predict", {"Content-Type": "application/json", "Content-Length": "2000"})
        with server.connect() as first, server.connect() as second, server.client() as client:
            first.send(announced)
            time.sleep(0.2)
            second.send(announced)
            status, headers, body = second.read_response()

            assert (status, json.loads(body)["code"]) == (503, "overloaded")
            assert headers["retry-after"] == "1"
            assert client.post("/predict", content=BODY).status_code == 200
            first.reset()
            wait_for_status(client, "/health/live", 200)

    def test_a_chunked_body_is_counted_as_it_comes(
        self, start_server: StartServer, repository: Path
    ) -> None:
        server = start_server(repository, pending_body_bytes=1024)
        headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        with server.connect() as wire:
            wire.send(head("/predict", headers))
            for _ in range(4):
                wire.send(b"200\r\n" + b" " * 512 + b"\r\n")
                time.sleep(0.05)
            status, _, body = wire.read_response()

        assert (status, json.loads(body)["code"]) == (503, "overloaded")

    def test_a_chunked_body_that_comes_at_once_is_counted_too(
        self, start_server: StartServer, repository: Path
    ) -> None:
        server = start_server(repository, pending_body_bytes=1024)
        headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        with server.connect() as wire:
            wire.send(head("/predict", headers) + b"800\r\n" + b" " * 2048 + b"\r\n0\r\n\r\n")
            status, _, body = wire.read_response()

        assert (status, json.loads(body)["code"]) == (503, "overloaded")

    def test_the_budget_is_given_back(self, start_server: StartServer, repository: Path) -> None:
        server = start_server(repository, pending_body_bytes=1024)
        with server.client() as client:
            for _ in range(100):
                assert client.post("/predict", content=BODY).status_code == 200
                assert client.post("/predict", content=b"{").status_code == 400


def test_a_provider_that_is_not_there_is_warned_of(
    start_server: StartServer, repository: Path
) -> None:
    server = start_server(repository, provider="Foo")

    warnings = [line for line in server.log_lines() if line["level"] == "warning"]

    assert "Foo, which is not available here" in warnings[0]["problem"]
    assert warnings[1]["message"] == "model loaded, not on a provider that was asked for"


def test_settings_of_a_model_that_is_not_there_are_warned_of(
    start_server: StartServer, repository: Path
) -> None:
    server = start_server(repository, per_model='{"afine": {}, "affine": {}}')

    (warning,) = [line for line in server.log_lines() if line["level"] == "warning"]

    assert warning["message"] == "MODELPORT_PER_MODEL names a model that is not in the repository"
    assert warning["model"] == "afine"


def test_a_model_whose_pin_cannot_be_obeyed_is_left_out_and_told(
    start_server: StartServer, repository: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(repository, models)
    make_bundle(models, "pinned", "affine")
    (models / "pinned" / "serve.json").write_text('{"version": 7}')

    server = start_server(models)

    with server.client() as client:
        assert client.post("/models/affine/predict", content=BODY).status_code == 200
        assert client.post("/models/pinned/predict", content=BODY).status_code == 404
    told = server.wait_for_line("model not served")
    assert (told["level"], told["model"]) == ("error", "pinned")
    assert told["reason"] == (
        "pinned version 7 is absent; `python -m app unpin pinned` removes the pin"
    )


def test_garbage_behind_a_request_does_not_take_its_answer(
    start_server: StartServer, repository: Path
) -> None:
    server = start_server(repository)
    with server.connect() as wire:
        wire.send(HEAD + BODY + b"\x00garbage\r\n\r\n")

        assert wire.read_response()[0] == 200
        status, headers, _ = wire.read_response()
        assert (status, headers["connection"]) == (400, "close")
        assert wire.read_rest() == b""


def in_child(code: str, **settings: object) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(**settings), capture_output=True,
        text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_the_application_loads_neither_torch_nor_onnx_nor_training() -> None:
    code = """if True:
        import sys, app.main, app.server, app.__main__, app.doctor
        heavy = {"torch", "onnx", "training", "onnxscript", "sklearn", "matplotlib"}
        print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
    """

    assert in_child(code) == "[]"


def test_importing_the_application_starts_nothing() -> None:
    code = """if True:
        import threading, logging, app.main, app.server
        print(threading.active_count(), logging.getLogger().handlers)
    """

    assert in_child(code) == "1 []"


def test_telemetry_is_off_before_the_runtime_is_imported() -> None:
    code = """if True:
        import os, sys

        class Watch:
            def find_spec(self, name, path=None, target=None):
                if name == "onnxruntime":
                    print(os.environ.get("ORT_DISABLE_TELEMETRY"))

        sys.meta_path.insert(0, Watch())
        os.environ.pop("ORT_DISABLE_TELEMETRY", None)
        import app.main
    """

    assert in_child(code) == "1"


def test_nothing_connects_out(repository: Path) -> None:
    """Every connection that Python opens is seen; what starts is a whole service."""
    code = f"""if True:
        import sys
        seen = []
        watched = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request")
        sys.addaudithook(lambda event, args: seen.append(event) if event in watched else None)
        import asyncio
        from pathlib import Path
        from app.service import Service
        from app.settings import Settings

        async def main():
            service = Service(Settings(models=Path({str(repository)!r}), provider=("cpu",)))
            await service.start()
            await service.stop()

        asyncio.run(main())
        print(seen)
    """

    assert in_child(code) == "[]"
