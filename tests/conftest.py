"""What all tests share: one CPU thread, in the processes that they start too (the tensors are tiny), and no network."""

from __future__ import annotations

import importlib
import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest
import torch

from adaflow.report import Shown

LONGEST = ("test_studio_browser", "test_eval", "test_resume", "test_study_browser")
"""Files that begin first, so that no process is left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; otherwise as they were found."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Ctrl-C reaches the tests and what they start, also where a shell runs them in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def plain_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are written whole, but each of their figures is one empty picture: drawing them takes seconds a page."""

    def themed(_draw: object, caption: str, description: str = "", **_: object) -> Shown:
        return Shown(b"<svg xmlns='http://www.w3.org/2000/svg'/>", caption, description)

    # imported before any is changed: one that is imported afterwards would keep the other's changed function for good
    rooms = [importlib.import_module(f"adaflow.{name}") for name in ("findings", "reports")]
    for room in rooms:
        monkeypatch.setattr(room, "themed", themed)
    monkeypatch.setattr("adaflow.longv_eval.plots.svg", lambda _figure: b"<svg xmlns='http://www.w3.org/2000/svg'/>")
