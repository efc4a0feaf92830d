"""Modelport's service: loads published bundles, proves them on this machine, and serves them."""

import os

# ONNX Runtime reports usage by default; the switch is read when it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
