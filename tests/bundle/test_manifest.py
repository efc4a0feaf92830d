import json

import pytest
from pydantic import ValidationError

from app.bundle import BundleCorrupt, BundleUnsupported
from app.bundle.manifest import (
    SCHEMA_VERSION,
    Gate,
    Manifest,
    Tolerance,
    Variant,
    parse_manifest,
)
from app.bundle.signature import (
    CategoryField,
    ImageField,
    IntegerField,
    LabelPrediction,
    NumberField,
    ScoresPrediction,
    Signature,
    TensorSpec,
    TextField,
    ValuePrediction,
)
from tests.bundle.small import SIGNATURE, manifest

X = TensorSpec(name="x", datatype="FP32", shape=("batch", 2))
Y = TensorSpec(name="y", datatype="BYTES", shape=("batch",))
A = NumberField(name="a", tensor="x", column=0)
B = NumberField(name="b", tensor="x", column=1)
LABEL = LabelPrediction(name="label", tensor="y", labels=("no", "yes"))


def signature(**changes: object) -> Signature:
    parts = {"inputs": (X,), "outputs": (Y,), "fields": (A, B), "predictions": (LABEL,)}
    return Signature(**{**parts, **changes})


def document(**changes: object) -> bytes:
    return json.dumps({**json.loads(manifest().to_json()), **changes}).encode()


def test_manifest_survives_its_json():
    assert parse_manifest(manifest().to_json()) == manifest()


def test_manifest_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        manifest().version = 2


def test_newer_minor_with_unknown_keys_is_read():
    major = SCHEMA_VERSION.partition(".")[0]

    read = parse_manifest(document(schema_version=f"{major}.99", shiny={"new": 1}))

    assert read.schema_version == f"{major}.99"
    assert not hasattr(read, "shiny")


@pytest.mark.parametrize("version", ["2.0", "0.9", "10.0"])
def test_other_major_is_refused_with_what_to_do(version: str):
    with pytest.raises(BundleUnsupported, match="publish the model again"):
        parse_manifest(document(schema_version=version))


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        (b"", "document"),
        (b"[]", "document"),
        (b'{"schema_version": "one"}', "schema_version|name"),
        (document(version=0), "version"),
        (document(name="../up"), "name"),
        (document(schema_version="1"), "schema_version"),
        (document(batching={"row_independent": True, "max_rows": 0, "checked_rows": []}), "max_ro"),
        (document(files={"model.onnx": {"size_bytes": 1, "sha256": "short"}}), "files"),
        (document(tolerances={"fp64": {}}), "tolerances"),
        (b"\xff\xfe", "document"),
        (b"[" * 100_000, "document"),
    ],
)
def test_what_is_no_manifest_is_corrupt_and_says_where(raw: bytes, place: str):
    with pytest.raises(BundleCorrupt, match=place):
        parse_manifest(raw)


def test_message_about_a_bad_manifest_does_not_echo_it():
    with pytest.raises(BundleCorrupt) as caught:
        parse_manifest(document(name="secret value"))

    assert "secret value" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fields": (A,)}, "do not feed each column of tensor 'x'"),
        ({"fields": (A, A.model_copy(update={"name": "c"}))}, "exactly once"),
        ({"fields": (A, A)}, "two fields share a name"),
        ({"fields": (A, B.model_copy(update={"column": 2}))}, "exactly once"),
        ({"fields": (A, B.model_copy(update={"column": None}))}, "exactly once"),
        ({"fields": (A, B.model_copy(update={"tensor": "z"}))}, "feeds unknown tensor 'z'"),
        ({"inputs": (X, X)}, "two inputs share a name"),
        ({"inputs": (X, Y)}, "tensor 'y'"),
        ({"outputs": (X,)}, "reads unknown tensor 'y'"),
        ({"predictions": (LABEL, LABEL)}, "two predictions share a name"),
        ({"predictions": ()}, "at least 1 item"),
    ],
)
def test_levels_that_do_not_agree_are_refused(changes: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        signature(**changes)


def test_one_field_may_feed_a_whole_row():
    image = TensorSpec(name="image", datatype="UINT8", shape=("batch", 8, 8))
    field = ImageField(name="image", tensor="image", height=8, width=8)

    assert signature(inputs=(image,), fields=(field,)).input("image") is image


def test_field_that_may_be_left_out_must_be_nullable():
    with pytest.raises(ValidationError, match="must be nullable"):
        NumberField(name="a", tensor="x", column=0, required=False)


@pytest.mark.parametrize(
    "name",
    ["a", "1", "body mass (g)", "Länge", "a" * 128, 'a,"b"', "<numbers>", "__class__", "身長"],
)
def test_fields_are_named_as_people_name_columns(name: str):
    assert NumberField(name=name, tensor="x").name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "at least 1 character"),
        ("a" * 129, "at most 128 characters"),
        (" a", "begin or end with a blank"),
        ("a ", "begin or end with a blank"),
        ("a\tb", "no control characters"),
        ("a\u00a0b", "no other blanks"),
        ("a\u200bb", "no control characters"),
        ("a\u0308", "normal form C"),
    ],
)
def test_field_names_that_cannot_be_seen_or_told_apart_are_refused(name: str, message: str):
    with pytest.raises(ValidationError, match=message):
        NumberField(name=name, tensor="x")


@pytest.mark.parametrize("dim", ["", "a b", "ä", "1a"])
def test_dims_are_plain(dim: str):
    with pytest.raises(ValidationError):
        TensorSpec(name="x", datatype="FP32", shape=(dim,))


@pytest.mark.parametrize(
    "wrong", [{"labels": ("a", "b", "c"), "scores_tensor": "s"}, {"labels": ("a", "b")}]
)
def test_a_threshold_needs_two_labels_and_their_scores(wrong: dict[str, object]):
    with pytest.raises(ValidationError, match="needs two labels and the scores"):
        LabelPrediction(name="label", tensor="y", threshold=0.3, **wrong)


def test_category_needs_a_vocabulary():
    with pytest.raises(ValidationError):
        CategoryField(name="a", tensor="x", vocabulary=())


def test_tensors_are_found_by_name():
    assert SIGNATURE.output("scores").shape == ("batch", 2)


@pytest.mark.parametrize(
    ("bounds", "value", "passed"),
    [
        ({"minimum": 0.9}, 0.9, True),
        ({"minimum": 0.9}, 0.89, False),
        ({"maximum": 0.1}, 0.1, True),
        ({"maximum": 0.1}, 0.2, False),
        ({"minimum": 0.1, "maximum": 0.2}, 0.15, True),
        ({}, float("nan"), False),
    ],
)
def test_gate_passes_within_its_bounds(bounds: dict[str, float], value: float, passed: bool):
    assert Gate(metric="m", split="test", value=value, **bounds).passed is passed


def test_manifest_makes_a_json_schema():
    schema = Manifest.model_json_schema()

    assert {"name", "version", "signature", "batching", "tolerances"} <= set(schema["required"])


@pytest.mark.parametrize(
    ("field", "datatype"),
    [
        (NumberField(name="a", tensor="x"), "INT64"),
        (NumberField(name="a", tensor="x"), "BOOL"),
        (IntegerField(name="a", tensor="x"), "BOOL"),
        (CategoryField(name="a", tensor="x", vocabulary=("u", "v")), "INT64"),
        (TextField(name="a", tensor="x"), "FP32"),
    ],
)
def test_a_datatype_that_would_change_a_fields_values_is_refused(field, datatype):
    with pytest.raises(ValidationError, match="cannot carry"):
        Signature(
            inputs=(TensorSpec(name="x", datatype=datatype, shape=("batch",)),),
            outputs=(TensorSpec(name="y", datatype="FP32", shape=("batch",)),),
            fields=(field,),
            predictions=(ValuePrediction(name="y", tensor="y"),),
        )


@pytest.mark.parametrize(
    ("prediction", "shape"),
    [
        (ValuePrediction(name="p", tensor="y"), ("batch", 4)),
        (LabelPrediction(name="p", tensor="y", labels=("a", "b")), ("batch",)),
        (ScoresPrediction(name="p", tensor="y", labels=("a", "b")), ("batch", 3)),
        (ScoresPrediction(name="p", tensor="y", labels=("a", "b")), ("batch",)),
    ],
)
def test_a_prediction_that_would_read_other_rows_values_is_refused(prediction, shape):
    with pytest.raises(ValidationError, match="cannot be read from"):
        Signature(
            inputs=(X,),
            outputs=(TensorSpec(name="y", datatype="FP32", shape=shape),),
            fields=(A, B),
            predictions=(prediction,),
        )


@pytest.mark.parametrize(
    ("field", "datatype", "shape"),
    [
        (NumberField(name="a", tensor="x"), "FP32", ("batch", 4)),
        (ImageField(name="a", tensor="x", height=4, width=4), "UINT8", ("batch", 8, 8)),
        (ImageField(name="a", tensor="x", height=8, width=8, channels=3), "UINT8", ("batch", 8, 8)),
    ],
)
def test_a_field_that_does_not_fill_its_row_is_refused(field, datatype, shape):
    with pytest.raises(ValidationError, match="has values of shape"):
        Signature(
            inputs=(TensorSpec(name="x", datatype=datatype, shape=shape),),
            outputs=(Y,),
            fields=(field,),
            predictions=(LABEL,),
        )


# Graphs of fewer bits

INT8 = Variant(
    file="model.int8.onnx", tolerances={"scores": Tolerance(atol=0.1, rtol=0)}, agreement=0.98
)


def with_int8() -> Manifest:
    return manifest().model_copy(update={"variants": {"int8": INT8}})


def test_variants_survive_json():
    assert parse_manifest(with_int8().to_json()) == with_int8()


def test_a_manifest_from_before_variants_has_none():
    old = json.loads(manifest().to_json())
    del old["variants"], old["agreement"]
    old["schema_version"] = "1.0"

    read = parse_manifest(json.dumps(old).encode())

    assert (read.variants, read.agreement, read.schema_version) == ({}, 1.0, "1.0")


def test_a_variant_is_the_same_model_with_its_own_bar():
    whole = with_int8()

    own = whole.variant("int8")

    assert own.tolerances == {"reduced": INT8.tolerances}
    assert own.agreement == 0.98
    assert (own.signature, own.batching, own.tie_margin) == (
        whole.signature,
        whole.batching,
        whole.tie_margin,
    )
    assert whole.variant("fp32") == whole


def test_each_graph_has_its_file():
    assert with_int8().model_file() == with_int8().model_file("fp32") == "model.onnx"
    assert with_int8().model_file("int8") == "model.int8.onnx"


@pytest.mark.parametrize(
    ("name", "changes", "place"),
    [
        ("int4", {}, "variants.int4"),
        ("fp32", {}, "variants.fp32"),
        ("int8", {"file": "../model.onnx"}, "variants.int8.file"),
        ("int8", {"file": ""}, "variants.int8.file"),
        ("int8", {"agreement": 1.1}, "variants.int8.agreement"),
        ("int8", {"agreement": -0.1}, "variants.int8.agreement"),
        ("int8", {"tolerances": {"scores": {"atol": -1, "rtol": 0}}}, "variants.int8.tolerances"),
        ("int8", {"tolerances": None}, "variants.int8.tolerances"),
    ],
)
def test_what_is_no_variant_is_corrupt_and_says_where(name: str, changes, place: str):
    variant = json.loads(INT8.model_dump_json()) | changes

    with pytest.raises(BundleCorrupt, match=place):
        parse_manifest(document(variants={name: variant}))


def test_a_share_that_is_none_is_corrupt():
    with pytest.raises(BundleCorrupt, match="agreement"):
        parse_manifest(document(agreement=2))
