"""Every error that Modelport raises on purpose; each owns one HTTP status and one code.

ModelportError                      500 internal
├── StartupError                    a command cannot do its work: one line, exit status 2
│   ├── SettingsError               a setting is unknown or has a bad value
│   ├── NothingToServe              no model can be served, or a required one cannot
│   └── PinFailed                   a version cannot be pinned from the command line; status 1
├── BundleError                     a published model is not what it says
│   ├── BundleIncomplete            a file that the manifest names is missing or short
│   ├── BundleCorrupt               a file or the manifest differs from what was published
│   ├── BundleUnsupported           its schema, operators or layout are not taken here
│   └── PublishFailed               the bundle could not be written
├── EngineError                     500 model_failed
│   ├── SessionFailed               ONNX Runtime refused to open or run the model
│   ├── NonFiniteOutput             500 non_finite_output: JSON has no NaN or infinity
│   └── ProofFailed                 no execution provider gave the golden answers
└── RequestError                    400 bad_request: the caller can do something about it
    ├── MalformedBody               400 malformed_body
    ├── InvalidTensor               400 invalid_tensor
    ├── Unauthorized                401 unauthorized (WWW-Authenticate says how)
    ├── NotFound                    404 not_found
    │   ├── ModelNotFound           404 model_not_found
    │   └── ModelRequired           404 model_required
    ├── MethodNotAllowed            405 method_not_allowed
    ├── RequestTimeout              408 request_timeout
    ├── PinRefused                  409 pin_refused
    ├── RepositoryReadOnly          409 read_only
    ├── PayloadTooLarge             413 payload_too_large
    ├── UnsupportedMediaType        415 unsupported_media_type
    ├── ValidationFailed            422 validation_failed
    ├── Unavailable                 503 unavailable (carries Retry-After)
    │   ├── NotReady                503 not_ready
    │   ├── Overloaded              503 overloaded
    │   └── Draining                503 draining
    ├── Cancelled                   499 cancelled (counted, never sent: the caller has left)
    └── DeadlineExceeded            504 deadline_exceeded

No web framework is known here: `app.api` turns these into responses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Detail:
    """One place in a request that is wrong: `loc` is the path to it, `type` a machine word."""

    loc: tuple[str | int, ...]
    msg: str
    type: str


class ModelportError(Exception):
    """Root of the tree. `str(error)` is meant for the user and holds no path, secret or input."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retry_after_s: int | None = None
    details: Sequence[Detail] = ()


class StartupError(ModelportError):
    exit_status: ClassVar[int] = 2


class SettingsError(StartupError):
    pass


class NothingToServe(StartupError):
    exit_status: ClassVar[int] = 3


class PinFailed(StartupError):
    exit_status: ClassVar[int] = 1


class BundleError(ModelportError):
    code = "bad_bundle"


class BundleIncomplete(BundleError):
    pass


class BundleCorrupt(BundleError):
    pass


class BundleUnsupported(BundleError):
    pass


class PublishFailed(BundleError):
    pass


class EngineError(ModelportError):
    code = "model_failed"


class SessionFailed(EngineError):
    pass


class NonFiniteOutput(EngineError):
    code = "non_finite_output"


class ProofFailed(EngineError):
    """No execution provider gave the golden answers.

    Args:
        passing: one crashed, hung or could not be tried, which may be otherwise another time.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class RequestError(ModelportError):
    status = 400
    code = "bad_request"


class MalformedBody(RequestError):
    code = "malformed_body"


class InvalidTensor(RequestError):
    code = "invalid_tensor"


class Unauthorized(RequestError):
    status = 401
    code = "unauthorized"


class NotFound(RequestError):
    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class ModelRequired(NotFound):
    code = "model_required"


class MethodNotAllowed(RequestError):
    status = 405
    code = "method_not_allowed"


class RequestTimeout(RequestError):
    status = 408
    code = "request_timeout"


class PinRefused(RequestError):
    status = 409
    code = "pin_refused"


class RepositoryReadOnly(RequestError):
    status = 409
    code = "read_only"


class PayloadTooLarge(RequestError):
    status = 413
    code = "payload_too_large"


class HeadTooLarge(RequestError):
    status = 431
    code = "head_too_large"


class UnsupportedMediaType(RequestError):
    status = 415
    code = "unsupported_media_type"


class ValidationFailed(RequestError):
    """The body is well-formed but does not fit the model's signature; `details` says where."""

    status = 422
    code = "validation_failed"

    def __init__(self, message: str, details: Sequence[Detail] = ()) -> None:
        super().__init__(message)
        self.details = details


class Unavailable(RequestError):
    status = 503
    code = "unavailable"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(Unavailable):
    code = "not_ready"


class Overloaded(Unavailable):
    code = "overloaded"


class Draining(Unavailable):
    code = "draining"


class Cancelled(RequestError):
    status = 499
    code = "cancelled"


class DeadlineExceeded(RequestError):
    status = 504
    code = "deadline_exceeded"
