"""Figures of several processes as one: merging, retiring, and what is written of them."""

import json

import pytest

from app.ops import families
from app.ops.families import FAMILIES, Family
from app.ops.figures import LATENCY_BOUNDS_S
from app.ops.metrics import Metrics
from app.ops.snapshot import (
    Snapshot,
    merge,
    read_document,
    retire,
    shown,
    write_document,
)

INFO = dict.fromkeys(families.INFO_LABELS, "x")


def process(name: str = "affine", version: int = 1, answered: int = 0, queued: int = 0) -> Metrics:
    """The figures of a process that has a version loaded and has answered requests with it."""
    metrics = Metrics()
    metrics.ready = lambda: True
    figures = metrics.figures(name, version)
    metrics.add(figures, lambda: queued, INFO, nodes={"CPU": 3})
    for _ in range(answered):
        metrics.received["predict"] += 1
        metrics.outcomes["predict", name, "ok"] += 1
        metrics.request_s["predict"].observe(0.5)
        figures.batch(4, [0.001], 0.25)
    return metrics


def value(snapshot: Snapshot, family: Family, *labels: str) -> float:
    (found,) = snapshot.of(family)[labels]
    return found


class TestMerge:
    def test_counters_add_up(self) -> None:
        both = merge((process(answered=3).snapshot(), process(answered=4).snapshot()))

        assert value(both, families.RECEIVED, "predict") == 7
        assert value(both, families.FINISHED, "predict", "affine", "ok") == 7

    def test_histograms_add_up_bucket_by_bucket(self) -> None:
        one, other = process(answered=3), process(answered=4)
        other.request_s["predict"].observe(1e9)

        total, *counts = merge((one.snapshot(), other.snapshot())).of(families.REQUEST_SECONDS)[
            ("predict",)
        ]

        assert total == pytest.approx(7 * 0.5 + 1e9)
        assert len(counts) == len(LATENCY_BOUNDS_S) + 1
        assert counts[LATENCY_BOUNDS_S.index(0.5)] == 7
        assert counts[-1] == 1
        assert sum(counts) == 8

    def test_what_one_has_alone_is_kept(self) -> None:
        both = merge((process("a", answered=1).snapshot(), process("b", answered=2).snapshot()))

        assert value(both, families.FINISHED, "predict", "a", "ok") == 1
        assert value(both, families.FINISHED, "predict", "b", "ok") == 2

    def test_it_is_ready_when_all_are(self) -> None:
        ready, other = process(), process()
        other.ready = lambda: False

        assert value(merge((ready.snapshot(), ready.snapshot())), families.READY) == 1
        assert value(merge((ready.snapshot(), other.snapshot())), families.READY) == 0

    def test_what_waits_adds_up_and_what_is_loaded_does_not(self) -> None:
        both = merge((process(queued=3).snapshot(), process(queued=5).snapshot()))

        assert value(both, families.QUEUE_ROWS, "affine", "1") == 8
        assert value(both, families.MODEL_INFO, "affine", "1", *INFO.values()) == 1
        assert value(both, families.MODEL_NODES, "affine", "1", "CPU") == 3

    def test_while_workers_change_over_both_versions_serve(self) -> None:
        one, other, late = process(), process(), process()
        one.serving = other.serving = lambda: [("affine", 2)]
        late.serving = lambda: [("affine", 1)]

        both = merge((one.snapshot(), other.snapshot(), late.snapshot()))

        assert both.of(families.MODEL_SERVING) == {("affine", "2"): (1,), ("affine", "1"): (1,)}

    def test_the_workers_are_counted_and_their_number_is_told(self) -> None:
        one, other = process(), process()
        one.workers = other.workers = 4

        both = merge((one.snapshot(), other.snapshot()))

        assert value(both, families.WORKERS) == 4
        assert value(both, families.WORKERS_ALIVE) == 2

    def test_a_snapshot_does_not_change_any_more(self) -> None:
        metrics = process(answered=1)
        snapshot = metrics.snapshot()

        metrics.received["predict"] += 1
        metrics.request_s["predict"].observe(0.5)

        assert value(snapshot, families.RECEIVED, "predict") == 1
        assert sum(snapshot.of(families.REQUEST_SECONDS)["predict",][1:]) == 1


class TestRetire:
    def test_totals_stay_and_states_go(self) -> None:
        retired = retire(Snapshot(), process(answered=3, queued=9).snapshot())
        retired = retire(retired, process(answered=4).snapshot())

        assert value(retired, families.RECEIVED, "predict") == 7
        assert sum(retired.of(families.STAGE_SECONDS)["affine", "1", "run"][1:]) == 7
        for family in FAMILIES:
            assert family.kind != "gauge" or not retired.of(family), family.name

    def test_versions_that_nobody_has_served_for_long_are_forgotten(self) -> None:
        many = process(version=1, answered=1)
        for version in range(2, 1101):
            many.add(many.figures("affine", version), lambda: 0, INFO)

        retired = retire(retire(Snapshot(), many.snapshot()), process(version=1).snapshot())

        kept = {int(labels[1]) for labels in retired.of(families.BATCH_ROWS)}
        # The first was served again since.
        assert kept == {1, *range(78, 1101)}
        assert value(retired, families.RECEIVED, "predict") == 1


class TestVersions:
    def test_one_that_nobody_has_loaded_is_not_shown(self) -> None:
        one, other = process(answered=2), process(answered=3)
        one.remove("affine", 1)
        half = shown(merge((one.snapshot(), other.snapshot())))
        other.remove("affine", 1)
        none = shown(merge((one.snapshot(), other.snapshot())))

        # The one that has let it go still counts, or the sum would fall.
        assert half.of(families.BATCH_ROWS)["affine", "1"][0] == 20
        assert none.of(families.BATCH_ROWS) == {}
        assert value(none, families.RECEIVED, "predict") == 5

    def test_one_that_comes_back_counts_on(self) -> None:
        metrics = process(answered=2)
        metrics.remove("affine", 1)
        figures = metrics.figures("affine", 1)
        metrics.add(figures, lambda: 0, INFO)
        figures.batch(4, [], 0.25)

        assert shown(metrics.snapshot()).of(families.BATCH_ROWS)["affine", "1"][0] == 12

    def test_one_that_replaces_another_of_its_number_stays_when_that_goes(self) -> None:
        metrics = process(answered=2)
        metrics.add(metrics.figures("affine", 1), lambda: 7, INFO)

        metrics.remove("affine", 1)

        assert value(metrics.snapshot(), families.QUEUE_ROWS, "affine", "1") == 7

    def test_those_let_go_are_forgotten_at_last(self) -> None:
        metrics = Metrics()
        for version in range(1, 101):
            metrics.add(metrics.figures("affine", version), lambda: 0, INFO)
            metrics.remove("affine", version)

        assert len(metrics.models) == 64
        assert ("affine", "100") in metrics.models


class TestDocument:
    def test_what_is_written_is_read(self) -> None:
        before = process(answered=3).snapshot()

        after, retired = read_document(write_document(before, [3, 5]))

        assert after.series == before.series
        assert retired == [3, 5]

    @pytest.mark.parametrize(
        "broken",
        [
            b"",
            b"{",
            b"[]",
            b'{"format": 2, "series": {}}',
            b'{"format": 1, "series": {"modelport_ready": [[["x"], [1]]]}}',
            b'{"format": 1, "series": {"modelport_ready": [[[], []]]}}',
            b'{"format": 1, "series": {"modelport_ready": [[[], ["x"]]]}}',
            b'{"format": 1, "series": {"modelport_request_seconds": [[["x"], [1, 2]]]}}',
        ],
    )
    def test_what_is_broken_is_refused(self, broken: bytes) -> None:
        with pytest.raises(ValueError, match=r"not a snapshot|has another form"):
            read_document(broken)

    def test_a_cut_one_is_refused(self) -> None:
        whole = write_document(process(answered=1).snapshot())

        assert json.loads(whole)["format"] == 1
        for length in range(len(whole)):
            with pytest.raises(ValueError, match="not a snapshot"):
                read_document(whole[:length])
