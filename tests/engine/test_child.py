"""A child that does anything at all: `run_job` gives its result, or says how it failed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from app.engine.proof.child import Cancelled, ChildFailed, run_job
from tests.api.live import PATIENCE_S, ROOT

JOB = {"job": "anything"}
LONG_S = 60.0

PRELUDE = """
import ctypes, json, os, re, signal, sys, time
tell_fd = int(sys.argv[1])
def tell(**message): os.write(tell_fd, json.dumps(message).encode() + b"\\n")
def tell_raw(data):
    while data: data = data[os.write(tell_fd, data):]
def hang():
    while True: time.sleep(60)
"""


def child(body: str) -> Sequence[str]:
    return [sys.executable, "-I", "-S", "-c", PRELUDE + body]


def run(body: str, timeout_s: float = LONG_S) -> object:
    return run_job(JOB, timeout_s, command=child(body))


def descriptors() -> set[str]:
    return {
        str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()
    }


#: Children that were there before the test: servers that several tests share.
OTHERS: set[str] = set()


def all_children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def children() -> list[str]:
    """Children that the test started, zombies among them."""
    return [pid for pid in all_children() if pid not in OTHERS]


@pytest.fixture(autouse=True)
def others() -> None:
    OTHERS.clear()
    OTHERS.update(all_children())


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether a process is there and does anything yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


# Results


def test_the_result_is_what_the_child_told() -> None:
    assert run("tell(stage='opening'); tell(result={'a': [1]})") == {"a": [1]}


def test_the_child_gets_the_job() -> None:
    assert run("tell(result=json.loads(sys.stdin.readline()))") == JOB


@pytest.mark.parametrize(
    "ending",
    [
        "os.abort()",
        "os.kill(os.getpid(), signal.SIGSEGV)",
        "sys.exit(3)",
        "hang()",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); hang()",
    ],
)
def test_what_comes_after_the_result_does_not_count(ending: str) -> None:
    assert run(f"tell(result={{'a': 1}})\n{ending}") == {"a": 1}


def test_what_is_printed_does_not_count() -> None:
    noise = 'for out in (1, 2): os.write(out, b\'{"result": {"a": 0}}\\n\\xff\' * 30_000)\n'

    assert run(noise + "tell(result={'a': 1})") == {"a": 1}


def test_a_result_may_come_in_pieces() -> None:
    pieces = "for byte in json.dumps({'result': {'a': 'é'}}).encode() + b'\\n':\n"

    assert run(pieces + "    os.write(tell_fd, bytes([byte]))") == {"a": "é"}


def test_a_large_result_is_read() -> None:
    assert run("tell_raw(json.dumps({'result': {'a': 'x' * 10**6}}).encode() + b'\\n')") == {
        "a": "x" * 10**6
    }


# Failures


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os.abort()", "crashed (SIGABRT) while starting"),
        (
            "tell(stage='opening the model'); os.kill(os.getpid(), signal.SIGSEGV)",
            "crashed (SIGSEGV) while opening the model",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", "crashed (SIGKILL) while starting"),
        ("sys.exit(3)", "ended with status 3 while starting"),
        ("pass", "ended with status 0 while starting"),
        ("raise RuntimeError('secret')", "ended with status 1 while starting"),
        ("tell(stage='proving'); tell_raw(b'half a mess'); os.abort()", "(SIGABRT) while proving"),
        ("tell(stage='proving'); tell_raw(b'oh no\\n'); hang()", "told nonsense while proving"),
        ("tell_raw(b'\\xff\\xfe\\n'); hang()", "told nonsense while starting"),
        ("tell_raw(b'[1]\\n'); hang()", "told nonsense while starting"),
        ("tell_raw(b'[' * 10**5 + b'\\n'); hang()", "told nonsense while starting"),
        ("tell(result=5); hang()", "told nonsense while starting"),
        ("tell_raw(b'x' * 5 * 2**20); hang()", "told more than a result can be"),
        ("while True: tell(stage='x' * 10**4)", "told more than a result can be"),
    ],
)
def test_a_child_without_a_result_is_a_failure_that_says_how(body: str, message: str) -> None:
    with pytest.raises(ChildFailed) as failed:
        run(body)

    assert message in str(failed.value)
    assert not isinstance(failed.value, Cancelled)


@pytest.mark.parametrize(
    "hang",
    [
        "hang()",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); hang()",
        # The next two hold the interpreter's lock, so that no thread of the child can help.
        "ctypes.PyDLL(None).pause()",
        "re.match('(a+)+$', 'a' * 60 + 'b')",
        "os.close(0); os.close(1); os.close(2); hang()",
        "while True: os.write(2, b'x' * 1000)",
    ],
)
def test_a_child_that_hangs_is_ended(hang: str) -> None:
    with pytest.raises(ChildFailed) as failed:
        run(f"tell(stage='measuring')\n{hang}", timeout_s=1)

    assert str(failed.value) == "took longer than 1 s, at last measuring"
    assert children() == []


def test_a_child_that_stops_telling_and_goes_on_did_not_crash() -> None:
    with pytest.raises(ChildFailed) as failed:
        run("tell(stage='measuring'); os.close(tell_fd); hang()")

    assert "while measuring" in str(failed.value)
    assert "crashed" not in str(failed.value)


def test_a_child_that_cannot_be_started_is_a_failure() -> None:
    with pytest.raises(ChildFailed) as failed:
        run_job(JOB, LONG_S, command=["/nowhere/python"])

    assert str(failed.value) == "no child process can be started: No such file or directory"


PIPE_BYTES = 65_536


def test_a_job_that_nobody_reads_does_not_block(tmp_path: Path) -> None:
    large = {"job": "x" * 2 * PIPE_BYTES}
    late = tmp_path / "late"

    with pytest.raises(ChildFailed, match="took longer than 1 s, at last starting"):
        run_job(large, 1, command=child(f"time.sleep(5); open({str(late)!r}, 'x'); os.abort()"))

    assert not late.exists()


@pytest.mark.parametrize("unsent", [1_000, PIPE_BYTES])
def test_a_child_that_is_gone_before_it_has_the_job_is_a_failure(unsent: int) -> None:
    """What does not go into the pipe is still to be written when the child has ended."""
    job = {"job": "x" * (PIPE_BYTES + unsent)}

    with pytest.raises(ChildFailed, match="ended with status 3 while starting"):
        run_job(job, LONG_S, command=child("sys.exit(3)"))


def test_what_a_child_started_ends_with_it(tmp_path: Path) -> None:
    """A compiler that a provider runs, say."""
    with pytest.raises(ChildFailed, match="took longer than 1 s"):
        run(starting_another(tmp_path / "pid") + "hang()", timeout_s=1)

    assert not ended_by_us(tmp_path / "pid")


def test_a_crash_is_told_at_once_whatever_the_child_had_started(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match=r"crashed \(SIGABRT\) while starting"):
        run(starting_another(tmp_path / "pid") + "os.abort()", timeout_s=3)

    assert not ended_by_us(tmp_path / "pid")


def starting_another(pid_file: Path) -> str:
    """A child's code that leaves a process of its own behind, with all that is open."""
    return f"""
if os.fork() == 0:
    with open({str(pid_file)!r} + ".part", "x") as file: file.write(str(os.getpid()))
    os.rename({str(pid_file)!r} + ".part", {str(pid_file)!r})
    time.sleep(60)
    os._exit(0)
while not os.path.exists({str(pid_file)!r}): time.sleep(0.01)
"""


def ended_by_us(pid_file: Path) -> bool:
    """Whether a process was still there; it is not afterwards."""
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not lives(pid):
            return False
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    return True


def lives(pid: int) -> bool:
    """One that waits for nobody to take its exit status does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# Cancelling


def test_cancelling_ends_the_child(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    body = f"open({str(pid_file)!r}, 'x').write(str(os.getpid())); hang()"

    with pytest.raises(Cancelled, match="not wanted any longer"):
        run_job(JOB, LONG_S, lambda: bool(pid_file.exists() and pid_file.read_text()), child(body))

    assert not runs(int(pid_file.read_text()))
    assert children() == []


def test_a_job_that_nobody_wants_is_not_waited_for() -> None:
    with pytest.raises(Cancelled):
        run_job(JOB, LONG_S, lambda: True, child("hang()"))


# What is left


@pytest.mark.parametrize(
    ("command", "timeout_s"),
    [
        (child("tell(result={})"), LONG_S),
        (child("os.abort()"), LONG_S),
        (child("tell_raw(b'nonsense\\n'); hang()"), LONG_S),
        (child("hang()"), 0.2),
        (["/nowhere/python"], LONG_S),
    ],
    ids=["result", "crash", "nonsense", "hang", "not started"],
)
def test_neither_descriptors_nor_zombies_are_left(command: Sequence[str], timeout_s: float) -> None:
    before = descriptors()

    for _ in range(3):
        try:
            run_job(JOB, timeout_s, command=command)
        except ChildFailed:
            continue

    assert descriptors() - before == set()
    assert children() == []


@pytest.mark.parametrize(
    ("hang", "timeout_s"),
    [
        pytest.param("time.sleep(600)", 600.0, id="sleeps"),
        # Its own threads cannot run; the kernel's timer is what ends it.
        pytest.param(
            "ctypes.PyDLL(None).pause()", 6.0, id="holds the lock", marks=pytest.mark.slow
        ),
    ],
)
def test_the_child_ends_when_its_parent_is_killed(
    hang: str, timeout_s: float, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    in_child = f"""
import ctypes, os, sys, time
from app.engine.proof import in_child
def do(job, tell):
    with open({str(pid_file)!r} + ".part", "x") as file: file.write(str(os.getpid()))
    os.rename({str(pid_file)!r} + ".part", {str(pid_file)!r})
    {hang}
in_child._do = do
in_child.main()
"""
    parent = f"""
import sys
from app.engine.proof.child import run_job
run_job({{}}, {timeout_s}, command=[sys.executable, "-c", {in_child!r}])
"""
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        wait_for(pid_file.exists)
        pid = int(pid_file.read_text())
        assert runs(pid)
    finally:
        process.kill()
        process.wait(PATIENCE_S)

    wait_for(lambda: not runs(pid))
