"""Seconds from a press on a threshold's slider to the new clips on the studio's page, in a real browser.

    python benchmarks/studio_live.py [--frames 1000]

A rendered film of miniature frames is uploaded and looked at; then each threshold is moved by the keyboard, and the
page says when other clips stand on it. Needs the extra `studio-test` and the system's Chromium.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browsing import Page, chromium, expect
from served import Studio

from adaflow.encode import write_video
from adaflow.miniature.world import video

SLIDERS = ("Similarity of the whole frame", "Similarity of the least similar part")
KEYS = ("ArrowLeft", "ArrowLeft", "ArrowRight", "PageDown", "PageUp")
WATCH = """() => {
  window.seen = [];
  new MutationObserver(() => {
    const said = document.querySelector('figure.timeline [role=status]')?.textContent;
    if (said && window.seen.at(-1)?.[1] !== said) window.seen.push([performance.now(), said]);
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


def moved(page: Page, slider: str, key: str) -> dict[str, Any]:
    """One press: when clips that are about right stood there, and when the exact ones."""
    at = page.get_by_role("slider", name=re.compile(slider))
    at.focus()
    page.evaluate("window.seen = []")
    start = page.evaluate("performance.now()")
    at.press(key)
    page.wait_for_timeout(4000)
    seen = [((when - start) / 1000, said) for when, said in page.evaluate("window.seen")]
    about = next(t for t, said in seen if said.startswith("About"))
    exact = next(t for t, said in seen if said.startswith("Exact") and t > about)
    return {"slider": slider, "key": key, "about": round(about, 2), "exact": round(exact, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=1000)
    frames = parser.parse_args().frames
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        film = Path(folder) / "film.mp4"
        write_video(film, iter(video("pan-3", frames)), fps=12)
        studio = Studio(Path(folder) / "studio")
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(studio.url)
        expect(page.get_by_role("heading", name="1. The video")).to_be_visible(timeout=60_000)
        page.set_input_files("#studio-file", film)
        expect(page.locator("figure.timeline")).to_be_visible(timeout=600_000)
        expect(page.locator("dl.figures")).to_contain_text("Memory", timeout=60_000)
        page.wait_for_timeout(3000)
        page.evaluate(WATCH)
        runs = [moved(page, slider, key) for slider in SLIDERS for key in KEYS]
        studio.stop()
    write("studio-live", {"frames": frames, "runs": runs})


if __name__ == "__main__":
    main()
