"""The user study as participants take part in it: Chromium, driven by Playwright, on `adaflow study serve`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browsing import NAMELESS, Browser, Page, chromium, expect, holds, page_at, picture
from served import Served

from adaflow.cli import main
from adaflow.encode import write_video
from adaflow.miniature.world import video
from adaflow.study.plan import Key, load_key, load_study

METHODS = ("quickedit", "steadyedit", "oldedit")
PROMPTS = {"boat": "a <b>red</b> boat & ${sea}", "fish": "a green fish"}
FRAMES, FPS = 12, 12
QUALITY, CONSISTENCY = "quality", "consistency"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of three methods' videos, which differ in their colours."""
    root = tmp_path_factory.mktemp("study")
    for name, recipe in zip(PROMPTS, ("pan-3", "static-4"), strict=True):
        frames = np.stack(list(video(recipe, FRAMES)))
        for i, folder in enumerate(("sources", *METHODS)):
            (root / folder).mkdir(exist_ok=True)
            write_video(root / folder / f"{name}.mp4", iter(np.roll(frames, i, axis=-1) if i else frames), fps=FPS)
    (root / "prompts.json").write_text(json.dumps(PROMPTS))
    words = [*(str(root / m) for m in METHODS), "--source", str(root / "sources"), "--out", str(root / "study")]
    main(["study", "build", *words, "--prompts", str(root / "prompts.json"), "--title", "Which <i>one</i>?"])
    return root / "study"


@pytest.fixture(scope="module")
def server(study: Path) -> Iterator[Served]:
    running = Served(study.parent / "server", "study", "serve", str(study))
    yield running
    assert running.stop() == 0
    assert not running.elsewhere.exists(), running.elsewhere.read_text()


@pytest.fixture(scope="module")
def key(study: Path) -> Key:
    return load_key(study, load_study(study))


def ready(page: Page, heading: str) -> None:
    """A set is open, and its videos can be played."""
    expect(page.locator("#where")).to_have_text(heading)
    holds(page, "[...document.querySelectorAll('video')].every(v => v.readyState >= 3)")


def place(page: Page, key: Key, question: str, method: str) -> int:
    """Where a method's video stands on the page, for this participant."""
    clips = page.locator(f"input[name={question}]").evaluate_all("boxes => boxes.map(box => box.value)")
    return [key.clips[clip] for clip in clips].index(method)


def stored(page: Page, at: int) -> None:
    expect(page.locator("#status")).to_contain_text(f"Stored: {chr(ord('A') + at)} for")


def by_mouse(page: Page, key: Key, question: str, method: str) -> None:
    at = place(page, key, question, method)
    page.locator(f"input[name={question}]").nth(at).check()
    stored(page, at)


def by_keys(page: Page, key: Key, question: str, method: str) -> None:
    at = place(page, key, question, method)
    tab_to(page, f"input[name={question}]")
    page.keyboard.press("Space")
    for _ in range(at):
        page.keyboard.press("ArrowRight")
    stored(page, at)


def tab_to(page: Page, selector: str) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} is not reached by the keyboard")


def chosen(page: Page, key: Key) -> list[str]:
    """The methods whose videos are marked as chosen on a set's page."""
    return [
        key.clips[clip] for clip in page.locator("input:checked[type=radio]").evaluate_all("b => b.map(x => x.value)")
    ]


def times(page: Page) -> list[float]:
    found: list[float] = page.evaluate("[...document.querySelectorAll('video')].map(v => v.currentTime)")
    return found


def test_two_participants_of_whom_one_stops_and_continues(
    browser: Browser, server: Served, study: Path, key: Key, capsys: pytest.CaptureFixture[str]
) -> None:
    with page_at(browser, server.url) as page:  # Ann, who has no mouse, answers one of two sets
        expect(page.get_by_role("heading", name="Which video is best?")).to_be_visible()
        picture(page, "study-welcome")
        tab_to(page, "#start")
        page.keyboard.press("Enter")
        ready(page, "Set 1 of 2")
        assert page.title() == "Which <i>one</i>?"
        first = page.locator("#prompts dd").inner_text()
        assert first in PROMPTS.values(), "shown as it was written"
        assert page.evaluate(NAMELESS) == []
        page.locator("h2:focus").press("Space")  # plays
        holds(page, "[...document.querySelectorAll('video')].every(v => v.currentTime > 0.2)")
        page.keyboard.press("Space")
        expect(page.locator("#play")).to_have_text("Play")
        tab_to(page, "#forth")
        page.keyboard.press("Enter")
        holds(page, "[...document.querySelectorAll('video')].every(v => v.paused && !v.seeking)")
        assert len(times(page)) == 4 and len({int(t * FPS) for t in times(page)}) == 1, "all at one picture"
        by_keys(page, key, QUALITY, "steadyedit")
        by_keys(page, key, CONSISTENCY, "quickedit")
        expect(page.locator("#count")).to_have_text("2 of 4 questions answered")
        picture(page, "study-set")
        tab_to(page, "#stop")
        page.keyboard.press("Enter")
        ann = page.locator("#noted").inner_text()
        picture(page, "study-stopped")
        tab_to(page, "#forget")
        page.keyboard.press("Enter")
        expect(page.locator("#start")).to_be_visible()
        assert ann not in page.content() and page.evaluate("sessionStorage.length + localStorage.length") == 0

    heard: list[str] = []
    with page_at(browser, server.url) as page:  # Bob, elsewhere, sees nothing of it, and answers everything
        page.on("response", lambda r: heard.append(r.text()) if "/api/state" in r.url else None)
        page.get_by_role("button", name="Start").click()
        for number in (1, 2):
            ready(page, f"Set {number} of 2")
            assert chosen(page, key) == []
            expect(page.locator("#count")).to_have_text(f"{2 * number - 2} of 4 questions answered")
            by_mouse(page, key, QUALITY, "quickedit")
            if number == 1:
                page.reload()  # goes on where an answer is missing
                ready(page, "Set 1 of 2")
                assert chosen(page, key) == ["quickedit"]
            by_mouse(page, key, CONSISTENCY, "quickedit")
            page.locator("#next").click()
        expect(page.locator("#end-title")).to_have_text("All questions are answered")
        picture(page, "study-end")
        page.get_by_role("button", name="Finish").click()
        expect(page.locator("#end-title")).to_have_text("Thank you")
        bob = page.locator("#mine").inner_text()
        for body in heard:
            answers = [a for item in json.loads(body)["items"] for a in item["answers"].values()]
            assert {key.clips[clip] for clip in answers} <= {"quickedit"} and ann not in body
    assert bob != ann and len(heard) == 2

    assert server.stop() == 0  # another day
    server.start()
    with page_at(browser, server.url, refused=1) as page:
        code = page.get_by_label("You have a code already?")
        code.fill("aaaa-aaaa-aaaa-aaaa")
        code.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("This code is not known")
        picture(page, "study-unknown-code")
        code.fill(ann.upper().replace("-", " "))
        code.press("Enter")
        ready(page, "Set 2 of 2")
        assert chosen(page, key) == [], "of the set that was not answered"
        page.get_by_role("button", name="Previous set").click()
        ready(page, "Set 1 of 2")
        assert chosen(page, key) == ["steadyedit", "quickedit"] and page.locator("#prompts dd").inner_text() == first
        page.get_by_role("button", name="Next set").click()
        ready(page, "Set 2 of 2")
        by_mouse(page, key, QUALITY, "oldedit")
        by_mouse(page, key, QUALITY, "quickedit")  # another thought
        page.locator("#next").click()
        expect(page.locator("#end-title")).to_have_text("Not all questions are answered")
        expect(page.get_by_role("button", name="Finish")).to_be_disabled()
        picture(page, "study-missing")
        page.get_by_role("button", name="Set 2").click()
        ready(page, "Set 2 of 2")
        by_mouse(page, key, CONSISTENCY, "oldedit")
        page.locator("#next").click()
        page.get_by_role("button", name="Finish").click()
        expect(page.locator("#end-title")).to_have_text("Thank you")
        picture(page, "study-thanks")

    capsys.readouterr()
    main(["study", "tally", str(study), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["participants"] == {"finished": 2, "unfinished": 0, "counted": 2}
    votes = {
        q: {m: given["chosen"] for m, given in found["questions"][q]["methods"].items()} for q in found["questions"]
    }
    assert votes == {
        QUALITY: {"quickedit": 3, "steadyedit": 1, "oldedit": 0},
        CONSISTENCY: {"quickedit": 3, "steadyedit": 0, "oldedit": 1},
    }


def test_every_control_of_every_page_has_a_name(browser: Browser, server: Served) -> None:
    with page_at(browser, server.url) as page:
        expect(page.locator("#start")).to_be_visible()
        assert page.evaluate(NAMELESS) == []
        page.locator("#start").click()
        ready(page, "Set 1 of 2")
        assert page.evaluate(NAMELESS) == []
        for _ in range(2):
            page.locator("#next").click()
        expect(page.locator("#end-title")).to_be_visible()
        assert page.evaluate(NAMELESS) == []
        page.locator("#stop").click()
        expect(page.locator("#noted")).to_be_visible()
        assert page.evaluate(NAMELESS) == []


def test_the_last_of_several_answers_is_the_one_that_is_stored(browser: Browser, server: Served, key: Key) -> None:
    """Someone changes their mind twice while the network dawdles."""
    slow_first = """() => {
      const former = window.fetch;
      let first = true;
      window.fetch = async (path, ...rest) => {
        if (path === '/api/answer' && first) { first = false; await new Promise(go => setTimeout(go, 1500)); }
        return former(path, ...rest);
      };
    }"""
    with page_at(browser, server.url) as page:
        page.get_by_role("button", name="Start").click()
        ready(page, "Set 1 of 2")
        page.evaluate(slow_first)
        for method in METHODS:
            page.locator(f"input[name={QUALITY}]").nth(place(page, key, QUALITY, method)).check()
        stored(page, place(page, key, QUALITY, METHODS[-1]))
        page.wait_for_timeout(2000)
        stored(page, place(page, key, QUALITY, METHODS[-1]))
        page.reload()
        ready(page, "Set 1 of 2")
        assert chosen(page, key) == [METHODS[-1]]
