"""The hinge between training and serving: what a published model is.

A leaf: it knows numpy, pydantic and Pillow, and neither ONNX Runtime nor HTTP nor torch.
`training` imports from `app` only this package.
"""

from app.errors import (
    BundleCorrupt,
    BundleError,
    BundleIncomplete,
    BundleUnsupported,
    PublishFailed,
)

__all__ = [
    "BundleCorrupt",
    "BundleError",
    "BundleIncomplete",
    "BundleUnsupported",
    "PublishFailed",
]
