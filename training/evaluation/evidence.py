"""What the manifest says of a model's quality beside its metrics and gates."""

from collections.abc import Mapping

from app.bundle.quality import Baseline, Calibration, Predecessor, Quality
from training.data.split import Split
from training.evaluation.slices import slices_of
from training.evaluation.validate import Evaluation, intervals_of


def quality_of(
    *,
    evaluations: Mapping[str, Evaluation],
    split: Split,
    seed: int,
    calibration: Calibration | None,
    predecessor: Predecessor | None,
    left_out: Mapping[str, str],
    baselines: tuple[Baseline, ...],
) -> Quality:
    """Intervals of all metrics, slices of the test rows, and what was found before.

    Args:
        evaluations: of `validation` and `test`.
        left_out: variants that are not published, and why.
    """
    rows = {"validation": split.validation, "test": split.test}
    return Quality(
        intervals={name: intervals_of(one, rows[name], seed) for name, one in evaluations.items()},
        calibration=calibration,
        slices=slices_of(split.train, split.test, evaluations["test"].answers, seed),
        predecessor=predecessor,
        baselines=baselines,
        left_out=left_out,
    )
