import asyncio
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.bundle.golden import Golden
from app.bundle.store import Bundle
from app.engine.model import Model, ModelLimits
from app.engine.providers.candidates import CPU_PROVIDER, Candidate
from app.engine.providers.ranking import rank
from app.engine.scheduling.workers import Workers
from app.engine.versions.registry import Registry
from app.engine.versions.selection import Policy
from app.errors import (
    BundleCorrupt,
    ModelNotFound,
    ModelportError,
    ModelRequired,
    NothingToServe,
)
from tests.engine.conftest import HANG_S, on_loop
from tests.engine.following import OpenedModel, following, loaded
from tests.support import models, opening
from tests.support.bundles import make_bundle, make_golden

CPU = Candidate(CPU_PROVIDER, "cpu")


def served(registry: Registry) -> dict[str, int]:
    return {name: model.version for name, model in registry.served.items()}


@pytest.fixture
def open_real() -> Iterator[Callable[[Bundle], Model]]:
    """Opens bundles for true, on the CPU."""
    loop = asyncio.new_event_loop()
    workers = Workers(1, loop)
    opened: list[Model] = []

    def open_model(bundle: Bundle) -> Model:
        model = opening.open_model(bundle, rank([CPU]), workers, ModelLimits(256, 100))
        opened.append(model)
        return model

    yield open_model
    for model in opened:
        loop.run_until_complete(model.close(HANG_S))
    workers.close()
    loop.close()


def refusals(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, str]]:
    return [
        (record.__dict__["model"], record.__dict__["version"], record.__dict__["reason"])
        for record in caplog.records
        if record.message == "model version refused"
    ]


# Which version serves.


def test_the_newest_that_proves_is_served(
    tmp_path: Path, open_real: Callable[[Bundle], Model]
) -> None:
    for _ in range(3):
        make_bundle(tmp_path, "m")

    registry = loaded(tmp_path, open_real)

    assert served(registry) == {"m": 3}
    assert registry.entries["m"].versions == (3, 2, 1)
    assert list(registry.entries["m"].loaded) == [3]
    assert registry.entries["m"].refused == {}


def truncate(bundle: Bundle) -> None:
    path = bundle.path / "model.onnx"
    path.write_bytes(path.read_bytes()[:-7])


def flip(bundle: Bundle) -> None:
    path = bundle.path / "model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(bytes(data))


def change_manifest(bundle: Bundle) -> None:
    path = bundle.path / "manifest.json"
    document = json.loads(path.read_bytes())
    document["files"]["model.onnx"]["sha256"] = "0" * 64
    path.write_text(json.dumps(document))


def rename_in_manifest(bundle: Bundle) -> None:
    path = bundle.path / "manifest.json"
    path.write_text(path.read_text().replace('"name": "m"', '"name": "other"', 1))


def cut_manifest(bundle: Bundle) -> None:
    path = bundle.path / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])


def remove_golden(bundle: Bundle) -> None:
    (bundle.path / "golden.npz").unlink()


def link_model(bundle: Bundle) -> None:
    path = bundle.path / "model.onnx"
    path.rename(bundle.path / "elsewhere.onnx")
    path.symlink_to("elsewhere.onnx")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (truncate, "model.onnx has "),
        (flip, "model.onnx has another sha256 than the manifest says"),
        (change_manifest, "model.onnx has another sha256 than the manifest says"),
        (rename_in_manifest, "manifest is of other version 2, but lies in m/2"),
        (cut_manifest, "manifest is not valid at document: "),
        (remove_golden, "golden.npz is missing"),
        (link_model, "model.onnx cannot be opened: "),
    ],
)
def test_a_spoilt_newest_falls_back_to_the_older_and_says_why(
    spoil: Callable[[Bundle], None],
    reason: str,
    tmp_path: Path,
    open_real: Callable[[Bundle], Model],
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_bundle(tmp_path, "m")
    spoil(make_bundle(tmp_path, "m"))

    registry = loaded(tmp_path, open_real)
    registry.check(tmp_path, ["m"])

    assert served(registry) == {"m": 1}
    assert list(registry.entries["m"].refused) == [2]
    assert registry.entries["m"].refused[2].startswith(reason)
    assert refusals(caplog) == [("m", 2, registry.entries["m"].refused[2])]


def wrong_golden(root: Path) -> None:
    golden = make_golden("affine")
    off = {**golden.outputs, "y": golden.outputs["y"] + np.float32(1)}
    make_bundle(root, "m", golden=Golden(golden.inputs, off))


def garbage_model(root: Path) -> None:
    make_bundle(root, "m", model_data=b"no ONNX at all")


def other_model(root: Path) -> None:
    make_bundle(root, "m", model_data=models.model_bytes("conv"))


@pytest.mark.parametrize(
    ("publish", "reason"),
    [
        (wrong_golden, "outputs differ from golden beyond tolerance"),
        (garbage_model, "the model is not a readable ONNX file"),
        (other_model, "the graph has input 'pixels', which the signature lacks"),
    ],
)
def test_a_newest_that_does_not_prove_falls_back_to_the_older_and_says_why(
    publish: Callable[[Path], None],
    reason: str,
    tmp_path: Path,
    open_real: Callable[[Bundle], Model],
) -> None:
    make_bundle(tmp_path, "m")
    publish(tmp_path)

    registry = loaded(tmp_path, open_real)

    assert served(registry) == {"m": 1}
    assert reason in registry.entries["m"].refused[2]


def test_one_model_that_fails_leaves_the_others_served(tmp_path: Path) -> None:
    make_bundle(tmp_path, "bad")
    make_bundle(tmp_path, "good")

    def open_model(bundle: Bundle) -> Any:
        if bundle.manifest.name == "bad":
            raise BundleCorrupt("spoilt")
        return OpenedModel(bundle)

    registry = loaded(tmp_path, open_model)
    registry.check(tmp_path, ["good"])

    assert served(registry) == {"good": 1}
    assert registry.entries["bad"].served is None
    assert registry.entries["bad"].refused == {1: "spoilt"}


def test_an_unforeseen_failure_of_a_version_is_no_failure_of_the_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_bundle(tmp_path, "m")
    make_bundle(tmp_path, "m")

    def open_model(bundle: Bundle) -> Any:
        if bundle.manifest.version == 2:
            raise IndexError("/secret/path")
        return OpenedModel(bundle)

    registry = loaded(tmp_path, open_model)

    assert served(registry) == {"m": 1}
    assert registry.entries["m"].refused == {2: "cannot be loaded (IndexError)"}
    assert [record.message for record in caplog.records if record.exc_info] == [
        "model version failed"
    ]


# Pins.


def pin(root: Path, text: str, name: str = "m") -> None:
    (root / name / "serve.json").write_text(text)


def test_a_pin_is_respected(tmp_path: Path) -> None:
    for _ in range(3):
        make_bundle(tmp_path, "m")
    pin(tmp_path, '{"version": 2}')

    registry = loaded(tmp_path)

    assert served(registry) == {"m": 2}
    assert registry.entries["m"].pin == 2
    assert list(registry.entries["m"].loaded) == [2]


def test_a_pin_to_an_absent_version_is_not_replaced_by_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_bundle(tmp_path, "m")
    make_bundle(tmp_path, "m")
    pin(tmp_path, '{"version": 7}')

    registry = loaded(tmp_path)

    assert served(registry) == {}
    assert registry.entries["m"].why_not == "pinned version 7 is absent"
    assert [record.message for record in caplog.records] == ["pin not obeyed"]
    assert registry.refused == []


def test_a_pin_to_a_spoilt_version_is_not_replaced_by_another(
    tmp_path: Path, open_real: Callable[[Bundle], Model]
) -> None:
    truncate(make_bundle(tmp_path, "m"))
    for _ in range(2):
        make_bundle(tmp_path, "m")
    pin(tmp_path, '{"version": 1}')

    registry = loaded(tmp_path, open_real)

    assert served(registry) == {}
    assert list(registry.entries["m"].refused) == [1]
    assert registry.refused == [("m", 1)]


BAD_PINS = (
    "",
    "3",
    "{",
    "[1]",
    "null",
    '{"version": "1"}',
    '{"version": 0}',
    '{"version": 1.0}',
    '{"version": true}',
    '{"version": null}',
    '{"version": 1, "more": 2}',
)


@pytest.mark.parametrize("text", BAD_PINS)
def test_a_model_whose_pin_cannot_be_read_is_not_served(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_bundle(tmp_path, "m")
    make_bundle(tmp_path, "m")
    pin(tmp_path, text)

    registry = loaded(tmp_path)

    assert served(registry) == {}
    assert registry.entries["m"].why_not == 'serve.json must hold {"version": N}'
    assert caplog.records[0].__dict__["reason"] == 'serve.json must hold {"version": N}'


# What is not there.


def test_a_version_without_a_manifest_is_invisible(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_bundle(tmp_path, "m")
    (make_bundle(tmp_path, "m").path / "manifest.json").unlink()
    (make_bundle(tmp_path, "unborn").path / "manifest.json").unlink()

    registry = loaded(tmp_path)

    assert served(registry) == {"m": 1}
    assert registry.entries["m"].versions == (1,)
    assert list(registry.entries) == ["m"]
    assert [r.__dict__["problem"] for r in caplog.records] == [
        "version 2 has no manifest.json (yet)",
        "version 1 has no manifest.json (yet)",
    ]


def test_a_required_model_that_is_missing_is_named(tmp_path: Path) -> None:
    make_bundle(tmp_path, "here")

    with pytest.raises(NothingToServe) as raised:
        loaded(tmp_path).check(tmp_path, ["here", "gone"])

    assert str(raised.value) == (
        "MODELPORT_REQUIRE names 'gone': it is not in the model repository"
    )


def test_a_required_model_that_is_broken_is_named_with_all_reasons(tmp_path: Path) -> None:
    make_bundle(tmp_path, "here")
    for _ in range(2):
        make_bundle(tmp_path, "broken")

    def open_model(bundle: Bundle) -> Any:
        if bundle.manifest.name == "broken":
            raise BundleCorrupt(f"spoilt {bundle.manifest.version}")
        return OpenedModel(bundle)

    registry = loaded(tmp_path, open_model)
    with pytest.raises(NothingToServe) as raised:
        registry.check(tmp_path, ["broken"])

    assert str(raised.value) == (
        "MODELPORT_REQUIRE names 'broken': version 2: spoilt 2; version 1: spoilt 1"
    )


def test_the_default_model_must_be_served(tmp_path: Path) -> None:
    make_bundle(tmp_path, "here")

    with pytest.raises(NothingToServe, match="MODELPORT_DEFAULT_MODEL names 'gone'"):
        loaded(tmp_path, default="gone").check(tmp_path, [])


def unreadable(root: Path) -> Path:
    """A folder that nobody, not even root, can list: a link that leads to itself."""
    (root / "models").symlink_to("models")
    return root / "models"


def a_file(root: Path) -> Path:
    (root / "models").write_text("not a folder")
    return root / "models"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda root: root / "models", "the model repository does not exist"),
        (a_file, "the model repository is not a folder"),
        (unreadable, "the model repository cannot be read: "),
    ],
    ids=["missing", "file", "unreadable"],
)
def test_a_repository_that_cannot_be_read_is_one_clear_line(
    make: Callable[[Path], Path], reason: str, tmp_path: Path
) -> None:
    root = make(tmp_path)

    with pytest.raises(NothingToServe) as raised:
        loaded(root)

    assert str(raised.value).startswith(f"cannot serve {root}: {reason}")
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_an_empty_repository_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(NothingToServe) as raised:
        loaded(tmp_path).check(tmp_path, [])

    assert str(raised.value) == (
        f"no model can be served from {tmp_path}: it holds no published model"
    )


def test_a_repository_of_broken_models_is_one_line_with_all_reasons(
    tmp_path: Path, open_real: Callable[[Bundle], Model]
) -> None:
    truncate(make_bundle(tmp_path, "a"))
    remove_golden(make_bundle(tmp_path, "b"))

    registry = loaded(tmp_path, open_real)

    with pytest.raises(NothingToServe) as raised:
        registry.check(tmp_path, [])

    line = str(raised.value)
    assert "a: version 1: model.onnx has " in line
    assert line.endswith("; b: version 1: golden.npz is missing")
    assert "\n" not in line


# Which model answers.


def test_the_only_model_is_the_default(tmp_path: Path) -> None:
    make_bundle(tmp_path, "m")

    registry = loaded(tmp_path)

    assert registry.default_name == "m"
    assert registry.get() is registry.served["m"]


def test_of_several_models_one_must_be_named(tmp_path: Path) -> None:
    make_bundle(tmp_path, "b")
    make_bundle(tmp_path, "a")

    registry = loaded(tmp_path)

    assert registry.default_name is None
    with pytest.raises(ModelRequired) as raised:
        registry.get()
    assert str(raised.value) == "name a model: POST /models/{name}/predict with one of a, b"


def test_the_default_model_of_the_settings_answers(tmp_path: Path) -> None:
    make_bundle(tmp_path, "a")
    make_bundle(tmp_path, "b")

    registry = loaded(tmp_path, default="b")
    registry.check(tmp_path, [])

    assert registry.get().name == "b"
    assert registry.get("a").name == "a"


def test_a_version_is_addressed_by_its_number(tmp_path: Path) -> None:
    for _ in range(3):
        make_bundle(tmp_path, "m")

    registry = loaded(tmp_path, keep=2)

    assert registry.get("m").version == 3
    assert registry.get("m", "3").version == 3
    assert registry.get("m", "2").version == 2
    with pytest.raises(ModelNotFound) as raised:
        registry.get("m", "1")
    assert str(raised.value) == "version '1' of 'm' is not loaded; loaded: 3, 2"


@pytest.mark.parametrize(
    "version", ["", "0", "01", "1 ", "+1", "1.0", "-1", "¹", "latest", "9" * 99]
)
def test_only_a_plain_number_addresses_a_version(version: str, tmp_path: Path) -> None:
    make_bundle(tmp_path, "m")

    with pytest.raises(ModelNotFound) as raised:
        loaded(tmp_path).get("m", version)

    assert len(str(raised.value)) < 200


WEIRD_NAMES = {
    "parent": "../m",
    "slash": "m/",
    "here": "./m",
    "version": "m/1",
    "absolute": "/etc/passwd",
    "nul": "a\0b",
    "newline": "m\n",
    "empty": "",
    "dot": ".",
    "case": "M",
    "long": "x" * 100_000,
    "surrogate": "\ud800",
}


@pytest.mark.parametrize("name", WEIRD_NAMES.values(), ids=WEIRD_NAMES)
def test_a_weird_name_is_only_a_key(name: str, tmp_path: Path) -> None:
    make_bundle(tmp_path, "m")
    registry = loaded(tmp_path)
    shutil.rmtree(tmp_path)  # Whoever looked at a file now would fail in another way.

    for version in (None, "1", "../1"):
        with pytest.raises(ModelNotFound) as raised:
            registry.get(name, version)
        assert len(str(raised.value)) < 700
        assert str(raised.value).isprintable()


def test_a_model_of_which_nothing_is_served_is_not_found(tmp_path: Path) -> None:
    make_bundle(tmp_path, "bad")
    make_bundle(tmp_path, "good")

    def open_model(bundle: Bundle) -> Any:
        if bundle.manifest.name == "bad":
            raise BundleCorrupt("spoilt")
        return OpenedModel(bundle)

    registry = loaded(tmp_path, open_model)

    for version in (None, "1"):
        with pytest.raises(
            ModelNotFound, match="no version of 'bad' can be served: version 1: spoilt"
        ):
            registry.get("bad", version)


# How many versions stay loaded.


@pytest.mark.parametrize(
    ("keep", "pinned", "versions"),
    [(1, None, [4]), (2, None, [4, 3]), (9, None, [4, 3, 2, 1]), (2, 1, [1]), (3, 3, [3, 2, 1])],
)
def test_as_many_versions_are_kept_as_wanted(
    keep: int, pinned: int | None, versions: Sequence[int], tmp_path: Path
) -> None:
    for _ in range(4):
        make_bundle(tmp_path, "m")
    if pinned is not None:
        pin(tmp_path, json.dumps({"version": pinned}))

    registry = loaded(tmp_path, keep=keep)

    assert list(registry.entries["m"].loaded) == versions
    assert served(registry) == {"m": versions[0]}


def test_two_kept_versions_skip_a_broken_one(
    tmp_path: Path, open_real: Callable[[Bundle], Model]
) -> None:
    make_bundle(tmp_path, "m")
    truncate(make_bundle(tmp_path, "m"))
    make_bundle(tmp_path, "m")

    registry = loaded(tmp_path, open_real, keep=2)

    assert list(registry.entries["m"].loaded) == [3, 1]
    assert list(registry.entries["m"].refused) == [2]


# The end.


@on_loop
async def test_close_closes_every_version_of_every_model(tmp_path: Path) -> None:
    for name in ("a", "a", "b"):
        make_bundle(tmp_path, name)
    async with following(tmp_path, policy=Policy(loaded_versions=2)) as (registry, _):
        pass

    await registry.close(3)

    opened: list[Any] = [m for entry in registry.entries.values() for m in entry.loaded.values()]
    assert [model.closed_within_s for model in opened] == [3, 3, 3]


def test_every_refusal_is_an_error_of_ours() -> None:
    assert issubclass(ModelNotFound, ModelportError)
    assert (ModelNotFound.status, ModelRequired.status, NothingToServe.exit_status) == (404, 404, 3)
