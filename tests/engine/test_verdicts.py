"""Verdicts on disk: what is found again, what is not, and what a broken folder does (nothing)."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.bundle.store import Bundle
from app.engine.proof import machine
from app.engine.proof.child import Cancelled
from app.engine.proof.planmaking import ProofRequest
from app.engine.proof.prover import Proved, Prover
from app.engine.proof.trialjob import TrialJob
from app.engine.proof.tryouts import ProofOptions
from app.engine.proof.verdict import Verdict
from app.engine.proof.verdicts import Verdicts
from app.engine.providers.candidates import CPU_PROVIDER, Candidate
from app.engine.providers.ranking import rank
from app.errors import ProofFailed
from tests.api.live import PATIENCE_S, ROOT
from tests.engine.fakes import CPU, CUDA, FakeSession, Trials, cost, opening, right_everywhere
from tests.support.opening import trying_here

BundleOf = Callable[..., Bundle]

PLUGIN = Candidate(
    "acme", "gpu", "Acme 1", "plug-in", {"mode": "fast"}, 0, "acme", "/x/acme.so", "1.0"
)
JOB = TrialJob(
    model_path=Path("/models/m"),
    version=1,
    digest="0" * 64,
    candidate=PLUGIN,
    cores=2,
    budget_ms=100,
)
DAY_S = 24 * 3600.0


def verdict(**changes: Any) -> Verdict:
    fields = {
        "candidate": PLUGIN,
        "numeric_class": "fp32",
        "reason": "golden outputs met",
        "max_abs_error": {"y": 1e-7},
        "nodes_by_provider": {"acme": 3},
        "checked_rows": (1, 7, 16),
        "costs": (cost(1, 0.5), cost(16, 2.0)),
    }
    return Verdict(**(fields | changes))


def entry(folder: Path) -> Path:
    (path,) = (folder / "verdicts").glob("*.json")
    return path


# What is found again


def test_a_kept_verdict_is_found_in_the_next_start(tmp_path: Path) -> None:
    Verdicts(tmp_path).keep(JOB, verdict())

    assert Verdicts(tmp_path).find(JOB) == verdict()


def test_a_rejection_is_kept_too(tmp_path: Path) -> None:
    wrong = verdict(numeric_class=None, reason="runs no node of this model", costs=())
    Verdicts(tmp_path).keep(JOB, wrong)

    assert Verdicts(tmp_path).find(JOB) == wrong


def test_errors_without_bound_are_kept(tmp_path: Path) -> None:
    """Of a provider that answers with what is no number."""
    wrong = verdict(numeric_class=None, reason="beyond tolerance", max_abs_error={"y": np.inf})
    Verdicts(tmp_path).keep(JOB, wrong)

    assert Verdicts(tmp_path).find(JOB) == wrong


def test_the_last_verdict_counts(tmp_path: Path) -> None:
    kept = Verdicts(tmp_path)
    kept.keep(JOB, verdict(reason="first"))
    kept.keep(JOB, verdict(reason="second"))

    found = kept.find(JOB)

    assert found is not None
    assert found.reason == "second"
    assert len(list((tmp_path / "verdicts").iterdir())) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"model_path": Path("/elsewhere/m")},
        {"version": 7},
        {"budget_ms": 5000},
    ],
)
def test_where_the_model_lies_does_not_matter(changes: dict[str, Any], tmp_path: Path) -> None:
    kept = Verdicts(tmp_path)
    kept.keep(JOB, verdict())

    assert kept.find(JOB.model_copy(update=changes)) == verdict()


# What is not


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "1" * 64},
        {"precision": "int8"},
        {"cores": 4},
        {"budget_ms": 0},
        {"candidate": CPU},
        {"candidate": replace(PLUGIN, device="npu")},
        {"candidate": replace(PLUGIN, device_name="Acme 2")},
        {"candidate": replace(PLUGIN, device_index=1)},
        {"candidate": replace(PLUGIN, options={"mode": "exact"})},
        {"candidate": replace(PLUGIN, library_version="1.1")},
    ],
    ids=str,
)
def test_what_differs_is_tried_anew(changes: dict[str, Any], tmp_path: Path) -> None:
    kept = Verdicts(tmp_path)
    kept.keep(JOB, verdict())

    assert kept.find(JOB.model_copy(update=changes)) is None


@pytest.mark.parametrize("what", ["onnxruntime", "machine", "the service"])
def test_other_versions_and_machines_are_tried_anew(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Verdicts(tmp_path).keep(JOB, verdict())
    if what == "onnxruntime":
        monkeypatch.setattr(machine, "runtime_version", lambda: "99.0")
    elif what == "machine":
        other = tmp_path / "cpuinfo"
        other.write_text("processor : 0\nmodel name : Acme 3000\nflags : fpu\n\nprocessor : 1\n")
        monkeypatch.setattr(machine, "_CPU_INFO", other)
    else:
        monkeypatch.setattr(machine, "__version__", "99.0")
    machine.fingerprint.cache_clear()

    found = Verdicts(tmp_path).find(JOB)

    monkeypatch.undo()
    machine.fingerprint.cache_clear()
    assert found is None
    assert Verdicts(tmp_path).find(JOB) == verdict()


def test_a_machine_without_a_list_of_processors_has_a_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = machine.fingerprint()
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "nothing")
    machine.fingerprint.cache_clear()

    other = machine.fingerprint()

    monkeypatch.undo()
    machine.fingerprint.cache_clear()
    assert len(other) == len(before) == 64
    assert other != before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b"{}",
        b"null",
        b"\xff\xfe",
        b'{"numeric_class": "fp64"}',
        b"[" * 10**5,
    ],
)
def test_a_broken_entry_is_made_anew(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Verdicts(tmp_path)
    kept.keep(JOB, verdict())
    entry(tmp_path).write_bytes(content)

    assert kept.find(JOB) is None
    assert "not readable and is made anew" in caplog.text
    kept.keep(JOB, verdict())
    assert kept.find(JOB) == verdict()


@pytest.mark.parametrize(
    "changes",
    [
        {"candidate": CPU},
        {"precision": "int8"},
        {"costs": (cost(1, 0.5, threads=2, instances=2),)},
    ],
    ids=["candidate", "graph", "more cores than there are"],
)
def test_an_entry_on_something_else_is_made_anew(
    changes: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Verdicts(tmp_path)
    kept.keep(JOB, verdict(**changes))

    assert kept.find(JOB) is None
    assert "on something else and is made anew" in caplog.text


def test_an_entry_behind_a_link_is_not_read(tmp_path: Path) -> None:
    kept = Verdicts(tmp_path)
    kept.keep(JOB, verdict())
    path = entry(tmp_path)
    path.symlink_to(path.rename(tmp_path / "elsewhere.json"))

    assert kept.find(JOB) is None


def test_a_lock_that_is_a_pipe_or_a_link_holds_up_nobody(tmp_path: Path) -> None:
    kept = Verdicts(tmp_path)
    kept.keep(JOB, verdict())
    lock = entry(tmp_path).with_suffix(".lock")
    for make in (os.mkfifo, lambda path: Path(path).symlink_to("nowhere")):
        lock.unlink(missing_ok=True)
        make(lock)

        with kept.turn(JOB, timeout_s=PATIENCE_S):
            pass


def test_a_file_system_without_locks_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    started_s = time.monotonic()

    with Verdicts(tmp_path).turn(JOB, timeout_s=PATIENCE_S):
        pass

    assert time.monotonic() - started_s < PATIENCE_S


def test_what_killed_processes_left_behind_is_swept_away(tmp_path: Path) -> None:
    kept = Verdicts(tmp_path)
    kept.keep(JOB, verdict())
    folder = tmp_path / "verdicts"
    for name, age_s in (("old.tmp", DAY_S + 60), ("old.lock", DAY_S + 60), ("new.tmp", 60)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age_s,) * 2)

    kept.keep(JOB, verdict())

    assert sorted(p.name for p in folder.iterdir() if p.suffix != ".json") == ["new.tmp"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_half_an_entry_is_made_anew(share: float, tmp_path: Path) -> None:
    kept = Verdicts(tmp_path)
    kept.keep(JOB, verdict())
    whole = entry(tmp_path).read_bytes()
    entry(tmp_path).write_bytes(whole[: int(len(whole) * share)])

    assert kept.find(JOB) is None


def test_an_entry_that_is_a_folder_is_not_found(tmp_path: Path) -> None:
    kept = Verdicts(tmp_path)
    kept.keep(JOB, verdict())
    path = entry(tmp_path)
    path.unlink()
    path.mkdir()

    assert kept.find(JOB) is None
    kept.keep(JOB, verdict())
    assert [p for p in (tmp_path / "verdicts").iterdir() if p.suffix == ".tmp"] == []


# Ages


@pytest.mark.parametrize(
    ("after_s", "holds"),
    [(0.0, True), (DAY_S - 60, True), (DAY_S + 60, False), (-3600.0, False), (1e12, False)],
)
def test_a_crash_or_hang_counts_for_a_day(after_s: float, holds: bool, tmp_path: Path) -> None:
    crashed = verdict(numeric_class=None, reason="crashed (SIGSEGV)", passing=True)
    now_s = time.time()
    Verdicts(tmp_path).keep(JOB, crashed)
    os.utime(entry(tmp_path), (now_s, now_s))

    later = Verdicts(tmp_path, wall_clock=lambda: now_s + after_s)

    assert later.find(JOB) == (crashed if holds else None)


@pytest.mark.parametrize(("days", "holds"), [(6, True), (8, False)])
def test_a_device_that_was_wrong_is_tried_again_after_a_week(
    days: int, holds: bool, tmp_path: Path
) -> None:
    """Its driver may be another, which nothing tells."""
    wrong = verdict(numeric_class=None, reason="outputs differ", costs=())
    Verdicts(tmp_path).keep(JOB, wrong)

    later = Verdicts(tmp_path, wall_clock=lambda: time.time() + days * DAY_S)

    assert later.find(JOB) == (wrong if holds else None)


@pytest.mark.parametrize("after_s", [-1e9, 1e12])
def test_what_was_proved_does_not_age(after_s: float, tmp_path: Path) -> None:
    Verdicts(tmp_path).keep(JOB, verdict())

    later = Verdicts(tmp_path, wall_clock=lambda: time.time() + after_s)

    assert later.find(JOB) == verdict()


def test_what_was_measured_beside_other_work_is_for_such_times_only(tmp_path: Path) -> None:
    rough = verdict(background=True)
    behind = JOB.model_copy(update={"background": True})
    kept = Verdicts(tmp_path)
    kept.keep(behind, rough)

    assert kept.find(JOB) is None
    assert kept.find(behind) == rough

    kept.keep(JOB, verdict())

    assert kept.find(behind) == kept.find(JOB) == verdict()


# Folders that cannot be used


def unusable_folders(tmp_path: Path) -> dict[str, Path]:
    file = tmp_path / "file"
    file.write_text("here")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "verdicts").write_text("here")
    return {
        "a file": file,
        "in a file": file / "cache",
        "its place is taken": tmp_path / "taken",
        # Nobody can write there, not even root.
        "read-only": Path("/proc/self/modelport"),
    }


@pytest.mark.parametrize("where", ["a file", "in a file", "its place is taken", "read-only"])
def test_a_folder_that_cannot_be_used_is_said_once(
    where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    kept = Verdicts(unusable_folders(tmp_path)[where])

    for _ in range(3):
        with kept.turn(JOB, 0.0):
            assert kept.find(JOB) is None
            kept.keep(JOB, verdict())

    assert [record.message for record in caplog.records] == [
        "verdicts are not kept: MODELPORT_CACHE cannot be written"
    ]
    assert str(tmp_path) not in caplog.text


def test_a_missing_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "cache"

    Verdicts(folder).keep(JOB, verdict())

    assert Verdicts(folder).find(JOB) == verdict()
    assert (folder / "verdicts").stat().st_mode & 0o777 == 0o700


def test_a_thousand_verdicts_are_kept_and_the_oldest_go(tmp_path: Path) -> None:
    folder = tmp_path / "verdicts"
    folder.mkdir()
    for age in range(1005):
        path = folder / f"{age:040}.json"
        path.write_text("{}")
        path.with_suffix(".lock").touch()
        os.utime(path, (1e9 - age, 1e9 - age))

    Verdicts(tmp_path).keep(JOB, verdict())

    assert len(list(folder.glob("*.json"))) == 1000
    assert len(list(folder.glob("*.lock"))) <= 1000
    assert Verdicts(tmp_path).find(JOB) == verdict()
    assert (folder / f"{0:040}.json").exists()
    assert not (folder / f"{1004:040}.json").exists()


# Several processes


def locked(folder: Path) -> bool:
    (path,) = (folder / "verdicts").glob("*.lock")
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_turn_is_for_one_at_a_time(tmp_path: Path) -> None:
    kept = Verdicts(tmp_path)

    with kept.turn(JOB, 0.0):
        assert locked(tmp_path)
    assert not locked(tmp_path)

    with pytest.raises(ZeroDivisionError), kept.turn(JOB, 0.0):
        raise ZeroDivisionError
    assert not locked(tmp_path)


def test_another_candidate_need_not_wait(tmp_path: Path) -> None:
    kept, entered = Verdicts(tmp_path), []

    with kept.turn(JOB, 0.0), kept.turn(JOB.model_copy(update={"candidate": CPU}), PATIENCE_S):
        entered.append(True)

    assert entered == [True]


def test_who_waits_too_long_goes_on_anyway(tmp_path: Path) -> None:
    with Verdicts(tmp_path).turn(JOB, 0.0):
        with Verdicts(tmp_path).turn(JOB, 0.2):
            assert locked(tmp_path)
        assert locked(tmp_path)


def test_a_turn_ends_with_its_process(tmp_path: Path) -> None:
    holder = f"""
import sys
from tests.engine.test_verdicts import JOB, Path, Verdicts
with Verdicts(Path({str(tmp_path)!r})).turn(JOB, 0.0):
    print("held", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", holder], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert locked(tmp_path)
        process.kill()
        process.wait(PATIENCE_S)

    assert not locked(tmp_path)


def test_of_two_processes_one_tries_and_the_other_finds(
    tmp_path: Path, bundle_of: BundleOf
) -> None:
    bundle_of("affine")
    prover = f"""
import sys
from pathlib import Path
from app.bundle.store import open_bundle
from app.engine.proof.planmaking import ProofRequest
from app.engine.proof.prover import Prover
from app.engine.proof.tryouts import ProofOptions
from app.engine.providers.ranking import rank
from app.engine.proof.trial import try_out
from app.engine.proof.verdicts import Verdicts
from tests.engine.fakes import CPU

def trial(job, timeout_s, cancelled):
    # Both are at it: this one until the other has been started and asks too.
    print("trying", flush=True)
    sys.stdin.readline()
    return try_out(job)

bundle = open_bundle(Path({str(tmp_path / "affine")!r}), 1)
kept = Verdicts(Path({str(tmp_path / "cache")!r}))
print("asking", flush=True)
proved = Prover(ProofOptions(1, 0), trial, kept).prove(ProofRequest(bundle, rank([CPU])))
print(proved.plan.source, flush=True)
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", prover],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "asking\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            assert process.wait(PATIENCE_S) == 0
        said = [process.stdout.read() for process in processes if process.stdout]
    finally:
        for process in processes:
            process.kill()
            with process:
                process.wait(PATIENCE_S)

    assert sorted(said) == ["cache\n", "trying\nmeasured\n"]


# In a proof


def proved(
    bundle: Bundle,
    folder: Path,
    trials: Any,
    *candidates: Candidate,
    background: bool = False,
    budget_ms: int = 100,
    cancelled: Callable[[], bool] = lambda: False,
    trial_timeout_s: float | None = None,
) -> Proved:
    prover = Prover(
        ProofOptions(1, budget_ms, trial_timeout_s),
        trials,
        Verdicts(folder),
        open_session=right_everywhere,
    )
    ranking = rank(candidates or (CPU,))
    return prover.prove(ProofRequest(bundle, ranking, background=background, cancelled=cancelled))


def test_a_second_start_tries_nothing(tmp_path: Path, bundle_of: BundleOf) -> None:
    bundle = bundle_of("affine")
    trials = Trials({CUDA.provider: 1.0}, wrong={CPU_PROVIDER: "too slow a fan"})

    first = proved(bundle, tmp_path / "cache", trials, CPU, CUDA).plan
    second = proved(bundle, tmp_path / "cache", trials, CPU, CUDA).plan

    assert len(trials.jobs) == 2
    assert (first.source, second.source) == ("measured", "cache")
    assert second == first.model_copy(update={"source": "cache"})
    assert second.rejected[0].reason == "too slow a fan"


def test_a_kept_verdict_saves_no_proof(tmp_path: Path, bundle_of: BundleOf) -> None:
    bundle, folder = bundle_of("affine"), tmp_path / "cache"
    proved(bundle, folder, Trials(), CPU, CUDA)
    wrong = {
        CUDA.provider: FakeSession({CUDA.provider: 3}, error=1.0),
        CPU_PROVIDER: FakeSession({CPU_PROVIDER: 3}),
    }
    prover = Prover(ProofOptions(1, 100), Trials(), Verdicts(folder), open_session=opening(wrong))

    plan = prover.prove(ProofRequest(bundle, rank([CPU, CUDA]))).plan

    assert plan.provider == CPU_PROVIDER
    assert "was right in a trial, but here: batch of 1" in plan.rejected[0].reason


def test_a_start_after_a_background_proof_measures_again(
    tmp_path: Path, bundle_of: BundleOf
) -> None:
    bundle, trials = bundle_of("affine"), Trials()

    for background in (True, True, False, False, True):
        proved(bundle, tmp_path / "cache", trials, background=background)

    assert [job.background for job in trials.jobs] == [True, False]


def test_another_version_is_tried(tmp_path: Path, bundle_of: BundleOf) -> None:
    trials = Trials()

    for _ in range(2):
        proved(bundle_of("affine"), tmp_path / "cache", trials)

    assert [job.version for job in trials.jobs] == [1, 2]


def test_what_was_cancelled_is_not_kept(tmp_path: Path, bundle_of: BundleOf) -> None:
    def cancelled(*_: Any) -> Any:
        raise Cancelled("is not wanted any longer")

    bundle, trials = bundle_of("affine"), Trials()
    with pytest.raises(Cancelled):
        proved(bundle, tmp_path / "cache", cancelled)

    proved(bundle, tmp_path / "cache", trials)

    assert len(trials.jobs) == 1


def test_who_waits_for_a_turn_can_be_cancelled(tmp_path: Path, bundle_of: BundleOf) -> None:
    bundle, trials, folder = bundle_of("affine"), Trials(), tmp_path / "cache"
    proved(bundle, folder, trials)
    job = trials.jobs[0]
    entry(folder).unlink()
    ended = threading.Event()

    def wait() -> None:
        try:
            proved(bundle, folder, trials, cancelled=lambda: True, trial_timeout_s=20.0)
        except Cancelled:
            ended.set()

    with Verdicts(folder).turn(job, 0.0):
        waiting = threading.Thread(target=wait)
        waiting.start()
        at_once = ended.wait(5.0)
    waiting.join(PATIENCE_S)

    assert at_once


def test_a_passing_trouble_with_the_files_is_forgotten(tmp_path: Path, bundle_of: BundleOf) -> None:
    """The version is away while the trial looks, and comes back."""
    bundle, folder = bundle_of("affine"), tmp_path / "cache"
    bundle.model()
    bundle.golden()
    away = bundle.path.with_name("away")
    bundle.path.rename(away)
    with pytest.raises(ProofFailed, match=r"manifest\.json is missing"):
        proved(bundle, folder, trying_here())
    away.rename(bundle.path)
    day_later = Verdicts(folder, wall_clock=lambda: time.time() + 2 * DAY_S)
    prover = Prover(ProofOptions(1, 100), trying_here(), day_later)

    plan = prover.prove(ProofRequest(bundle, rank([CPU]))).plan

    assert plan.provider == CPU_PROVIDER


def test_a_kept_crash_keeps_no_service_from_starting(tmp_path: Path, bundle_of: BundleOf) -> None:
    """What failed by chance is tried once more before nothing serves."""

    def crashed(job: TrialJob, timeout_s: float, asked: Callable[[], bool]) -> Verdict:
        reason = "no child process can be started: Cannot allocate memory"
        return Verdict(candidate=job.candidate, numeric_class=None, reason=reason, passing=True)

    bundle, folder = bundle_of("affine"), tmp_path / "cache"
    with pytest.raises(ProofFailed):
        proved(bundle, folder, crashed)

    plan = proved(bundle, folder, Trials()).plan

    assert plan.provider == CPU_PROVIDER


def test_entries_say_nothing_of_where_models_lie(tmp_path: Path, bundle_of: BundleOf) -> None:
    folder = tmp_path / "cache"

    proved(bundle_of("affine"), folder, Trials())

    assert str(tmp_path) not in entry(folder).read_text()
    assert json.loads(entry(folder).read_text())["reason"] == "golden outputs met"
