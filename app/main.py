"""Builds the web application and wires it to the service."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline

from app import __version__
from app.api import admin, boundary, catalogue, health, openapi, predict, v2
from app.service import Service
from app.settings import Settings, load_settings

DESCRIPTION = """\
Serves trained models that were proved on this machine.

Send rows to `POST /predict` or `POST /models/{name}/predict`; tensors to
`POST /v2/models/{name}/infer`. Every failure has the same body: `error`, `code`, `request_id`.
"""


def create_app(settings: Settings | None = None, service: Service | None = None) -> FastAPI:
    """The ASGI application.

    Args:
        settings: read from the environment when not given.
        service: one that the caller starts and stops; made and run by the application's own
            lifespan when not given.
    """
    settings = settings or (service.settings if service else load_settings())
    running = service or Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if service is not None:
            yield
            return
        await running.start()
        try:
            yield
        finally:
            await running.stop(settings.grace_s)

    app = _framework(settings, lifespan)
    boundary.install(app, running.metrics)
    # The busy routes first: they are looked up in order.
    app.router.routes[:0] = [
        *predict.routes(settings, lambda: running.handler),
        *v2.infer_routes(settings, lambda: running.handler),
    ]
    if settings.docs:
        # What a person finds who opens the address that the log shows.
        app.add_api_route("/", lambda: RedirectResponse("/docs"), include_in_schema=False)
    app.include_router(health.router(lambda: running.is_ready, running.metrics))
    app.include_router(catalogue.router(lambda: running.registry))
    app.include_router(v2.router(lambda: running.is_ready, lambda: running.registry))
    if settings.admin_key is not None:
        app.include_router(
            admin.router(
                admin.Admin(
                    admin.hash_key(settings.admin_key.get_secret_value()),
                    lambda: running.registry,
                    lambda: running.reloader,
                    lambda: running.tell_others(),  # noqa: PLW0108 (it may be set later)
                )
            )
        )
    app.openapi = _documented(app, running)  # type: ignore[method-assign]
    return app


def _framework(settings: Settings, lifespan: Any) -> FastAPI:
    about: dict[str, Any] = {
        "title": "Modelport",
        "version": __version__,
        "description": DESCRIPTION,
        "lifespan": lifespan,
        "redirect_slashes": False,
        "redoc_url": None,
    }
    if not settings.docs:
        return FastAPI(docs_url=None, openapi_url=None, **about)
    # Swagger UI from the package: the page works where no other host is reached.
    offline: FastAPI = FastAPIOffline(**about)
    return offline


def _documented(app: FastAPI, service: Service) -> Any:
    """`app.openapi`, made anew whenever other versions are served."""
    made: dict[tuple[str, ...], dict[str, Any]] = {}
    ordinary = functools.cache(lambda: openapi.ordinary_routes(app))

    def document() -> dict[str, Any]:
        key = tuple(model.digest for model in service.registry.served.values())
        if key not in made:
            made.clear()
            made[key] = openapi.build(
                ordinary(), service.registry, service.settings.max_request_rows
            )
        return made[key]

    return document
