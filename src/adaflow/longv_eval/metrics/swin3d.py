"""DOVER's technical branch: a video Swin transformer whose position bias knows fragments (FAST-VQA).

Z. Liu et al. 2022 (https://arxiv.org/abs/2106.13230), H. Wu et al. 2022 (https://arxiv.org/abs/2207.02595). The names
of parameters are those of the published checkpoint. One clip goes through at a time, without a batch axis: D frames by
H by W cells. Attention is computed for a few windows at once, so that memory is small and nothing else depends on that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad, scaled_dot_product_attention

Shape = tuple[int, int, int]
"""Frames, rows, columns."""

WIDTHS, DEPTHS, HEADS = (96, 192, 384, 768), (2, 2, 6, 2), (3, 6, 12, 24)
PATCH: Shape = (2, 4, 4)
WINDOW: Shape = (8, 7, 7)
SHIFT: Shape = (4, 3, 3)
FRAGMENTS = (7, 7)  # cells of the mosaic that the technical view is, down and across
AT_ONCE = 16  # windows
APART = -100.0  # added to the similarity of cells that the rolling brought together


class PatchEmbedding(nn.Module):
    """A clip ``[3, D, H, W]`` as cells ``[D / 2, H / 4, W / 4, C]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, width, PATCH, PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, clip: Tensor) -> Tensor:
        """See the class."""
        cells: Tensor = self.norm(self.proj(clip[None])[0].movedim(0, -1))
        return cells


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a bias for relative places.

    Pairs inside one fragment of the mosaic take the bias P, those of neighbouring fragments R, and those g fragments
    apart ``g R + (1 - g) P``: an extrapolation that looks like an oversight, but the checkpoint was trained with it.

    Args:
        width: C.
        heads: Of attention.
        gated: Whether there is P; otherwise every pair takes R.
    """

    def __init__(self, width: int, heads: int, gated: bool) -> None:
        super().__init__()
        places = (2 * WINDOW[0] - 1) * (2 * WINDOW[1] - 1) * (2 * WINDOW[2] - 1)
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros(places, heads))
        self.register_buffer("relative_position_index", position_index())
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.fragment_position_bias_table = nn.Parameter(torch.zeros(places, heads)) if gated else None

    def forward(self, windows: Tensor, fragments: Tensor, regions: Tensor) -> Tensor:
        """Windows ``[w, N, C]``; of their cells the fragments, row and column ``[w, N, 2]``, and regions ``[w, N]``."""
        n = windows.shape[1]
        relative = self._bias(self.relative_position_bias_table, n)  # [heads, N, N]
        inside = None
        if self.fragment_position_bias_table is not None:
            inside = self._bias(self.fragment_position_bias_table, n)
        done = []
        for x, cells, region in zip(
            windows.split(AT_ONCE), fragments.split(AT_ONCE), regions.split(AT_ONCE), strict=True
        ):
            bias = relative.expand(len(x), -1, -1, -1)
            if inside is not None:
                distance = fragment_distance(cells)[:, None].to(x.dtype)  # [w, 1, N, N]
                bias = inside + distance * (relative - inside)
            bias = bias + APART * (region[:, None, :, None] != region[:, None, None, :]).to(x.dtype)
            q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [w, heads, N, C / heads]
            seen = scaled_dot_product_attention(q, k, v, attn_mask=bias)
            done.append(self.proj(seen.transpose(1, 2).flatten(-2)))
        return torch.cat(done)

    def _bias(self, table: Tensor, n: int) -> Tensor:
        index: Tensor = self.relative_position_index  # type: ignore[assignment]  # a buffer
        return table[index[:n, :n]].permute(2, 0, 1)


class Mlp(nn.Module):
    """Two layers with GELU between them, the hidden one four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to the same."""
        y: Tensor = self.fc2(gelu(self.fc1(x)))
        return y


class Block(nn.Module):
    """Attention in windows, shifted in every second block, and an MLP."""

    def __init__(self, width: int, heads: int, gated: bool, shifted: bool) -> None:
        super().__init__()
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, gated)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[D, H, W, C]`` to the same."""
        x = x + self._attended(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y

    def _attended(self, x: Tensor) -> Tensor:
        d, h, w, _ = x.shape
        window, shift = fitted((d, h, w), self.shifted)
        missing = [-size % side for size, side in zip((d, h, w), window, strict=True)]
        x = pad(x, (0, 0, 0, missing[2], 0, missing[1], 0, missing[0]))
        padded: Shape = (x.shape[0], x.shape[1], x.shape[2])
        back = tuple(-s for s in shift)
        cells = torch.roll(fragment_of_cell(padded, x.device), back, (0, 1, 2))
        regions = region_of_cell(padded, window, shift, x.device)[..., None]
        windows = self.attn(
            split(torch.roll(x, back, (0, 1, 2)), window), split(cells, window), split(regions, window)[..., 0]
        )
        return torch.roll(join(windows, padded, window), shift, (0, 1, 2))[:d, :h, :w]


class Merging(nn.Module):
    """Two by two cells become one of twice the width; time stays."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """``[D, H, W, C]`` to ``[D, H / 2, W / 2, 2 C]``, odd sides rounded up."""
        x = pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        four = [x[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
        y: Tensor = self.reduction(self.norm(torch.cat(four, dim=-1)))
        return y


class Stage(nn.Module):
    """Blocks of one width, and the merging that follows all but the last."""

    def __init__(self, number: int) -> None:
        super().__init__()
        width, last = WIDTHS[number], number == len(WIDTHS) - 1
        self.blocks = nn.ModuleList(
            Block(width, HEADS[number], gated=not last, shifted=bool(j % 2)) for j in range(DEPTHS[number])
        )
        self.downsample = None if last else Merging(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[D, H, W, C]`` to half the sides and twice the width."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class Swin3d(nn.Module):
    """The technical branch: a clip ``[3, 32, 224, 224]`` to features ``[768, 16, 7, 7]``."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(WIDTHS[0])
        self.layers = nn.ModuleList(Stage(number) for number in range(len(WIDTHS)))
        self.norm = nn.LayerNorm(WIDTHS[-1])

    def forward(self, clip: Tensor) -> Tensor:
        """Sides that are multiples of (2, 4, 4) all work; the checkpoint was trained with those of the class."""
        x = self.patch_embed(clip)
        for layer in self.layers:
            x = layer(x)
        features: Tensor = self.norm(x).movedim(-1, 0)
        return features


def position_index() -> Tensor:
    """Where the bias of a pair of cells of a full window stands in its table: ``[N, N]`` int64, N = 392."""
    axes = [torch.arange(side) for side in WINDOW]
    cells = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)  # [3, N]
    d, h, w = cells[:, :, None] - cells[:, None, :]
    tall, wide = 2 * WINDOW[1] - 1, 2 * WINDOW[2] - 1
    return ((d + WINDOW[0] - 1) * tall + h + WINDOW[1] - 1) * wide + w + WINDOW[2] - 1


def fitted(size: Shape, shifted: bool) -> tuple[Shape, Shape]:
    """Window and shift for a map: a window that is not smaller than an axis is cut to it, and not shifted along it."""
    window = tuple(min(side, length) for side, length in zip(WINDOW, size, strict=True))
    shift = tuple(s if shifted and length > side else 0 for s, side, length in zip(SHIFT, WINDOW, size, strict=True))
    return (window[0], window[1], window[2]), (shift[0], shift[1], shift[2])


def fragment_of_cell(size: Shape, device: torch.device | None = None) -> Tensor:
    """Row and column of the fragment that each cell of a map belongs to, by nearest resizing: ``[D, H, W, 2]``."""
    rows, columns = (
        torch.arange(length, device=device) * pieces // length
        for length, pieces in zip(size[1:], FRAGMENTS, strict=True)
    )
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
    return grid.expand(size[0], -1, -1, -1)


def fragment_distance(cells: Tensor) -> Tensor:
    """How many fragments lie from one to the other of each pair: ``[w, N, 2]`` to ``[w, N, N]``, rows plus columns."""
    return (cells[:, :, None] - cells[:, None]).abs().sum(dim=-1)


def region_of_cell(size: Shape, window: Shape, shift: Shape, device: torch.device | None = None) -> Tensor:
    """A number for each cell of the rolled map ``[D, H, W]``: cells of a window that were apart have different ones."""
    number = torch.zeros(size, dtype=torch.int64, device=device)
    for axis, (length, side, moved) in enumerate(zip(size, window, shift, strict=True)):
        place = torch.arange(length, device=device)
        part = (place >= length - side).long() + (place >= length - moved).long() if moved else place * 0
        number = 3 * number + part.view([-1 if a == axis else 1 for a in range(3)])
    return number


def split(x: Tensor, window: Shape) -> Tensor:
    """``[D, H, W, C]`` as windows ``[w, N, C]``."""
    d, h, w = window
    x = x.unflatten(2, (-1, w)).unflatten(1, (-1, h)).unflatten(0, (-1, d))
    return x.permute(0, 2, 4, 1, 3, 5, 6).flatten(3, 5).flatten(0, 2)


def join(windows: Tensor, size: Shape, window: Shape) -> Tensor:
    """The inverse of `split`."""
    counts = [length // side for length, side in zip(size, window, strict=True)]
    x = windows.unflatten(1, window).unflatten(0, counts)
    return x.permute(0, 3, 1, 4, 2, 5, 6).reshape(*size, -1)
