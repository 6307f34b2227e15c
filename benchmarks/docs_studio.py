"""Makes the pictures of docs/studio.md: the guided tour, taken by a browser on a studio of its own.

    python benchmarks/docs_studio.py

Needs the extra `studio-test` and the system's Chromium.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browsing import Browser, Page, chromium, expect, holds
from served import Studio

IMAGES = Path(__file__).parents[1] / "docs" / "images" / "studio"
PROMPT = "a blue car on a grass field"
WIDTH, HEIGHT, NARROW = 760, 900, 390


def shot(page: Page, name: str, first: str, last: str | None = None) -> None:
    """What stands from one element to another, or as much of it as a window shows."""
    top = page.locator(first).first.bounding_box()
    end = page.locator(last or first).last.bounding_box()
    assert top and end
    scrolled = page.evaluate("scrollY")
    y = max(0.0, top["y"] + scrolled - 12)
    height = min(HEIGHT, end["y"] + end["height"] + scrolled - y + 12)
    clip = {"x": 0.0, "y": y, "width": float(WIDTH), "height": height}
    save(Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip))), name)  # type: ignore[arg-type]


def save(image: Image.Image, name: str) -> None:
    image.convert("RGB").quantize(192, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)
    print(name, image.size, (IMAGES / f"{name}.png").stat().st_size)


@contextmanager
def opened(browser: Browser, studio: Studio, width: int) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": width, "height": HEIGHT}, color_scheme="light")
    page.goto(studio.url)
    expect(page.get_by_role("heading", name="1. The video")).to_be_visible(timeout=60_000)
    page.wait_for_timeout(2000)
    yield page
    page.close()


def tour(page: Page) -> None:
    """Sample, prompt, preview, thresholds, edit, comparison, figures."""
    page.get_by_role("button", name="Take this sample").click()
    expect(page.locator("figure.timeline")).to_be_visible(timeout=300_000)
    expect(page.locator("dl.figures")).to_contain_text("Memory")
    prompt = page.get_by_role("textbox", name=re.compile("^Prompt"))
    prompt.press_sequentially(PROMPT.replace("blue", "bleu"))
    expect(page.locator(".note.warning")).to_contain_text("bleu")
    page.wait_for_timeout(1500)
    shot(page, "looked", "#title", "h2:has-text('3. Clips')")
    prompt.fill(PROMPT)
    slider = page.get_by_role("slider", name=re.compile("Similarity of the whole frame"))
    slider.focus()
    for _ in range(4):
        slider.press("ArrowRight")
    expect(page.locator("figure.timeline figcaption")).to_contain_text("Exact")
    page.wait_for_timeout(2500)
    shot(page, "clips", "h2:has-text('3. Clips')", ".studio .keyframes")
    page.get_by_label("What changes").click()
    page.get_by_role("option", name="colour of a thing").click()
    page.get_by_role("button", name="Preview 4 keyframes").click()
    expect(page.locator(".preview img")).to_be_visible(timeout=600_000)
    page.get_by_role("button", name="Edit the whole video").click()
    holds(page, "document.querySelector('.job .state')?.innerText.includes('left in all')")
    holds(page, "document.querySelectorAll('.job li.done').length > 4")
    page.wait_for_timeout(4000)
    shot(page, "running", ".job", ".preview figcaption")
    holds(page, "document.querySelector('.job').dataset.state === 'done'")
    expect(page.locator(".compare")).to_be_visible()
    holds(page, "[...document.querySelectorAll('.compare video')].every(v => v.readyState >= 2)")
    for _ in range(5):
        page.get_by_role("button", name="Frame ▶").click()
    page.wait_for_timeout(800)
    shot(page, "compare", "h2:has-text('5. Before')", "a.download")
    page.get_by_text("Figures of this edit").click()
    inner = page.frame_locator(".compare iframe")
    wanted = inner.get_by_role("heading", name="Keyframes")
    expect(wanted.first).to_be_attached(timeout=60_000)
    wanted.first.evaluate("e => e.scrollIntoView()")
    page.wait_for_timeout(1500)
    shot(page, "figures", ".compare details.pages")


def narrow(page: Page) -> None:
    """A telephone's page at two places, side by side."""
    sheet = Image.new("RGB", (2 * NARROW + 20, HEIGHT), "#888888")
    for i, heading in enumerate(("3. Clips", "5. Before")):
        page.locator(f"h2:has-text('{heading}')").evaluate("e => e.scrollIntoView()")
        page.wait_for_timeout(2500)
        sheet.paste(Image.open(io.BytesIO(page.screenshot())), (i * (NARROW + 20), 0))
    save(sheet, "narrow")


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        studio = Studio(Path(folder))
        with opened(browser, studio, WIDTH) as page:
            tour(page)
        with opened(browser, studio, NARROW) as page:
            narrow(page)
        studio.stop()


if __name__ == "__main__":
    main()
