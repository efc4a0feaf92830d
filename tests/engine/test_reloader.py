"""Versions that come, go and break while others serve."""

import asyncio
import shutil
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.bundle.pins import read_pin, remove_pin, write_pin
from app.bundle.store import Bundle
from app.engine.versions import reloader as reloading
from app.engine.versions.background import BackgroundThread
from app.engine.versions.registry import Registry
from app.engine.versions.reloader import Hooks, Reloader
from app.engine.versions.repository import Repository
from app.engine.versions.selection import Policy
from app.errors import BundleCorrupt, ModelNotFound, PinRefused, ProofFailed, Unavailable
from tests.engine.conftest import HANG_S, on_loop, until
from tests.engine.following import OpenedModel, following
from tests.support.bundles import make_bundle

POLL_S = 0.002


class Opener:
    """Opens what is not in `bad`, and counts."""

    def __init__(self) -> None:
        self.tried: Counter[tuple[str, int]] = Counter()
        self.bad: set[tuple[str, int]] = set()
        self.error: BaseException = BundleCorrupt("spoilt")

    def __call__(self, bundle: Bundle) -> OpenedModel:
        key = (bundle.manifest.name, bundle.manifest.version)
        self.tried[key] += 1
        if key in self.bad:
            raise self.error
        bundle.model()
        bundle.golden()
        return OpenedModel(bundle)


def served(registry: Registry, name: str = "m") -> int | None:
    return registry.entries[name].served


def loaded(registry: Registry, name: str = "m") -> list[int]:
    return list(registry.entries[name].loaded)


def messages(caplog: pytest.LogCaptureFixture, message: str) -> list[str]:
    return [
        str(record.__dict__.get("reason") or record.__dict__.get("problem"))
        for record in caplog.records
        if record.message == message
    ]


async def some_looks(root: Path, registry: Registry) -> None:
    """Wait for several looks: each publishes another model and waits for it."""
    for _ in range(3):
        beacon = make_bundle(root, "beacon")
        await until(
            lambda version=beacon.manifest.version: (
                "beacon" in registry.entries and served(registry, "beacon") == version
            )
        )


# New versions.


@on_loop
async def test_a_new_version_takes_over_and_the_old_one_stays_for_a_rollback(
    tmp_path: Path,
) -> None:
    make_bundle(tmp_path, "m")
    gone: list[int] = []
    async with following(tmp_path, let_go=lambda m: gone.append(m.version)) as (registry, reloader):
        reloader.poll(POLL_S)
        for version in (2, 3):
            make_bundle(tmp_path, "m")
            await until(lambda version=version: served(registry) == version)

        assert registry.get("m").version == 3
        assert registry.get("m", "2").version == 2
        await until(lambda: loaded(registry) == [3, 2])
        assert gone == [1]


@on_loop
async def test_without_a_wish_for_rollbacks_the_old_one_goes(tmp_path: Path) -> None:
    make_bundle(tmp_path, "m")
    policy = Policy(keep_previous=False)
    async with following(tmp_path, policy=policy) as (registry, reloader):
        make_bundle(tmp_path, "m")
        await reloader.reload("m", HANG_S)

        assert loaded(registry) == [2]


@on_loop
async def test_a_broken_version_between_good_ones_is_passed_over_and_not_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_bundle(tmp_path, "m")
    opener = Opener()
    opener.bad = {("m", 2)}
    outcomes: list[tuple[str, str]] = []
    async with following(
        tmp_path, opener, attempted=lambda name, outcome: outcomes.append((name, outcome))
    ) as (registry, reloader):
        reloader.poll(POLL_S)
        make_bundle(tmp_path, "m")
        await until(lambda: registry.refused == [("m", 2)])
        await some_looks(tmp_path, registry)

        assert served(registry) == 1
        assert opener.tried["m", 2] == 1
        assert registry.entries["m"].refused == {2: "spoilt"}
        assert messages(caplog, "model version refused") == ["spoilt"]

        make_bundle(tmp_path, "m")
        await until(lambda: served(registry) == 3)

        assert opener.tried["m", 2] == 1
        assert [outcome for name, outcome in outcomes if name == "m"] == [
            "loaded",
            "refused",
            "loaded",
        ]


@on_loop
async def test_a_refused_version_is_tried_again_when_somebody_asks(tmp_path: Path) -> None:
    make_bundle(tmp_path, "m")
    make_bundle(tmp_path, "m")
    opener = Opener()
    opener.bad = {("m", 2)}
    async with following(tmp_path, opener) as (registry, reloader):
        assert served(registry) == 1
        opener.bad.clear()

        entry = await reloader.reload("m", HANG_S)

        assert (entry.served, entry.refused) == (2, {})
        assert opener.tried["m", 2] == 2


@on_loop
async def test_what_may_pass_is_tried_again_three_times_and_ever_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path, "m")
    opener = Opener()
    opener.bad = {("m", 2)}
    opener.error = ProofFailed("took longer than 60 s", passing=True)
    monkeypatch.setattr(reloading, "_TRY_AGAIN_S", (0.01, 0.02, 0.03))
    async with following(tmp_path, opener) as (registry, reloader):
        make_bundle(tmp_path, "m")
        await reloader.reload("m", HANG_S)
        await until(lambda: opener.tried["m", 2] == 4)
        await asyncio.sleep(0.1)

        assert opener.tried["m", 2] == 4
        assert (served(registry), registry.refused) == (1, [("m", 2)])


@on_loop
async def test_what_has_passed_serves_at_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path, "m")
    opener = Opener()
    opener.bad = {("m", 2)}
    opener.error = ProofFailed("no child process can be started", passing=True)
    monkeypatch.setattr(reloading, "_TRY_AGAIN_S", (0.05,))
    async with following(tmp_path, opener) as (registry, reloader):
        make_bundle(tmp_path, "m")
        await reloader.reload("m", HANG_S)
        opener.bad.clear()
        await until(lambda: served(registry) == 2)


@on_loop
async def test_a_panic_in_foreign_code_refuses_the_version_alone(tmp_path: Path) -> None:
    make_bundle(tmp_path, "m")
    opener = Opener()
    opener.bad = {("m", 2)}
    opener.error = SystemExit(3)
    async with following(tmp_path, opener) as (registry, reloader):
        make_bundle(tmp_path, "m")
        await reloader.reload("m", HANG_S)
        assert (served(registry), registry.refused) == (1, [("m", 2)])
        make_bundle(tmp_path, "m")
        await reloader.reload("m", HANG_S)
        assert served(registry) == 3


@on_loop
async def test_a_rescan_tries_all_again_and_a_plain_look_does_not(tmp_path: Path) -> None:
    for name in ("m", "n"):
        make_bundle(tmp_path, name)
        make_bundle(tmp_path, name)
    opener = Opener()
    opener.bad = {("m", 2), ("n", 2)}
    async with following(tmp_path, opener) as (registry, reloader):
        opener.bad.clear()
        make_bundle(tmp_path, "beacon")

        reloader.rescan(forget=False)
        await until(lambda: "beacon" in registry.served)
        assert (served(registry, "m"), served(registry, "n")) == (1, 1)

        for _ in range(5):
            reloader.rescan(forget=True)
        await until(lambda: (served(registry, "m"), served(registry, "n")) == (2, 2))
        assert opener.tried["m", 2] == opener.tried["n", 2] == 2


@on_loop
async def test_a_version_that_is_copied_slowly_is_tried_when_it_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "models"
    make_bundle(root, "m")
    for _ in range(2):
        ready = make_bundle(tmp_path / "elsewhere", "m")
    opener = Opener()
    async with following(root, opener) as (registry, reloader):
        reloader.poll(POLL_S)
        copy = root / "m" / "2"
        copy.mkdir()
        shutil.copy(ready.path / "manifest.json", copy)
        shutil.copy(ready.path / "golden.npz", copy)
        await until(lambda: registry.refused == [("m", 2)])
        data = (ready.path / "model.onnx").read_bytes()
        for part in range(1, 9):
            (copy / "model.onnx").write_bytes(data[: len(data) * part // 8])
            await some_looks(root, registry)

        await until(lambda: served(registry) == 2)

        assert registry.entries["m"].refused == {}
        assert opener.tried["m", 2] <= 9
        assert len(messages(caplog, "model version refused")) == 1


@on_loop
async def test_a_new_model_appears_and_an_unborn_one_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_bundle(tmp_path, "m")
    async with following(tmp_path) as (registry, reloader):
        reloader.poll(POLL_S)
        (tmp_path / "unborn" / "1").mkdir(parents=True)
        await some_looks(tmp_path, registry)

        assert list(registry.served) == ["beacon", "m"]
        assert messages(caplog, "model folder") == ["version 1 has no manifest.json (yet)"]


@on_loop
async def test_a_model_that_is_published_all_the_time_holds_up_no_other(tmp_path: Path) -> None:
    make_bundle(tmp_path, "a")
    opened: list[tuple[str, int]] = []

    def open_model(bundle: Bundle) -> Any:
        key = (bundle.manifest.name, bundle.manifest.version)
        opened.append(key)
        if key[0] == "a" and key[1] < 20:
            make_bundle(tmp_path, "a")  # the next is there before this one serves
        return OpenedModel(bundle)

    async with following(tmp_path, open_model) as (registry, reloader):
        reloader.poll(POLL_S)
        make_bundle(tmp_path, "b")
        await until(lambda: served(registry, "a") == 20)

        assert "b" in registry.served


# Pins.


@on_loop
async def test_a_pin_that_appears_changes_and_goes_is_followed(tmp_path: Path) -> None:
    for _ in range(3):
        make_bundle(tmp_path, "m")
    async with following(tmp_path) as (registry, reloader):
        reloader.poll(POLL_S)
        for version in (1, 2):
            write_pin(tmp_path / "m", version)
            await until(lambda version=version: served(registry) == version)
            assert registry.entries["m"].pin == version
        remove_pin(tmp_path / "m")
        await until(lambda: served(registry) == 3)

        assert registry.entries["m"].pin is None
        assert loaded(registry) == [3, 2]


@on_loop
async def test_a_pin_to_what_is_loaded_opens_nothing(tmp_path: Path) -> None:
    make_bundle(tmp_path, "m")
    opener = Opener()
    async with following(tmp_path, opener) as (registry, reloader):
        make_bundle(tmp_path, "m")
        await reloader.reload("m", HANG_S)
        before = registry.get("m", "1")

        await reloader.pin("m", 1, HANG_S)

        assert registry.get("m") is before
        assert opener.tried == {("m", 1): 1, ("m", 2): 1}
        assert (tmp_path / "m" / "serve.json").read_text() == '{"version":1}\n'

        await reloader.unpin("m", HANG_S)

        assert served(registry) == 2
        assert opener.tried == {("m", 1): 1, ("m", 2): 1}
        assert read_pin(tmp_path / "m") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"version": 9}', "pinned version 9 is absent"),
        ('{"version": 2}', "pinned version 2 is broken"),
        ("nonsense", 'serve.json must hold {"version": N}'),
    ],
    ids=["absent", "broken", "unreadable"],
)
@on_loop
async def test_a_bad_pin_leaves_alone_what_serves_and_is_told_of_once(
    text: str, problem: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        make_bundle(tmp_path, "m")
    opener = Opener()
    opener.bad = {("m", 2)}
    async with following(tmp_path, opener) as (registry, reloader):
        reloader.poll(POLL_S)
        (tmp_path / "m" / "serve.json").write_text(text)
        await until(lambda: registry.pin_problems == ["m"])
        make_bundle(tmp_path, "m")
        await some_looks(tmp_path, registry)

        assert served(registry) == 3
        assert registry.entries["m"].pin_problem == problem
        assert messages(caplog, "pin not obeyed") == [problem]

        remove_pin(tmp_path / "m")
        await until(lambda: served(registry) == 4)

        assert registry.pin_problems == []


@on_loop
async def test_only_a_version_that_is_there_and_whole_can_be_pinned(tmp_path: Path) -> None:
    for _ in range(3):
        make_bundle(tmp_path, "m")
    (tmp_path / "m" / "1" / "golden.npz").unlink()
    opener = Opener()
    opener.bad = {("m", 3)}
    async with following(tmp_path, opener) as (registry, reloader):
        for version, reason in (
            (1, "version 1 of m cannot serve: golden.npz is missing"),
            (3, "version 3 of m cannot serve: spoilt"),
            (7, "version 7 of m is not published; there are: 3, 2, 1"),
        ):
            with pytest.raises(PinRefused) as raised:
                await reloader.pin("m", version, HANG_S)
            assert str(raised.value) == reason
        with pytest.raises(ModelNotFound):
            await reloader.pin("../m", 2, HANG_S)

        assert read_pin(tmp_path / "m") is None
        assert served(registry) == 2


@on_loop
async def test_two_processes_on_one_repository_agree(tmp_path: Path) -> None:
    for _ in range(2):
        make_bundle(tmp_path, "m")
    async with following(tmp_path) as (one, first), following(tmp_path) as (other, second):
        first.poll(POLL_S)
        second.poll(POLL_S)
        await first.pin("m", 1, HANG_S)
        assert served(one) == 1
        await until(lambda: served(other) == 1)
        await second.unpin("m", HANG_S)
        assert served(other) == 2
        await until(lambda: served(one) == 2)
        make_bundle(tmp_path, "m")
        await until(lambda: served(one) == served(other) == 3)


# What is replaced or disappears.


def replace(root: Path, version: int, description: str) -> None:
    """Publish other content under a number that is taken."""
    aside = root / f"aside-{description}"
    for _ in range(version):
        bundle = make_bundle(aside, "m", description=description)
    shutil.rmtree(root / "m" / str(version))
    bundle.path.rename(root / "m" / str(version))
    shutil.rmtree(aside)


@on_loop
async def test_what_was_replaced_on_disk_serves_until_a_reload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "models"
    make_bundle(root, "m")
    gone: list[Any] = []
    async with following(root, let_go=gone.append) as (registry, reloader):
        reloader.poll(POLL_S)
        before = registry.get("m")
        replace(root, 1, "other")
        await until(lambda: registry.entries["m"].replaced == {1})
        await some_looks(root, registry)
        assert registry.get("m") is before
        assert len(messages(caplog, "model version changed")) == 1

        await reloader.reload("m", HANG_S)

        after = registry.get("m")
        assert after.digest != before.digest
        assert registry.entries["m"].replaced == set()
        assert [model for model in gone if model.name == "m"] == [before]
        assert loaded(registry) == [1]


@on_loop
async def test_what_was_replaced_by_something_bad_goes_on_serving(tmp_path: Path) -> None:
    root = tmp_path / "models"
    make_bundle(root, "m")
    async with following(root, Opener()) as (registry, reloader):
        before = registry.get("m")
        replace(root, 1, "other")
        (root / "m" / "1" / "golden.npz").unlink()

        entry = await reloader.reload("m", HANG_S)

        assert registry.get("m") is before
        assert entry.refused == {1: "golden.npz is missing"}
        assert entry.replaced == {1}


@on_loop
async def test_what_disappears_goes_on_serving(tmp_path: Path) -> None:
    root = tmp_path / "models"
    for _ in range(2):
        make_bundle(root, "m")
    make_bundle(root, "n")
    async with following(root) as (registry, reloader):
        reloader.poll(POLL_S)
        shutil.rmtree(root / "m" / "2")
        shutil.rmtree(root / "n")
        await until(lambda: registry.entries["n"].versions == ())
        await some_looks(root, registry)

        assert served(registry, "m") == 2
        assert served(registry, "n") == 1
        assert registry.entries["m"].versions == (1,)

        make_bundle(root, "n")
        make_bundle(root, "n")
        await until(lambda: served(registry, "n") == 2)


@on_loop
async def test_a_repository_that_is_away_for_a_while_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "app.engine.versions.reloader")
    root = tmp_path / "models"
    make_bundle(root, "m")
    async with following(root) as (registry, reloader):
        root.rename(tmp_path / "away")
        with pytest.raises(Unavailable, match="the model repository does not exist"):
            await reloader.reload("m", HANG_S)
        reloader.poll(POLL_S)
        await until(lambda: messages(caplog, "model repository"))
        assert served(registry) == 1

        (tmp_path / "away").rename(root)
        await some_looks(root, registry)

        assert served(registry) == 1
        assert messages(caplog, "model repository") == ["the model repository does not exist"]
        assert len(messages(caplog, "model repository can be read again")) == 1


@on_loop
async def test_a_model_of_which_nothing_is_left_is_forgotten(tmp_path: Path) -> None:
    make_bundle(tmp_path, "m")
    make_bundle(tmp_path, "bad")
    opener = Opener()
    opener.bad = {("bad", 1)}
    async with following(tmp_path, opener) as (registry, reloader):
        shutil.rmtree(tmp_path / "bad")
        await reloader.reload("m", HANG_S)

        assert list(registry.entries) == ["m"]
        with pytest.raises(ModelNotFound):
            await reloader.reload("bad", HANG_S)


# Waiting and ending.


class Gate:
    """Opens a version only when told to."""

    def __init__(self) -> None:
        self.opening = threading.Event()
        self.go = threading.Event()
        self.count = 0

    def __call__(self, bundle: Bundle) -> OpenedModel:
        if bundle.manifest.version > 1:
            self.count += 1
            self.opening.set()
            self.go.wait(HANG_S)
        return OpenedModel(bundle)


@on_loop
async def test_a_reload_that_takes_longer_than_its_wait_says_what_is_loading(
    tmp_path: Path,
) -> None:
    make_bundle(tmp_path, "m")
    gate = Gate()
    async with following(tmp_path, gate) as (registry, reloader):
        make_bundle(tmp_path, "m")
        entry = await reloader.reload("m", 0)
        assert (entry.served, entry.is_at_work, entry.wanted) == (1, True, 2)
        await until(gate.opening.is_set)

        both = [asyncio.create_task(reloader.reload("m", HANG_S)) for _ in range(2)]
        await some_time()
        assert not any(task.done() for task in both)
        gate.go.set()
        await asyncio.gather(*both)

        assert served(registry) == 2
        assert gate.count == 1


async def some_time() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)


@on_loop
async def test_a_rollback_does_not_wait_for_a_version_that_is_being_proved(
    tmp_path: Path,
) -> None:
    make_bundle(tmp_path, "m")
    make_bundle(tmp_path, "n")
    gate = Gate()
    gate.go.set()
    async with following(tmp_path, gate) as (registry, reloader):
        make_bundle(tmp_path, "m")
        await reloader.reload("m", HANG_S)
        gate.go.clear()
        make_bundle(tmp_path, "n")
        await reloader.reload("n", 0)

        await reloader.pin("m", 1, HANG_S)

        assert (served(registry, "m"), served(registry, "n")) == (1, 1)
        assert registry.entries["n"].is_at_work
        gate.go.set()


@on_loop
async def test_the_end_waits_for_nobody(tmp_path: Path) -> None:
    make_bundle(tmp_path, "m")
    gate = Gate()
    async with following(tmp_path, gate) as (registry, reloader):
        make_bundle(tmp_path, "m")
        waiting = asyncio.create_task(reloader.reload("m", HANG_S))
        await until(gate.opening.is_set)

        reloader.drain()

        assert (await waiting).is_at_work
        assert served(registry) == 1
        reloader.close(0)
        gate.go.set()


@on_loop
async def test_a_file_system_that_does_not_answer_is_told_and_not_piled_up(tmp_path: Path) -> None:
    make_bundle(tmp_path, "m")
    hang = threading.Event()
    started = threading.Event()

    async with hanging(tmp_path, started, hang) as (registry, reloader):
        for _ in range(2):
            with pytest.raises(Unavailable, match="the model repository does not answer"):
                await reloader.reload("m", HANG_S)
        assert started.is_set()
        hang.set()
        make_bundle(tmp_path, "m")
        reloader.poll(POLL_S)

        await until(lambda: served(registry) == 2)


@asynccontextmanager
async def hanging(
    root: Path, started: threading.Event, hang: threading.Event
) -> AsyncIterator[tuple[Registry, Reloader]]:
    """A repository whose file system answers the first look only, until `hang` is set."""
    registry = Registry()
    files = BackgroundThread("files", asyncio.get_running_loop())
    repository = Repository(root, files, patience_s=2.0)
    reloader = Reloader(registry, repository, Hooks(OpenedModel), Policy())
    try:
        await reloader.start()
        files.put(lambda: (started.set(), hang.wait(HANG_S)))
        yield registry, reloader
    finally:
        reloader.close(10)
        files.close(10)


@on_loop
async def test_a_refused_version_that_was_repaired_can_be_pinned_after_a_reload(
    tmp_path: Path,
) -> None:
    for _ in range(2):
        make_bundle(tmp_path, "m")
    opener = Opener()
    opener.bad = {("m", 2)}
    async with following(tmp_path, opener) as (registry, reloader):
        make_bundle(tmp_path, "m")
        await reloader.reload("m", HANG_S)
        opener.bad.clear()
        await reloader.reload("m", HANG_S)

        await reloader.pin("m", 2, HANG_S)

        assert served(registry) == 2
        assert registry.refused == []


@on_loop
async def test_a_version_that_nobody_has_looked_at_yet_can_be_pinned(tmp_path: Path) -> None:
    make_bundle(tmp_path, "m")
    async with following(tmp_path) as (registry, reloader):
        for _ in range(2):
            make_bundle(tmp_path, "m")

        await reloader.pin("m", 2, HANG_S)

        assert served(registry) == 2
