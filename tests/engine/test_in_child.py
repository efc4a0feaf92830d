"""The real child process: what is done in it ends as it would here, and never by raising."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bundle.store import Bundle
from app.engine.proof.child import Cancelled, ChildFailed, run_job
from app.engine.proof.in_child import DiscoveryJob
from app.engine.proof.trial import try_out
from app.engine.proof.trialjob import TrialJob
from app.engine.proof.tryouts import try_in_child
from app.engine.proof.verdict import Verdict
from app.engine.providers.candidates import CPU_PROVIDER, Candidate
from tests.api.live import ROOT
from tests.engine.fakes import CPU

BundleOf = Callable[..., Bundle]

LONG_S = 60.0


def never() -> bool:
    return False


def job_of(bundle: Bundle, candidate: Candidate = CPU, **changes: Any) -> TrialJob:
    fields: dict[str, Any] = {
        "model_path": bundle.path.parent,
        "version": bundle.manifest.version,
        "digest": bundle.digest,
        "candidate": candidate,
        "cores": 2,
        "budget_ms": 0,
    }
    return TrialJob(**(fields | changes))


def proved(verdict: Verdict) -> dict[str, Any]:
    return verdict.model_dump(exclude={"proof_ms"})


@pytest.mark.parametrize("model", ["conv", "strings"])
def test_a_trial_in_a_child_finds_what_one_here_does(model: str, bundle_of: BundleOf) -> None:
    job = job_of(bundle_of(model))

    apart = try_in_child(job, LONG_S, never)

    assert apart.accepted
    assert proved(apart) == proved(try_out(job))


def test_costs_come_back(bundle_of: BundleOf) -> None:
    verdict = try_in_child(job_of(bundle_of("affine"), budget_ms=100), LONG_S, never)

    assert {cost.shape for cost in verdict.costs} == {(1, 2), (2, 1)}
    assert verdict.calibration_ms > 0


def test_a_trial_beside_other_work_ends_too(bundle_of: BundleOf) -> None:
    verdict = try_in_child(job_of(bundle_of("affine"), background=True), LONG_S, never)

    assert (verdict.accepted, verdict.background) == (True, True)


def test_a_rejection_comes_back(bundle_of: BundleOf) -> None:
    verdict = try_in_child(job_of(bundle_of("affine"), digest="0" * 64), LONG_S, never)

    assert not verdict.accepted
    assert verdict.reason == "the version was replaced while it was being proved"


def test_a_provider_that_is_not_here_is_a_rejection(bundle_of: BundleOf) -> None:
    nowhere = Candidate("NowhereExecutionProvider", "gpu")

    verdict = try_in_child(job_of(bundle_of("affine"), nowhere), LONG_S, never)

    assert not verdict.accepted
    assert verdict.reason == "NowhereExecutionProvider is not part of this ONNX Runtime"


def test_a_trial_that_takes_too_long_is_a_passing_rejection(bundle_of: BundleOf) -> None:
    verdict = try_in_child(job_of(bundle_of("affine")), 0.001, never)

    assert not verdict.accepted
    assert verdict.reason.startswith("took longer than 0.001 s, at last ")
    assert verdict.passing


def test_a_trial_that_nobody_wants_raises(bundle_of: BundleOf) -> None:
    with pytest.raises(Cancelled):
        try_in_child(job_of(bundle_of("affine")), LONG_S, lambda: True)


#: What a plug-in's library may do when it is loaded.
LIBRARIES = {
    "crashed (SIGABRT) while opening the model": "abort();",
    "crashed (SIGSEGV) while opening the model": "*(volatile int *)0 = 1;",
    "ended with status 7 while opening the model": "_exit(7);",
    "took longer than 5 s, at last opening the model": "for (;;) pause();",
}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("reason", LIBRARIES)
def test_a_library_that_does_not_survive_its_loading_is_a_passing_rejection(
    reason: str, tmp_path: Path, bundle_of: BundleOf
) -> None:
    library = compiled(tmp_path, LIBRARIES[reason])
    candidate = Candidate(
        "acme", "gpu", "", "plug-in", {}, 0, "acme", str(library), library_version="1"
    )

    verdict = try_in_child(job_of(bundle_of("affine"), candidate), 5, never)

    assert (verdict.accepted, verdict.reason) == (False, reason)
    assert verdict.passing


def compiled(folder: Path, body: str) -> Path:
    source, library = folder / "acme.c", folder / "acme.so"
    source.write_text(
        "#include <stdlib.h>\n#include <unistd.h>\n"
        f"__attribute__((constructor)) static void loaded(void) {{ {body} }}\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=LONG_S)
    return library


# Other jobs


def test_discovering_a_package_that_is_not_installed_finds_nothing() -> None:
    found = run_job(DiscoveryJob(package="onnxruntime-ep-nowhere").model_dump(), LONG_S)

    assert found == {"candidates": [], "problems": []}


@pytest.mark.parametrize("job", [{}, {"job": "try"}, {"job": "discover"}, {"job": "what"}])
def test_a_job_that_is_none_ends_with_a_status(job: dict[str, Any]) -> None:
    with pytest.raises(ChildFailed, match="ended with status 1 while starting"):
        run_job(job, LONG_S)


def test_what_lies_where_the_service_was_started_is_not_taken_for_it(tmp_path: Path) -> None:
    """People have folders called `app`; the installed command is run from anywhere."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").touch()
    command = tmp_path / "bin" / "modelport"
    command.parent.mkdir()
    command.write_text(
        "from app.engine.proof.child import run_job\n"
        f"print(run_job({DiscoveryJob(package='onnxruntime-ep-nowhere').model_dump()!r}, 60.0))\n"
    )

    found = subprocess.run(
        [sys.executable, command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LONG_S,
    )

    assert found.stdout == "{'candidates': [], 'problems': []}\n", found.stderr


# The plug-ins that are installed here


@pytest.mark.parametrize("model", ["affine", "conv", "mixer", "poison", "strings"])
def test_a_plugin_is_right_or_rejected_with_a_reason(
    model: str, plugin: Candidate, bundle_of: BundleOf
) -> None:
    bundle = bundle_of(model)

    verdict = try_in_child(job_of(bundle, plugin, budget_ms=100), LONG_S, never)

    assert verdict.candidate == plugin
    if verdict.accepted:
        assert verdict.nodes_by_provider[plugin.provider] > 0
        assert verdict.checked_rows
        assert verdict.costs
    else:
        assert verdict.reason
        assert str(bundle.path) not in verdict.reason
    if verdict.nodes_by_provider and plugin.provider not in verdict.nodes_by_provider:
        assert (verdict.accepted, verdict.reason) == (False, "runs no node of this model")


def test_a_plugin_claims_no_strings(plugin: Candidate, bundle_of: BundleOf) -> None:
    """A session that lists a provider but runs on the CPU is told as one on the CPU."""
    verdict = try_in_child(job_of(bundle_of("strings"), plugin), LONG_S, never)

    assert (verdict.accepted, verdict.reason) == (False, "runs no node of this model")
    assert verdict.nodes_by_provider == {CPU_PROVIDER: 2}


def test_a_damaged_model_is_a_rejection_with_a_plugin(
    plugin: Candidate, bundle_of: BundleOf
) -> None:
    bundle = bundle_of("affine", model_data=b"no model at all")

    verdict = try_in_child(job_of(bundle, plugin), LONG_S, never)

    assert not verdict.accepted
    assert verdict.reason.startswith("the model cannot be opened: ")
