"""Pages in a real browser: Chromium from the system's packages, driven by Playwright.

What goes wrong on a page without being seen is noted, and fails the test: errors and warnings of the console, and any
request to another host. Pictures go to ``$ADAFLOW_PICTURES`` where that is set, wide and narrow, light and dark.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
try:
    from playwright.sync_api import Browser, Download, Locator, Page, Route, expect, sync_playwright
except ImportError as error:
    pytest.skip(f"needs playwright: pip install 'adaflow[studio-test]' ({error})", allow_module_level=True)
if CHROMIUM is None:
    pytest.skip("needs Chromium, a package of the system: apt install chromium", allow_module_level=True)

__all__ = ["FAINT", "NAMELESS", "PATIENCE", "chromium", "holds", "page_at", "picture"]
__all__ += ["Browser", "Download", "Locator", "Page", "Route", "expect"]  # of Playwright
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PATIENCE = 120_000
"""Milliseconds."""


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE / 3)
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@contextmanager
def page_at(browser: Browser, url: str, refused: int = 0) -> Iterator[Page]:
    """A tab of a person's own at a server's first page, in which nothing goes wrong that the browser would tell of.

    Args:
        browser: Which browser.
        url: Of the page: the only host that may be asked for anything.
        refused: Requests that are to be refused: the browser tells of each.
    """
    wrong: list[str] = []
    context = browser.new_context(viewport=WIDE, accept_downloads=True)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda m: wrong.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
    page.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else wrong.append(f"to {r.url}"))
    page.goto(url)
    yield page
    context.close()
    told = [line for line in wrong if "the server responded with a status of 4" in line]
    assert len(told) == refused and wrong == told


def picture(page: Page, name: str) -> None:
    """The page wide and narrow, light and dark: never wider than the window, every word legible; kept if asked for."""
    folder = os.environ.get("ADAFLOW_PICTURES")
    for scheme, mark in (("dark", "-dark"), ("light", "")):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for size, width in ((NARROW, "390"), (WIDE, "1280")):
            page.set_viewport_size(size)  # type: ignore[arg-type]
            page.wait_for_timeout(250)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} overflows at {width}"
            if folder:
                page.screenshot(path=Path(folder) / f"{name}-{width}{mark}.png", full_page=True)
        for _ in range(30):  # what is being drawn anew may be faint for a moment
            if not (faint := page.evaluate(FAINT)):
                break
            page.wait_for_timeout(100)
        assert not faint, (name, scheme, faint)


def holds(page: Page, script: str, given: object = None) -> None:
    """Wait until a script gives something true; unlike Playwright's own, where the page's policy forbids `eval`."""
    until = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(script, given):
        assert time.monotonic() < until, script
        page.wait_for_timeout(50)


NAMELESS = """() => [...document.querySelectorAll('input, select, textarea, button, a[href]')]
  .filter(e => e.checkVisibility() && e.type !== 'hidden')
  .filter(e => !(e.ariaLabel || e.innerText?.trim() || e.title || [...(e.labels || [])].some(l => l.innerText.trim())
    || document.getElementById(e.getAttribute('aria-labelledby'))?.innerText))
  .map(e => e.outerHTML.slice(0, 200))"""
"""The controls on a page that have no name for a screen reader."""

FAINT = """() => {
  const rgba = text => {
    const [r, g, b, a = 1] = text.replace('color(srgb', '').match(/[\\d.]+/g).map(Number);
    return [r, g, b].map(v => text.startsWith('color') ? v * 255 : v).concat(a);
  };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => 0.2126 * linear(c[0] / 255) + 0.7152 * linear(c[1] / 255) + 0.0722 * linear(c[2] / 255);
  const within = e => e ? [e, ...within(e.parentElement)] : [];
  const bottom = matchMedia('(prefers-color-scheme: dark)').matches ? [0, 0, 0, 1] : [255, 255, 255, 1];
  const ground = e => within(e).map(at => rgba(getComputedStyle(at).backgroundColor))
    .reduceRight((below, layer) => over(layer, below), bottom);
  const opacity = e => within(e).reduce((part, at) => part * getComputedStyle(at).opacity, 1);
  const words = e => e.matches('textarea, input:not([type=range], [type=radio], [type=checkbox])') ? e.value
    : [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join(' ').trim();
  const left = e => e.closest('svg, :disabled, [aria-disabled=true], .hidden') || e.getBoundingClientRect().width <= 1;
  return [...document.querySelectorAll('body *')]
    .filter(e => e.checkVisibility({visibilityProperty: true}) && words(e) && !left(e))
    .map(e => {
      const below = ground(e), [r, g, b, a] = rgba(getComputedStyle(e).color);
      const [ink, paper] = [light(over([r, g, b, a * opacity(e)], below)), light(below)];
      const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
      return [ratio, words(e).slice(0, 60), e.outerHTML.slice(0, 120)];
    })
    .filter(([ratio]) => ratio < 4.5);
}"""
"""Words whose contrast to what is under them is less than 4.5 to 1 (WCAG 2.2, success criterion 1.4.3)."""
