"""Builds the serving image, runs it as locked down as it is meant to be, and checks it.

Run by `make image-test`; needs docker or podman, and no package. One line a check; the exit status
is 0 where all hold, 1 where one does not, 2 where there is nothing to test with. Environment:

    CONTAINER_ENGINE     the engine's command (default: docker where it answers, else podman)
    IMAGE                test this image, and build nothing
    ENGINE_BUILD_FLAGS   more options of `build`, such as "--network host"
    ENGINE_RUN_FLAGS     more options of every `run`
"""

import contextlib
import http.client
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
BUILT_TAG = "modelport:image-test"
MODEL = "affine"

NOTHING_TO_TEST_WITH = 2
MAX_BYTES_OVER_BASE = 230_000_000
BUILD_TIMEOUT_S = 1800
ENGINE_TIMEOUT_S = 120
READY_TIMEOUT_S = 60
#: What `docker stop` allows; the service's own limits must lie within.
STOP_TIMEOUT_S = 10
NOT_READY_TIMEOUT_S = 5
#: The interpreter runs by then, the models are not loaded yet.
STARTING_S = 0.6

HARDENED = (
    *("--read-only", "--tmpfs", "/tmp:rw,nosuid,nodev,noexec,size=64m"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "512m", "--memory-swap", "512m", "--pids-limit", "256"),
)

#: instances -> y = x·W + b and their sum; the numbers are those of `tests/support/models.py`.
REQUEST = {"instances": [{"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 0.0, "b": 0.0, "c": 0.0}]}
ANSWER = [{"y": [-1.15, 7.3], "total": 6.15}, {"y": [0.1, -0.2], "total": -0.1}]

#: Takes `tests/` as a tar from stdin and publishes a fixture model; runs in the image.
PUBLISH = f"""
import pathlib, sys, tarfile
tarfile.open(fileobj=sys.stdin.buffer, mode="r|").extractall("/tmp/source")
sys.path.insert(0, "/tmp/source")
from tests.support.bundles import make_bundle
make_bundle(pathlib.Path("/models"), {MODEL!r}, {MODEL!r})
"""

#: Sum of the sizes of all files of an image; runs in it.
MEASURE = """
import os
total = 0
for folder, names, files in os.walk("/"):
    if folder == "/":
        names[:] = [name for name in names if name not in ("proc", "sys", "dev")]
    total += sum(os.lstat(os.path.join(folder, name)).st_size for name in files)
print(total)
"""

#: What the service's process sees of its confinement, and what could be imported; runs in it.
PROBE = """
import importlib.util, json, os
status = dict(line.split(":", 1) for line in open("/proc/1/status"))
unwanted = ("torch", "onnx", "onnxscript", "sklearn", "pip", "setuptools", "training", "tests")
print(json.dumps({
    "uids": [int(uid) for uid in status["Uid"].split()],
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "no_new_privileges": status["NoNewPrivs"].strip() == "1",
    "root_read_only": bool(os.statvfs("/").f_flag & os.ST_RDONLY),
    "unwanted": [name for name in unwanted if importlib.util.find_spec(name)],
}))
"""


class Failed(Exception):
    """A step that the checks build upon did not work."""


@dataclass
class Engine:
    """The command line of docker, or of podman, which takes the same."""

    command: str
    build_flags: list[str]
    run_flags: list[str]

    @property
    def is_podman(self) -> bool:
        return "podman" in Path(self.command).name

    def ask(
        self, *arguments: str, data: bytes | None = None, timeout_s: float = ENGINE_TIMEOUT_S
    ) -> str:
        """Run a command of the engine; its output."""
        done = self._call(arguments, data, timeout_s)
        if done.returncode != 0:
            shown = " ".join(arguments[:2])
            raise Failed(f"{self.command} {shown} failed:\n{done.stderr.decode().strip()}")
        return done.stdout.decode().strip()

    def status(self, *arguments: str) -> int:
        """Run a command of the engine; its exit status."""
        return self._call(arguments, None, ENGINE_TIMEOUT_S).returncode

    def _call(
        self, arguments: tuple[str, ...], data: bytes | None, timeout_s: float
    ) -> "subprocess.CompletedProcess[bytes]":
        try:
            return subprocess.run(
                [self.command, *arguments],
                input=b"" if data is None else data,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.command} {arguments[0]} took more than {timeout_s:g} s") from None

    def build(self, target: str, tag: str) -> None:
        # Podman's own image format has no HEALTHCHECK.
        image_format = ["--format", "docker"] if self.is_podman else []
        flags = [*image_format, *self.build_flags]
        self.ask(
            *("build", "--target", target, "--tag", tag, *flags, str(ROOT)),
            timeout_s=BUILD_TIMEOUT_S,
        )

    def run(self, *arguments: str, data: bytes | None = None) -> str:
        return self.ask("run", *self.run_flags, *arguments, data=data)

    def python(self, image: str, program: str, *flags: str, data: bytes | None = None) -> str:
        """The output of a Python program in a container that is gone afterwards."""
        return self.run(
            *("--rm", "--interactive", *flags, "--entrypoint", "python", image, "-c", program),
            data=data,
        )


class Report:
    """Prints each check as it is made and remembers whether one failed."""

    def __init__(self) -> None:
        self.failures = 0

    def check(self, name: str, holds: bool, found: object = "") -> None:
        self.failures += not holds
        print(f"{'ok  ' if holds else 'FAIL'}  {name}{f': {found}' if found != '' else ''}")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    engine = find_engine()
    if engine is None:
        print(
            "image-test: no container engine answers: start docker, install podman, "
            "or name one with CONTAINER_ENGINE",
            file=sys.stderr,
        )
        return NOTHING_TO_TEST_WITH
    report = Report()
    try:
        image = os.environ.get("IMAGE") or build(engine)
        check_image(engine, image, report)
        with volume(engine) as models:
            publish(engine, image, models)
            check_service(engine, image, models, report)
            check_stop_while_starting(engine, image, models, report)
    except Failed as failure:
        report.check("went through", False, failure)
    print(f"image-test: {f'{report.failures} failed' if report.failures else 'all checks hold'}")
    return 1 if report.failures else 0


def find_engine() -> Engine | None:
    """The one that is named, else the first that answers."""
    named = os.environ.get("CONTAINER_ENGINE")
    for command in [named] if named else ["docker", "podman"]:
        engine = Engine(
            command,
            shlex.split(os.environ.get("ENGINE_BUILD_FLAGS", "")),
            shlex.split(os.environ.get("ENGINE_RUN_FLAGS", "")),
        )
        if shutil.which(command) and engine.status("info") == 0:
            return engine
    return None


def build(engine: Engine) -> str:
    print(f"building target serve with {engine.command}; the first time takes minutes", flush=True)
    started = time.monotonic()
    engine.build("serve", BUILT_TAG)
    print(f"      built in {time.monotonic() - started:.0f} s")
    return BUILT_TAG


@contextlib.contextmanager
def volume(engine: Engine) -> Iterator[str]:
    """A fresh named volume, as in docker-compose.yml: the image must make it writable."""
    name = unique_name()
    engine.ask("volume", "create", name)
    try:
        yield name
    finally:
        engine.status("volume", "rm", "--force", name)


def publish(engine: Engine, image: str, models: str) -> None:
    source = io.BytesIO()
    with tarfile.open(fileobj=source, mode="w") as archive:
        for path in ("__init__.py", "support", "data"):
            archive.add(ROOT / "tests" / path, arcname=f"tests/{path}")
    engine.python(image, PUBLISH, "--volume", f"{models}:/models", data=source.getvalue())


# ---------------------------------------------------------------- the image


def check_image(engine: Engine, image: str, report: Report) -> None:
    config = json.loads(engine.ask("image", "inspect", image))[0]["Config"]
    user = config.get("User", "")
    numeric = re.match(r"[1-9]\d*(:|$)", user) is not None
    report.check("user is a number and not root", numeric, user)
    over_base = image_bytes(engine, image) - image_bytes(engine, base_image())
    report.check(
        f"less than {MAX_BYTES_OVER_BASE / 1e6:.0f} MB over the base image",
        over_base < MAX_BYTES_OVER_BASE,
        f"{over_base / 1e6:.1f} MB",
    )


def image_bytes(engine: Engine, image: str) -> int:
    return int(engine.python(image, MEASURE, "--user", "0"))


def base_image() -> str:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    values = dict(re.findall(r"^ARG (\w+)=(\S+)", text, re.MULTILINE))
    first = re.search(r"^FROM (\S+)", text, re.MULTILINE)
    assert first is not None, "the Dockerfile has no FROM"
    return re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], first[1])


# ---------------------------------------------------------------- the service


def check_service(engine: Engine, image: str, models: str, report: Report) -> None:
    container = unique_name()
    port = free_port()
    started = time.monotonic()
    try:
        engine.run(
            *("--detach", "--name", container, *HARDENED, "--volume", f"{models}:/models:ro"),
            *("--env", f"MODELPORT_PORT={port}", "--publish", f"127.0.0.1:{port}:{port}", image),
        )
        wait_for(
            lambda: health(port) == 200 or not state(engine, container)["Running"], READY_TIMEOUT_S
        )
        ready = health(port) == 200
        report.check("ready", ready, f"after {time.monotonic() - started:.1f} s")
        if not ready:
            raise Failed(f"the service did not get ready; its log:\n{logs(engine, container)}")
        check_confinement(engine, container, report)
        check_healthcheck(engine, image, container, report)
        check_predict(port, report)
        check_unchanged(engine, container, report)
        check_stop(engine, container, port, report)
    finally:
        engine.status("rm", "--force", "--volumes", container)


def check_confinement(engine: Engine, container: str, report: Report) -> None:
    found = json.loads(engine.ask("exec", container, "python", "-c", PROBE))
    report.check("runs as another than root", 0 not in found["uids"], f"uid {found['uids'][0]}")
    report.check("has no capabilities", found["capabilities"] == 0)
    report.check("cannot gain privileges", found["no_new_privileges"])
    report.check("root file system is read-only", found["root_read_only"])
    report.check(
        "no training, tests or build tools in it",
        not found["unwanted"],
        ", ".join(found["unwanted"]),
    )


def check_healthcheck(engine: Engine, image: str, container: str, report: Report) -> None:
    described = json.loads(engine.ask("image", "inspect", image))[0]
    healthcheck = described["Config"].get("Healthcheck") or described.get("Healthcheck") or {}
    how, *command = healthcheck.get("Test", ["none"])
    report.check("HEALTHCHECK needs no shell", how == "CMD", how)
    started = time.monotonic()
    passed = engine.status("exec", container, *command) == 0
    report.check("HEALTHCHECK passes", passed, f"in {time.monotonic() - started:.1f} s")
    refused = engine.status("exec", "--env", "MODELPORT_PORT=9", container, *command)
    report.check("HEALTHCHECK fails where nothing answers", refused == 1, f"exit status {refused}")


def check_predict(port: int, report: Report) -> None:
    with contextlib.closing(connect(port)) as connection:
        connection.request("POST", f"/models/{MODEL}/predict", *json_body())
        report.check("predicts the right values", *judge(connection.getresponse()))


def check_unchanged(engine: Engine, container: str, report: Report) -> None:
    # The engine itself makes mount points and a few files in these.
    own = re.compile(r"^[AC] /(etc|dev|proc|sys|run|tmp|models)(/|$)")
    changed = [line for line in engine.ask("diff", container).splitlines() if not own.match(line)]
    report.check("changes no file of its image", not changed, ", ".join(changed))


def check_stop(engine: Engine, container: str, port: int, report: Report) -> None:
    """SIGTERM while a request is half sent: it is answered, and the service ends well in time."""
    headers, body = json_request(port)
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), 10)) as client:
        client.sendall(headers + body[: len(body) // 2])
        time.sleep(0.3)  # Arrived, not merely sent.
        stopped = time.monotonic()
        engine.ask("kill", "--signal", "TERM", container)
        drains = wait_for(lambda: health(port) != 200, NOT_READY_TIMEOUT_S)
        report.check("is not ready once told to stop", drains)
        client.sendall(body[len(body) // 2 :])
        response = http.client.HTTPResponse(client, method="POST")
        response.begin()
        report.check("answers the request that was under way", *judge(response))
    ended = wait_for(lambda: not state(engine, container)["Running"], STOP_TIMEOUT_S)
    report.check("stops in time", ended, f"{time.monotonic() - stopped:.1f} s after SIGTERM")
    status = state(engine, container)["ExitCode"]
    report.check("exit status 0", ended and status == 0, status if ended else "still running")
    if status != 0:
        print(logs(engine, container))


def check_stop_while_starting(engine: Engine, image: str, models: str, report: Report) -> None:
    """Process 1 ignores signals that it does not handle, so it must handle this one early."""
    container = unique_name()
    try:
        engine.run(
            *("--detach", "--name", container, *HARDENED, "--volume", f"{models}:/models:ro"),
            image,
        )
        time.sleep(STARTING_S)
        stopped = time.monotonic()
        engine.status("kill", "--signal", "TERM", container)
        ended = wait_for(lambda: not state(engine, container)["Running"], STOP_TIMEOUT_S)
        report.check(
            "stops while it starts", ended, f"{time.monotonic() - stopped:.1f} s after SIGTERM"
        )
    finally:
        engine.status("rm", "--force", "--volumes", container)


# ---------------------------------------------------------------- small helpers


def unique_name() -> str:
    return f"modelport-image-test-{uuid.uuid4().hex[:12]}"


def free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


def connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=10)


def health(port: int) -> int | None:
    """Status of `/health/ready`; None where nobody answers."""
    try:
        with contextlib.closing(connect(port)) as connection:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None


def json_body() -> tuple[bytes, dict[str, str]]:
    return json.dumps(REQUEST).encode(), {"Content-Type": "application/json"}


def json_request(port: int) -> tuple[bytes, bytes]:
    """Head and body of the request as they go over the wire."""
    body, headers = json_body()
    lines = [f"POST /models/{MODEL}/predict HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode(), body


def judge(response: http.client.HTTPResponse) -> tuple[bool, str]:
    text = response.read().decode()
    if response.status != 200:
        return False, f"status {response.status}, {text}"
    predictions = json.loads(text)["predictions"]
    return same(predictions, ANSWER), json.dumps(predictions)


def same(found: Any, wanted: Any) -> bool:
    """Equal, numbers up to the rounding of single precision."""
    if isinstance(wanted, float):
        return isinstance(found, float) and abs(found - wanted) < 1e-5
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return found.keys() == wanted.keys() and all(same(found[k], wanted[k]) for k in wanted)


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def state(engine: Engine, container: str) -> dict[str, Any]:
    return dict(json.loads(engine.ask("container", "inspect", container))[0]["State"])


def logs(engine: Engine, container: str) -> str:
    done = engine._call(("logs", "--tail", "30", container), None, ENGINE_TIMEOUT_S)
    return (done.stdout + done.stderr).decode()


if __name__ == "__main__":
    sys.exit(main())
