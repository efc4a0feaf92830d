import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.bundle import (
    BundleCorrupt,
    BundleError,
    BundleIncomplete,
    PublishFailed,
)
from app.bundle.manifest import FileRecord
from app.bundle.store import Bundle, open_bundle, publish, read_pin, scan, verify
from tests.bundle.small import FILES, NAME, manifest, publish_small

EXPECTED_STEPS = 10  # at least: a folder, three files, their flushes, two folders' and a rename


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return publish_small(tmp_path)


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def rewrite_manifest(bundle: Bundle, **changes: object) -> None:
    path = bundle.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# Publishing


def test_published_bundle_reads_back(bundle: Bundle, tmp_path: Path):
    opened = open_bundle(tmp_path / NAME, 1)

    verify(opened)
    assert opened == bundle
    assert opened.model() == FILES["model.onnx"]
    assert opened.read("card.md") == b"v1"
    assert opened.golden().rows == 3
    raw = (bundle.path / "manifest.json").read_bytes()
    assert opened.digest == hashlib.sha256(raw).hexdigest()


def test_each_publication_is_the_next_version(tmp_path: Path):
    versions = [publish_small(tmp_path).manifest.version for _ in range(3)]

    assert versions == [1, 2, 3]
    assert scan(tmp_path)[0].versions == (3, 2, 1)


def test_number_of_a_removed_newest_version_is_not_below_the_rest(tmp_path: Path):
    (tmp_path / NAME / "7").mkdir(parents=True)

    assert publish_small(tmp_path).manifest.version == 8


def test_nothing_is_left_beside_the_versions(tmp_path: Path):
    publish_small(tmp_path)

    assert [path.name for path in (tmp_path / NAME).iterdir()] == ["1"]


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "ä", "x" * 65, "line\n"])
def test_bad_name_is_refused(tmp_path: Path, name: str):
    with pytest.raises(PublishFailed, match="does not match"):
        publish(tmp_path, name, FILES, manifest)

    assert list(tmp_path.iterdir()) == []


def test_repository_that_cannot_be_written_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(PublishFailed, match="Not a directory"):
        publish_small(tmp_path / "file")


def test_error_while_describing_leaves_nothing(tmp_path: Path):
    def fail(version: int):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        publish_small(tmp_path, fail)

    assert list((tmp_path / NAME).iterdir()) == []


@pytest.mark.parametrize("fault", ["kill", "full"])
def test_fault_at_any_step_leaves_the_old_version_or_the_whole_new_one(tmp_path: Path, fault: str):
    done = run_module("tests.bundle.faulty_publisher", fault, str(tmp_path))

    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert steps >= EXPECTED_STEPS
    for step in range(1, steps + 2):
        root = tmp_path / f"step{step}"
        (folder,) = scan(root)
        complete = step > steps
        if fault == "full" or complete:  # a full disk is answered, so nothing may stay behind
            assert folder.versions == ((2, 1) if complete else (1,)), f"step {step}"
            assert len(list((root / NAME).iterdir())) == len(folder.versions), f"step {step}"
        assert folder.versions in {(1,), (2, 1)}
        for version in folder.versions:
            verify(open_bundle(root / NAME, version))
        assert publish_small(root).manifest.version == folder.versions[0] + 1


def test_file_size_limit_in_the_middle_of_a_file_leaves_nothing(tmp_path: Path):
    program = (
        "import resource, sys, pathlib\n"
        "from app.bundle import PublishFailed\n"
        "from tests.bundle.small import publish_small\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "try:\n    publish_small(pathlib.Path(sys.argv[1]))\n"
        "except PublishFailed as error:\n    print(error)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert child.stdout == f"cannot publish {NAME}: File too large\n"
    assert list((tmp_path / NAME).iterdir()) == []


def test_two_publishers_at_once_get_two_versions(tmp_path: Path):
    program = (
        "import sys, pathlib\n"
        "from tests.bundle.small import publish_small\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for _ in range(10): print(publish_small(pathlib.Path(sys.argv[1])).manifest.version)\n"
    )
    publishers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for one in publishers:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in publishers:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()

    answers = [[int(line) for line in one.communicate(timeout=60)[0].split()] for one in publishers]

    assert sorted(answers[0] + answers[1]) == list(range(1, 21))
    assert scan(tmp_path)[0].versions == tuple(range(20, 0, -1))
    for version in range(1, 21):
        verify(open_bundle(tmp_path / NAME, version))


def test_what_a_killed_publisher_left_is_cleared_after_a_day(tmp_path: Path):
    stale, young = (tmp_path / NAME / f".tmp-{name}" for name in ("stale", "young"))
    for folder in (stale, young):
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"half")
    old = time.time() - 25 * 3600
    os.utime(stale, (old, old))

    publish_small(tmp_path)

    assert not stale.exists()
    assert young.exists()


# Scanning


def test_repository_that_is_not_there_is_said(tmp_path: Path):
    with pytest.raises(BundleError, match="does not exist"):
        scan(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="not a folder"):
        scan(tmp_path / "file")


def test_scan_ignores_what_is_not_a_complete_version(bundle: Bundle, tmp_path: Path):
    folder = tmp_path / NAME
    for name in ("0", "02", "latest", ".tmp-1234", "1234567890"):
        (folder / name).mkdir()
        (folder / name / "manifest.json").write_text("{}")
    (folder / "9").write_text("a file")
    (folder / "8").symlink_to(folder / "1")
    (folder / "3").mkdir()
    (folder / "3" / "model.onnx").write_bytes(b"still being copied")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "notes.txt").write_text("")

    (found,) = scan(tmp_path)

    assert (found.name, found.versions) == (NAME, (1,))
    assert found.problems == ("version 3 has no manifest.json (yet)",)


def test_models_are_listed_by_name(tmp_path: Path):
    for name in ("b", "a", "c"):
        publish(tmp_path, name, FILES, lambda version, name=name: manifest(version, name))

    assert [folder.name for folder in scan(tmp_path)] == ["a", "b", "c"]


# The pin


def test_pin_is_read(bundle: Bundle, tmp_path: Path):
    assert read_pin(tmp_path / NAME) is None

    (tmp_path / NAME / "serve.json").write_text('{"version": 1}')

    assert read_pin(tmp_path / NAME) == 1
    assert scan(tmp_path)[0].pin == 1


@pytest.mark.parametrize("text", ["", "1", '{"version": "1"}', '{"version": 0}', '{"pin": 1}'])
def test_an_unreadable_pin_is_told(bundle: Bundle, tmp_path: Path, text: str):
    (tmp_path / NAME / "serve.json").write_text(text)

    (found,) = scan(tmp_path)

    assert found.pin is None
    assert found.pin_problem == 'serve.json must hold {"version": N}'


# Opening


def test_missing_version_is_incomplete(tmp_path: Path):
    with pytest.raises(BundleIncomplete, match=r"manifest\.json is missing"):
        open_bundle(tmp_path / NAME, 1)


def test_bundle_that_was_moved_is_refused(bundle: Bundle, tmp_path: Path):
    bundle.path.rename(tmp_path / NAME / "5")

    with pytest.raises(BundleCorrupt, match="is of small version 1, but lies in small/5"):
        open_bundle(tmp_path / NAME, 5)


def test_manifest_without_a_model_is_refused(bundle: Bundle, tmp_path: Path):
    rewrite_manifest(bundle, files={})

    with pytest.raises(BundleCorrupt, match=r"lists no model\.onnx"):
        open_bundle(tmp_path / NAME, 1)


# Verifying


def test_changed_byte_is_found(bundle: Bundle):
    (bundle.path / "model.onnx").write_bytes(b"Bytes of a model")

    with pytest.raises(BundleCorrupt, match=r"model\.onnx has another sha256"):
        verify(bundle)


def test_truncated_file_is_found(bundle: Bundle):
    (bundle.path / "model.onnx").write_bytes(b"bytes")

    with pytest.raises(BundleIncomplete, match="has 5 of 16 bytes"):
        verify(bundle)


def test_grown_file_is_found(bundle: Bundle):
    with (bundle.path / "model.onnx").open("ab") as file:
        file.write(b"!")

    with pytest.raises(BundleCorrupt, match="has 17 bytes, at most 16"):
        verify(bundle)


def test_missing_file_is_found(bundle: Bundle):
    (bundle.path / "golden.npz").unlink()

    with pytest.raises(BundleIncomplete, match=r"golden\.npz is missing"):
        verify(bundle)


def test_file_that_is_not_in_the_manifest_is_not_read(bundle: Bundle):
    (bundle.path / "extra").write_bytes(b"")

    with pytest.raises(BundleCorrupt, match="extra is not in the manifest"):
        bundle.read("extra")


def test_manifest_cannot_lead_out_of_the_bundle(bundle: Bundle, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    record = FileRecord(size_bytes=6, sha256=hashlib.sha256(b"secret").hexdigest())
    files = {name: one.model_dump() for name, one in bundle.manifest.files.items()}
    rewrite_manifest(bundle, files={**files, "../../secret": record.model_dump()})

    with pytest.raises(BundleError):
        verify(open_bundle(tmp_path / NAME, 1))


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "folder"])
@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_what_is_not_a_plain_file_is_refused(bundle: Bundle, tmp_path: Path, kind: str, name: str):
    path, elsewhere = bundle.path / name, tmp_path / "elsewhere"
    path.rename(elsewhere)
    if kind == "symlink":
        path.symlink_to(elsewhere)
    elif kind == "hard link":
        path.hardlink_to(elsewhere)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()

    with pytest.raises(BundleCorrupt):
        verify(open_bundle(tmp_path / NAME, 1))
