"""Every setting of the service, from `MODELPORT_*` environment variables; frozen once read.

This is the only file that looks at the environment (but for the telemetry switch in
`app/__init__.py`).
"""

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import SettingsError

PREFIX: Final = "MODELPORT_"
#: Read by the Makefile, not by the service; listed so that they do not count as misspelt.
_BUILD_VARIABLES: Final = frozenset({"MODELPORT_TORCH_INDEX"})


#: Never repeated, not even in the message that refuses it.
_UNSHOWN: Final = "MODELPORT_ADMIN_KEY"
_KEY_CHARACTERS: Final = 16

Precision = Literal["fp32", "auto", "int8", "fp16"]


def _split(value: Any) -> Any:
    """Names by comma, for variables; lists stay lists."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _from_json(value: Any) -> Any:
    """What the text of a variable holds; anything else stays as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise PydanticCustomError(
            "json", "is not valid JSON: {problem}", {"problem": str(error)}
        ) from None


class ModelSettings(BaseModel):
    """What may differ for one model; unset means as for the service."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: tuple[str, ...] | None = Field(default=None, min_length=1)
    provider_strict: bool | None = None
    precision: Precision | None = None
    timeout_ms: int | None = Field(default=None, ge=1, le=3_600_000)

    _split_names = field_validator("provider", mode="before")(_split)


class Settings(BaseSettings):
    """Units are in the names. `docs/settings.md` is made from this class."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True
    )

    models: Annotated[Path, Field(description="Folder of the model repository.")] = Path("models")
    host: Annotated[str, Field(min_length=1, description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="Port; 0 picks a free one.")] = 8000
    workers: Annotated[
        int, Field(ge=1, le=256, description="Processes that serve; the cores are divided.")
    ] = 1
    default_model: Annotated[
        str | None,
        Field(description="Model that answers `POST /predict` where several are served."),
    ] = None
    require: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(description="Names, by comma: the service does not start without these models."),
    ] = ()
    loaded_versions: Annotated[
        int, Field(ge=1, le=16, description="Newest proved versions of each model kept loaded.")
    ] = 1
    keep_previous: Annotated[
        bool, Field(description="Keep the version served before loaded, for instant rollback.")
    ] = True
    poll_s: Annotated[
        float,
        Field(ge=0, le=3600, description="How often to look for new versions and pins; 0 never."),
    ] = 5.0
    admin_key: Annotated[
        SecretStr | None,
        Field(description="Bearer token of `/admin`; without it there is none."),
    ] = None
    provider: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(
            min_length=1,
            description="Execution provider: `auto`, a name, or names by comma in order.",
        ),
    ] = ("auto",)
    provider_strict: Annotated[
        bool, Field(description="Refuse a model that its first provider cannot prove.")
    ] = False
    precision: Annotated[
        Precision,
        Field(description="Graph to run: `auto` is the fastest of the bundle's that proves."),
    ] = "fp32"
    per_model: Annotated[
        Mapping[str, ModelSettings],
        NoDecode,
        Field(
            description="JSON by model name: `provider`, `provider_strict`, `precision`,"
            " `timeout_ms`."
        ),
    ] = {}
    trial_timeout_s: Annotated[
        float | None,
        Field(gt=0, le=86_400, description="Time to prove a provider; unset: by provider."),
    ] = None
    calibration_budget_ms: Annotated[
        int, Field(ge=0, le=600_000, description="Time to measure a model's costs; 0 for none.")
    ] = 1500
    cache: Annotated[
        str,
        Field(
            min_length=1,
            description="Folder of verdicts on providers; `auto`: the user's own; `off`: none.",
        ),
    ] = "auto"
    plan: Annotated[
        Path | None, Field(description="File of plans made by `python -m app plan`.")
    ] = None
    threads: Annotated[
        int | None,
        Field(ge=1, le=1024, description="Cores to use; unset: affinity and cgroup quota."),
    ] = None
    queue_rows: Annotated[
        int, Field(ge=1, le=1_000_000, description="Rows that may wait for one model.")
    ] = 4096
    queue_bytes: Annotated[
        int,
        Field(ge=1024, le=2**40, description="Bytes of tensors that may wait for one model."),
    ] = 256 * 2**20
    max_request_rows: Annotated[
        int, Field(ge=1, le=1_000_000, description="Rows of one request; more is 413.")
    ] = 1024
    max_body_bytes: Annotated[
        int, Field(ge=1024, le=2**31, description="Bytes of one request body; more is 413.")
    ] = 4 * 2**20
    pending_body_bytes: Annotated[
        int,
        Field(ge=1024, le=2**36, description="Bytes of all request bodies at once; more is 503."),
    ] = 64 * 2**20
    timeout_ms: Annotated[
        int, Field(ge=1, le=3_600_000, description="Time limit of a request that names none.")
    ] = 30_000
    body_timeout_s: Annotated[
        float, Field(gt=0, le=3600, description="Time that a request body may take to arrive.")
    ] = 30.0
    max_connections: Annotated[
        int, Field(ge=1, le=1_000_000, description="Connections at once; one more is 503.")
    ] = 10_000
    max_head_bytes: Annotated[
        int, Field(ge=1024, le=2**20, description="Bytes of a request's head; more is 431.")
    ] = 32 * 1024
    head_timeout_s: Annotated[
        float, Field(gt=0, le=3600, description="Time that a request's head may take to arrive.")
    ] = 10.0
    idle_timeout_s: Annotated[
        float, Field(gt=0, le=86_400, description="A connection without requests is closed.")
    ] = 75.0
    write_timeout_s: Annotated[
        float, Field(gt=0, le=3600, description="Time for a caller to read on in its answers.")
    ] = 30.0
    fast_lane: Annotated[
        bool, Field(description="Answer inference on the connection itself, without ASGI.")
    ] = True
    drain_delay_s: Annotated[
        float,
        Field(ge=0, le=300, description="Keep accepting this long after SIGTERM, not ready."),
    ] = 0.0
    grace_s: Annotated[
        float, Field(gt=0, le=3600, description="Time for requests in flight to finish at the end.")
    ] = 8.0
    docs: Annotated[bool, Field(description="Serve `/docs` and `/openapi.json`.")] = True
    log_format: Annotated[
        Literal["auto", "json", "text"],
        Field(description="Log lines; `auto` is text on a terminal, else JSON."),
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="Least level logged.")
    ] = "info"

    _split_names = field_validator("require", "provider", mode="before")(_split)
    _read_json = field_validator("per_model", mode="before")(_from_json)

    @field_validator("admin_key")
    @classmethod
    def _long_enough(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and len(key) < _KEY_CHARACTERS:
            raise PydanticCustomError(
                "too_short", f"must have at least {_KEY_CHARACTERS} characters"
            )
        return key

    @property
    def cache_folder(self) -> Path | None:
        if self.cache == "off":
            return None
        if self.cache == "auto":
            return platformdirs.user_cache_path("modelport")
        return Path(self.cache)

    def of_model(self, name: str) -> ModelSettings:
        """What holds for one model: its own settings over those of the service."""
        own = self.per_model.get(name, ModelSettings()).model_dump(exclude_none=True)
        common = {
            "provider": self.provider,
            "provider_strict": self.provider_strict,
            "precision": self.precision,
            "timeout_ms": self.timeout_ms,
        }
        return ModelSettings(**(common | own))


def load_settings(**overrides: object) -> Settings:
    """Read the environment; command-line values in `overrides` win where they are not None.

    Raises:
        SettingsError: an unknown `MODELPORT_*` name or a bad value, in one line.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.upper().startswith(PREFIX) and name not in known | _BUILD_VARIABLES:
            close = difflib.get_close_matches(name.upper(), sorted(known), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise SettingsError(f"unknown setting {name}{hint}")
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError(_in_one_line(error.errors(include_url=False)[0])) from None


def _in_one_line(error: ErrorDetails) -> str:
    """Where it is wrong, what stands there, and why that will not do."""
    setting, *inner = (str(part) for part in error["loc"])
    name = PREFIX + setting.upper()
    shown = "" if name == _UNSHOWN else f"={error['input']!r}"
    reason = error["msg"]
    if error["type"] == "extra_forbidden":
        reason = f"there is no such setting; there are: {', '.join(ModelSettings.model_fields)}"
    return f"{'.'.join((name, *inner))}{shown}: {reason}"
