"""The pictures show what they should and refuse what they cannot show; the page holds all of it."""

import io
import os
import re
import stat
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from adaflow import figures
from adaflow.config import KeyframeConfig
from adaflow.errors import InputError
from adaflow.keyframes import Partition
from adaflow.report import Film, Section, Shown, write_report

CLIPS = Partition.from_starts([0, 4, 7], 12)


def frames(count: int, height: int = 12, width: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def opened(picture: figures.Picture) -> Image.Image:
    image = Image.open(io.BytesIO(figures.png(picture)))
    image.load()
    return image


def test_the_slice_shows_its_cuts() -> None:
    figure = figures.yt_plot(frames(12)[:, :, 7], CLIPS)
    upper, lower = figure.axes
    for lines in upper.collections:
        assert [segment[0][0] for segment in lines.get_segments()] == [4, 7]  # type: ignore[attr-defined]
    assert len(upper.collections) == 2 and len(lower.collections[0].get_paths()) == 3
    assert "12 frames, 3 clips" in upper.get_title()
    assert opened(figure).width > 600
    with pytest.raises(ValueError, match="columns"):
        figures.yt_plot(frames(11)[:, :, 7], CLIPS)


@pytest.mark.parametrize("starts", [[0], list(range(3000))])
def test_one_clip_and_thousands_can_be_drawn(starts: list[int]) -> None:
    clips = Partition.from_starts(starts, max(1, len(starts)))
    figure = figures.yt_plot(np.zeros((clips.frames, 4, 3), np.uint8), clips)
    assert len(figure.axes[1].collections[0].get_paths()) == len(starts)
    assert opened(figure).width > 600


@pytest.mark.parametrize("size", [(12, 20), (20, 12)])
def test_the_heatmap_stands_beside_its_frames(size: tuple[int, int]) -> None:
    figure = figures.heatmap_pair(*frames(2, *size), torch.full((3, 5), 0.5), ("frame 3", "frame 9"))
    assert [ax.get_title() for ax in figure.axes[:3]] == ["frame 3", "frame 9", "frame 3 found in frame 9: mean 0.50"]
    assert opened(figure).width > 600


@pytest.mark.parametrize("keyframes", [1, 5, 20, 30])
def test_kept_tokens_are_shares_of_each_keyframe(keyframes: int) -> None:
    counts = torch.eye(keyframes, dtype=torch.int64) * 15
    figure = figures.kept_tokens_sheet(frames(keyframes), counts)
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert np.array_equal(shown, np.eye(keyframes))
    assert opened(figure).height > 300
    with pytest.raises(ValueError, match="keyframes"):
        figures.kept_tokens_sheet(frames(keyframes + 1), counts)


def test_what_is_not_kept_is_dark() -> None:
    white = np.full((3, 6, 10, 3), 255, np.uint8)
    kept = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 5, 6, 7, 8, 9], [0, 1, 2, 3, 4, 5]])  # a grid of 2 x 2 tokens
    plain = figures.contact_sheet(white, ["", "", ""])
    assert figures.kept_tokens_masks(white, kept, (2, 2), query=1).size == plain.size
    pixels = np.asarray(figures.kept_tokens_masks(white, kept, (2, 2), query=1, labels=["", "", ""]))
    dark = pixels.max(axis=2) < 60
    assert dark.sum() == 3 * 96 * 58 // 2  # 3, 1 and 2 of 4 tokens are left out; each picture is drawn at 96 x 58


def test_a_contact_sheet_holds_every_picture() -> None:
    sheet = figures.contact_sheet(frames(7), [f"clip {c}" for c in range(7)], columns=3, width=600)
    assert sheet.mode == "RGB" and sheet.width <= 600 and sheet.height > 3 * 20
    one = figures.contact_sheet([Image.new("L", (8, 8))], ["a label that is much longer than its picture is wide"])
    assert one.width < 200
    for pictures, labels in (([], []), (frames(2), ["one"])):
        with pytest.raises(ValueError, match="labels"):
            figures.contact_sheet(pictures, labels)


def test_curves_show_thresholds_and_reasons() -> None:
    scores = torch.ones(12, 2)
    scores[4] = torch.tensor([0.5, 0.9])
    figure = figures.similarity_curves(scores, CLIPS, KeyframeConfig(mean_threshold=0.8, longest_clip=3))
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert "mean: threshold 0.8" in labels and "lowest window: threshold 0.6" in labels and "longest clip (3)" in labels
    assert opened(figure).width > 600
    figures.png(figures.similarity_curves(torch.ones(1, 2), Partition.from_starts([0], 1)))
    with pytest.raises(ValueError, match="scores"):
        figures.similarity_curves(torch.ones(11, 2), CLIPS)


def test_frames_stand_above_their_partners() -> None:
    figure = figures.side_by_side(frames(3), frames(3), titles=["a", "b", "c"])
    assert isinstance(figure, Figure) and len(figure.axes) == 6
    assert {text.get_text() for text in figure.texts} == {"source", "edited", "a", "b", "c"}
    assert opened(figure).width > 600
    for count, titles in ((2, None), (3, ["a"]), (0, None)):
        with pytest.raises(ValueError, match="frames"):
            figures.side_by_side(frames(3 if count else 0), frames(count), titles=titles)


def test_a_frame_may_come_in_any_form() -> None:
    frame = frames(1)[0]
    forms = [frame, torch.from_numpy(frame), Image.fromarray(frame), frame / 255, torch.from_numpy(frame / 255).half()]
    sheets = [np.asarray(figures.contact_sheet([form], ["x"])) for form in forms]
    assert all(np.abs(sheet.astype(int) - sheets[0]).max() <= 1 for sheet in sheets)
    for bad in (frame[..., 0], frame.astype(np.int64), np.zeros((0, 3, 3), np.uint8)):
        with pytest.raises(ValueError, match="picture"):
            figures.contact_sheet([bad], ["x"])


def test_figures_are_the_same_twice_and_leave_no_state() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    first, second = (figures.png(figures.yt_plot(frames(12)[:, :, 0], CLIPS)) for _ in range(2))
    assert first == second
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_not_used() -> None:
    assert "matplotlib.pyplot" not in {getattr(value, "__name__", "") for value in vars(figures).values()}


# The page


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
        self.asked += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "poster", "data"}]

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
    with pytest.raises(InputError, match="No space left"):
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
