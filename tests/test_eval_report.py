"""What the results are said to show: intervals, differences, margins, tables and the page, from rows made up here."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaflow.errors import InputError
from adaflow.longv_eval import bootstrap
from adaflow.longv_eval.bootstrap import FEWEST, interval, ratio_interval
from adaflow.longv_eval.columns import COLUMNS
from adaflow.longv_eval.layout import difference_table, main_tables, margins_table
from adaflow.longv_eval.page import shown_pairs, write_page
from adaflow.longv_eval.rows import Row, by_method, load_rows, load_run
from adaflow.longv_eval.statistics import at_equal_success, compare, difference, mean, non_inferior, pareto
from adaflow.longv_eval.tables import comparison_text, plain, results_csv, summary_csv, table_md, write_tables

EDITS = ("foreground", "background", "style")
MOTIONS = ("pan", "cuts", "zoom")


def row(
    method: str, video: int = 0, edit: str = "foreground", values: Mapping[str, float] | None = None, **more: Any
) -> Row:
    fixed: dict[str, Any] = {"title": method.title(), "suite": "report", "motion": MOTIONS[video % 3], "frames": 96}
    kind = {"foreground": "colour"}.get(edit, edit)
    return Row(method, case=f"v{video:02}", edit=edit, **({"kind": kind} | fixed | more), values=values or {})


def rows_of(method: str, values: Callable[[int, str], Mapping[str, float]], videos: int = 12, **more: Any) -> list[Row]:
    return [row(method, v, edit, values(v, edit), **more) for v in range(videos) for edit in EDITS]


GOOD = {"psnr": 24.0, "success": 0.9, "warp_relative": 1.0, "seam": 1.0}


def constant(method: str, videos: int = 12, **changes: float) -> list[Row]:
    return rows_of(method, lambda *_: GOOD | changes, videos)


# The bootstrap


@pytest.mark.parametrize("videos", [6, 12, 30])
def test_intervals_cover_the_truth_as_often_as_they_say(videos: int) -> None:
    draw = np.random.default_rng(videos)
    trials, true = 300, 0.3
    found = [interval(draw.normal(true, 1, videos), resamples=2000) for _ in range(trials)]
    covered = sum(each.low <= true <= each.high for each in found) / trials
    assert 0.91 <= covered <= 0.985  # 95 % give or take three standard errors; plain percentiles reach 0.87 at six


def test_intervals_of_ratios_cover_the_truth() -> None:
    draw = np.random.default_rng(0)
    base = [draw.uniform(1, 3, 20) for _ in range(200)]
    found = [ratio_interval(b * draw.normal(1.1, 0.1, 20), b, resamples=2000) for b in base]
    assert 0.9 <= sum(each.low <= 0.1 <= each.high for each in found) / 200 <= 0.99


@pytest.mark.parametrize(("freedom", "quantile"), [(5, 2.5706), (11, 2.2010), (29, 2.0452), (1000, 1.9623)])
def test_students_quantile_is_the_tables(freedom: int, quantile: float) -> None:
    assert bootstrap._student(0.975, freedom) == pytest.approx(quantile, abs=0.004)


def test_an_interval_is_the_same_twice_and_needs_six_videos() -> None:
    values = np.arange(float(FEWEST))
    assert interval(values) == interval(values)
    few = interval(values[:-1])
    assert not few.known and few.mean == 2.0 and (few.low, few.high) == (-math.inf, math.inf)
    same = interval(np.full(8, 0.1))
    assert same.low == pytest.approx(0.1) and same.high == pytest.approx(0.1)


def test_pairing_takes_out_what_videos_share() -> None:
    draw = np.random.default_rng(1)
    level, noise = draw.normal(25, 3, 12), draw.normal(0, 0.1, (2, 12))
    a = rows_of("a", lambda v, _: {"psnr": level[v] + noise[0, v] + 0.5})
    b = rows_of("b", lambda v, _: {"psnr": level[v] + noise[1, v]})
    paired = difference(a, b, "psnr")
    alone = mean(a, "psnr")
    assert paired is not None and alone is not None
    assert paired.high - paired.low < (alone.high - alone.low) / 10
    assert paired.low > 0 and paired.mean == pytest.approx(0.5 + (noise[0] - noise[1]).mean())


def test_videos_are_the_unit_and_not_edits() -> None:
    """Three equal edits of each video tell no more than one of each."""
    values = np.random.default_rng(2).normal(0, 1, 12)
    three = rows_of("a", lambda v, _: {"psnr": values[v]})
    one = [each for each in three if each.edit == "style"]
    assert mean(three, "psnr") == mean(one, "psnr")
    found = mean(three, "psnr")
    assert found is not None and found.videos == 12


def test_means_are_of_videos_means_by_hand() -> None:
    rows = [
        row("a", 0, "foreground", {"psnr": 20}),
        row("a", 0, "style", {"psnr": 30}),
        row("a", 1, "style", {"psnr": 10}),
    ]
    rows.append(row("a", 2, "style"))  # not measured
    found = mean(rows, "psnr")
    assert found is not None and found.mean == (25 + 10) / 2 and found.videos == 2
    assert mean(rows, "ssim") is None
    others = [row("b", 0, "style", {"psnr": 21}), row("b", 1, "style", {"psnr": 11}), row("b", 3, "style", {"psnr": 0})]
    less = difference(rows, others, "psnr")
    assert less is not None and less.mean == ((30 - 21) + (10 - 11)) / 2 and less.videos == 2
    share = difference(rows, others, "psnr", relative=True)
    assert share is not None and share.mean == pytest.approx((30 + 10) / (21 + 11) - 1)


def test_other_videos_under_the_same_name_are_not_compared() -> None:
    for other in ({"frames": 24}, {"prompt": "another"}, {"suite": "ci"}):
        with pytest.raises(InputError, match="same suite"):
            difference([row("a", values=GOOD)], [row("b", values=GOOD, **other)], "psnr")
    with pytest.raises(InputError, match="2: a, b"):
        compare([row("a"), row("b")], [row("b")])


# What is concluded


@pytest.mark.parametrize(
    ("measure", "limit", "better"),
    [("psnr", 24 - 0.2, 1), ("success", 0.9 - 0.02, 1), ("warp_relative", 1.02, -1), ("seam", 1.02, -1)],
)
def test_margins_are_met_beyond_them_and_not_on_them(measure: str, limit: float, better: int) -> None:
    full = constant("full")
    within = non_inferior(constant("a", **{measure: limit + better * 1e-6}), full)
    assert within.verdict == "non-inferior" and all(result.verdict == "within" for result in within.margins)
    for past in (0.0, 1e-6, 0.1):
        found = non_inferior(constant("a", **{measure: limit - better * past}), full)
        assert found.verdict == "inferior"
        assert [r.margin.measure for r in found.margins if r.verdict == "beyond"] == [measure]


def test_an_interval_across_the_margin_shows_nothing() -> None:
    spread = rows_of("a", lambda v, _: GOOD | {"psnr": 24 + (-1) ** v})
    found = non_inferior(spread, constant("full"))
    assert found.verdict == "not shown" and [r.verdict for r in found.margins] == ["not shown", *["within"] * 3]


def test_too_few_videos_say_nothing() -> None:
    assert non_inferior(constant("a", 11), constant("b", 11)).verdict == "too few videos to say"
    two_edits = [each for each in constant("a") if each.edit != "style" or each.case != "v03"]
    found = non_inferior(two_edits, constant("b"))
    assert (found.verdict, found.videos) == ("too few videos to say", 11)
    blind = [row(r.method, int(r.case[1:]), r.edit, {**r.values, "psnr": math.nan}) for r in constant("a")]
    assert non_inferior([Row.from_json(document(r)) for r in blind], constant("b")).videos == 0


def test_seams_may_lack_in_some_videos_but_not_in_all() -> None:
    def seamed(method: str, have: int) -> list[Row]:
        return rows_of(method, lambda v, _: {k: x for k, x in GOOD.items() if k != "seam" or v < have})

    found = non_inferior(seamed("a", 9), seamed("b", 12))
    assert found.verdict == "non-inferior" and found.margins[-1].interval is not None
    assert found.margins[-1].interval.videos == 9
    assert non_inferior(seamed("a", 5), seamed("b", 12)).verdict == "not shown"
    none = non_inferior(seamed("a", 0), seamed("b", 12))
    assert none.verdict == "not shown" and none.margins[-1].verdict == "not measured"


def test_differences_are_judged_by_the_way_their_measure_points() -> None:
    a = rows_of("a", lambda v, _: {"psnr": 25 + 0.1 * v, "seconds": 20, "motion": 1.2, "flicker": (-1) ** v})
    b = rows_of(
        "b", lambda v, _: {"psnr": 24 + 0.1 * v, "seconds": 10, "motion": 1.0, "flicker": 0, "warp_relative": 1}
    )
    found = {each.column.name: each for each in compare(a, b)}
    verdicts = {name: each.verdict for name, each in found.items() if each.verdict != "not measured"}
    assert verdicts == {"psnr": "better", "seconds": "worse", "motion": "higher", "flicker": "no difference shown"}
    assert found["seconds"].relative and found["seconds"].interval is not None
    assert found["seconds"].interval.mean == pytest.approx(1.0)
    text = comparison_text(a, b)
    assert "+100.0 % [+100.0, +100.0]" in text and "too few videos to say (0 videos" in text
    assert text.index("better") < text.index("worse") < text.index("no difference shown") < text.index("not measured")
    assert comparison_text(a, a).startswith(
        "A (first) less A (second), measured on the miniature: 36 edits of 12 videos"
    )
    assert "[too few videos]" in comparison_text(a[:6], b[:6])


def sweep(method: str, **points: float) -> dict[str, list[Row]]:
    return {name: [row(method, values={"success": success})] for name, success in points.items()}


def test_points_of_equal_success_are_the_most_successful_ones_that_match() -> None:
    sweeps = {"a": sweep("a", low=0.1, middle=0.70, high=0.90), "b": sweep("b", low=0.1, middle=0.73, high=0.99)}
    found = at_equal_success(sweeps)
    assert found is not None and found.points == {"a": "middle", "b": "middle"}
    assert found.level == pytest.approx(0.715)
    assert at_equal_success({"a": sweep("a", x=0.7), "b": sweep("b", x=0.75)}) is None
    edge = at_equal_success({"a": sweep("a", x=0.70), "b": sweep("b", x=0.74)})
    assert edge is not None and edge.level == pytest.approx(0.72)
    assert at_equal_success(sweeps, level=0.95) is None and at_equal_success({}) is None
    given_level = at_equal_success(sweeps, level=0.1)
    assert given_level is not None and set(given_level.points.values()) == {"low"}
    assert at_equal_success({"a": {"x": [row("a")]}}) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(values: list[tuple[int, int]]) -> None:
    points = {str(i): value for i, value in enumerate(values)}
    front = set(pareto(points, (1, -1)))
    for name, (gain, cost) in points.items():
        beaten = any(g >= gain and c <= cost and (g, c) != (gain, cost) for g, c in values)
        assert (name in front) == (not beaten)


# Files


EVIL = "<script>alert('1')</script> & \"q\" | $x^{$ `*_ [a](http://b) \\ {0} ../\n#"


def document(result: Row) -> dict[str, Any]:
    """A result file as the runner writes it."""
    own = {
        name: getattr(result, name) for name in ("method", "title", "suite", "case", "motion", "edit", "kind", "frames")
    }
    bytes_ = {"peak_bytes": 7e8, "disk_bytes": 4e7}
    return own | {
        "source_prompt": result.source_prompt,
        "prompt": result.prompt,
        "measures": dict(result.values) | {"unedited_psnr": None},
        "partition": {"cut_recall": 1.0, "keyframes_per_100": 20.8, "motion_correlation": None},
        "method_facts": {"clips": 20, "kept_own": 0.2, "note": "text"},
        "cost": {"seconds": {"encode": 1.5, "sample": 10.5}, "total_seconds": 12.0, "unet_rows": 12345, "flops": 1.2e14}
        | bytes_
        | {"shared": ["encode"]},
        "settings": {"steps": 20},
        "seed": 0,
    }


def written(out: Path, rows: list[Row], run: Mapping[str, Any] | None = None) -> Path:
    for result in rows:
        path = out / "results" / result.method / f"{result.case}.{result.edit}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document(result)))
    if run is not None:
        (out / "run.json").write_text(json.dumps(run))
    return out


MEASURES = ("success", "kept", "psnr", "gain", "ssim", "warp", "warp_relative", "flicker", "drift", "seam", "motion")
LEVELS = dict(zip(MEASURES, (0.9, 0.92, 24.0, 4.0, 0.8, 3.0, 1.1, 0.3, 1.0, 1.05, 0.97), strict=True))


def made_up(seed: int = 0, videos: int = 14, prompt: str = "a blue car on the snow") -> list[Row]:
    """Rows of several methods that differ a little, over videos that differ a lot."""
    draw = np.random.default_rng(seed)
    hard = draw.normal(0, 1, (videos, 3))
    shifts = {"source": -4.0, "vae": 6.0, "frame1": -5.0, "pnp": -0.3, "full": 0.02, "uniform": -0.5, "adaflow": 0.0}
    rows = []
    for method, shift in shifts.items():
        for v in range(videos):
            for e, edit in enumerate(EDITS):
                noise = draw.normal(0, 0.15, len(MEASURES))
                values = {
                    name: LEVELS[name] * (1 + 0.05 * hard[v, e] + 0.02 * noise[i] + 0.02 * shift)
                    for i, name in enumerate(MEASURES)
                }
                values["success"] = min(values["success"], 1.0)
                if method == "pnp":
                    del values["seam"]
                if method == "frame1":
                    values |= {"motion": 0.0, "warp_relative": 0.2}
                rows.append(row(method, v, edit, values, prompt=prompt, source_prompt="a red car on the grass"))
    return rows


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [row("pnp", values={"psnr": 24.5, "seam": math.nan}), row("adaflow", values={"psnr": 25.0})]
    methods = [
        {"name": "adaflow", "title": "AdaFlow"},
        {"name": "pnp", "title": "PnP"},
        {"name": "full", "title": "Full"},
    ]
    written(
        tmp_path,
        rows,
        {
            "suite": "report",
            "methods": methods,
            "machine": "x86_64",
            "versions": {"torch": "2", "n": 1},
            "not_run": {"full": "too slow"},
        },
    )
    read = load_rows(tmp_path)
    assert [each.method for each in read] == ["adaflow", "pnp"]  # the run's order
    pnp = read[1]
    assert pnp.value("psnr") == 24.5 and pnp.value("seam") is None and pnp.value("unedited_psnr") is None
    assert (pnp.value("seconds"), pnp.value("seconds_per_frame"), pnp.value("tflop")) == (12.0, 0.125, 120.0)
    assert (pnp.value("peak_mb"), pnp.value("disk_mb"), pnp.value("cut_recall"), pnp.value("clips")) == (700, 40, 1, 20)
    assert pnp.value("note") is None and pnp.stages == {"encode": 1.5, "sample": 10.5}
    run = load_run(tmp_path, read)
    assert run.methods == {"adaflow": "Adaflow", "pnp": "Pnp", "full": "Full"}  # the results' titles go before
    assert run.facts == {"machine": "x86_64", "versions": "torch 2, n 1"}
    text = table_md(read, run)
    assert "Not run: Full: too slow." in text and "| Full not run | – | – |" in text


def test_a_run_needs_no_record_and_names_what_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no results"):
        load_rows(tmp_path)
    written(tmp_path, [row("b", values=GOOD), row("a", values=GOOD)])
    assert list(load_run(tmp_path, load_rows(tmp_path)).methods) == ["a", "b"]
    path = tmp_path / "results" / "a" / "zz.json"
    for text in ("{", "[]", "{}", json.dumps(document(row("a", 1)) | {"measures": 3})):
        path.write_text(text)
        with pytest.raises(InputError, match=r"zz\.json"):
            load_rows(tmp_path)
    path.write_text(json.dumps(document(row("a"))))
    with pytest.raises(InputError, match="two results of a v00 foreground"):
        load_rows(tmp_path)


def test_csv_holds_every_number_in_full(tmp_path: Path) -> None:
    rows = [row("a", v, values={"psnr": 1 / 3 + v, **({"seam": 0.1} if v else {})}, prompt=EVIL) for v in range(8)]
    table = list(csv.DictReader(io.StringIO(results_csv(rows), newline="")))
    assert len(table) == 8 and [line["prompt"] for line in table] == [EVIL] * 8
    assert [float(line["psnr"]) for line in table] == [each.value("psnr") for each in rows]
    assert table[0]["seam"] == "" and float(table[1]["seam"]) == 0.1
    lines = list(csv.DictReader(io.StringIO(summary_csv(rows))))
    whole = next(line for line in lines if (line["part"], line["measure"]) == ("all", "psnr"))
    found = mean(rows, "psnr")
    assert found is not None
    assert [float(whole[name]) for name in ("mean", "low", "high")] == [found.mean, found.low, found.high]
    pans = next(line for line in lines if (line["part"], line["measure"]) == ("motion:pan", "psnr"))
    assert pans["low"] == "" and pans["videos"] == "3" and float(pans["mean"]) == pytest.approx(1 / 3 + (0 + 3 + 6) / 3)
    written(tmp_path, rows)
    assert [path.name for path in write_tables(tmp_path)] == ["table.csv", "summary.csv", "table.md"]
    assert not list(tmp_path.glob(".*"))


def test_the_best_editing_method_is_bold_and_references_never_are() -> None:
    rows = [
        row("vae", values={"psnr": 40, "warp_relative": 1}),
        row("adaflow", values={"psnr": 24, "warp_relative": 1.2}),
    ]
    rows += [row("pnp", values={"psnr": 23, "warp_relative": 1.1, "motion": 1})]
    rows += [row("still", values={"psnr": 20, "warp_relative": 0.1, "motion": 0.2})]
    tables = main_tables(rows, load_run(Path("nowhere"), rows))
    bold = {(line[0].text, cell.text) for t in tables.values() for line in t.lines for cell in line if cell.strong}
    assert bold == {("Adaflow", "24.00"), ("Pnp", "1.10")}
    motion = {line[0].text: line[-1].text for line in tables["Over time"].lines}
    assert motion == {"Vae": "–", "Adaflow": "–", "Pnp": "1.00", "Still": "0.20, frozen"}


def test_tables_tell_what_is_not_measured_or_not_finished() -> None:
    rows = [row("adaflow", v, values={"psnr": 24.0}) for v in range(3)] + [row("pnp", values={})]
    text = table_md(rows, load_run(Path("nowhere"), rows))
    assert "Pnp \\(1 of 3" in text or "Pnp (1 of 3 results)" in text
    line = next(line for line in text.splitlines() if line.startswith("| Pnp"))
    assert set(line.split(" | ")[1:]) <= {"–", "– |"}
    assert "nan" not in text.lower() and "None" not in text


def test_markdown_shows_hostile_text_as_text() -> None:
    rows = [row("adaflow", values=GOOD, title=EVIL, motion=EVIL)]
    text = table_md(rows, load_run(Path("nowhere"), rows))
    assert "<script>" not in text.replace("\\<script\\>", "") and "\\<script\\>" in text
    widths = {
        line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("| ") and "success" in line
    }
    assert widths <= {8, 9, 11}  # the parts, the edit, Table 1
    assert plain("a\n| b") == "a \\| b"


def test_differences_and_margins_are_of_the_base() -> None:
    rows = made_up()
    table = difference_table(rows)
    assert table.caption == "Differences from Adaflow" and [line[0].text for line in table.lines] == [
        "Pnp",
        "Full",
        "Uniform",
    ]
    seam = table.columns.index("seam")
    assert table.lines[0][seam].text == "–"  # PnP has no clips
    margins = margins_table(rows)
    assert margins.lines[1][0].text == "Adaflow to Full" and margins.lines[1][2].text == "14"


@pytest.mark.parametrize(("name", "value", "text"), [("success", 0.9149, "91.5"), ("unet_rows", 12345.0, "12,345"),
                                                     ("psnr", -0.001, "0.00"), ("psnr", None, "–")])  # fmt: skip
def test_numbers_are_written_for_readers(name: str, value: float | None, text: str) -> None:
    assert COLUMNS[name].text(value) == text


# The page


class Page(HTMLParser):
    """What a page asks for, its tags and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.asked += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "poster", "data"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_one_file_that_asks_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        Row(**{**vars(each), "title": f"{each.method} {EVIL}", "source_prompt": EVIL, "prompt": EVIL, "motion": EVIL})
        for each in made_up(videos=7)
        if each.method in ("source", "pnp", "adaflow")
    ]
    written(tmp_path, rows, {"suite": EVIL, "methods": ["source", "pnp", "adaflow", EVIL], "machine": EVIL})
    (tmp_path / "clips").mkdir()
    for case, edit in shown_pairs(rows):
        for name in (f"{case}.source", f"{case}.{edit}.truth", f"{case}.{edit}.pnp", f"{case}.{edit}.adaflow"):
            (tmp_path / "clips" / f"{name}.mp4").write_bytes(b"film" * 30)
    monkeypatch.setattr("adaflow.longv_eval.page.EMBEDDED", 6 * 160)
    path = write_page(tmp_path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    films = [asked for asked in page.asked if asked.startswith("data:video/mp4")]
    links = [asked for asked in page.asked if not asked.startswith("data:")]
    assert len(films) == 6 and len(films) + len(links) == 4 * len(shown_pairs(rows))
    assert all((tmp_path / link).is_file() for link in links)
    assert page.tags.count("script") == 1 and "sha256-" in text and page.text.count("<script>alert('1')") > 20
    assert not {name for name in page.attributes if name.startswith("on")}
    assert "http://b" not in "".join(page.asked) and "https://" not in text
    assert text.count("http:") == text.count("(http://b)")  # in words that are shown, never asked for
    assert "prefers-color-scheme: dark" in text and page.tags.count("picture") >= 8


def test_a_name_that_leads_elsewhere_has_no_clip(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "secret.source.mp4").write_bytes(b"secret")
    rows = [Row(**{**vars(row("adaflow", values=GOOD)), "case": "../secret"})]
    path = tmp_path / "results" / "adaflow" / "x.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document(rows[0])))
    assert "<video" not in write_page(tmp_path).read_text()


def test_a_page_of_one_result_or_without_measures_is_written(tmp_path: Path) -> None:
    for folder, rows in (("one", [row("adaflow", values=GOOD)]), ("none", [row("source"), row("x"), row("y")])):
        text = write_page(written(tmp_path / folder, rows)).read_text()
        assert "Measured on the miniature" in text and "–" in text


def test_clips_are_chosen_by_rule() -> None:
    rows = made_up()
    chosen = shown_pairs(rows)
    gains = {each.pair: each.value("gain") for each in by_method(rows)["adaflow"]}
    order = sorted(gains, key=lambda pair: gains[pair] or 0)
    assert [*chosen][:2] == [order[-1], order[0]] and len(chosen) == 6
    edits = {edit for _, edit in chosen}
    assert edits == set(EDITS)
    assert shown_pairs([row("source", values=GOOD)]) == {}


def test_plots_leave_no_state_and_are_the_same_twice(tmp_path: Path) -> None:
    import matplotlib

    from adaflow.longv_eval.plots import forest, quality_against_cost

    before = dict(matplotlib.rcParams)
    rows = made_up(videos=6)
    assert forest(rows, "psnr") == forest(rows, "psnr")
    assert quality_against_cost(rows, "warp_relative", "psnr") is not None
    assert quality_against_cost(rows, "seconds", "psnr") is None  # no costs here
    assert dict(matplotlib.rcParams) == before
