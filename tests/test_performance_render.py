"""docs/performance.md says what the result files say, and nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import render_performance as render

CASE = {"kind": "steps", "model": "sd21", "frames": 400, "clips": 100, "size": [384, 672], "settings": "exact"}
CASE |= {"steps": 0, "edit_steps": 2, "channels": 64, "extra": [["run.record", "disk"]]}
STAGE = {
    "seconds": 20.0,
    "read_bytes": 3_000_000,
    "written_bytes": 1,
    "flops": 4 * 10**13,
    "flops_per_second": 2 * 10**12,
}
STAGE |= {
    "share_of_peak": 0.25,
    "host_peak_bytes": 2**30,
    "device_peak_bytes": 3 * 2**30,
    "host_bytes_at": {"0": 2**20},
}


def measured(**changes: Any) -> dict[str, Any]:
    """What a run of two editing steps leaves."""
    figures: dict[str, Any] = {
        "machine": {"device": "A card", "cpu": "A processor", "threads": 1},
        "note": "shared machine",
        "case": CASE | {k: changes.pop(k) for k in tuple(changes) if k in CASE},
        "state": "done",
        "seconds": 20.0,
        "stages": {"edit": dict(STAGE)},
        "parts": {"edit.key": {"calls": 2, "rows": 600, "seconds": 5.0}},
        "steps": [
            {"seconds": 12.0, "whole": True, "features": True},
            {"seconds": 8.0, "whole": True, "features": False},
        ],
        "extrapolated": {"edit": 1234.0, "total": 2345.0},
        "host_peak_bytes": 2**30,
        "device_peak_bytes": 3 * 2**30,
        "disk_bytes_by_stage": {"features": 2**31},
    }
    return figures | changes


def put(folder: Path, *runs: dict[str, Any]) -> Path:
    for place, figures in enumerate(runs):
        (folder / f"{place}.json").write_text(json.dumps(figures))
    return folder


def rows_of(text: str, first: str) -> list[str]:
    return [
        cell.strip() for line in text.splitlines() if line.startswith(f"| {first}") for cell in line.split("|")[1:-1]
    ]


def test_a_run_is_shown_with_what_it_took(tmp_path: Path) -> None:
    text = render.page(*render.load(put(tmp_path, measured())))
    row = rows_of(text, "2 editing steps")
    assert row[1:6] == ["sd21", "`exact` run.record=disk", "400", "100", "384x672"]
    assert row[7:] == ["20.0", "", "", "1.00", "3.00", "2.00", "shared machine"]
    assert rows_of(text, "edit ") == ["edit", "20.00", "40.00", "2.00", "25.0 %", "3", "0", "", "1,074", "3,221"]
    assert "**Extrapolated**, not measured: 2,345 s in all (edit 1,234)" in text
    assert "### A card" in text


def test_what_failed_or_was_stopped_says_so(tmp_path: Path) -> None:
    runs = measured(state="failed: no room"), measured(state="stopped at the limit: edit 3 of 9", frames=500)
    text = render.page(*render.load(put(tmp_path, *runs)))
    assert "failed: no room; shared machine" in text
    assert "stopped at the limit: edit 3 of 9; shared machine" in text


def test_a_processor_is_named_with_its_threads(tmp_path: Path) -> None:
    text = render.page([], [measured(machine={"device": "cpu", "cpu": "A processor x 2", "threads": 1})])
    assert "### A processor x 2, 1 thread\n" in text


def test_an_hour_shows_memory_through_its_stages_and_disk_against_the_prediction() -> None:
    stages = {"invert": dict(STAGE, stored_bytes=5_000_000, host_bytes_at={"0": 2**20, "10": 2**21})}
    text = render.page([], [measured(kind="hour", stages=stages, disk_bytes_by_stage={"trajectory": 5_000_000})])
    assert rows_of(text, "invert ")[-7:] == ["invert", "1", "0", "0", "0", "0", "2"]
    assert "invert 5.0 (5.0 predicted)" in text


def test_without_results_nothing_is_claimed(tmp_path: Path) -> None:
    assert "Nothing yet" in render.page(*render.load(tmp_path))


@pytest.fixture(scope="module")
def kept() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The results that the repository holds."""
    return render.load(render.RESULTS)


def test_the_page_of_the_kept_results_is_whole(kept: Any, tmp_path: Path) -> None:
    text = render.page(*kept)
    width = 0
    for line in text.splitlines():
        cells = line.count("|")
        assert not cells or not width or cells == width, line
        width = cells
    assert all(f"| `{name}` |" in text for name in render.PRESETS)


def test_every_counted_figure_comes_from_the_files(kept: Any) -> None:
    counted = json.loads(json.dumps(kept[0]))
    before = render.page(counted, [])
    exact = render.named(counted)["exact"]
    exact["flops"]["invert"] += 10**15
    exact["flops_per_frame"] += 10**12
    assert exact["case"]["frames"] == 1000
    changed = set(render.page(counted, []).splitlines()) - set(before.splitlines())
    assert any(line.startswith("| `exact` ") for line in changed)


def test_pictures_are_small_svg_and_the_same_each_time(kept: Any) -> None:
    runs = [measured(frames=4 * m, clips=m) for m in (10, 20, 40)]
    first, again = (render.pictures(kept[0], runs) for _ in range(2))
    assert first == again
    assert set(first) == {"performance-stages.svg", "performance-growth.svg", "performance-seconds.svg"}
    for picture in first.values():
        assert ElementTree.fromstring(picture).tag.endswith("svg")
        assert len(picture) < 60_000


def test_the_command_writes_the_page_and_the_pictures_it_shows(tmp_path: Path) -> None:
    render.main(["--docs", str(tmp_path)])
    text = (tmp_path / "performance.md").read_text()
    for picture in tmp_path.glob("images/*"):
        assert f"](images/{picture.name})" in text
    assert text.count("](images/") == len(list(tmp_path.glob("images/*")))
