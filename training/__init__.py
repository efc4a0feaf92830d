"""Offline training: from raw data to a published bundle that carries the proof that it works.

`pipeline.run` is the whole road in one function. Of `app` only `app.bundle` is imported.
"""

import os

# ONNX Runtime reports usage by default; the switch is read when it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
