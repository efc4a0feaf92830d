"""CPU time and memory of a whole tree, the dead included."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import process_tree

#: A child that works and ends, and another that stays; then the parent says so.
PROGRAM = """\
import subprocess, sys, time
work = "import time\\nwhile time.process_time() < 0.3: pass"
subprocess.run([sys.executable, "-c", work])
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("ready", flush=True)
other.wait()
"""


@pytest.fixture
def tree() -> Iterator[int]:
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        yield parent.pid
        for pid in process_tree.members(parent.pid):
            subprocess.run(["kill", "-9", str(pid)], check=True)


def test_members(tree: int) -> None:
    assert len(process_tree.members(tree)) == 2


def test_time_of_a_child_that_ended_counts(tree: int) -> None:
    assert 0.25 < process_tree.cpu_s(tree) < 5


def test_memory_is_that_of_all(tree: int) -> None:
    taken = process_tree.memory(tree)

    assert 4 < taken.pss <= taken.rss < 200


def test_pause_and_resume(tree: int) -> None:
    def states() -> set[str]:
        stats = [Path(f"/proc/{pid}/stat").read_text() for pid in process_tree.members(tree)]
        return {stat.rpartition(")")[2].split()[0] for stat in stats}

    process_tree.pause(tree)
    time.sleep(0.05)
    assert states() == {"T"}

    process_tree.resume(tree)
    time.sleep(0.05)
    assert states() == {"S"}
