"""The page holds everything, asks for nothing, shows text as text; its comparison does what it says, in a browser."""

import base64
import hashlib
import html
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adaflow import figures
from adaflow.comparison import beside, middles_of
from adaflow.errors import InputError, ResourceError
from adaflow.report import Compare, Film, Grid, Section, Shown, write_report
from adaflow.video import probe, write_video

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def frames(count: int, height: int = 12, width: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


ASKING = {"src", "href", "srcset", "poster", "data", "action", "formaction", "background", "xlink:href"}


class Page(HTMLParser):
    """Collects what a page asks for, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.asked += [value or "" for name, value in attrs if name in ASKING]

    def handle_data(self, data: str) -> None:
        self.text += data


EVIL = "<script>alert('1')</script> & \"quoted\" {braces} %s"


def test_the_page_holds_everything_and_asks_for_nothing(tmp_path: Path) -> None:
    film = tmp_path / "a.mp4"
    film.write_bytes(b"film")
    items = [Shown(Image.new("RGB", (4, 4)), EVIL), Shown(b"png", "bytes", EVIL), Film(film, EVIL), Film(b"x", "short")]
    sections = [Section(EVIL, f"{EVIL}\n\nsecond", {EVIL: EVIL, "scale": 0.1 + 0.2}, items), Section("empty")]
    path = write_report(tmp_path / "page.html", EVIL, sections)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.asked) == 4 and all(asked.startswith("data:") for asked in page.asked)
    assert "script" not in page.tags and page.tags.count("p") == 2 and page.text.count(EVIL) >= 7
    assert "0.3" in page.text and "0.30000000000000004" not in page.text
    assert not re.search(r"https?://|@import|url\(", text.replace(EVIL, ""))
    assert "width=device-width" in text and "prefers-color-scheme: dark" in text


def test_a_figure_is_put_into_the_page(tmp_path: Path) -> None:
    figure = figures.side_by_side(frames(1), frames(1))
    path = write_report(tmp_path / "page.html", "title", [Section("part", items=[Shown(figure, "caption")])])
    assert path.stat().st_size > len(figures.png(figure))


def test_a_large_video_is_named_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaflow.report.LARGEST_VIDEO", 3)
    (tmp_path / "big.mp4").write_bytes(b"film")
    path = write_report(tmp_path / "p.html", "t", [Section("s", items=[Film(tmp_path / "big.mp4", "caption")])])
    page = Page(path.read_text(encoding="utf-8"))
    assert "big.mp4" in page.text and not page.asked


def test_a_failed_page_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(tmp_path / "page.html", "old", [])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=r"cannot be written .* the disk is full"):
        write_report(path, "new", [])
    assert "old" in path.read_text(encoding="utf-8") and [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_the_page_is_as_readable_as_other_files(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    path = write_report(tmp_path / "page.html", "t", [])
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_places_and_videos_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_report(tmp_path / "no" / "page.html", "t", [])
    with pytest.raises(InputError, match="cannot be read"):
        write_report(tmp_path / "page.html", "t", [Section("s", items=[Film(tmp_path / "no.mp4", "c")])])


# -- pictures for every ground and screen -----------------------------------------------------------------------------


def test_the_first_source_that_fits_is_the_narrowest_and_darkest(tmp_path: Path) -> None:
    shown = Shown(b"a", "caption", "", b"dark", b"narrow", b"both")
    text = write_report(tmp_path / "p.html", "t", [Section("s", items=[shown])]).read_text()
    found = re.findall(r'<(?:source media="([^"]*)" srcset|img src)="data:[^,]*,([^"]*)"', text)
    assert [(media, base64.b64decode(data)) for media, data in found] == [
        ("(max-width: 640px) and (prefers-color-scheme: dark)", b"both"),
        ("(max-width: 640px)", b"narrow"),
        ("(prefers-color-scheme: dark)", b"dark"),
        ("", b"a"),
    ]


def test_pictures_are_named_by_their_kind(tmp_path: Path) -> None:
    figure = figures.stage_breakdown({"edit": 1.0})
    items = [Shown(kind(figure), "c") for kind in (figures.png, figures.svg, figures.webp)]
    text = write_report(tmp_path / "p.html", "t", [Section("s", items=items)]).read_text()
    assert re.findall(r'src="data:([^;]*);', text) == ["image/png", "image/svg+xml", "image/webp"]


# -- the comparison ---------------------------------------------------------------------------------------------------

COUNT, HEIGHT, WIDTH = 24, 96, 160


def numbered(number: int, red: bool) -> np.ndarray:
    """A frame that tells its number by its grey: the source reddish, the edit bluish."""
    level = 20 + 7 * number
    return np.broadcast_to([level + 40 * red, level, level + 40 * (not red)], (HEIGHT, WIDTH, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[float]]:
    path = tmp_path_factory.mktemp("film") / "both.mp4"
    pictures = (beside(numbered(i, True), numbered(i, False), None) for i in range(COUNT))
    write_video(path, pictures, fps=12, crf=4)
    return path.read_bytes(), middles_of(probe(path))


def test_a_comparison_is_one_film_with_its_times(film: tuple[bytes, list[float]], tmp_path: Path) -> None:
    data, middles = film
    items = [Compare(data, middles, EVIL, names=(EVIL, "edit"))]
    text = write_report(tmp_path / "p.html", "t", [Section("s", items=items)]).read_text()
    page = Page(text)
    assert page.asked == [f"data:video/mp4;base64,{base64.b64encode(data).decode()}"]
    found = json.loads(html.unescape(re.search(r'data-middles="([^"]*)"', text)[1]))  # type: ignore[index]
    assert np.allclose(found, (np.arange(COUNT) + 0.5) / 12, atol=1e-4)
    assert page.tags.count("script") == 1 and page.text.count(EVIL) == 2


def test_only_the_very_script_of_the_page_may_run(film: tuple[bytes, list[float]], tmp_path: Path) -> None:
    text = write_report(tmp_path / "p.html", "t", [Section("s", items=[Compare(*film, "c")])]).read_text()
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
        in text
    )
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\b|WebSocket|innerHTML|eval", script)


def test_a_comparison_that_is_too_large_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("adaflow.report.LARGEST_VIDEO", 3)
    path = write_report(tmp_path / "p.html", "t", [Section("s", items=[Compare(b"film", [0.5], "c")])])
    page = Page(path.read_text())
    assert "too large" in page.text and not page.asked and "script" not in page.tags


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra studio-test is not installed")
    if CHROMIUM is None:
        pytest.skip("needs Chromium, a package of the system: apt install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def shown(browser: Any, film: tuple[bytes, list[float]], tmp_path: Path) -> Iterator[Any]:
    """The page in a browser, with a list of what it asked for and of what went wrong."""
    chart = figures.stage_breakdown({"edit": 1.0})
    grid = Grid([Film(film[0], "one"), Film(film[0], "two")], together=True)
    items = [Compare(*film, "caption"), Shown(figures.svg(chart), "chart"), grid]
    path = write_report(tmp_path / "page.html", "Title", [Section("Part", items=items)])
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.asked, page.wrong = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda said: page.wrong.append(said.text) if said.type == "error" else None)
    page.goto(path.as_uri())
    page.wait_for_selector(".compare .controls:not([hidden])")
    yield page
    assert page.wrong == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
    page.close()


def until(page: Any, true: str) -> None:
    """Wait for an expression to hold; playwright's own way needs `eval`, which the page forbids."""
    for _ in range(200):
        if page.evaluate(true):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never came true: {true}")


def pixel(page: Any, x: float) -> list[int]:
    """Of the canvas, at a share of its width."""
    code = "x => { const c = document.querySelector('.compare canvas'); return [...c.getContext('2d').getImageData("
    return list(page.evaluate(code + "Math.floor(x * (c.width - 1)), c.height >> 1, 1, 1).data] }", x))[:3]


def number(page: Any, x: float) -> int:
    """The frame that the canvas shows there, by its grey."""
    return round((pixel(page, x)[1] - 20) / 7)


def test_the_line_parts_source_and_edit(shown: Any) -> None:
    page = shown
    for share in (0, 0.25, 0.5, 0.9, 1):
        page.eval_on_selector(
            ".wipe", "(wipe, at) => { wipe.value = at; wipe.dispatchEvent(new Event('input')); }", 1000 * share
        )
        for x in (0.02, 0.2, 0.35, 0.6, 0.8, 0.98):
            if abs(x - share) > 0.06:
                red, _, blue = pixel(page, x)
                assert (red > blue) == (x < share), (share, x)


def test_frames_are_stepped_one_by_one(shown: Any) -> None:
    page = shown
    told = page.locator(".compare output")
    assert told.inner_text() == f"frame 0 of {COUNT - 1}" and number(page, 0.1) == 0
    for i in range(1, 6):
        page.get_by_label("one frame on").click()
        until(page, f"document.querySelector('.compare output').value.startsWith('frame {i} ')")
        assert number(page, 0.1) == i == number(page, 0.9)
    page.get_by_label("one frame back").click()
    until(page, "document.querySelector('.compare output').value.startsWith('frame 4 ')")
    assert number(page, 0.1) == 4
    page.get_by_label("frame", exact=True).focus()  # by keyboard alone
    page.keyboard.press("End")
    until(page, f"document.querySelector('.compare output').value.startsWith('frame {COUNT - 1} ')")
    assert number(page, 0.1) == COUNT - 1
    page.get_by_label("one frame on").click()
    assert told.inner_text() == f"frame {COUNT - 1} of {COUNT - 1}"


def test_the_line_follows_the_pointer(shown: Any) -> None:
    page = shown
    box = page.locator(".compare canvas").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 20)
    page.mouse.up()
    assert abs(float(page.locator(".wipe").input_value()) - 200) <= 5
    red, _, blue = pixel(page, 0.35)
    assert blue > red


def test_it_plays_and_both_can_be_seen_side_by_side(shown: Any) -> None:
    page = shown
    page.get_by_role("button", name="Play", exact=True).click()
    until(page, "Number(document.querySelector('.compare .frame').value) >= 6")
    page.get_by_role("button", name="Pause").click()
    page.wait_for_selector("button:text-is('Play')")
    both = page.get_by_role("button", name="Side by side")
    both.click()
    assert page.locator(".compare video").is_visible() and not page.locator(".compare canvas").is_visible()
    assert both.get_attribute("aria-pressed") == "true"
    both.click()
    assert page.locator(".compare canvas").is_visible()


def test_nothing_is_wider_than_a_telephone(shown: Any) -> None:
    assert shown.evaluate("document.documentElement.scrollWidth") <= 390
    unnamed = "[...document.querySelectorAll('button, input, video')].filter(e => !(e.ariaLabel || e.innerText)).length"
    assert shown.evaluate(unnamed) == 0


def test_the_page_follows_the_readers_ground(shown: Any) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        shown.emulate_media(color_scheme=scheme)
        grounds.append(shown.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(255, 255, 255)", "rgb(22, 24, 27)"]


def test_a_grid_plays_all_its_films_from_the_start(shown: Any) -> None:
    shown.get_by_role("button", name="Play all from the start").click()
    until(shown, "[...document.querySelectorAll('.grid video')].every(film => !film.paused)")
