"""`python -m app plan`: prove and calibrate without serving, and write the plans down."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from app.bundle.store import Bundle, ModelFolder, open_bundle, scan
from app.engine.opener import BundleProver
from app.engine.proof.calibration import WORTHWHILE
from app.engine.proof.plan import Cost, Plan
from app.engine.proof.plans import save_plans
from app.errors import BundleError, ModelportError, NothingToServe, SettingsError
from app.opening import opener_options, run_budget
from app.settings import Settings


def plan(settings: Settings, names: Sequence[str] = (), out: Path | None = None) -> Iterator[str]:
    """Prove the version of each model that would be served; yields lines for a person.

    Args:
        names: only these models; all where none is given.
        out: file for `MODELPORT_PLAN`.
    Raises:
        NothingToServe: a model is not there or cannot be proved; nothing is written then.
        SettingsError: `out` cannot be written.
    """
    if out is not None:
        _check_place(out)
    prover = BundleProver(opener_options(settings), run_budget(settings)[0])
    plans: dict[str, Plan] = {}
    failed: list[str] = []
    for folder in _folders(settings.models, names):
        try:
            bundle = _bundle(folder)
            proved = prover.prove(bundle)
        except ModelportError as error:
            failed.append(f"{folder.name}: {error}")
            yield f"{folder.name}: not proved: {error}"
            continue
        proved.session.close()
        plans[bundle.digest] = proved.plan
        yield from describe(bundle, proved.plan)
    if failed:
        unwritten = "" if out is None else f"; {out} is not written"
        raise NothingToServe(f"cannot plan {'; '.join(failed)}{unwritten}")
    if out is not None:
        _write(out, plans)
        number = "1 plan" if len(plans) == 1 else f"{len(plans)} plans"
        yield f"{number} written to {out}; use it by MODELPORT_PLAN={out}"


def _check_place(out: Path) -> None:
    """Tell before all the measuring where the file cannot be written."""
    if out.is_dir():
        raise SettingsError(f"--out {out}: it is a folder")
    if not out.parent.is_dir():
        raise SettingsError(f"--out {out}: the folder {out.parent} does not exist")


def _write(out: Path, plans: Mapping[str, Plan]) -> None:
    try:
        save_plans(out, plans)
    except SettingsError as error:
        raise SettingsError(f"--out {out}: {error}") from None


def _folders(root: Path, names: Sequence[str]) -> list[ModelFolder]:
    try:
        found = {folder.name: folder for folder in scan(root) if folder.versions}
    except BundleError as error:
        raise NothingToServe(f"cannot plan for {root}: {error}") from None
    missing = [name for name in names if name not in found]
    if missing:
        raise NothingToServe(f"no model {missing[0]!r} in {root}; there: {', '.join(found)}")
    return [found[name] for name in names or found]


def _bundle(folder: ModelFolder) -> Bundle:
    if folder.pin_problem:
        raise BundleError(folder.pin_problem)
    return open_bundle(folder.path, folder.pin or folder.versions[0])


def describe(bundle: Bundle, found: Plan) -> Iterator[str]:
    """A plan and its cost table as text."""
    manifest = bundle.manifest
    yield (
        f"{manifest.name} version {manifest.version}: {found.precision} on {found.provider} "
        f"({found.device}), {found.instances} at a time × {found.intra_op_threads} threads, "
        f"batches up to {found.max_rows} rows, {_inline(found)}"
    )
    yield (
        f"  {found.reason} ({found.source}: {found.proof_ms:.0f} ms to prove, "
        f"{found.calibration_ms:.0f} ms to measure)"
    )
    for rejection in found.rejected:
        where = f" on {rejection.device}" if rejection.device else ""
        yield f"  not {rejection.provider}{where}: {rejection.reason}"
    if found.costs:
        yield "  threads × instances    rows     ms a run     rows/s"
    for cost in found.costs:
        yield "  " + _row(cost, found)
    if found.costs:
        share = round(100 * (WORTHWHILE - 1))
        yield (
            f"  chosen: the smallest batch within {share} % of the most rows/s of its threads × "
            f"instances; others than the first must be more than {share} % faster"
        )


def _inline(found: Plan) -> str:
    if not found.inline_rows:
        return "on threads"
    return f"up to {found.inline_rows} rows on the event loop"


def _row(cost: Cost, found: Plan) -> str:
    chosen = (found.intra_op_threads, found.instances, found.max_rows)
    marks = "  <- chosen" if (*cost.shape, cost.rows) == chosen else ""
    marks += "  (extrapolated)" if cost.extrapolated else ""
    shape = f"{cost.intra_op_threads} × {cost.instances}"
    return f"{shape:>19} {cost.rows:>7} {cost.run_ms:>12.4g} {cost.rows_per_s:>10.0f}{marks}"
