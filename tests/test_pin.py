"""What `python -m app pin` and `unpin` do."""

from pathlib import Path

import pytest

from app.bundle.pins import read_pin
from app.errors import PinFailed
from app.pin import pin, unpin
from app.settings import Settings
from tests.support.bundles import make_bundle


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a repository with versions 1, 2 and a broken 3 of `m`."""
    for _ in range(3):
        bundle = make_bundle(tmp_path, "m")
    (bundle.path / "golden.npz").unlink()
    return Settings(models=tmp_path)


def test_a_version_is_pinned_and_unpinned(settings: Settings) -> None:
    assert pin(settings, "m", 1) == "m is pinned to version 1"
    assert read_pin(settings.models / "m") == 1
    assert pin(settings, "m", 2) == "m is pinned to version 2"
    assert read_pin(settings.models / "m") == 2

    assert unpin(settings, "m") == (
        "m is not pinned any more: its newest version that proves will serve"
    )
    assert read_pin(settings.models / "m") is None
    assert unpin(settings, "m") == "m was not pinned"


@pytest.mark.parametrize(
    ("name", "version", "reason"),
    [
        ("m", 3, "version 3 of m cannot serve: golden.npz is missing"),
        ("m", 4, "version 4 of m is not published; there are: 3, 2, 1"),
        ("m", 0, "version 0 of m is not published; there are: 3, 2, 1"),
        ("n", 1, "no model 'n' is in the repository; there are: m"),
        ("../m", 1, "no model '../m' is in the repository; there are: m"),
    ],
)
def test_what_cannot_serve_is_not_pinned(
    name: str, version: int, reason: str, settings: Settings
) -> None:
    with pytest.raises(PinFailed) as raised:
        pin(settings, name, version)

    assert str(raised.value) == reason
    assert raised.value.exit_status == 1
    assert read_pin(settings.models / "m") is None


def test_a_pin_that_cannot_be_read_can_be_removed(settings: Settings) -> None:
    (settings.models / "m" / "serve.json").write_text("nonsense")

    assert unpin(settings, "m").startswith("m is not pinned any more")


def test_without_a_repository_it_says_so(tmp_path: Path) -> None:
    settings = Settings(models=tmp_path / "absent")

    with pytest.raises(PinFailed, match=r"^the model repository does not exist$"):
        pin(settings, "m", 1)
    with pytest.raises(PinFailed, match=r"^the model repository does not exist$"):
        unpin(settings, "m")
