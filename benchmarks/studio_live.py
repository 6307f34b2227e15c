"""Seconds from a press on a threshold's slider to the new clips on the studio's page, in a real browser.

    python benchmarks/studio_live.py [--frames 1000]
    python benchmarks/studio_live.py --sd [--folder FOLDER]     # features of Stable Diffusion 2.1's shape at 384x672

A rendered film of miniature frames is uploaded and looked at; then each threshold is moved by the keyboard, and the
page says when other clips stand on it: about right ones from the small stored copy of the features, then exact ones.
With `--sd` no model looks at the film: random features of SD's shape, alike within shots of 100 frames, are put into
its workspace, divided and copied by the functions that the studio has for it, and the page is opened on that. The exact
clips are then waited for once, after the last press: they take minutes, and are at work during the presses as well.
Needs the extra `studio-test` and the system's Chromium, with `--sd` 5.2 MB of disk a frame.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch
from common import write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browsing import Page, chromium, expect
from served import Studio

from adaflow.cache import default_root
from adaflow.cards import find_card
from adaflow.config import EditConfig, resolve
from adaflow.diskarray import DiskArray
from adaflow.encode import write_video
from adaflow.keyframes import partition_with_scores
from adaflow.miniature.world import video
from adaflow.studio.library import Library
from adaflow.studio.place import Place
from adaflow.studio.queue import Queue
from adaflow.studio.timeline import find_analysis, keep
from adaflow.workspace import Workspace

SLIDERS = ("Similarity of the whole frame", "Similarity of the least similar part")
KEYS = ("ArrowLeft", "ArrowLeft", "ArrowRight", "PageDown", "PageUp")
WATCH = """() => {
  window.seen = [];
  new MutationObserver(() => {
    const figure = document.querySelector('figure.timeline');
    if (!figure || figure.dataset.seen) return;
    figure.dataset.seen = 'yes';
    const label = figure.querySelector('svg').getAttribute('aria-label');
    window.seen.push([performance.now(), figure.querySelector('[role=status]').textContent, label]);
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""
"""Notes when each timeline was put on the page, what it says of itself, and for which thresholds it is."""
SD, SD_SHAPE = "sd21", (48, 84, 640)
"""Whose features, and what they are of a frame at 384x672: rows, columns, depth."""
SHOT, STEP = 100, 0.1
"""Frames of a shot, and how far features walk from one to the next, beside their own size of 1."""
QUARTER_HOUR = 900


def moved(page: Page, slider: str, key: str, exactly: bool = True) -> dict[str, Any]:
    """One press: when clips that are about right stood there, and when the exact ones."""
    at = page.get_by_role("slider", name=re.compile(slider))
    at.focus()
    page.evaluate("window.seen = []")
    start = page.evaluate("performance.now()")
    at.press(key)
    found: dict[str, Any] = {"slider": slider, "key": key}
    until = time.monotonic() + QUARTER_HOUR
    while "about" not in found or (exactly and "exact" not in found):
        assert time.monotonic() < until, found
        page.wait_for_timeout(250)
        low = [float(page.get_by_role("slider", name=re.compile(one)).input_value()) for one in SLIDERS]
        for when, said, label in page.evaluate("window.seen"):
            if f"thresholds {low[0]:g} and {low[1]:g};" not in label:
                continue  # of an earlier press
            took = round((when - start) / 1000, 2)
            if said.startswith("About"):
                found.setdefault("about", took)
            elif said.startswith("Exact") and "about" in found and took > found["about"]:
                found.setdefault("exact", took)
    page.wait_for_timeout(2000)
    return found


def looked_at_by_the_miniature(page: Page, film: Path) -> None:
    """Upload a film, as people do."""
    page.set_input_files("#studio-file", film)
    expect(page.locator("figure.timeline")).to_be_visible(timeout=600_000)
    expect(page.locator("dl.figures")).to_contain_text("Memory", timeout=60_000)


def looked_at_by_sd(root: Path, film: Path, frames: int) -> dict[str, Any]:
    """A studio's folder with a film and what a look by SD would have left of it; what that took."""
    place = Place(root / "studio")
    place.make()
    queue = Queue(place.database)
    if queue.videos():
        known: dict[str, Any] = json.loads((root / "prepared.json").read_text())
        return known

    async def content() -> AsyncIterator[bytes]:
        yield film.read_bytes()

    library = Library(place, queue, 10**9)
    taken = library.accept(asyncio.run(library.receive(content(), None)), "film.mp4")
    card, fingerprint, seconds = find_card(SD), str(taken.about["fingerprint"]), {}
    config = resolve(EditConfig(), card.settings, card.kinds).keyframes
    with Workspace.open(default_root(fingerprint), {"video": fingerprint}, describe="film.mp4") as store:
        features = store.stage("features", {"made": "at random"})
        array = features.array("features", (frames, *SD_SHAPE), torch.float16)
        generator = torch.Generator().manual_seed(0)
        for i in range(frames):
            if i % SHOT == 0:
                tokens = torch.randn(SD_SHAPE, generator=generator)
            else:
                tokens += STEP * torch.randn(SD_SHAPE, generator=generator)
            array.write(i, tokens.half()[None])
        features.finish()
        key = {k: v for k, v in config.set_fields().items() if k != "choice"}
        divided = store.stage("partition", key | {"from": [features.folder.name]})
        stored = DiskArray.open(features.folder / "features.bin", (frames, *SD_SHAPE), torch.float16, writable=False)
        start = time.perf_counter()
        clips, scores = partition_with_scores((stored.read(i, i + 1)[0] for i in range(frames)), config)
        seconds["exact division"] = round(time.perf_counter() - start, 1)
        divided.write_json("partition", clips.to_json() | {"scores": scores.tolist()})
        divided.finish()
    analysis = find_analysis(default_root(fingerprint))
    assert analysis is not None
    start = time.perf_counter()
    looked = keep(analysis, place.video(taken.id))
    seconds["small copy"] = round(time.perf_counter() - start, 1)
    queue.tell_video(taken.id, looked={"job": "0" * 16, "model": SD, **looked})
    (root / "prepared.json").write_text(json.dumps(seconds))
    return seconds


def offer_sd(hub: Path) -> None:
    """Let the page offer SD 2.1, of which nothing but the name is needed."""
    card = find_card(SD)
    folder = hub / f"models--{str(card.hub).replace('/', '--')}"
    (folder / "snapshots" / str(card.revision)).mkdir(parents=True, exist_ok=True)
    (folder / "snapshots" / str(card.revision) / "model_index.json").write_text("{}")
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(str(card.revision))
    os.environ["HF_HUB_CACHE"] = str(hub)  # of the server, which is a process of its own


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--sd", action="store_true", help="features of SD 2.1's shape, made at random")
    parser.add_argument("--folder", type=Path, help="keep what is made, and take it from there the next time")
    parser.add_argument("--prepare", action="store_true", help="make what --sd needs in the folder, and stop")
    parser.add_argument("--shared", action="store_true", help="note that others used the machine meanwhile")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = given.folder or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        film = Path(temporary) / "film.mp4"
        write_video(film, iter(video("pan-3", given.frames)), fps=12)
        seconds: dict[str, Any] = {}
        if given.sd:
            os.environ["ADAFLOW_CACHE"] = str(root / "cache")  # the server's
            seconds = looked_at_by_sd(root, film, given.frames)
            print(seconds, flush=True)
            offer_sd(root / "hub")
        if not given.prepare:
            measure(root, film, given, seconds)


def measure(root: Path, film: Path, given: argparse.Namespace, seconds: dict[str, Any]) -> None:
    with chromium() as browser:
        studio = Studio(root)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(studio.url)
        expect(page.get_by_role("heading", name="1. The video")).to_be_visible(timeout=60_000)
        expect(page.locator(".facts, .note").first).to_be_visible()  # gradio forgets what comes before that
        if not given.sd:
            looked_at_by_the_miniature(page, film)
        expect(page.locator("figure.timeline")).to_be_visible(timeout=60_000)
        page.wait_for_timeout(3000)
        page.evaluate(WATCH)
        presses = [(slider, key) for slider in SLIDERS for key in KEYS]
        runs = []
        for i, (slider, key) in enumerate(presses):
            runs.append(moved(page, slider, key, exactly=not given.sd or i == len(presses) - 1))
            print(runs[-1], flush=True)
        studio.stop()
    about = {"frames": given.frames, "machine_shared": given.shared, "server_threads": 1}
    if given.sd:
        about |= {"features": list(SD_SHAPE), "shot": SHOT, "step": STEP, "preparing_seconds": seconds}
    write("studio-live-sd" if given.sd else "studio-live", about | {"runs": runs})


if __name__ == "__main__":
    main()
