"""Settings: from the environment, checked, told in one line when they are wrong."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.errors import SettingsError
from app.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("MODELPORT_"):
            monkeypatch.delenv(name)


def load(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(f"MODELPORT_{name}", value)
    return load_settings()


def test_defaults() -> None:
    settings = load_settings()

    assert settings.models == Path("models")
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.provider == ("auto",)
    assert settings.require == ()
    assert settings.docs is True
    assert settings.default_model is None


def test_every_setting_has_a_description() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_values_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch, MODELS="/srv/m", PORT="0", DOCS="false", TIMEOUT_MS="250", THREADS="3",
        BODY_TIMEOUT_S="0.5", DEFAULT_MODEL="digits", LOG_LEVEL="debug",
    )  # fmt: skip

    assert settings.models == Path("/srv/m")
    assert settings.port == 0
    assert settings.docs is False
    assert settings.timeout_ms == 250
    assert settings.body_timeout_s == 0.5
    assert settings.default_model == "digits"
    assert settings.threads == 3


def test_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPORT_PORT", "1")
    monkeypatch.setenv("MODELPORT_HOST", "::1")

    settings = load_settings(port=2, host=None)

    assert (settings.port, settings.host) == (2, "::1")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("a", ("a",)), ("a,b", ("a", "b")), (" a , b ,", ("a", "b")), ("a,,b", ("a", "b")), (",", ())],
)
def test_lists_are_split_at_commas(
    monkeypatch: pytest.MonkeyPatch, given: str, wanted: tuple[str, ...]
) -> None:
    assert load(monkeypatch, REQUIRE=given).require == wanted


@pytest.mark.parametrize("name", ["PORT", "REQUIRE", "PROVIDER", "THREADS", "DOCS", "MODELS"])
def test_an_empty_value_is_the_default(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    settings = load(monkeypatch, **{name: ""})

    assert settings == load_settings()
    assert getattr(settings, name.lower()) == Settings.model_fields[name.lower()].default


@pytest.mark.parametrize("given", [",", " , ", " "])
def test_a_provider_list_without_a_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    with pytest.raises(SettingsError, match="MODELPORT_PROVIDER="):
        load(monkeypatch, PROVIDER=given)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MODELPORT_PROT", "did you mean MODELPORT_PORT?"),
        ("MODELPORT_port", "did you mean MODELPORT_PORT?"),
        ("modelport_port", "did you mean MODELPORT_PORT?"),
        ("MODELPORT_MODEL", "did you mean MODELPORT_MODELS?"),
        ("MODELPORT_TIMEOUT", "did you mean MODELPORT_TIMEOUT_MS?"),
        ("MODELPORT_", ""),
        ("MODELPORT_QQQQQQQQQQQQQQQ", ""),
    ],
)
def test_an_unknown_name_is_refused_with_a_guess(
    monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.setenv(name, "1")

    with pytest.raises(SettingsError) as caught:
        load_settings()

    message = str(caught.value)
    assert message.startswith(f"unknown setting {name}")
    assert message.endswith(hint)
    assert "\n" not in message


def test_names_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPORTS", "1")
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("MODELPORT_TORCH_INDEX", "x")

    assert load_settings().port == 8000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "65536"), ("PORT", "-1"), ("PORT", "8000.5"), ("PORT", "http"), ("PORT", "1_0 0"),
        ("THREADS", "0"), ("THREADS", "-1"), ("THREADS", "2000"), ("QUEUE_ROWS", "0"),
        ("MAX_BODY_BYTES", "1"), ("MAX_BODY_BYTES", "1MB"), ("MAX_REQUEST_ROWS", "0"),
        ("TIMEOUT_MS", "0"), ("TIMEOUT_MS", "nan"), ("BODY_TIMEOUT_S", "0"),
        ("BODY_TIMEOUT_S", "nan"), ("BODY_TIMEOUT_S", "inf"), ("GRACE_S", "-1"),
        ("GRACE_S", "nan"), ("DRAIN_DELAY_S", "-1"),
        ("DRAIN_DELAY_S", "1e9"), ("DOCS", "maybe"), ("LOG_LEVEL", "loud"), ("LOG_FORMAT", "xml"),
        ("PROVIDER_STRICT", "2"), ("LOADED_VERSIONS", "0"),
    ],
)  # fmt: skip
def test_a_bad_value_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(monkeypatch, **{name: value})

    message = str(caught.value)
    assert message.startswith(f"MODELPORT_{name}={value!r}: ")
    assert "\n" not in message
    assert "http" not in message.removeprefix("MODELPORT_PORT='http'")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ('{"digits": ', "='{\"digits\": ': is not valid JSON: Expecting value: line 1 column 12 "),
        ("nonsense", "='nonsense': is not valid JSON: Expecting value: line 1 column 1 "),
        ("[" * 100_000, "='[[[["),
        ("[1]", "=[1]: Input should be a valid "),
        ('{"digits": 5}', ".digits=5: Input should be a valid dictionary"),
        (
            '{"digits": {"provider_strict": "perhaps"}}',
            ".digits.provider_strict='perhaps': Input should be a valid boolean",
        ),
        ('{"digits": {"timeout_ms": 0}}', ".digits.timeout_ms=0: Input should be greater than"),
        ('{"digits": {"provider": ["cpu", 1]}}', ".digits.provider.1=1: Input should be a valid "),
        (
            '{"digits": {"providr": "cpu"}}',
            ".digits.providr='cpu': there is no such setting; there are: provider, ",
        ),
    ],
)
def test_what_is_wrong_of_a_model_is_told_with_its_place(
    monkeypatch: pytest.MonkeyPatch, given: str, message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(monkeypatch, PER_MODEL=given)

    assert str(caught.value).startswith(f"MODELPORT_PER_MODEL{message}")
    assert "\n" not in str(caught.value)


def test_settings_of_a_model_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given = '{"digits": {"provider": "cuda,cpu", "timeout_ms": 200}, "penguins": {}}'

    settings = load(monkeypatch, PER_MODEL=given, TIMEOUT_MS="300")

    assert settings.of_model("digits").provider == ("cuda", "cpu")
    assert [settings.of_model(name).timeout_ms for name in ("digits", "penguins")] == [200, 300]


def test_a_short_admin_key_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError) as caught:
        load(monkeypatch, ADMIN_KEY="secret-15-chars")

    assert str(caught.value) == "MODELPORT_ADMIN_KEY: must have at least 16 characters"
    key = load(monkeypatch, ADMIN_KEY="secret-16-chars-").admin_key
    assert key is not None
    assert key.get_secret_value() == "secret-16-chars-"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1
