"""`/admin`: reload and pin models, for holders of the admin key. There is none without a key."""

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect

from app.api.catalogue import VersionState, version_states
from app.api.head import too_large
from app.engine.versions.entry import Entry
from app.engine.versions.registry import Registry
from app.engine.versions.reloader import Reloader
from app.errors import Cancelled, Detail, RequestTimeout, Unauthorized, ValidationFailed

DEFAULT_WAIT_S: Final = 30.0
_MAX_WAIT_S: Final = 600.0
_MAX_BODY_BYTES: Final = 1024
_BODY_TIMEOUT_S: Final = 10.0

WaitS = Annotated[
    float,
    Query(
        ge=0,
        le=_MAX_WAIT_S,
        allow_inf_nan=False,
        description="How many seconds to wait for the outcome.",
    ),
]


class ModelState(BaseModel):
    """What became of a model; `loading` is there while a version is being loaded."""

    model: str
    served: int | None = None
    loaded: list[int]
    loading: int | None = None
    refused: dict[int, str]
    pin: int | None = None
    #: Why the pin is not obeyed.
    pin_problem: str | None = None
    versions: list[VersionState]


class ModelStates(BaseModel):
    models: list[ModelState]


class PinRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: int = Field(ge=1, le=999_999_999)


@dataclass(frozen=True)
class Admin:
    """What the routes work on.

    Attributes:
        key_hash: of the admin key, which is not kept.
        tell_others: called after a change, for processes that serve beside.
    """

    key_hash: bytes
    registry: Callable[[], Registry]
    reloader: Callable[[], Reloader]
    tell_others: Callable[[], None]


def router(admin: Admin) -> APIRouter:
    """The routes; each is answered with 401 to whoever does not hold the key."""
    check = _key_check(admin.key_hash)
    routes = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(check)])
    options: dict[str, Any] = {
        "response_model": ModelState,
        "response_model_exclude_none": True,
        "responses": {202: {"model": ModelState, "description": "Still loading."}},
    }

    @routes.get(
        "/models",
        operation_id="admin_models",
        summary="Every model and version, served or not",
        response_model_exclude_none=True,
    )
    async def models() -> ModelStates:
        entries = admin.registry().entries
        return ModelStates(models=[_state(entry) for _, entry in sorted(entries.items())])

    @routes.post(
        "/models/{name}/reload", operation_id="admin_reload", summary="Look again, now", **options
    )
    async def reload(name: str, response: Response, wait_s: WaitS = DEFAULT_WAIT_S) -> ModelState:
        return changed(await admin.reloader().reload(name, wait_s), response)

    @routes.post(
        "/models/{name}/pin",
        operation_id="admin_pin",
        summary="Serve this version, whatever else is published",
        openapi_extra=_PIN_BODY,
        **options,
    )
    async def pin(
        name: str, request: Request, response: Response, wait_s: WaitS = DEFAULT_WAIT_S
    ) -> ModelState:
        wanted = _pin_request(await _body(request))
        return changed(await admin.reloader().pin(name, wanted.version, wait_s), response)

    @routes.delete(
        "/models/{name}/pin", operation_id="admin_unpin", summary="Remove the pin", **options
    )
    async def unpin(name: str, response: Response, wait_s: WaitS = DEFAULT_WAIT_S) -> ModelState:
        return changed(await admin.reloader().unpin(name, wait_s), response)

    def changed(entry: Entry, response: Response) -> ModelState:
        admin.tell_others()
        response.status_code = 202 if entry.is_at_work else 200
        return _state(entry)

    return routes


_PIN_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": PinRequest.model_json_schema()}},
    }
}


def hash_key(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _key_check(key_hash: bytes) -> Callable[..., Coroutine[Any, Any, None]]:
    bearer = HTTPBearer(auto_error=False, scheme_name="AdminKey")

    # `async`, or it would run on a thread.
    async def check(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    ) -> None:
        # Headers are Latin-1 to the framework; a key is UTF-8.
        raw = b"" if given is None else given.credentials.encode("latin-1")
        if not hmac.compare_digest(hashlib.sha256(raw).digest(), key_hash):
            raise Unauthorized("this needs the admin key: Authorization: Bearer KEY")

    return check


async def _body(request: Request) -> bytes:
    """The whole body, which is small.

    Raises:
        PayloadTooLarge: it is not.
        RequestTimeout: it took too long to arrive.
    """
    body = b""
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MAX_BODY_BYTES:
                    raise too_large(_MAX_BODY_BYTES)
    except TimeoutError:
        raise RequestTimeout("the body took too long to arrive") from None
    except ClientDisconnect:
        raise Cancelled("the caller has left") from None
    return body


def _pin_request(body: bytes) -> PinRequest:
    try:
        return PinRequest.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        details = [Detail(("body", *f["loc"]), f["msg"], f["type"]) for f in faults]
        raise ValidationFailed('the body must be {"version": N}', details) from None


def _state(entry: Entry) -> ModelState:
    return ModelState(
        model=entry.name,
        served=entry.served,
        loaded=list(entry.loaded),
        loading=entry.wanted if entry.loading is None else entry.loading,
        refused=dict(entry.refused),
        pin=entry.pin,
        pin_problem=entry.pin_problem or None,
        versions=version_states(entry),
    )
