"""The studio as people use it: Chromium, driven by Playwright, on a server of its own with the embedded miniature.

With pictures of all states (`browsing.py`), of which `docs/studio.md` shows some.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from browsing import (
    NAMELESS,
    PATIENCE,
    Browser,
    Download,
    Locator,
    Page,
    Route,
    chromium,
    expect,
    holds,
    page_at,
    picture,
)
from served import Studio

from adaflow.decode import read_frames
from adaflow.encode import write_video
from adaflow.probe import probe

pytest.importorskip("gradio", reason="needs gradio: pip install 'adaflow[studio-test]'")
FRAMES, FPS = 16, 8
STEPS = 16
"""So many that an edit is not done before it is paused."""
NAME = "<img src=x onerror=alert(1)> ${alert(2)} {{value}}.mp4"
"""Of the uploaded file: what must be shown as it is."""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from adaflow.miniature.world import video

    file = tmp_path_factory.mktemp("film") / NAME.replace("/", "")
    made = file.with_name("plain.mp4")
    write_video(made, iter(video("pan-3", FRAMES)), fps=FPS)
    return made.rename(file)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    running = Studio(tmp_path_factory.mktemp("studio"))
    yield running
    assert running.stop() == 0
    assert not running.elsewhere.exists(), running.elsewhere.read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@contextmanager
def page_of(browser: Browser, studio: Studio, refused: int = 0) -> Iterator[Page]:
    """A new tab with the studio's page."""
    with page_at(browser, studio.url, refused) as page:
        expect(page.get_by_role("heading", name="1. The video")).to_be_visible(timeout=PATIENCE)
        expect(page.locator(".facts, .note").first).to_be_visible()  # the video of the job at hand is chosen
        yield page


def jobs(studio: Studio) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(studio.root / "studio" / "studio.sqlite")) as base:
        return base.execute("SELECT kind, state FROM jobs ORDER BY added, rowid").fetchall()


def state(page: Page, *names: str) -> None:
    """The job at hand comes into one of these states."""
    script = "names => names.includes(document.querySelector('.job')?.dataset.state)"
    holds(page, script, names)


def prompt_box(page: Page) -> Locator:
    return page.get_by_role("textbox", name=re.compile("^Prompt"))


def open_settings(page: Page) -> None:
    """Unfold the settings; gradio forgets a click that comes while it puts its first answers in place."""
    steps = page.get_by_label("Steps").and_(page.locator("input[type=number]")).first
    for _ in range(5):
        page.get_by_role("button", name=re.compile("^Settings")).click()
        with suppress(AssertionError):
            expect(steps).to_be_visible(timeout=5000)
            return
    raise AssertionError("the settings do not unfold")


def set_number(page: Page, label: str, value: float) -> None:
    box = page.get_by_label(label, exact=False).and_(page.locator("input[type=number]")).first
    box.fill(str(value))
    box.press("Enter")
    box.blur()


def test_a_script_that_comes_late_is_waited_for(studio: Studio, browser: Browser) -> None:
    """The page's own script may arrive after gradio's have drawn everything: uploads work all the same."""

    def late(route: Route) -> None:
        time.sleep(3)
        route.continue_()

    with page_at(browser, studio.url, refused=1) as page:
        page.route("**/studio/page.js", late)
        with page.expect_response("**/studio/page.js"):
            page.reload()
        page.set_input_files("#studio-file", {"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"no video"})
        expect(page.locator(".said")).to_contain_text("is not a video that can be read")


@pytest.fixture(scope="module")
def looked(studio: Studio, browser: Browser, film: Path) -> Studio:
    """A studio with a video that was uploaded and looked at."""
    with page_of(browser, studio) as page:
        picture(page, "empty")
        page.set_input_files("#studio-file", film)
        expect(page.locator(".said")).to_contain_text("Here: <img src=x onerror=alert(1)>")
        expect(page.locator("figure.timeline")).to_be_visible(timeout=PATIENCE)
        expect(page.locator("dl.figures")).to_contain_text("Memory")
        page.get_by_text("Figures of the last look").click()
        figures = page.frame_locator(".pages iframe")
        expect(figures.get_by_role("heading", name="what is in the video")).to_be_visible()
        assert figures.get_by_role("img").evaluate_all("all => all.every(one => one.naturalWidth > 50)")
        assert jobs(studio) == [("inspect", "done")]
        picture(page, "looked")
    return studio


def test_names_are_shown_as_they_are(looked: Studio, browser: Browser) -> None:
    with page_of(browser, looked) as page:
        expect(page.locator(".facts").first).to_contain_text("<img src=x onerror=alert(1)> ${alert(2)} {{value}}.mp4")
        assert page.locator("img[src=x]").count() == 0


def test_what_is_no_video_is_refused_in_a_sentence(looked: Studio, browser: Browser) -> None:
    with page_of(browser, looked, refused=1) as page:
        page.set_input_files("#studio-file", {"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"no video"})
        expect(page.locator(".said")).to_contain_text("is not a video that can be read")
        assert len(list((looked.root / "studio" / "videos").iterdir())) == 1
        picture(page, "refused")


def test_thresholds_are_moved_live_and_then_exactly(looked: Studio, browser: Browser) -> None:
    with page_of(browser, looked) as page:
        caption = page.locator("figure.timeline figcaption")
        expect(caption).to_contain_text("Exact")
        before = caption.inner_text()
        slider = page.get_by_role("slider", name=re.compile("Similarity of the whole frame"))
        slider.focus()
        for _ in range(6):  # by the keyboard: nothing is released, and the exact clips come all the same
            slider.press("ArrowRight")
        expect(caption).to_contain_text("clips of")
        expect(caption).to_contain_text("Exact")
        assert caption.inner_text() != before
        box = slider.bounding_box()
        assert box
        page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2, steps=4)
        expect(caption).to_contain_text("1 clip of")
        page.mouse.up()
        expect(caption).to_contain_text("Exact: the same clips as shown while moving")
        picture(page, "thresholds")


def test_words_that_the_miniature_does_not_know_are_pointed_out_while_typing(looked: Studio, browser: Browser) -> None:
    with page_of(browser, looked) as page:
        prompt_box(page).press_sequentially("a gren elephant in the snow", delay=5)
        expect(page.locator(".note.warning")).to_contain_text("“gren” (did you mean green")
        expect(page.locator(".note.warning")).to_contain_text("“elephant”")
        prompt_box(page).fill("a green fish in the snow")
        expect(page.locator(".note.warning")).to_have_count(0)


def test_preview_run_reload_pause_resume_compare_download_cancel(looked: Studio, browser: Browser) -> None:
    """One edit from its preview to its file, seen by two browsers, and another one that is cancelled."""
    prompt = "a blue boat <b>on</b> the ${sea}"
    with page_of(browser, looked) as page:
        prompt_box(page).fill(prompt)
        open_settings(page)
        set_number(page, "Steps", STEPS)
        set_number(page, "Height", 64)
        page.get_by_role("button", name="Preview 4 keyframes").click()
        expect(page.locator(".job li.now")).to_contain_text("editing")
        expect(page.locator(".preview img")).to_be_visible(timeout=PATIENCE)
        assert page.evaluate("document.querySelector('.preview img').naturalWidth > 100")
        picture(page, "preview")

        page.get_by_role("button", name="Edit the whole video").click()
        state(page, "running")
        holds(page, "document.querySelectorAll('.job li.now, .job li.done').length > 3")
        expect(page.locator(".job .state")).to_contain_text("left in all")
        page.reload()
        expect(page.locator(".job h3")).to_contain_text(prompt, timeout=PATIENCE)
        with page_of(browser, looked) as second:  # another browser finds it as well, and pauses it
            expect(second.locator(".job h3")).to_contain_text(prompt)
            second.get_by_role("button", name="Pause", exact=True).click()
        state(page, "paused")
        assert jobs(looked)[-1] == ("edit", "paused")
        picture(page, "paused")
        page.get_by_role("button", name="Resume", exact=True).click()
        state(page, "running")
        holds(page, "document.querySelectorAll('.job li.now, .job li.done').length > 3")
        picture(page, "running")
        state(page, "done")
        expect(page.locator(".compare")).to_be_visible()

        holds(page, "[...document.querySelectorAll('.compare video')].every(v => v.readyState >= 2)")
        step_through(page)
        with page.expect_download() as waiting:
            page.get_by_role("link", name="Download the edited video (MP4)").click()
        check_download(waiting.value)
        picture(page, "compared")

        prompt_box(page).fill("a white boat on the sea")
        page.get_by_role("button", name="Edit the whole video").click()
        state(page, "running", "waiting")
        page.get_by_role("button", name="Cancel", exact=True).click()
        state(page, "cancelled")
        expect(page.locator(".history li[data-state=cancelled]")).to_have_count(1)  # a click into a list that is drawn
        use_again(page, prompt)  # anew just then would be lost
        picture(page, "history")
    assert [job for job in jobs(looked) if job[0] == "edit"] == [("edit", "done"), ("edit", "cancelled")]


def step_through(page: Page) -> None:
    """Frame by frame, and the line between the two films."""
    frame = page.locator(".compare input.frame")
    for _ in range(3):
        page.get_by_role("button", name="Frame ▶").click()
    page.get_by_role("button", name="◀ Frame").click()
    assert frame.input_value() == "2"
    times = page.evaluate("[...document.querySelectorAll('.compare video')].map(v => v.currentTime)")
    assert all(2 / FPS < t < 3 / FPS for t in times)
    frame.fill("99999")
    frame.press("Enter")
    assert frame.input_value() == str(FRAMES - 1)
    split = page.get_by_label("Divide between source and edit")
    split.focus()
    split.press("End")
    assert "inset(0px 0%" in page.evaluate("getComputedStyle(document.querySelector('.before')).clipPath")
    split.press("Home")
    assert "inset(0px 100%" in page.evaluate("getComputedStyle(document.querySelector('.before')).clipPath")
    split.fill("50")
    before = page.evaluate("document.querySelector('.compare video').currentTime")
    page.get_by_role("button", name="Play").click()
    holds(page, "before => document.querySelector('.compare video').currentTime !== before", before)
    page.get_by_label("Place in the video").fill("8")
    assert frame.input_value() == "8"


def check_download(download: Download) -> None:
    """As long as the source, and named after it."""
    name = download.suggested_filename
    assert name.endswith(".edited.mp4") and not set("/\\\0") & set(name)
    info = probe(download.path())
    assert (info.frames, info.height, info.codec) == (FRAMES, 64, "h264")
    assert len(list(read_frames(download.path()))) == FRAMES


def use_again(page: Page, prompt: str) -> None:
    """The first edit's prompt and settings come back into the controls."""
    open_settings(page)
    prompt_box(page).fill("something else")
    set_number(page, "Steps", 33)
    page.get_by_role("button", name="Use these settings again").last.click()
    expect(prompt_box(page)).to_have_value(prompt)
    expect(page.get_by_label("Steps").and_(page.locator("input[type=number]")).first).to_have_value(str(STEPS))


def test_every_control_has_a_name_and_is_reached_by_the_keyboard(looked: Studio, browser: Browser) -> None:
    with page_of(browser, looked) as page:
        open_settings(page)
        page.wait_for_timeout(300)
        assert page.evaluate(NAMELESS) == []
        reached: set[str] = set()
        page.locator("#studio-file").focus()
        for _ in range(70):
            reached.add(page.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText || ''"))
            page.keyboard.press("Tab")
        for wanted in ("Choose a video file", "Edit the whole video", "Preview 4 keyframes"):
            assert any(wanted in name for name in reached), (wanted, reached)


def test_a_whole_edit_by_the_keyboard_alone(looked: Studio, browser: Browser) -> None:
    prompt = "a purple boat on the sea"
    with page_of(browser, looked) as page:
        tab_to(page, "Choose a video file")
        tab_to(page, "Prompt")
        page.keyboard.type(prompt)
        enter(page, "Settings", page.get_by_label("number input for Steps"))
        tab_to(page, "number input for Steps")
        page.keyboard.press("Control+a")
        page.keyboard.type("2")
        assert page.locator(".options").evaluate_all("lists => !lists.some(one => one.checkVisibility())")
        enter(page, "Edit the whole video", page.locator(".job h3", has_text=prompt))
        state(page, "done")
        expect(page.locator(".compare .facts")).to_contain_text(prompt)
        tab_to(page, "Divide between source and edit")
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        assert "47%" in page.evaluate("getComputedStyle(document.querySelector('.before')).clipPath")
        tab_to(page, "Frame ▶")
        page.keyboard.press("Enter")
        assert page.locator(".compare input.frame").input_value() == "1"
        tab_to(page, "Download the edited video")
        with page.expect_download() as waiting:
            page.keyboard.press("Enter")
        assert probe(waiting.value.path()).frames == FRAMES
        tab_to(page, "Figures of this edit")
        page.keyboard.press("Enter")
        figures = page.frame_locator(".compare iframe")
        expect(figures.get_by_role("heading", name=prompt)).to_be_visible()
        expect(figures.get_by_role("heading", name="Time and memory")).to_be_attached()
        picture(page, "figures")


def enter(page: Page, name: str, appears: Locator) -> None:
    """Press Enter on what has this name; gradio forgets a press that comes while it puts answers in place."""
    for _ in range(5):
        tab_to(page, name)
        page.keyboard.press("Enter")
        with suppress(AssertionError):
            expect(appears.first).to_be_visible(timeout=20_000)
            return
    raise AssertionError(f"{name} does nothing")


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the focus is on what has this name, as a screen reader says it."""
    script = "e => e.ariaLabel || e.labels?.[0]?.innerText || e.innerText || ''"
    for _ in range(150):
        page.keyboard.press("Tab")
        if page.locator(":focus").count() and page.locator(":focus").evaluate(script).strip().startswith(name):
            return
    raise AssertionError(f"{name} is not reached by the keyboard")


def test_a_server_that_was_killed_goes_on_when_it_is_started_again(looked: Studio, browser: Browser) -> None:
    with page_of(browser, looked) as page:
        prompt_box(page).fill("a red boat on the sea")
        page.get_by_role("button", name="Edit the whole video").click()
        state(page, "running")
        page.goto("about:blank")
        looked.kill()
    looked.start()
    with page_of(browser, looked) as page:
        expect(page.locator(".job h3")).to_contain_text("a red boat on the sea")
        state(page, "running")
        page.get_by_role("button", name="Cancel", exact=True).click()
        state(page, "cancelled")


def test_a_video_is_deleted_with_all_that_was_made_of_it(looked: Studio, browser: Browser) -> None:
    with page_of(browser, looked) as page, page_of(browser, looked) as second:
        prompt_box(page).fill("a red boat on the sea")
        page.get_by_role("button", name="Edit the whole video").click()
        state(page, "running")
        page.get_by_role("button", name="Delete this video …").press("Enter")
        expect(page.get_by_text("and its workspace? This cannot be undone.")).to_be_visible()
        picture(page, "delete")
        page.get_by_role("button", name="Keep it").click()
        expect(page.get_by_role("button", name="Delete for good")).to_have_count(0)
        for _ in range(2):  # not while it is being edited
            page.get_by_role("button", name="Delete this video …").click()
            page.get_by_role("button", name="Delete for good").click()
            expect(page.locator(".note", has_text="is being worked on; cancel that first")).to_be_visible()
        page.get_by_role("button", name="Cancel", exact=True).click()
        state(page, "cancelled")
        assert len(jobs(looked)) > 1 and len(list((looked.root / "cache" / "workspaces").iterdir())) == 1
        page.get_by_role("button", name="Delete this video …").click()
        page.get_by_role("button", name="Delete for good").click()
        expect(page.locator(".note", has_text="Deleted: <img src=x")).to_be_visible()
        for each in (page, second):  # another browser sees it as well
            expect(each.get_by_text("No video yet")).to_be_visible()
            expect(each.get_by_text("No edits yet.")).to_be_visible()
        assert page.get_by_role("button", name="Delete this video …").is_disabled()
        picture(page, "deleted")
    assert jobs(looked) == []
    for folder in ("studio/videos", "studio/jobs", "cache/workspaces"):
        assert list((looked.root / folder).iterdir()) == [], folder
