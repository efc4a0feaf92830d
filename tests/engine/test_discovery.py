"""Plug-in packages on disk that do their worst when they are loaded; nothing of it reaches us."""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.engine.proof.child import ChildFailed
from app.engine.providers.candidates import CPU_PROVIDER, Candidate
from app.engine.providers.discovery import discover_apart
from app.engine.providers.installed import Discovery
from tests.api.live import LiveServer
from tests.conftest import StartServer
from tests.support.bundles import make_bundle

NAME = "onnxruntime-ep-acme"
GETTERS = """
from pathlib import Path
def get_library_path(): return str(Path(__file__).parent / "acme.so")
def get_ep_name(): return "acme"
"""

CRASHES = {
    "aborts": ("import os; os.abort()", "crashed (SIGABRT) while loading its library"),
    "segfaults": (
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "crashed (SIGSEGV) while loading its library",
    ),
    "exits": ("import os; os._exit(3)", "ended with status 3 while loading its library"),
    "leaves": ("raise SystemExit", "while loading its library"),
    "interrupts": ("raise KeyboardInterrupt", "while loading its library"),
}
RAISES = {
    "raises": ("raise RuntimeError('no such\\ndevice')", "no such"),
    "imports": ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
    "is no Python": ("def (", "invalid syntax"),
    "has no getter": ("", "it has neither get_library_path nor library_path"),
    "has a getter that raises": ("def get_library_path(): raise OSError('gone')", "gone"),
    "has no library": (GETTERS, ""),
    "prints": ("print('{}' * 10**5, flush=True)\n" + GETTERS, ""),
}


def install(folder: Path, code: str, name: str = NAME) -> Path:
    """A plug-in package as an installer would leave it; its library is none."""
    module = name.replace("-", "_")
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").write_text(code)
    (folder / module / "acme.so").write_text("no library")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    files = [f"{module}/__init__.py", f"{module}/acme.so", f"{info.name}/METADATA"]
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    return folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that this process and its children import from."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), before))))
    return folder


def problem_of(found: Discovery, name: str = NAME) -> str:
    (reason,) = [problem.reason for problem in found.problems if problem.source == name]
    return reason


@pytest.mark.parametrize("kind", [*CRASHES, *RAISES])
def test_a_package_that_cannot_be_loaded_is_a_problem(kind: str, site: Path) -> None:
    code, reason = (CRASHES | RAISES)[kind]
    install(site, code)

    found = discover_apart()

    assert problem_of(found).startswith("cannot be loaded: ")
    assert reason in problem_of(found)
    assert "\n" not in problem_of(found)
    assert [c.provider for c in found.candidates].count(CPU_PROVIDER) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import time\nwhile True: time.sleep(60)",
        "import ctypes; ctypes.PyDLL(None).pause()",
        "import signal, time\nsignal.signal(signal.SIGALRM, signal.SIG_IGN); time.sleep(60)",
    ],
    ids=["sleeps", "holds the lock", "ignores alarms"],
)
def test_a_package_that_hangs_is_a_problem(code: str, site: Path) -> None:
    install(site, code)

    found = discover_apart(timeout_s=2)

    assert problem_of(found).startswith("cannot be loaded: took longer than 2 s, at last ")


def test_one_package_does_not_hide_another(site: Path) -> None:
    install(site, "import os; os.abort()")
    install(site, "", "onnxruntime-ep-other")

    found = discover_apart()

    assert "crashed" in problem_of(found)
    assert "neither" in problem_of(found, "onnxruntime-ep-other")


def test_nothing_of_a_plugin_is_imported_here(site: Path, tmp_path: Path) -> None:
    install(site, f"import os\nopen({str(tmp_path / 'pid')!r}, 'a').write(f'{{os.getpid()}} ')")

    discover_apart()

    assert str(os.getpid()) not in (tmp_path / "pid").read_text().split()


def test_each_package_has_a_child_of_its_own(site: Path) -> None:
    install(site, "raise RuntimeError")
    install(site, "raise RuntimeError", "onnxruntime-ep-other")
    asked: list[str] = []

    def run(job: Mapping[str, Any], timeout_s: float) -> Mapping[str, Any]:
        asked.append(job["package"])
        raise ChildFailed("crashed (SIGSEGV) while loading its library")

    found = discover_apart(run)

    assert {NAME, "onnxruntime-ep-other"} <= set(asked)
    assert len(asked) == len(set(asked))
    assert [c.library for c in found.candidates] == [None] * len(found.candidates)


def test_what_a_child_finds_is_listed(site: Path) -> None:
    install(site, "")

    def run(job: Mapping[str, Any], timeout_s: float) -> Mapping[str, Any]:
        found = {"provider": "AcmeProvider", "device": "npu", "library": "acme"}
        return {"candidates": [found | {"origin": "plug-in"}] if job["package"] == NAME else []}

    plugged = [c for c in discover_apart(run).candidates if c.library == "acme"]

    assert [(c.provider, c.device, c.origin) for c in plugged] == [
        ("AcmeProvider", "npu", "plug-in")
    ]


@pytest.mark.parametrize("told", [{}, {"candidates": 5}, {"candidates": [{"device": "tpu"}]}])
def test_a_child_that_tells_something_else_is_a_problem(
    told: Mapping[str, Any], site: Path
) -> None:
    install(site, "")

    found = discover_apart(lambda job, timeout_s: told)

    assert problem_of(found).startswith("cannot be loaded: ")


def test_discovering_again_finds_the_same(discovery: Discovery) -> None:
    assert discover_apart() == discovery


# In the service


@pytest.mark.parametrize("kind", ["aborts", "raises", "has no library"])
def test_the_service_serves_and_says_what_cannot_be_used(
    kind: str, site: Path, tmp_path: Path, start_server: StartServer
) -> None:
    code, reason = (CRASHES | RAISES)[kind]
    install(site, code)
    make_bundle(tmp_path / "models", "affine", "affine")

    server = start_server(tmp_path / "models", provider="auto")

    with server.client() as client:
        answer = client.post(
            "/models/affine/predict", json={"instances": [{"a": 1.0, "b": 0.0, "c": 0.0}]}
        )
    problems = [
        line["problem"] for line in server.log_lines() if line["message"] == "execution provider"
    ]
    assert answer.status_code == 200
    assert [p for p in problems if p.startswith("cannot be loaded: ") and reason in p]
    # An operator has more than one plug-in.
    assert any(NAME in json_line for json_line in map(str, server.log_lines()))


class AmongNoise(LiveServer):
    """Its plug-ins' libraries print what they like between our lines."""

    def log_lines(self) -> list[dict[str, Any]]:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


@pytest.mark.slow
def test_the_service_outlives_its_plugins(plugin: Candidate, tmp_path: Path) -> None:
    """Right answers to many at once, whether the plug-in serves or could not bear its trial."""
    root = tmp_path / "models"
    make_bundle(root, "affine", "affine")
    make_bundle(root, "poison", "poison")
    settings = {"provider": plugin.provider, "calibration_budget_ms": 100, "threads": 2}
    table = [10.0, 20.0, 30.0, 40.0]

    def ask(client: httpx.Client, index: int) -> list[float]:
        rows = [{"index": (index + row) % 4} for row in range(3)]
        found = client.post("/models/poison/predict", json={"instances": rows}).json()
        client.post("/models/affine/predict", json={"instances": [dict.fromkeys("abc", 1.0)]})
        return [prediction["y"] for prediction in found["predictions"]]

    with AmongNoise(root, tmp_path / "log", **settings) as server, server.client() as client:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(partial(ask, client), range(80)))
        alive = client.get("/health/live").status_code

    assert answers == [[table[(index + row) % 4] for row in range(3)] for index in range(80)]
    assert alive == 200
