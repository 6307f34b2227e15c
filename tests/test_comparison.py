"""Source and edit in one picture: where the line stands, what lies on either side, and what the films hold."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaflow.comparison import (
    beside,
    compared,
    comparison_film,
    half_size,
    line_width,
    middles_of,
    seconds_of,
    whole_period,
    wipe_position,
    wiped,
    write_comparison,
)
from adaflow.video import ArraySource, open_source, read_frames

HEIGHT, WIDTH = 64, 96


def pictures(count: int = 1, height: int = HEIGHT, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """A red source and a blue edit, each with noise in green."""
    green = np.random.default_rng(0).integers(0, 120, (2, count, height, width), dtype=np.uint8)
    full, none = np.full_like(green, 200), np.zeros_like(green)
    return np.stack([full[0], green[0], none[0]], axis=-1), np.stack([none[1], green[1], full[1]], axis=-1)


@given(position=st.floats(0, 1), width=st.integers(8, 700))
def test_the_source_lies_left_of_the_line_and_the_edit_right(position: float, width: int) -> None:
    source, edit = (p[0] for p in pictures(1, 4, width))
    out = wiped(source, edit, position, names=None)
    at = round(position * width)
    reach = line_width(width) // 2 + 1 if 0 < at < width else 0
    left, right = max(0, at - reach), at + reach
    assert np.array_equal(out[:, :left], source[:, :left]) and np.array_equal(out[:, right:], edit[:, right:])
    if reach:  # white in the middle, dark beside it
        assert (out[:, max(0, at - reach + 1) : at + reach - 1] == 255).all()
        assert right > width or (out[:, right - 1] == 24).all()
        assert at < reach or (out[:, left] == 24).all()


def test_the_ends_show_one_picture_whole() -> None:
    source, edit = (p[0] for p in pictures())
    assert np.array_equal(wiped(source, edit, 1.0, names=None), source)
    assert np.array_equal(wiped(source, edit, 0.0, names=None), edit)
    for bad in (-0.01, 1.01, float("nan")):
        with pytest.raises(ValueError, match="line"):
            wiped(source, edit, bad)
    with pytest.raises(ValueError, match="the same"):
        wiped(source, edit[1:], 0.5)


def test_the_line_goes_there_and_back() -> None:
    assert [round(wipe_position(t, 8), 6) for t in (0, 2, 4, 6, 8)] == [1, 0.5, 0, 0.5, 1]
    there = [wipe_position(t / 100, 2) for t in range(101)]
    assert all(a > b for a, b in pairwise(there))


@given(seconds=st.floats(0.04, 3600))
def test_the_line_is_back_where_it_began_when_the_video_ends(seconds: float) -> None:
    period = whole_period(seconds)
    assert abs(wipe_position(seconds, period) - 1) < 1e-6
    assert period == seconds or 4 < period < 9


def test_names_go_with_their_pictures() -> None:
    """Each name lies in the corner of its own picture, so the line hides it as it hides the picture."""
    source, edit = (p[0] for p in pictures())
    both = beside(source, edit)
    assert both.shape == (HEIGHT, 2 * WIDTH, 3)
    plate = (both == 24).all(axis=2)
    columns = np.flatnonzero(plate.any(axis=0))
    assert columns.min() < WIDTH / 4 and columns.max() > 2 * WIDTH * 7 / 8 and plate[HEIGHT // 2 :].sum() == 0
    assert np.array_equal(wiped(source, edit, 1.0), both[:, :WIDTH])
    assert np.array_equal(wiped(source, edit, 0.0), both[:, WIDTH:])
    assert np.array_equal(source, pictures()[0][0])  # what was handed in is not written on
    tiny = [p[0] for p in pictures(1, 6, 8)]
    assert np.array_equal(beside(tiny[0], tiny[1]), np.concatenate(tiny, axis=1))  # no room for names


def test_comparisons_need_as_many_frames_of_both() -> None:
    source, edit = pictures(3)
    assert len(list(compared(source, edit, "side", [0, 1, 2]))) == 3
    with pytest.raises(ValueError):
        list(compared(source, edit[:2], "slider", [0, 1, 2]))


@pytest.mark.parametrize(
    ("size", "largest", "wanted"),
    [((128, 224), None, (128, 224)), ((127, 225), None, (128, 224)), ((384, 672), 336, (192, 336)),
     ((3, 3), None, (4, 4)), ((1000, 10), 640, (1000, 10))],
)  # fmt: skip
def test_sizes_are_even_and_keep_their_shape(
    size: tuple[int, int], largest: int | None, wanted: tuple[int, int]
) -> None:
    found = half_size(size, largest)
    assert found[0] % 2 == found[1] % 2 == 0
    assert all(abs(a - b) <= 2 for a, b in zip(found, wanted, strict=True))


class Result:
    """What a comparison asks of an `EditResult`."""

    def __init__(self, frames: np.ndarray, source: Any) -> None:
        self.frames, self.source = frames, source


@pytest.mark.parametrize("layout", ["side", "slider"])
def test_a_film_holds_every_frame_at_its_time(layout: Any, tmp_path: Path) -> None:
    source, edit = pictures(12)
    video = ArraySource(source, fps=4)
    out = write_comparison(tmp_path / "c.mp4", video, Result(edit, video.info), layout, names=None, crf=4)  # type: ignore[arg-type]
    info, frames = open_source(out).info, list(read_frames(out))
    assert info.frames == 12 and info.frame_rate == 4 and not info.audio
    for i, frame in enumerate(frames):
        red = frame[..., 0].astype(int) > frame[..., 2]
        if layout == "side":
            assert frame.shape == (HEIGHT, 2 * WIDTH, 3) and red[:, : WIDTH - 2].all() and not red[:, WIDTH + 2 :].any()
        else:
            at = round(WIDTH * wipe_position(i / 4, 3.0))  # one round in the three seconds
            assert frame.shape == (HEIGHT, WIDTH, 3)
            assert red[:, : max(0, at - 5)].all() and not red[:, at + 5 :].any()


def test_a_film_for_a_page_is_small(tmp_path: Path) -> None:
    source, edit = pictures(2, 80, 160)
    data = comparison_film(ArraySource(source), Result(edit, ArraySource(source).info), largest=80)  # type: ignore[arg-type]
    (tmp_path / "f.mp4").write_bytes(data)
    assert [f.shape for f in read_frames(tmp_path / "f.mp4")] == [(40, 160, 3)] * 2


def test_times_count_from_the_first_frame() -> None:
    info: Any = SimpleNamespace(timestamps=(100, 110, 140), end=150, time_base=Fraction(1, 10))
    assert seconds_of(info) == [0, 1, 4] and middles_of(info) == [0.5, 2.5, 4.5]
