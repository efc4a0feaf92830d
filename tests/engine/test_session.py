import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.bundle.golden import replay
from app.bundle.signature import Signature, TensorSpec
from app.bundle.tensors import datatype_of
from app.engine.providers.candidates import CPU_PROVIDER, Candidate
from app.engine.session import Session
from app.errors import BundleUnsupported, SessionFailed
from tests.api.live import PATIENCE_S, ROOT
from tests.support import models
from tests.support.bundles import RECIPES, make_golden, make_manifest

INDEPENDENT = sorted(name for name in RECIPES if name != "mixer")


def opened(model: str, candidate: Candidate) -> Session:
    return Session.open(models.model_bytes(model), candidate, 1)


@pytest.mark.parametrize("model", INDEPENDENT)
def test_every_fixture_model_gives_its_golden_answers(model: str, cpu: Candidate) -> None:
    session = opened(model, cpu)

    found = replay(session.run, make_golden(model), make_manifest(model, 1, model), (1, 7, 16))

    assert found.numeric_class == "fp32"


@pytest.mark.parametrize("model", sorted(RECIPES))
def test_the_signature_is_read_from_the_graph(model: str, cpu: Candidate) -> None:
    session, signature = opened(model, cpu), RECIPES[model]().signature

    assert (session.inputs, session.outputs) == (signature.inputs, signature.outputs)
    assert session.matches(signature) is None


def test_strings_are_objects_of_str_both_ways(cpu: Candidate) -> None:
    colours = np.array(["red", "grün", ""], dtype=object)

    outputs = opened("strings", cpu).run({"colour": colours})

    assert outputs["pigment"].tolist() == ["vermilion", "unknown", "unknown"]
    assert datatype_of(outputs["pigment"]) == "BYTES"
    assert outputs["id"].tolist() == [2, -1, -1]


def test_rows_in_any_memory_layout(cpu: Candidate) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)[:, 1:].T

    got = opened("affine", cpu).run({"x": x})

    np.testing.assert_allclose(got["y"], models.affine({"x": x})["y"], atol=1e-5)


def test_no_rows_are_no_rows(cpu: Candidate) -> None:
    got = opened("affine", cpu).run({"x": np.zeros((0, 3), np.float32)})

    assert got["y"].shape == (0, 2)


def test_nodes_are_counted_after_optimisation(cpu: Candidate) -> None:
    # MatMul and Add became one Gemm.
    assert opened("affine", cpu).nodes_by_provider == {CPU_PROVIDER: 2}


def damaged() -> dict[str, bytes]:
    whole = models.model_bytes("conv")
    middle = len(whole) // 2
    return {
        "empty": b"",
        "text": b"not a model at all",
        "truncated": whole[:middle],
        "one byte short": whole[:-1],
        "zeroed": whole[:100] + bytes(len(whole) - 100),
        "another operator": whole.replace(b"Softmax", b"Softmix"),
        "a name that nothing gives": whole.replace(b"pooled", b"fooled", 1),
    }


@pytest.mark.parametrize("damage", damaged())
def test_a_damaged_model_is_refused_without_noise(
    damage: str, cpu: Candidate, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SessionFailed) as refused:
        Session.open(damaged()[damage], cpu, 1)

    message = str(refused.value)
    assert message.startswith("the model cannot be opened: ")
    assert "/" not in message
    assert "\n" not in message
    assert len(message) < 300
    assert refused.value.__cause__ is not None
    assert capfd.readouterr() == ("", "")


def test_weights_in_another_file_are_refused(
    cpu: Candidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.bin").write_bytes(models.AFFINE_WEIGHT.tobytes())
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SessionFailed, match="External data") as refused:
        opened("external", cpu)

    assert str(tmp_path) not in str(refused.value)


def test_where_the_runtime_failed_is_left_out_of_the_message(cpu: Candidate) -> None:
    from_the_future = models.model_bytes("affine").replace(bytes([0x10, 20]), bytes([0x10, 99]))

    with pytest.raises(SessionFailed) as refused:
        Session.open(from_the_future, cpu, 1)

    assert str(refused.value).startswith("the model cannot be opened: ONNX Runtime only ")


def test_a_provider_that_is_not_here_is_refused() -> None:
    with pytest.raises(SessionFailed, match="NowhereExecutionProvider is not part of this ONNX"):
        opened("affine", Candidate("NowhereExecutionProvider", "gpu"))


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(SessionFailed, match="nowhere lists no device 3"):
        opened("affine", Candidate("nowhere", "gpu", device_index=3))


def test_a_failing_run_tells_no_input_and_leaves_the_session_usable(
    cpu: Candidate, capfd: pytest.CaptureFixture[str]
) -> None:
    session = opened("poison", cpu)

    with pytest.raises(SessionFailed) as failed:
        session.run({"index": np.array([1, 987654])})

    assert str(failed.value) == "the model failed to run: INVALID_ARGUMENT in Gather"
    assert session.run({"index": np.array([1])})["y"].tolist() == [20.0]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"x": np.zeros((1, 4), np.float32)}, "Got invalid dimensions for input: x"),
        ({"x": np.zeros(3, np.float32)}, "Invalid rank for input: x Got: 1 Expected: 2"),
        ({"x": np.zeros((1, 3))}, "expected: (tensor(float))"),
        ({}, "Required inputs (['x']) are missing"),
        ({"x": np.array([["secret"] * 3], dtype=object)}, "Unexpected input data type"),
    ],
)
def test_wrong_inputs_are_told_by_shape_and_type(inputs: Any, said: str, cpu: Candidate) -> None:
    with pytest.raises(SessionFailed) as failed:
        opened("affine", cpu).run(inputs)

    assert said in str(failed.value)
    assert "secret" not in str(failed.value)


def test_a_string_that_is_not_unicode_is_not_echoed(cpu: Candidate) -> None:
    with pytest.raises(SessionFailed) as failed:
        opened("strings", cpu).run({"colour": np.array(["secret \ud800"], dtype=object)})

    assert str(failed.value) == "the model failed to run: UnicodeEncodeError"


def test_a_closed_session_does_not_run(cpu: Candidate) -> None:
    session = opened("poison", cpu)

    session.close()
    session.close()

    with pytest.raises(SessionFailed, match="closed"):
        session.run({"index": np.array([1])})


def test_closing_frees_the_model(cpu: Candidate) -> None:
    session = opened("poison", cpu)
    inner = weakref.ref(session._session)

    session.close()
    gc.collect()

    assert inner() is None


def test_one_session_runs_in_many_threads(cpu: Candidate) -> None:
    session = opened("affine", cpu)
    wrong: list[int] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(50):
            x = rng.normal(size=(rng.integers(1, 9), 3)).astype(np.float32)
            got = session.run({"x": x})["y"]
            if not np.allclose(got, models.affine({"x": x})["y"], atol=1e-5):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


# Reading other graphs' signatures


class FakeInner:
    """What ONNX Runtime's session tells about a graph."""

    def __init__(self, kind: str, shape: list[Any]) -> None:
        self.argument = SimpleNamespace(name="x", type=kind, shape=shape)

    def get_inputs(self) -> list[Any]:
        return [self.argument]

    get_outputs = get_inputs


def test_dims_without_a_usable_name_get_one() -> None:
    session = Session(FakeInner("tensor(uint8)", [None, -1, "?", "a + b", "", "width", 3, 0]))

    assert session.inputs[0] == TensorSpec(
        name="x",
        datatype="UINT8",
        shape=("batch", "input0_dim1", "input0_dim2", "input0_dim3", "input0_dim4", "width", 3, 0),
    )


def test_a_runtime_that_tells_no_nodes_is_tolerated() -> None:
    assert Session(FakeInner("tensor(float)", [])).nodes_by_provider == {}


@pytest.mark.parametrize("kind", ["seq(map(int64,tensor(float)))", "tensor(bfloat16)"])
def test_types_outside_the_protocol_are_unsupported(kind: str) -> None:
    with pytest.raises(BundleUnsupported, match="cannot be served"):
        Session(FakeInner(kind, ["batch"]))


def other(signature: Signature, **changes: Any) -> Signature:
    """The signature with changes in its input tensor; its fields do not matter here."""
    inputs = tuple(spec.model_copy(update=changes) for spec in signature.inputs)
    return signature.model_copy(update={"inputs": inputs})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "z"}, "the graph has input 'x', which the signature lacks"),
        ({"datatype": "FP64"}, "input 'x' is FP32 in the graph, FP64 in the signature"),
        (
            {"shape": ("batch", 4)},
            "input 'x' has shape [batch, 3] in the graph, [batch, 4] in the signature",
        ),
        (
            {"shape": ("batch",)},
            "input 'x' has shape [batch, 3] in the graph, [batch] in the signature",
        ),
        ({"shape": (1, "columns")}, None),
    ],
)
def test_a_signature_that_differs_is_told(
    changes: dict[str, Any], problem: str | None, cpu: Candidate
) -> None:
    session, signature = opened("affine", cpu), RECIPES["affine"]().signature

    assert session.matches(other(signature, **changes)) == problem


def test_a_missing_output_is_told(cpu: Candidate) -> None:
    signature = RECIPES["affine"]().signature
    spec = TensorSpec(name="more", datatype="FP32", shape=("batch",))
    more = signature.model_copy(update={"outputs": (*signature.outputs, spec)})

    assert opened("affine", cpu).matches(more) == "the graph has no output 'more'"


def test_opening_a_session_leaves_the_arithmetic_of_its_thread_alone() -> None:
    """In a process of its own: only the first session of a process could do it."""
    look = """
import numpy as np
from app.engine.session import Session
from tests.engine.fakes import CPU
from tests.support import models
session = Session.open(models.model_bytes("affine"), CPU, 1)
session.run({"x": np.zeros((1, 3), np.float32)})
print(float("1e-310") * 0.5 > 0, float(np.float32(1e-40)) > 0)
"""

    found = subprocess.run(
        [sys.executable, "-c", look],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )

    assert found.stdout == "True True\n"


def test_a_plugin_whose_library_is_none_is_refused(tmp_path: Path) -> None:
    library = tmp_path / "acme.so"
    library.write_text("no library")
    plugged = Candidate("acme", "cpu", device_index=0, library="acme", library_path=str(library))

    with pytest.raises(SessionFailed, match="the model cannot be opened: ") as refused:
        opened("affine", plugged)

    assert str(tmp_path) not in str(refused.value)
