"""The benchmarks run and say what they should; what their figures are is no test's business."""

import json
from pathlib import Path

import pytest

from benchmarks import density, engine
from benchmarks.fresh import fresh
from benchmarks.report import Report, Target, summary


def test_a_percentile_is_the_sample_at_its_nearest_rank() -> None:
    assert summary([5.0, 1.0, 3.0]) == {"min": 1.0, "p50": 3.0, "p99": 5.0, "max": 5.0}
    assert summary([float(n) for n in range(1, 201)])["p99"] == 198.0


def test_a_row_says_whether_its_target_is_met() -> None:
    report = Report("test", quick=True)
    report.table("a table")
    assert report.row("near", [1.0, 2.0, 9.0], target=Target(column="p50", at_most=2)).met
    assert report.row("far", [1.0, 2.0, 9.0], target=Target(column="max", at_most=2)).met is False


def test_results_are_kept_with_what_they_were_measured_on(tmp_path: Path) -> None:
    report = Report("test", quick=True)
    report.table("a table", "a note")
    report.row("nothing was seen", [])
    kept = json.loads(report.save(tmp_path).read_text())
    assert kept["machine"]["cpus"] >= 1
    assert kept["machine"]["python"]
    assert kept["tables"][0]["rows"][0]["label"] == "nothing was seen"


@pytest.fixture
def root(tmp_path: Path) -> str:
    fresh(density.compile_all, root=str(tmp_path))
    return str(tmp_path)


def test_hello_is_measured_beside_its_floor(root: str) -> None:
    report = Report("engine", quick=True)
    engine.in_process(report, root)
    engine.breakdown(report, root)
    assert all(row["count"] and row["min"] > 0 for table in report.tables for row in table["rows"])


def test_loading_and_compiling_are_measured(root: str) -> None:
    report = Report("engine", quick=True)
    engine.loading(report, root)
    engine.compiling(report)
    assert all(row["count"] for table in report.tables for row in table["rows"])


def test_guests_are_stopped_and_leave_nothing(root: str) -> None:
    found = fresh(density.measure_leftovers, root=root, count=8, rounds=3)
    assert found["threads"] == [0]
    assert found["descriptors"] == [0]
    found = fresh(density.measure_sleeping, root=root, count=6)
    assert len(found["starts"]) == 6
    assert len(found["stops"]) == len(found["floor"]) == 2
