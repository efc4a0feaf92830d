"""The typed routes, for people: `POST /predict` and its longer forms."""

import functools
from collections.abc import Callable
from typing import Final

from starlette.routing import Route

from app.api.codecs.instances import InstancesCodec
from app.api.endpoint import InferenceEndpoint
from app.api.handler import Handler, InferenceRoute
from app.settings import Settings

PATHS: Final = (
    "/predict",
    "/models/{name}/predict",
    "/models/{name}/versions/{version}/predict",
)


def routes(settings: Settings, handler: Callable[[], Handler]) -> list[Route]:
    codec = functools.partial(InstancesCodec, max_rows=settings.max_request_rows)
    endpoint = InferenceEndpoint(InferenceRoute("predict", codec), handler, settings.body_timeout_s)
    return [Route(path, endpoint, methods=["POST"]) for path in PATHS]
