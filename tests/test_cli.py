"""`python -m app`: exit statuses, and one clear line for every way not to start."""

import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app import __version__
from app.__main__ import main
from tests.api.live import run_app
from tests.support.bundles import make_bundle

#: A few seconds; the machine may be busy with other tests.
START_S = 10.0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_bundle(root, "affine", "affine")
    return root


Refusal = Callable[..., str]


@pytest.fixture
def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Refusal]:
    """`serve`, in this process, until it gives up: `refusal(status, *arguments, **settings)`.

    Returns the one line that it ends with; log lines before it are JSON.
    """
    for name in [name for name in os.environ if name.startswith("MODELPORT_")]:
        monkeypatch.delenv(name)
    root = logging.getLogger()
    kept, root.handlers, level = root.handlers, [], root.level

    def serve(status: int, *arguments: str, **settings: object) -> str:
        for name, value in ({"port": 0, "provider": "cpu"} | settings).items():
            monkeypatch.setenv(f"MODELPORT_{name.upper()}", str(value))
        started = time.monotonic()
        assert main(["serve", *arguments]) == status
        assert time.monotonic() - started < 2
        told = capsys.readouterr()
        assert told.out == ""
        *log, line = told.err.splitlines()
        for entry in log:
            assert json.loads(entry)["level"] in ("info", "warning", "error")
        assert line.startswith("modelport: ")
        return line.removeprefix("modelport: ")

    yield serve
    root.handlers = kept
    root.setLevel(level)


class TestBadSettings:
    def test_an_unknown_one(self, refusal: Refusal) -> None:
        line = refusal(2, modles="x")

        assert line == "unknown setting MODELPORT_MODLES; did you mean MODELPORT_MODELS?"

    def test_a_bad_value(self, refusal: Refusal) -> None:
        assert refusal(2, timeout_ms="soon").startswith("MODELPORT_TIMEOUT_MS='soon': ")

    def test_a_bad_port_on_the_command_line(self, refusal: Refusal) -> None:
        assert refusal(2, "--port", "70000").startswith("MODELPORT_PORT=70000: ")

    def test_a_port_that_is_in_use(self, refusal: Refusal, repository: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]

            line = refusal(2, models=repository, port=port)

        assert line == (
            f"cannot listen on 127.0.0.1 port {port}: address already in use; "
            "choose another with MODELPORT_HOST and MODELPORT_PORT"
        )

    @pytest.mark.parametrize(
        "host", ["192.0.2.1", "no-such-host.invalid", "a" * 300, "::ffff", "é.."]
    )
    def test_an_address_that_is_not_ours(
        self, refusal: Refusal, repository: Path, host: str
    ) -> None:
        assert refusal(2, models=repository, host=host).startswith(
            f"cannot listen on {host} port 0: "
        )


class TestNothingToServe:
    def test_no_repository(self, refusal: Refusal, tmp_path: Path) -> None:
        line = refusal(3, models=tmp_path / "absent")

        assert line.endswith("absent: the model repository does not exist")

    def test_a_file_for_a_repository(self, refusal: Refusal, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")

        assert refusal(3, models=tmp_path / "file").endswith("the model repository is not a folder")

    def test_a_repository_that_cannot_be_read(self, refusal: Refusal, tmp_path: Path) -> None:
        loop = tmp_path / "loop"
        loop.symlink_to(loop)

        assert "the model repository cannot be read: " in refusal(3, models=loop)

    def test_an_empty_repository(self, refusal: Refusal, tmp_path: Path) -> None:
        line = refusal(3, models=tmp_path)

        assert line == f"no model can be served from {tmp_path}: it holds no published model"

    def test_a_truncated_model(self, refusal: Refusal, tmp_path: Path) -> None:
        bundle = make_bundle(tmp_path, "affine", "affine")
        model = bundle.path / "model.onnx"
        model.chmod(0o644)
        model.write_bytes(model.read_bytes()[:100])

        line = refusal(3, models=tmp_path)

        assert line.startswith(
            f"no model can be served from {tmp_path}: affine: version 1: model.onnx"
        )

    def test_a_model_file_that_is_none(self, refusal: Refusal, tmp_path: Path) -> None:
        make_bundle(tmp_path, "affine", "affine", model_data=b"not a graph")

        assert "affine: version 1: " in refusal(3, models=tmp_path)

    def test_a_required_model_that_is_absent(self, refusal: Refusal, repository: Path) -> None:
        line = refusal(3, models=repository, require="affine,digits")

        assert line == "MODELPORT_REQUIRE names 'digits': it is not in the model repository"

    def test_a_default_model_that_is_absent(self, refusal: Refusal, repository: Path) -> None:
        line = refusal(3, models=repository, default_model="digits")

        assert line == "MODELPORT_DEFAULT_MODEL names 'digits': it is not in the model repository"

    def test_a_provider_that_is_unknown(self, refusal: Refusal, repository: Path) -> None:
        line = refusal(3, models=repository, provider="warp", provider_strict="true")

        assert "warp" in line


class TestInAChild:
    """The same, seen from outside: nothing else is printed, and it is quick."""

    @pytest.mark.parametrize(
        ("status", "settings"),
        [(2, {"modles": "x"}), (2, {"port": "x"}), (3, {"models": "absent"})],
    )
    def test_one_line_and_an_exit_status(self, status: int, settings: dict[str, str]) -> None:
        started = time.monotonic()
        ended = run_app("serve", **settings)

        assert ended.returncode == status
        assert time.monotonic() - started < START_S
        lines = ended.stderr.splitlines()
        assert [line for line in lines if not line.startswith("{")] == lines[-1:]
        assert lines[-1].startswith("modelport: ")


class TestCommands:
    def test_help(self) -> None:
        ended = run_app("--help")

        assert ended.returncode == 0
        assert "serve" in ended.stdout
        assert "doctor" in ended.stdout
        assert ended.stderr == ""

    def test_version(self) -> None:
        assert run_app("--version").stdout == f"modelport {__version__}\n"

    @pytest.mark.parametrize("arguments", [(), ("fly",), ("serve", "--port", "x"), ("serve", "x")])
    def test_bad_usage(self, arguments: tuple[str, ...]) -> None:
        ended = run_app(*arguments)

        assert ended.returncode == 2
        assert ended.stderr.startswith("usage: ")

    def test_doctor_shows_machine_providers_and_models(self, repository: Path) -> None:
        ended = run_app("doctor", "--models", str(repository))

        assert ended.returncode == 0, ended.stderr
        assert "Cores: " in ended.stdout
        assert "CPUExecutionProvider" in ended.stdout
        assert "    version 1: complete, regression, digest " in ended.stdout

    def test_doctor_says_what_is_wrong(self, repository: Path, tmp_path: Path) -> None:
        shutil.copytree(repository / "affine", tmp_path / "broken")
        (tmp_path / "broken" / "1" / "model.onnx").unlink()

        ended = run_app("doctor", models=tmp_path, provider="warp")

        assert ended.returncode == 0
        assert "version 1: " in ended.stdout
        assert "complete" not in ended.stdout
        assert "not warp: " in ended.stdout

    def test_doctor_without_a_repository(self, tmp_path: Path) -> None:
        ended = run_app("doctor", models=tmp_path / "absent")

        assert ended.returncode == 0
        assert "  the model repository does not exist" in ended.stdout.splitlines()

    def test_doctor_with_a_bad_setting(self) -> None:
        ended = run_app("doctor", port="x")

        assert ended.returncode == 2
        assert ended.stderr.startswith("modelport: MODELPORT_PORT='x': ")
