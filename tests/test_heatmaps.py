"""Heatmaps and kept tokens: what is drawn is what was computed, place by place."""

import io

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from PIL import Image

from adaflow import figures
from adaflow.canvas import LIGHT
from adaflow.heatmaps import temporal_dynamics
from adaflow.kept import framed, kept_token_tiles


def frames(count: int, height: int = 12, width: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def opened(picture: figures.Picture) -> Image.Image:
    image = Image.open(io.BytesIO(figures.png(picture)))
    image.load()
    return image


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


def test_each_tile_shows_exactly_what_is_kept() -> None:
    """Against a loop over tokens and pixels."""
    rng = np.random.default_rng(3)
    grid, pictures = (4, 5), frames(3, 12, 20)
    kept = torch.stack([torch.tensor(sorted(rng.choice(60, 25, replace=False))) for _ in range(3)])
    tiles, shares = kept_token_tiles(pictures, kept, grid, query=2)
    mine = set(kept[2].tolist())
    for j in range(3):
        assert shares[j] == sum(j * 20 <= token < (j + 1) * 20 for token in mine) / 20
        for y in range(12):
            for x in range(20):
                token = j * 20 + (y * 4 // 12) * 5 + x * 5 // 20
                pixel = pictures[j, y, x]
                grey = np.uint8(pixel.mean() * 0.14 + 20)
                assert tiles[j][y, x].tolist() == (pixel.tolist() if token in mine else [grey] * 3)


@pytest.mark.parametrize(
    ("kept", "query", "error"),
    [([[0, 1], [2, 8]], 0, ValueError), ([[0, -1], [2, 3]], 0, ValueError), ([[0, 1]], 0, ValueError),
     ([[0, 1], [2, 3]], 2, IndexError), ([[0, 1], [2, 3]], -1, IndexError)],
)  # fmt: skip
def test_lists_of_other_keyframes_are_refused(kept: list[list[int]], query: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        kept_token_tiles(frames(2), torch.tensor(kept), (2, 2), query)


def test_the_query_has_a_frame_and_the_others_have_none() -> None:
    kept = torch.arange(4).repeat(3, 1)
    sheet = np.asarray(figures.kept_tokens_masks(np.zeros((3, 6, 10, 3)), kept, (2, 2), query=1)).astype(int)
    orange = (sheet == [0xD5, 0x5E, 0x00]).all(axis=2)
    columns = np.flatnonzero(orange.any(axis=0))
    third = sheet.shape[1] / 3
    assert orange.any() and third - 4 < columns.min() and columns.max() < 2 * third + 4


def test_a_frame_covers_the_border_alone() -> None:
    picture = frames(1, 60, 120)[0]
    out = framed(picture)
    assert np.array_equal(out[2:-2, 2:-2], picture[2:-2, 2:-2])
    assert (out[:2] == [0xD5, 0x5E, 0x00]).all() and (out[:, -2:] == [0xD5, 0x5E, 0x00]).all()


@pytest.mark.parametrize("width", [10.0, 3.9])
def test_dynamics_show_each_heatmap_and_its_lowest_window(width: float) -> None:
    maps = torch.rand(2, 6, 10)
    others = [
        figures.Dynamics(frames(1)[0], f"frame {j + 1}", maps[j], (1, 4, 3, 3), 0.25, "same clip", back=bool(j))
        for j in range(2)
    ]
    figure = temporal_dynamics(frames(1)[0], "frame 0", others, width=width)
    shown = [ax for ax in figure.axes if ax.images and ax.images[0].get_array().ndim == 2]  # type: ignore[union-attr]
    shown = [ax for ax in shown if ax.get_title()]
    assert len(shown) == 2
    for ax, heat, star in zip(shown, maps, ("", " *"), strict=True):
        assert np.allclose(np.asarray(ax.images[0].get_array()), heat.double().numpy())
        assert ax.get_title() == f"mean {heat.mean():.2f}, lowest 0.25{star}" and ax.get_xlabel() == "same clip"
        for box in ax.patches:  # tokens are 2 x 2 pixels of the frame of 12 x 20
            assert isinstance(box, Rectangle)
            assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (8, 2, 6, 6)
        assert len(ax.patches) == 2 and ax.images[0].get_clim() == (0, 1)
    assert opened(figure).width > 300
    with pytest.raises(ValueError, match="at least one"):
        temporal_dynamics(frames(1)[0], "frame 0", [])


def test_the_colours_of_similarities_rise_in_lightness() -> None:
    """So that they are read without hue: in grey, or on paper."""
    import matplotlib

    from adaflow.canvas import MAP

    rgb = matplotlib.colormaps[MAP](np.linspace(0, 1, 64))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    assert (np.diff(linear @ [0.2126, 0.7152, 0.0722]) > 0).all()
    assert LIGHT.ground == "#ffffff"
