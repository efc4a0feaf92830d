"""What must hold of a bundle before anything of it is run: its own parts agree."""

import numpy as np

from app.bundle.features import FeatureError, image_from_bytes
from app.bundle.golden import Golden, chosen_labels, lead
from app.bundle.manifest import Manifest, Precision
from app.bundle.operators import check_operators
from app.bundle.signature import ImageField, LabelPrediction, Signature
from app.bundle.store import Bundle, verify
from app.bundle.tensors import Tensors, datatype_of
from app.errors import BundleCorrupt


def check_evidence(bundle: Bundle) -> None:
    """Check every file, the operators of every graph, and the golden rows.

    Raises:
        BundleError: the files are not what was published, or disagree.
    """
    verify(bundle)
    precisions: list[Precision] = ["fp32", *bundle.manifest.variants]
    for precision in precisions:
        check_operators(bundle.model(precision))
    golden = bundle.golden()
    check_golden(golden, bundle.manifest.signature)
    check_labels(golden, bundle.manifest)
    check_raw_examples(golden, bundle.manifest.signature)


def check_golden(golden: Golden, signature: Signature) -> None:
    """Golden tensors must be those of the signature, or no replay could be judged."""
    for side, tensors, specs in (
        ("input", golden.inputs, signature.inputs),
        ("output", golden.outputs, signature.outputs),
    ):
        if _datatypes(tensors) != {spec.name: spec.datatype for spec in specs}:
            raise BundleCorrupt(f"golden {side}s are not those of the signature")


def check_labels(golden: Golden, manifest: Manifest) -> None:
    """Golden labels must be the names that the manifest gives to the golden scores."""
    for prediction in manifest.signature.predictions:
        if not isinstance(prediction, LabelPrediction):
            continue
        labels = golden.outputs[prediction.tensor].reshape(-1)
        if not set(labels) <= set(prediction.labels):
            raise BundleCorrupt(f"golden {prediction.name!r} has labels that the manifest has not")
        scores = golden.outputs.get(prediction.scores_tensor or "")
        if scores is None or scores.ndim != 2 or scores.shape[1] != len(prediction.labels):
            continue
        chosen = chosen_labels(scores, prediction.threshold)
        named = np.array(prediction.labels, dtype=object)[chosen]
        clear = lead(scores, prediction.threshold) > manifest.tie_margin
        if (named != labels)[clear].any():
            by = "best score" if prediction.threshold is None else "scores and their threshold"
            raise BundleCorrupt(f"golden {prediction.name!r} is not the label of the {by}")


def _datatypes(tensors: Tensors) -> dict[str, str]:
    try:
        return {name: datatype_of(array) for name, array in tensors.items()}
    except TypeError:
        return {}


def check_raw_examples(golden: Golden, signature: Signature) -> None:
    """Encoded golden inputs must decode here to the arrays that they were in training.

    Raises:
        BundleCorrupt: they do not, so pictures would be seen differently than in training.
    """
    fields = {field.name: field for field in signature.fields}
    for example in golden.raw:
        field = fields.get(example.field)
        if not isinstance(field, ImageField):
            raise BundleCorrupt(f"golden has encoded rows of {example.field!r}, not an image field")
        try:
            row = image_from_bytes(example.encoded, field)
        except FeatureError as error:
            raise BundleCorrupt(f"golden picture of {example.field!r} {error}") from None
        if not np.array_equal(row, example.row):
            raise BundleCorrupt(
                f"a golden picture of {example.field!r} decodes differently here than in training"
            )
