"""Curves, plots and sheets show what they should, on either ground, and refuse what they cannot show."""

import colorsys
import io
import re
from collections.abc import Callable
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from adaflow import figures
from adaflow.canvas import DARK, LIGHT, WIDE, Theme
from adaflow.config import KeyframeConfig
from adaflow.keyframes import Partition
from adaflow.progress import STAGES
from adaflow.timelines import CUT

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


def drawn(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [10.0, 3.9])
@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_cut_lines_stand_where_clips_start(theme: Theme, width: float) -> None:
    """In pixels: the lines' colour is found at the left edge of each clip's first column, and nowhere else."""
    grey = np.full((12, 40, 3), 128, np.uint8)
    figure = figures.yt_plot(grey, CLIPS, edited=grey, theme=theme, width=width)
    picture = drawn(figure)
    high = len(picture)
    for ax in figure.axes[:2]:
        box = ax.get_window_extent()
        rows = picture[high - int(box.y1) + 2 : high - int(box.y0) - 2, int(box.x0) + 2 : int(box.x1) - 2]
        orange = np.abs(rows - np.round(255 * np.array(to_rgb(CUT)))).max(axis=2) < 40
        found = np.flatnonzero(orange.any(axis=0)) + int(box.x0) + 2
        wanted = [ax.transData.transform((cut, 0))[0] for cut in (4, 7)]
        for cut in wanted:
            assert np.abs(found - cut).min() <= 1
        assert all(min(abs(x - cut) for cut in wanted) <= 2 for x in found)


def test_a_column_of_the_plot_is_that_frame() -> None:
    """Frame i fills the picture from x = i to i + 1."""
    colours = np.random.default_rng(1).integers(0, 256, (12, 1, 3), dtype=np.uint8)
    figure = figures.yt_plot(np.repeat(colours, 30, axis=1), Partition.from_starts([0], 12))
    picture, ax = drawn(figure), figure.axes[0]
    for i in range(12):
        x, y = ax.transData.transform((i + 0.5, 15))
        assert np.abs(picture[len(picture) - round(y), round(x)] - colours[i, 0]).max() <= 2


def test_keyframes_are_marked_in_the_row_of_clips() -> None:
    figure = figures.yt_plot(frames(12)[:, :, 7], CLIPS, keys=[1, 5, 11])
    assert figure.axes[-1].lines[0].get_xdata().tolist() == [1.5, 5.5, 11.5]  # type: ignore[union-attr]


@pytest.mark.parametrize("starts", [[0], list(range(3000))])
def test_one_clip_and_thousands_can_be_drawn(starts: list[int]) -> None:
    clips = Partition.from_starts(starts, max(1, len(starts)))
    figure = figures.yt_plot(np.zeros((clips.frames, 4, 3), np.uint8), clips)
    assert len(figure.axes[1].collections[0].get_paths()) == len(starts)
    assert opened(figure).width > 600


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


def test_a_clip_that_is_shorter_did_not_reach_the_longest_length() -> None:
    """Whatever its similarities were rounded to."""
    figure = figures.similarity_curves(torch.ones(12, 2), CLIPS, KeyframeConfig(longest_clip=400))
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert len(labels) == 4 and not any("longest" in label for label in labels)


def test_curves_stand_between_their_borders_and_above_the_clips() -> None:
    for width in (WIDE, 3.9):
        figure = figures.similarity_curves(torch.rand(12, 2), CLIPS, width=width)
        upper, lower = figure.axes
        for ax in (upper, lower):
            box = ax.get_position()
            assert (box.x0, box.x1) == pytest.approx(figures.curve_borders(width))
            assert ax.get_xlim() == (0, 12)
        assert lower.get_position().y1 == pytest.approx(upper.get_position().y0)
        [blocks] = lower.collections
        ends = [path.get_extents().intervalx.tolist() for path in blocks.get_paths()]
        assert ends == [[clip.start, clip.stop] for clip in CLIPS.clips]
        figure.canvas.draw()
        whole = figure.bbox
        for text in [upper.title, upper.yaxis.label, lower.xaxis.label, lower.yaxis.label, *upper.get_yticklabels()]:
            box = text.get_window_extent()
            assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and box.y1 <= whole.y1, text
        legend = upper.get_legend().get_window_extent()  # type: ignore[union-attr]
        assert whole.x0 <= legend.x0 and legend.x1 <= whole.x1 and legend.y0 >= 0
        assert legend.y1 <= lower.xaxis.label.get_window_extent().y0


@pytest.mark.parametrize("n", [1, 2, 800, 801, 20_000])
def test_a_long_curve_is_drawn_through_its_extremes(n: int) -> None:
    scores = np.random.default_rng(0).uniform(0.2, 1, (n, 2))
    scores[n // 3] = 0.01, 0.02  # one frame that must not be lost
    drawn = figures.similarity_curves(scores, Partition.from_starts([0], n)).axes[0].lines[0]
    x, y = (np.asarray(values) for values in drawn.get_data())
    assert len(x) <= 802 and np.all(np.diff(x) > 0) and y.min() == 0.01 and y.max() == scores[:, 0].max()
    np.testing.assert_array_equal(y, scores[(x - 0.5).astype(int), 0])
    assert {0.5, n - 0.5} <= set(x)
    if n <= 800:
        assert len(x) == n


LINES: dict[str, Callable[[Theme, float], Figure]] = {
    "similarity_curves": lambda theme, width: figures.similarity_curves(
        torch.linspace(1, 0.3, 24).reshape(12, 2), CLIPS, KeyframeConfig(longest_clip=3), theme=theme, width=width
    ),
    "stage_breakdown": lambda theme, width: figures.stage_breakdown(
        {"edit": 3.0}, {"edit": 10**9}, expected={"decode": 5.0}, expected_bytes=10**9, theme=theme, width=width
    ),
}


@pytest.mark.parametrize("width", [WIDE, 3.9])
@pytest.mark.parametrize("name", LINES)
def test_another_ground_is_only_other_colours(name: str, width: float) -> None:
    """What is recoloured is what would have been drawn, but for the names of markers within the file."""

    def unnamed(drawn: bytes) -> str:
        names: dict[str, str] = {}
        return re.sub(
            r'((?:id="|#)[mph])([0-9a-f]{10})',
            lambda at: at[1] + names.setdefault(at[2], str(len(names))),
            drawn.decode(),
        )

    light, dark = (figures.svg(LINES[name](theme, width)) for theme in (LIGHT, DARK))
    assert light != dark
    assert unnamed(figures.recoloured(light, LIGHT, DARK)) == unnamed(dark)
    assert unnamed(figures.recoloured(dark, DARK, LIGHT)) == unnamed(light)


@pytest.mark.parametrize("name", LINES)
def test_an_element_takes_all_its_colours_from_the_page(name: str) -> None:
    made = figures.element(LINES[name](LIGHT, 8.0), 'said "so" <b>', "kind")
    root = ElementTree.fromstring(made)
    assert root.tag == "svg" and root.get("aria-label") == 'said "so" <b>' and root.get("class") == "kind"
    assert root.get("role") == "img" and root.get("viewBox", "").startswith("0 0 576 ")
    fields = set(re.findall(r"var\(--figure-(\w+)\)", made))
    assert {"ink", "quiet", "first"} <= fields and not re.search(
        "#[0-9a-f]{6}\\b|<style|<script|<metadata|https?:", made.replace("http://www.w3.org/1999/xlink", "")
    )
    assert fields <= set(re.findall(r"--figure-(\w+): #", figures.colours(DARK)))
    ids = set(re.findall(r' id="([^"]*)"', made))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', made)) <= ids


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


# -- sheets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_bars_are_as_long_as_the_clips(theme: Theme) -> None:
    white = np.full((3, 60, 100, 3), 255, np.uint8)
    sheet = figures.keyframe_sheet(white, CLIPS, width=500, theme=theme)
    pixels = np.asarray(sheet).astype(int)
    bar = np.round(255 * np.array(to_rgb(theme.first)))
    rows = (np.abs(pixels - bar).max(axis=2) == 0).sum(axis=1)
    row = pixels[int(rows.argmax())]
    lengths = [len(run) for run in np.split(np.arange(len(row)), np.flatnonzero(np.diff((row == bar).all(axis=1))) + 1)
               if (row[run[0]] == bar).all()]  # fmt: skip
    assert np.allclose(np.array(lengths) / lengths[2], np.array([4, 3, 5]) / 5, atol=0.02)
    with pytest.raises(ValueError, match="pictures"):
        figures.keyframe_sheet(white[:2], CLIPS)


def test_keyframes_are_labelled_with_their_clips() -> None:
    assert figures.clip_labels(CLIPS) == ["0-3, 4 frames", "4-6, 3 frames", "7-11, 5 frames"]
    assert figures.clip_labels(Partition.from_starts([0, 1], 2), [1]) == ["1-1, 1 frame"]


def test_one_picture_of_a_sheet_can_be_marked() -> None:
    black = np.zeros((3, 30, 50, 3), np.uint8)
    plain, marked = (np.asarray(figures.contact_sheet(black, "abc", marked=m)) for m in (None, 1))
    changed = np.flatnonzero((plain != marked).any(axis=(0, 2)))
    third = plain.shape[1] / 3
    assert len(changed) and third < changed.min() and changed.max() < 2 * third + 8


# -- time and memory --------------------------------------------------------------------------------------------------


def test_bars_tell_what_each_stage_took() -> None:
    seconds = {"edit": 100.0, "encode": 10.0, "made up": 1.0}
    figure = figures.stage_breakdown(seconds, {"edit": 2 * 10**9}, expected={"edit": 20.0, "decode": 5.0})
    left, right = figure.axes
    words = [text.get_text() for text in left.get_yticklabels()]
    assert words == [STAGES["encode"], STAGES["edit"], STAGES["decode"], "made up"]  # in the order of a run
    assert [bar.get_width() for bar in left.patches] == [10, 100, 0, 1, 0, 20, 5, 0]  # type: ignore[attr-defined]
    assert [bar.get_x() for bar in left.patches[4:]] == [10, 100, 0, 1]  # type: ignore[attr-defined]
    assert [bar.get_width() for bar in right.patches] == [0, 2.0, 0, 0]  # type: ignore[attr-defined]
    assert [text.get_text() for text in left.texts] == ["10 s", "~2 min 0 s", "~5.0 s", "1.0 s"]
    assert "1 min 51 s" in left.get_title() and "2.0 GB" in right.get_title()


def test_long_times_are_in_minutes_and_the_expected_peak_is_a_line() -> None:
    figure = figures.stage_breakdown({"edit": 600.0}, {"edit": 10**9}, expected_bytes=3 * 10**9)
    left, right = figure.axes
    assert left.patches[0].get_width() == 10 and left.get_xlabel() == "minutes"  # type: ignore[attr-defined]
    assert right.lines[0].get_xdata() == [3.0, 3.0] and right.get_xlim()[1] > 3
    with pytest.raises(ValueError, match="no stage"):
        figures.stage_breakdown({})


# -- colours ----------------------------------------------------------------------------------------------------------


def lightness(colour: str) -> float:
    """Relative luminance, as WCAG has it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(a: str, b: str) -> float:
    high, low = sorted((lightness(a), lightness(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_words_and_curves_stand_out_from_the_ground(theme: Theme) -> None:
    assert contrast(theme.ink, theme.ground) >= 7 and contrast(theme.quiet, theme.ground) >= 4.5
    for colour in (theme.first, theme.second, theme.third):
        assert contrast(colour, theme.ground) >= 3, colour


def test_hues_are_okabe_and_itos() -> None:
    """Their eight colours, and on the dark ground one of them lighter."""
    okabe = ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#000000"]
    for theme in (LIGHT, DARK):
        for colour in (theme.first, theme.second, theme.third, theme.fourth, theme.pale):
            hue = colorsys.rgb_to_hsv(*to_rgb(colour))[0]
            nearest = min(abs(hue - colorsys.rgb_to_hsv(*to_rgb(known))[0]) for known in okabe[:-1])
            assert nearest < 0.005, colour


DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)
"""Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB."""


@pytest.mark.parametrize("vision", [np.eye(3), DEUTERANOPIA, PROTANOPIA])
@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_curves_are_told_apart_by_every_kind_of_vision(theme: Theme, vision: np.ndarray) -> None:
    def seen(colour: str) -> np.ndarray:
        linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)])
        return np.cbrt(np.clip(vision @ linear, 0, 1))  # near to even steps, as the lightness of CIELAB is

    for a, b in combinations((theme.first, theme.second, theme.third), 2):
        assert np.linalg.norm(seen(a) - seen(b)) > 0.15, (a, b)


EVERY: dict[str, Callable[[Theme], figures.Picture]] = {
    "yt_plot": lambda theme: figures.yt_plot(frames(12)[:, :, 7], CLIPS, theme=theme),
    "similarity_curves": lambda theme: figures.similarity_curves(torch.ones(12, 2), CLIPS, theme=theme),
    "contact_sheet": lambda theme: figures.contact_sheet(frames(3), "abc", theme=theme),
    "keyframe_sheet": lambda theme: figures.keyframe_sheet(frames(3), CLIPS, theme=theme),
    "side_by_side": lambda theme: figures.side_by_side(frames(3), frames(3), theme=theme),
    "heatmap_pair": lambda theme: figures.heatmap_pair(*frames(2), torch.rand(3, 5), theme=theme),
    "temporal_dynamics": lambda theme: figures.temporal_dynamics(
        frames(1)[0], "frame 0", [figures.Dynamics(frames(1)[0], "frame 1", torch.rand(3, 5))], theme=theme
    ),
    "kept_tokens_sheet": lambda theme: figures.kept_tokens_sheet(frames(3), torch.eye(3), theme=theme),
    "kept_tokens_masks": lambda theme: figures.kept_tokens_masks(
        frames(3), torch.tensor([[0, 1], [2, 3], [4, 5]]), (1, 2), 1, theme=theme
    ),
    "stage_breakdown": lambda theme: figures.stage_breakdown({"edit": 3.0}, {"edit": 10**9}, theme=theme),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_figure_stands_on_either_ground(name: str) -> None:
    for theme in (LIGHT, DARK):
        image = opened(EVERY[name](theme)).convert("RGB")
        ground = tuple(round(255 * c) for c in to_rgb(theme.ground))
        assert image.getpixel((0, 0)) == ground == image.getpixel((image.width - 1, image.height - 1))


@pytest.mark.parametrize("kind", ["svg", "webp", "png"])
def test_bytes_are_of_the_kind_and_the_same_twice(kind: str) -> None:
    first, second = (getattr(figures, kind)(figures.similarity_curves(torch.ones(12, 2), CLIPS)) for _ in range(2))
    assert first == second
    head = {"svg": b"<?xml", "webp": b"RIFF", "png": b"\x89PNG"}
    assert first.startswith(head[kind])


def test_a_ground_may_be_left_out() -> None:
    from dataclasses import replace

    clear = figures.similarity_curves(torch.ones(12, 2), CLIPS, theme=replace(DARK, ground="none"))
    for data in (figures.png(clear), figures.webp(clear)):
        assert Image.open(io.BytesIO(data)).convert("RGBA").getpixel((0, 0))[3] == 0  # type: ignore[index]
