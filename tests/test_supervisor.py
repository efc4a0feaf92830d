"""Several workers behind one socket: started, replaced, told, counted and ended together."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.api.live import PATIENCE_S, ROOT, LiveServer, environment, head, run_app
from tests.conftest import StartServer
from tests.support.bundles import make_bundle
from tests.team import ENDED, Team, affine, ask, callers, is_alive, wait_until


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_bundle(root, "affine", "affine")
    return root


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the service puts what is temporary."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def two(start_server: StartServer, repository: Path, temporary: Path) -> Team:
    """Two workers that are ready."""
    team = Team(start_server(repository, workers=2))
    team.wait(2)
    return team


def is_open(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except ConnectionRefusedError:
        return False
    except ConnectionResetError:  # it was closing at that moment
        return True
    return True


class TestStart:
    def test_each_worker_serves(self, two: Team) -> None:
        pids = two.ready_pids()
        assert len(set(pids.values()) | {two.server.process.pid}) == 3
        for paused in pids.values():
            os.kill(paused, signal.SIGSTOP)
            try:
                # What is answered now is answered by the other one.
                with two.server.client() as client:
                    assert ask(client, 1) == pytest.approx(affine(1), abs=1e-4)
            finally:
                os.kill(paused, signal.SIGCONT)

    def test_the_first_proves_before_the_others_start(self, two: Team) -> None:
        told = [
            (line["message"], line["worker"])
            for line in two.server.log_lines()
            if line["message"] in ("worker started", "model loaded", "worker ready")
        ]

        assert told == [
            ("worker started", 0),
            ("model loaded", 0),
            ("worker ready", 0),
            ("worker started", 1),
            ("model loaded", 1),
            ("worker ready", 1),
        ]

    def test_the_cores_are_divided(self, start_server: StartServer, repository: Path) -> None:
        team = Team(start_server(repository, workers=2, threads=5))
        team.wait(2)

        lines = team.server.log_lines()
        assert [line["threads"] for line in lines if line["message"] == "cores"] == [2, 2]
        assert "more workers than cores" not in [line["message"] for line in lines]

    @pytest.mark.slow
    def test_more_workers_than_cores_are_warned_of(
        self, start_server: StartServer, repository: Path
    ) -> None:
        team = Team(start_server(repository, workers=2, threads=1))

        warning = team.server.wait_for_line("more workers than cores")
        team.wait(2)

        assert (warning["level"], warning["workers"], warning["cores"]) == ("warning", 2, 1)
        lines = team.server.log_lines()
        assert [line["threads"] for line in lines if line["message"] == "cores"] == [1, 1]

    def test_the_option_wins_over_the_variable(self, repository: Path) -> None:
        ended = run_app("serve", "--workers", "0", workers=2, models=repository)

        assert ended.returncode == 2
        assert ended.stderr.startswith("modelport: MODELPORT_WORKERS=0: ")

    def test_the_supervisor_loads_no_model_and_no_framework(self) -> None:
        code = """if True:
            import sys, app.__main__, app.supervisor
            heavy = {"numpy", "onnxruntime", "fastapi", "starlette", "uvicorn", "prometheus_client"}
            print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
        """
        ended = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True,
            text=True, timeout=PATIENCE_S,
        )  # fmt: skip

        assert (ended.stdout, ended.stderr) == ("[]\n", "")

    def test_a_package_of_our_name_in_the_working_directory_is_not_taken(
        self, repository: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "app").mkdir()
        (tmp_path / "app" / "__init__.py").write_text("raise RuntimeError('not this one')")
        code = "from app.__main__ import main; raise SystemExit(main())"
        log = tmp_path / "log"
        with log.open("wb") as stderr:
            child = subprocess.Popen(
                [sys.executable, "-P", "-c", code, "serve", "--workers", "2"],
                cwd=tmp_path,
                env=environment(models=repository) | {"PYTHONPATH": str(ROOT)},
                stderr=stderr,
            )
        try:
            wait_until(
                lambda: (
                    log.read_bytes().count(b'"message": "worker ready"') == 2
                    or child.poll() is not None
                ),
                "both are ready",
            )
            child.send_signal(signal.SIGTERM)
            assert child.wait(PATIENCE_S) == 0, log.read_text()
        finally:
            child.kill()
            child.wait(PATIENCE_S)


class TestNoStart:
    """As with one process: one line, the same exit status, and nothing left behind."""

    def test_a_port_that_is_in_use(self, repository: Path, temporary: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            started = time.monotonic()
            ended = run_app("serve", workers=2, models=repository, port=port, log_format="text")

        assert ended.returncode == 2
        assert ended.stderr == (
            f"modelport: cannot listen on 127.0.0.1 port {port}: address already in use; "
            "choose another with MODELPORT_HOST and MODELPORT_PORT\n"
        )
        assert time.monotonic() - started < PATIENCE_S
        assert list(temporary.iterdir()) == []

    def test_nothing_to_serve(self, tmp_path: Path, temporary: Path) -> None:
        ended = run_app("serve", workers=2, models=tmp_path / "absent")

        lines = [json.loads(line) for line in ended.stderr.splitlines()]
        assert ended.returncode == 3
        assert [line["error"] for line in lines if line["level"] == "error"] == [
            f"cannot serve {tmp_path}/absent: the model repository does not exist"
        ]
        assert list(temporary.iterdir()) == []

    def test_no_temporary_folder(self, repository: Path, tmp_path: Path) -> None:
        code = f"""if True:
            import sys, tempfile
            tempfile.tempdir = {str(tmp_path / "absent")!r}
            from app.__main__ import main
            sys.exit(main(["serve"]))
        """
        ended = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
            env=environment(workers=2, models=repository, log_format="text"), timeout=PATIENCE_S,
        )  # fmt: skip

        assert ended.returncode == 2
        assert ended.stderr.splitlines()[-1].startswith("modelport: several workers need a ")

    def test_a_first_worker_that_cannot_be_spawned(self, repository: Path, temporary: Path) -> None:
        code = """if True:
            import sys
            sys.executable = "/absent/python"
            from app.__main__ import main
            sys.exit(main(["serve"]))
        """
        ended = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
            env=environment(workers=2, models=repository), timeout=PATIENCE_S,
        )  # fmt: skip

        assert ended.returncode == 1
        lines = [json.loads(line) for line in ended.stderr.splitlines()]
        assert [(line["message"], line["error"]) for line in lines if line["level"] == "error"] == [
            ("cannot start a worker", "No such file or directory")
        ]
        assert list(temporary.iterdir()) == []

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_while_the_first_proves_ends_all(
        self, tmp_path: Path, temporary: Path, number: signal.Signals
    ) -> None:
        for index in range(60):
            make_bundle(tmp_path / "models", f"model-{index}")
        log = tmp_path / "log"
        with log.open("wb") as stderr:
            child = subprocess.Popen(
                [sys.executable, "-m", "app", "serve"],
                cwd=ROOT,
                env=environment(workers=2, models=tmp_path / "models", log_format="json"),
                stderr=stderr,
            )
        try:
            wait_until(lambda: b'"message": "cores"' in log.read_bytes(), "it loads its models")
            child.send_signal(number)

            assert child.wait(PATIENCE_S) == 128 + number
        finally:
            child.kill()
            child.wait(PATIENCE_S)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        (started,) = [line for line in lines if line["message"] == "worker started"]
        assert not is_alive(started["pid"])
        assert "serving" not in [line["message"] for line in lines]
        assert list(temporary.iterdir()) == []


class TestReplacement:
    def test_a_worker_that_is_killed_under_load_is_replaced(self, two: Team) -> None:
        before = two.ready_pids()
        with callers(two.server, retries=1) as tally:
            wait_until(lambda: tally.right > 50, "answers come")
            os.kill(before[1], signal.SIGKILL)
            wait_until(lambda: two.ready_pids().get(1, before[1]) != before[1], "it is replaced")
            answered = tally.right
            wait_until(lambda: tally.right > answered + 50, "more answers come")

        assert tally.wrong == 0
        assert len(tally.failed) <= 0.01 * tally.all, tally.failed
        assert two.ready_pids()[0] == before[0]
        line = two.server.wait_for_line(ENDED)
        assert (line["worker"], line["pid"], line["ended_by"]) == (1, before[1], "SIGKILL")

    @pytest.mark.slow
    def test_one_worker_killed_every_second(self, two: Team) -> None:
        ends = time.monotonic() + 10
        killed = 0
        with callers(two.server, retries=1) as tally:
            while time.monotonic() < ends:
                pids = two.ready_pids()
                if pids:
                    os.kill(pids[killed % 2 if killed % 2 in pids else min(pids)], signal.SIGKILL)
                    killed += 1
                time.sleep(1)
            two.wait(2)

        assert killed > 3
        assert tally.wrong == 0
        assert len(tally.failed) <= 0.01 * tally.all, tally.failed
        assert two.figures().total("modelport_worker_restarts_total") == killed

    def test_connections_wait_while_no_worker_lives(self, two: Team) -> None:
        for pid in two.ready_pids().values():
            os.kill(pid, signal.SIGKILL)

        with two.server.client() as client:
            assert ask(client, 5) == pytest.approx(affine(5), abs=1e-4)

    @pytest.mark.slow
    def test_one_that_cannot_start_is_tried_less_and_less_often(
        self, start_server: StartServer, repository: Path, tmp_path: Path
    ) -> None:
        models = tmp_path / "models"
        shutil.copytree(repository, models)
        team = Team(start_server(models, workers=2))
        pids = team.wait(2)
        models.rename(tmp_path / "away")
        os.kill(pids[1], signal.SIGKILL)

        def ends() -> list[tuple[str, float]]:
            lines = [line for line in team.server.log_lines() if line["message"] == ENDED]
            return [(line["ended_by"], line["delay_s"]) for line in lines]

        wait_until(lambda: len(ends()) >= 3, "it has failed twice")
        with team.server.client() as client:
            assert ask(client, 1) == pytest.approx(affine(1), abs=1e-4)
        (tmp_path / "away").rename(models)
        team.wait(2)

        assert ends()[:3] == [("SIGKILL", 0.0), ("exit status 3", 1.0), ("exit status 3", 2.0)]


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_what_is_in_flight_is_answered(
        self, two: Team, temporary: Path, number: signal.Signals
    ) -> None:
        pids = two.ready_pids()
        body = b'{"instances":[{"a":1,"b":2,"c":3}]}'
        start = head("/predict", {"Content-Length": str(len(body))}) + body[:10]
        with ExitStack() as stack:
            wires = [stack.enter_context(two.server.connect()) for _ in range(16)]
            for wire in wires:
                wire.send(start)
            arrived = "modelport_requests_received_total"
            wait_until(
                lambda: two.figures().total(arrived, route="predict") == len(wires),
                "all have arrived",
            )
            two.server.signal(number)
            two.server.signal(signal.SIGTERM)  # changes nothing
            wait_until(lambda: not is_open(two.server.address), "nobody listens any more")
            for wire in wires:
                wire.send(body[10:])
            answers = [wire.read_response() for wire in wires]

        assert two.server.wait() == 0
        assert [status for status, _, _ in answers] == [200] * len(wires)
        for _, _, answer in answers:
            assert json.loads(answer)["predictions"][0]["y"] == pytest.approx(affine(1), abs=1e-4)
        assert not any(is_alive(pid) for pid in pids.values())
        assert two.count("stopping") == 3
        assert two.server.log_lines()[-1]["message"] == "stopped"
        assert list(temporary.iterdir()) == []

    def test_no_request_is_lost_with_a_drain_delay(
        self, start_server: StartServer, repository: Path
    ) -> None:
        """Callers stop once it is not ready, as a balancer does; all that they sent is served."""
        team = Team(start_server(repository, workers=2, drain_delay_s=1))
        team.wait(2)
        with callers(team.server, retries=0, count=8) as tally, team.server.client() as balancer:
            wait_until(lambda: tally.right > 100, "answers come")
            team.server.signal(signal.SIGTERM)
            wait_until(lambda: balancer.get("/health/ready").status_code == 503, "it is not ready")

        assert tally.failed == []
        assert tally.wrong == 0
        assert team.server.wait() == 0

    @pytest.mark.slow
    def test_a_second_ctrl_c_stops_waiting(
        self, start_server: StartServer, repository: Path
    ) -> None:
        team = Team(start_server(repository, workers=2, drain_delay_s=60, grace_s=60))
        team.wait(2)
        with team.server.connect() as wire:
            wire.send(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
            wait_until(
                lambda: (
                    team.figures().total("modelport_requests_received_total", route="predict") == 1
                ),
                "the request has arrived",
            )
            team.server.signal(signal.SIGINT)
            team.server.wait_for_line("stopping")
            team.server.signal(signal.SIGINT)

            assert team.server.wait() in (0, 1)

    def test_workers_are_out_of_reach_of_the_terminal(self, two: Team) -> None:
        groups = {os.getpgid(pid) for pid in two.ready_pids().values()}

        assert os.getpgid(two.server.process.pid) not in groups
        assert len(groups) == 2

    def test_workers_end_when_their_supervisor_is_killed(self, two: Team, temporary: Path) -> None:
        pids = two.ready_pids()

        two.server.signal(signal.SIGKILL)
        two.server.wait()

        wait_until(lambda: not any(is_alive(pid) for pid in pids.values()), "the workers end")
        assert two.count("the supervisor has ended") == 2
        assert two.count("stopped") == 2
        assert list(temporary.iterdir()) == []

    @pytest.mark.slow
    def test_a_worker_that_hangs_is_killed(
        self, start_server: StartServer, repository: Path
    ) -> None:
        team = Team(start_server(repository, workers=2, grace_s=0.1))
        pids = team.wait(2)
        os.kill(pids[1], signal.SIGSTOP)

        team.server.signal(signal.SIGTERM)

        assert team.server.wait() == 1
        assert not is_alive(pids[1])
        assert team.server.wait_for_line("worker is killed: it did not end in time")["worker"] == 1


class TestMetrics:
    def test_any_worker_tells_of_all(self, two: Team) -> None:
        for number in range(60):
            with two.server.client() as client:  # a new connection, to any worker
                ask(client, number)

        # The other worker's figures are at most a second old.
        wait_until(lambda: two.ok() == 60, "all are counted")
        seen = [two.figures() for _ in range(10)]

        for figures in seen:
            assert figures.total("modelport_requests_received_total", route="predict") == 60
            assert figures.total("modelport_requests_total", route="predict", outcome="ok") == 60
            assert figures.total("modelport_workers") == 2
            assert figures.total("modelport_workers_alive") == 2
            assert figures.total("modelport_ready") == 1
        assert two.figures().total("modelport_batch_rows_sum") == 60
        assert two.figures().total("modelport_stage_seconds_count", stage="decode") == 60
        assert len(two.figures().labels("modelport_model_info")) == 1

    @pytest.mark.slow
    def test_counters_survive_the_workers(self, two: Team) -> None:
        sent = 0
        for ending in (signal.SIGKILL, signal.SIGTERM):
            for _ in range(20):
                with two.server.client() as client:
                    ask(client, sent)
                sent += 1
            # A killed worker takes with it what it did since its last file, at most a second.
            wait_until(lambda sent=sent: two.ok() == sent, "all are counted")
            for place, pid in two.ready_pids().items():
                os.kill(pid, ending)
                wait_until(
                    lambda place=place, pid=pid: two.ready_pids().get(place, pid) != pid,
                    "it is replaced",
                )
                assert two.ok() == sent

        figures = two.figures()
        assert figures.total("modelport_batch_rows_sum") == sent
        assert figures.total("modelport_worker_restarts_total") == 4

    @pytest.mark.slow
    def test_counters_never_go_back(self, two: Team) -> None:
        counts: list[float] = []
        with callers(two.server, retries=1, count=2):
            for _ in range(2):
                pid = two.wait(2)[1]
                os.kill(pid, signal.SIGKILL)
                while two.ready_pids().get(1, pid) == pid:
                    try:
                        counts.append(two.ok())
                    except httpx.HTTPError:
                        continue  # asked of the one that was killed

        assert len(counts) > 20
        assert counts == sorted(counts)


class TestHangup:
    def served(self, server: LiveServer) -> int:
        with server.client() as client:
            return int(client.get("/models/affine").json()["version"])

    def test_all_workers_look_at_the_repository(
        self, start_server: StartServer, repository: Path, tmp_path: Path
    ) -> None:
        models = tmp_path / "models"
        shutil.copytree(repository, models)
        team = Team(start_server(models, workers=2, poll_s=0))
        team.wait(2)
        make_bundle(models, "affine", "affine")

        team.server.signal(signal.SIGHUP)

        def loaded() -> set[int]:
            lines = team.server.log_lines()
            return {
                line["worker"]
                for line in lines
                if line["message"] == "model loaded" and line["version"] == 2
            }

        told = team.server.wait_for_line("SIGHUP: every worker looks at the model repository")
        assert (told["level"], told["workers"]) == ("info", 2)
        wait_until(lambda: loaded() == {0, 1}, "both have loaded it")
        wait_until(lambda: {self.served(team.server) for _ in range(20)} == {2}, "both serve it")

    def test_a_single_process_looks_too(
        self, start_server: StartServer, repository: Path, tmp_path: Path
    ) -> None:
        models = tmp_path / "models"
        shutil.copytree(repository, models)
        server = start_server(models, poll_s=0)
        make_bundle(models, "affine", "affine")

        server.signal(signal.SIGHUP)

        server.wait_for_line("SIGHUP: looking at the model repository")
        wait_until(lambda: self.served(server) == 2, "it serves the new version")

    def test_what_an_administrator_does_reaches_the_other_workers(
        self, start_server: StartServer, repository: Path, tmp_path: Path
    ) -> None:
        models = tmp_path / "models"
        shutil.copytree(repository, models)
        make_bundle(models, "affine", "affine")
        key = "0123456789abcdef"
        team = Team(start_server(models, workers=2, poll_s=0, admin_key=key))
        team.wait(2)
        assert {self.served(team.server) for _ in range(20)} == {2}

        with team.server.client() as client:
            answer = client.post(
                "/admin/models/affine/pin",
                json={"version": 1},
                headers={"Authorization": f"Bearer {key}"},
            )

        assert answer.status_code == 200, answer.text
        wait_until(lambda: {self.served(team.server) for _ in range(20)} == {1}, "both obey")
