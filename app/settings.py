"""Every setting of the service, from `MODELPORT_*` environment variables; frozen once read.

This is the only file that looks at the environment (but for the telemetry switch in
`app/__init__.py`).
"""

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import SettingsError

PREFIX: Final = "MODELPORT_"
#: Read by the Makefile, not by the service; listed so that they do not count as misspelt.
_BUILD_VARIABLES: Final = frozenset({"MODELPORT_TORCH_INDEX"})


class Settings(BaseSettings):
    """Units are in the names. `docs/settings.md` is made from this class."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True
    )

    models: Annotated[Path, Field(description="Folder of the model repository.")] = Path("models")
    host: Annotated[str, Field(min_length=1, description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="Port; 0 picks a free one.")] = 8000
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
    threads: Annotated[
        int | None,
        Field(ge=1, le=1024, description="Cores to use; unset: affinity and cgroup quota."),
    ] = None
    queue_rows: Annotated[
        int, Field(ge=1, le=1_000_000, description="Rows that may wait for one model.")
    ] = 4096
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

    @field_validator("require", "provider", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value


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
        first = error.errors(include_url=False)[0]
        name = PREFIX + ".".join(str(part) for part in first["loc"][:1]).upper()
        raise SettingsError(f"{name}={first['input']!r}: {first['msg']}") from None
