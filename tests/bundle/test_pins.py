from pathlib import Path

import pytest

from app.bundle.pins import read_pin, remove_pin, write_pin
from app.bundle.store import check_pinnable, fingerprint, manifest_digest, scan
from app.errors import BundleCorrupt, PinRefused, PublishFailed
from tests.support.bundles import make_bundle


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_pin_is_written_replaced_and_removed(tmp_path: Path) -> None:
    for version in (3, 999_999_999, 1):
        write_pin(tmp_path, version)
        assert read_pin(tmp_path) == version
    assert names(tmp_path) == ["serve.json"]

    remove_pin(tmp_path)
    remove_pin(tmp_path)

    assert read_pin(tmp_path) is None
    assert names(tmp_path) == []


def test_a_pin_that_cannot_be_read_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "serve.json").write_text("nonsense")
    with pytest.raises(BundleCorrupt):
        read_pin(tmp_path)

    write_pin(tmp_path, 2)

    assert read_pin(tmp_path) == 2


def test_a_pin_that_is_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("untouched")
    (tmp_path / "serve.json").symlink_to("elsewhere")

    write_pin(tmp_path, 2)

    assert read_pin(tmp_path) == 2
    assert (tmp_path / "elsewhere").read_text() == "untouched"


def test_a_pin_that_cannot_be_written_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "serve.json").mkdir()

    for change in (lambda: write_pin(tmp_path, 2), lambda: remove_pin(tmp_path)):
        with pytest.raises(PublishFailed, match=r"^the pin of .* cannot be written: Is a dir"):
            change()

    assert names(tmp_path) == ["serve.json"]


def test_a_model_that_is_not_there_cannot_be_pinned(tmp_path: Path) -> None:
    with pytest.raises(PublishFailed, match=r"^the pin of m cannot be written: No such file"):
        write_pin(tmp_path / "m", 1)


def test_only_what_is_there_and_whole_is_pinnable(tmp_path: Path) -> None:
    for _ in range(2):
        make_bundle(tmp_path, "m")
    (tmp_path / "m" / "2" / "model.onnx").write_bytes(b"")
    (folder,) = scan(tmp_path)

    check_pinnable(folder, 1)
    with pytest.raises(PinRefused, match=r"^version 2 of m cannot serve: model.onnx has 0 of"):
        check_pinnable(folder, 2)
    with pytest.raises(PinRefused, match=r"^version 3 of m is not published; there are: 2, 1$"):
        check_pinnable(folder, 3)


def test_a_fingerprint_tells_every_change(tmp_path: Path) -> None:
    seen = {fingerprint(tmp_path)}
    file = tmp_path / "file"
    file.write_bytes(b"a")
    seen.add(fingerprint(tmp_path))
    file.write_bytes(b"ab")
    seen.add(fingerprint(tmp_path))
    file.rename(tmp_path / "other")
    seen.add(fingerprint(tmp_path))

    assert len(seen) == 4
    assert fingerprint(tmp_path) in seen
    assert fingerprint(tmp_path / "absent") == ()


def test_the_digest_is_that_of_the_manifest_as_it_lies_there(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, "m")
    assert manifest_digest(tmp_path / "m", 1) == bundle.digest

    (bundle.path / "manifest.json").write_text("{}")
    assert manifest_digest(tmp_path / "m", 1) not in ("", bundle.digest)

    (bundle.path / "manifest.json").unlink()
    assert manifest_digest(tmp_path / "m", 1) == ""
