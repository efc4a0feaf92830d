"""`python -m app`: exit statuses, and one clear line for every way not to start."""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app import __version__
from app.__main__ import main
from tests.api.live import PATIENCE_S, ROOT, environment, run_app
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

    Returns the reason that its last line gives. Every line is one of the log, as JSON; settings
    that are bad are told before the log's form is known.
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
        if not log and line.startswith("modelport: "):
            return line.removeprefix("modelport: ")
        for entry in log:
            assert json.loads(entry)["level"] in ("info", "warning", "error")
        last = json.loads(line)
        assert (last["level"], last["message"]) == ("error", "cannot start")
        return last["error"]

    yield serve
    root.handlers = kept
    root.setLevel(level)


class TestBadSettings:
    def test_an_unknown_one(self, refusal: Refusal) -> None:
        line = refusal(2, modles="x")

        assert line == "unknown setting MODELPORT_MODLES; did you mean MODELPORT_MODELS?"

    def test_a_bad_value(self, refusal: Refusal) -> None:
        assert refusal(2, timeout_ms="soon").startswith("MODELPORT_TIMEOUT_MS='soon': ")

    def test_settings_of_models_that_are_no_json(self, refusal: Refusal) -> None:
        line = refusal(2, per_model="{digits}")

        assert line.startswith("MODELPORT_PER_MODEL='{digits}': is not valid JSON: ")

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

        assert line.endswith(
            ": warp is not available here; available: CPUExecutionProvider:cpu; "
            "MODELPORT_PROVIDER_STRICT is strict: only warp may serve it"
        )

    def test_a_provider_of_one_model_that_is_unknown(
        self, refusal: Refusal, repository: Path
    ) -> None:
        own = json.dumps({"affine": {"provider": "warp", "provider_strict": True}})

        line = refusal(3, models=repository, per_model=own)

        assert line.endswith("; MODELPORT_PER_MODEL is strict: only warp may serve it")

    def test_a_pin_that_cannot_be_obeyed(self, refusal: Refusal, tmp_path: Path) -> None:
        bundle = make_bundle(tmp_path, "affine", "affine")
        (bundle.path.parent / "serve.json").write_text('{"version": 7}')

        line = refusal(3, models=tmp_path)

        assert line == (
            f"no model can be served from {tmp_path}: affine: pinned version 7 is absent; "
            "`python -m app unpin affine` removes the pin"
        )


class TestInAChild:
    """The same, seen from outside: nothing else is printed, and it is quick."""

    @pytest.mark.parametrize("settings", [{"modles": "x"}, {"port": "x"}])
    def test_bad_settings(self, settings: dict[str, str]) -> None:
        started = time.monotonic()
        ended = run_app("serve", **settings)

        assert ended.returncode == 2
        assert time.monotonic() - started < START_S
        assert ended.stderr.count("\n") == 1
        assert ended.stderr.startswith("modelport: ")

    @pytest.mark.parametrize("log_format", ["auto", "json"])
    def test_no_models_in_a_log_of_json(self, log_format: str) -> None:
        ended = run_app("serve", models="absent", log_format=log_format)

        assert ended.returncode == 3
        lines = [json.loads(line) for line in ended.stderr.splitlines()]
        assert [line["message"] for line in lines if line["level"] == "error"] == ["cannot start"]
        assert lines[-1]["error"] == "cannot serve absent: the model repository does not exist"

    def test_no_models_in_a_log_of_text(self) -> None:
        ended = run_app("serve", models="absent", log_format="text")

        assert ended.returncode == 3
        last = ended.stderr.splitlines()[-1]
        assert last == "modelport: cannot serve absent: the model repository does not exist"


class TestCommands:
    def test_help(self) -> None:
        ended = run_app("--help")

        assert ended.returncode == 0
        assert "serve" in ended.stdout
        for command in ("serve", "doctor", "plan", "pin", "unpin"):
            assert f"\n    {command} " in ended.stdout
        # What only a supervisor starts is not for people.
        assert "worker" not in ended.stdout
        assert ended.stderr == ""

    @pytest.mark.parametrize(
        ("command", "told"),
        [
            ("serve", "--workers N"),
            ("doctor", "--models DIR"),
            ("plan", "MODELPORT_PLAN"),
            ("pin", "MODELPORT_POLL_S"),
            ("unpin", "MODELPORT_POLL_S"),
        ],
    )
    def test_help_of_a_command(self, command: str, told: str) -> None:
        ended = run_app(command, "--help")

        assert ended.returncode == 0
        assert told in ended.stdout

    def test_version(self) -> None:
        assert run_app("--version").stdout == f"modelport {__version__}\n"

    @pytest.mark.parametrize("arguments", [(), ("fly",), ("serve", "--port", "x"), ("serve", "x")])
    def test_bad_usage(self, arguments: tuple[str, ...]) -> None:
        ended = run_app(*arguments)

        assert ended.returncode == 2
        assert ended.stderr.startswith("usage: ")


class TestDoctor:
    def test_machine_providers_and_models(self, repository: Path) -> None:
        ended = run_app("doctor", "--models", str(repository))

        assert ended.returncode == 0, ended.stderr
        assert "Cores: " in ended.stdout
        assert "MODELPORT_THREADS" not in ended.stdout
        assert "CPUExecutionProvider" in ended.stdout
        assert "  affine: version 1 would be served, the newest that is complete" in ended.stdout
        assert "    version 1: complete, regression, digest " in ended.stdout

    def test_cores_that_are_set(self, repository: Path) -> None:
        ended = run_app("doctor", models=repository, threads=3)

        assert "\nCores: 3 (set by MODELPORT_THREADS; else " in ended.stdout

    def test_a_broken_model(self, repository: Path, tmp_path: Path) -> None:
        shutil.copytree(repository / "affine", tmp_path / "affine")
        (tmp_path / "affine" / "1" / "model.onnx").unlink()

        ended = run_app("doctor", models=tmp_path, provider="warp")

        assert ended.returncode == 1
        assert "    version 1: problem: model.onnx is missing" in ended.stdout.splitlines()
        assert "  affine: not served, no version is complete" in ended.stdout.splitlines()
        assert "  problem: nothing would be served" in ended.stdout.splitlines()
        assert "not warp: " in ended.stdout

    def test_the_newest_that_is_complete(self, tmp_path: Path) -> None:
        for _ in range(3):
            newest = make_bundle(tmp_path, "affine", "affine")
        (newest.path / "model.onnx").unlink()

        ended = run_app("doctor", models=tmp_path)

        assert ended.returncode == 0
        assert "  affine: version 2 would be served, the newest that is complete" in ended.stdout

    @pytest.mark.parametrize(
        ("pin", "status", "said"),
        [
            ('{"version": 1}', 0, "version 1 would be served, which is pinned"),
            ('{"version": 2}', 1, "not served, problem: pinned version 2 is broken"),
            ('{"version": 7}', 1, "not served, problem: pinned version 7 is absent"),
            ('{"version": 0}', 1, 'not served, problem: serve.json must hold {"version": N}'),
        ],
    )
    def test_a_pin(self, tmp_path: Path, pin: str, status: int, said: str) -> None:
        for _ in range(3):
            made = make_bundle(tmp_path, "affine", "affine")
        (made.path.parent / "2" / "model.onnx").unlink()
        (made.path.parent / "serve.json").write_text(pin)

        ended = run_app("doctor", models=tmp_path)

        assert ended.returncode == status
        assert f"  affine: {said}" in ended.stdout.splitlines()
        # It says what the service does.
        if status != 0:
            assert run_app("serve", models=tmp_path).returncode == 3

    @pytest.mark.parametrize("setting", ["require", "default_model"])
    def test_a_model_that_must_be_served(
        self, repository: Path, tmp_path: Path, setting: str
    ) -> None:
        shutil.copytree(repository / "affine", tmp_path / "affine")
        (tmp_path / "empty").mkdir()

        def problems(name: str) -> tuple[int, list[str]]:
            ended = run_app("doctor", models=tmp_path, **{setting: name})
            lines = ended.stdout.splitlines()
            return ended.returncode, [line for line in lines if line.startswith("  problem: ")]

        named = f"  problem: MODELPORT_{setting.upper()} names"
        assert problems("affine") == (0, [])
        assert problems("other") == (1, [f"{named} 'other': it is not in the model repository"])
        assert problems("empty") == (1, [f"{named} 'empty': no version of it would be served"])

    def test_no_provider(self, repository: Path) -> None:
        ended = run_app("doctor", models=repository, provider="warp", provider_strict="true")

        lines = ended.stdout.splitlines()
        assert ended.returncode == 1
        assert "  problem: there is none to try" in lines
        # It says of the model what the service says, and nothing against it.
        assert "would be served" not in ended.stdout.replace("nothing would be served", "")
        assert (
            "  affine: not served, problem: there is no execution provider to try: "
            "warp is not available here; available: CPUExecutionProvider:cpu; "
            "MODELPORT_PROVIDER_STRICT is strict: only warp may serve it"
        ) in lines

    def test_only_the_first_provider_counts_when_strict(self, repository: Path) -> None:
        ended = run_app(
            "doctor", models=repository, provider="cpu,warp", provider_strict="true", threads=1
        )

        head = "Execution providers, in the order they are tried "
        assert ended.returncode == 0
        assert f"{head}(only cpu, by MODELPORT_PROVIDER_STRICT):" in ended.stdout.splitlines()
        assert "not warp" not in ended.stdout

    def test_a_model_with_providers_of_its_own(self, repository: Path) -> None:
        own = json.dumps({"affine": {"provider": ["warp", "cpu"], "provider_strict": False}})

        ended = run_app(
            "doctor", models=repository, provider="warp", provider_strict="true", per_model=own
        )

        lines = ended.stdout.splitlines()
        assert ended.returncode == 0
        assert "  affine: version 1 would be served, the newest that is complete" in lines
        tried = "    by MODELPORT_PER_MODEL it is tried on: CPUExecutionProvider (cpu)"
        assert lines[lines.index(tried) + 1].startswith("    not warp: is not available here")

    def test_settings_of_a_model_that_is_not_there(self, repository: Path) -> None:
        ended = run_app("doctor", models=repository, per_model='{"afine": {}}')

        assert ended.returncode == 0  # the service starts all the same
        warning = "MODELPORT_PER_MODEL names 'afine': it is not in the model repository"
        assert f"  warning: {warning}" in ended.stdout.splitlines()

    def test_an_empty_repository(self, tmp_path: Path) -> None:
        ended = run_app("doctor", models=tmp_path)

        assert ended.returncode == 1
        assert "  problem: nothing would be served" in ended.stdout.splitlines()

    def test_no_repository(self, tmp_path: Path) -> None:
        ended = run_app("doctor", models=tmp_path / "absent")

        assert ended.returncode == 1
        assert "  problem: the model repository does not exist" in ended.stdout.splitlines()

    def test_a_bad_setting(self) -> None:
        ended = run_app("doctor", port="x")

        assert ended.returncode == 2
        assert ended.stderr.startswith("modelport: MODELPORT_PORT='x': ")

    def test_a_reader_that_has_seen_enough(self, repository: Path) -> None:
        reader, writer = os.pipe()
        os.close(reader)

        ended = subprocess.run(
            [sys.executable, "-m", "app", "doctor"],
            cwd=ROOT,
            env=environment(models=repository),
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=PATIENCE_S,
        )
        os.close(writer)

        assert (ended.returncode, ended.stderr) == (0, b"")


class TestPin:
    def test_a_pin_is_obeyed_until_it_is_removed(self, tmp_path: Path) -> None:
        for _ in range(2):
            make_bundle(tmp_path, "affine", "affine")

        pinned = run_app("pin", "affine", "1", models=tmp_path)
        found = run_app("doctor", models=tmp_path)
        removed = run_app("unpin", "affine", models=tmp_path)

        assert (pinned.returncode, removed.returncode) == (0, 0), pinned.stderr + removed.stderr
        assert "version 1 would be served, which is pinned" in found.stdout
        assert not (tmp_path / "affine" / "serve.json").exists()

    @pytest.mark.parametrize("arguments", [("affine", "7"), ("other", "1")])
    def test_what_cannot_be_pinned(self, repository: Path, arguments: tuple[str, str]) -> None:
        ended = run_app("pin", *arguments, models=repository, log_format="text")

        assert ended.returncode != 0
        assert ended.stderr.startswith("modelport: ")
        assert ended.stderr.count("\n") == 1

    def test_the_log_says_which_command_failed(self, repository: Path) -> None:
        ended = run_app("pin", "affine", "7", models=repository, log_format="json")

        line = json.loads(ended.stderr)
        assert (line["level"], line["message"]) == ("error", "pin failed")
        assert line["error"] == "version 7 of affine is not published; there are: 1"
