"""The typed routes, for people: `POST /predict` and its longer forms."""

import functools
from collections.abc import Callable
from typing import Final

from starlette.routing import Route

from app.api.codecs import CSV, JSON, NDJSON, NPY, WireFormat, csv_table, npy_tensor, picture
from app.api.codecs.instances import InstancesCodec
from app.api.codecs.ndjson import NdjsonCodec
from app.api.endpoint import InferenceEndpoint
from app.api.handler import Handler, InferenceRoute
from app.settings import Settings

PATHS: Final = (
    "/predict",
    "/models/{name}/predict",
    "/models/{name}/versions/{version}/predict",
)


def formats(settings: Settings) -> list[WireFormat]:
    """The wire formats of the typed routes; JSON where a request names none."""
    rows = settings.max_request_rows
    npy = functools.partial(
        npy_tensor.TypedNpyCodec, max_rows=rows, max_tensor_bytes=4 * settings.max_body_bytes
    )
    return [
        WireFormat((JSON,), functools.partial(InstancesCodec, max_rows=rows)),
        WireFormat((CSV,), functools.partial(csv_table.CsvCodec, max_rows=rows), csv_table.fits),
        WireFormat((NDJSON,), functools.partial(NdjsonCodec, max_rows=rows)),
        WireFormat((NPY,), npy, npy_tensor.fits),
        WireFormat(picture.MEDIA_TYPES, picture.PictureCodec, picture.fits),
    ]


def routes(settings: Settings, handler: Callable[[], Handler]) -> list[Route]:
    route = InferenceRoute("predict", *formats(settings))
    endpoint = InferenceEndpoint(route, handler, settings.body_timeout_s)
    return [Route(path, endpoint, methods=["POST"]) for path in PATHS]
