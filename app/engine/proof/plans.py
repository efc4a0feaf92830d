"""Plans in a file, so that a fleet of equal machines measures once."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.engine.proof.plan import Plan
from app.errors import SettingsError

logger = logging.getLogger(__name__)

_SCHEMA_VERSION: Final = "1.0"
_MOST_BYTES: Final = 64 * 2**20


class PlanFile(BaseModel):
    """Plans by the digest of the version that they are for."""

    model_config = ConfigDict(frozen=True)

    schema_version: str = Field(default=_SCHEMA_VERSION, pattern=r"^1\.[0-9]+$")
    plans: Mapping[str, Plan]


def load_plans(path: Path) -> Mapping[str, Plan]:
    """Plans by digest.

    Raises:
        SettingsError: the file is missing or is not what `python -m app plan` writes.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise SettingsError(f"MODELPORT_PLAN: larger than {_MOST_BYTES} bytes")
        return PlanFile.model_validate_json(path.read_bytes()).plans
    except OSError as error:
        raise SettingsError(f"MODELPORT_PLAN cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        raise SettingsError(f"MODELPORT_PLAN is not valid at {place}: {first['msg']}") from None


def save_plans(path: Path, plans: Mapping[str, Plan]) -> None:
    """Write a file for `load_plans`, by replacing the old one.

    Raises:
        SettingsError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.tmp")
    try:
        draft.write_text(PlanFile(plans=plans).model_dump_json(indent=1) + "\n")
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise SettingsError(f"the plans cannot be written: {error.strerror}") from None
