"""Measurements: each command prints what it saw, and one JSON document as its last line."""

import app  # noqa: F401 (sets the switch of ONNX Runtime's telemetry before that is imported)
