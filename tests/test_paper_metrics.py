"""The paper's metrics without their weights: architectures entry by entry, formulas by hand, networks by small ones."""

from __future__ import annotations

import gc
import json
import math
import pickle
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import cosine_similarity, interpolate, normalize
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    ConvNextConfig,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.modeling_convnext import ConvNextLayer

from adaflow.cards import embedded_folder
from adaflow.cli import main
from adaflow.errors import InputError, MissingError
from adaflow.longv_eval.metrics import swin3d
from adaflow.longv_eval.metrics.aesthetic import AestheticHead
from adaflow.longv_eval.metrics.consistency import Consistency
from adaflow.longv_eval.metrics.convert import convert
from adaflow.longv_eval.metrics.convnext3d import Block as ConvBlock
from adaflow.longv_eval.metrics.convnext3d import ConvNext3d
from adaflow.longv_eval.metrics.dover import Dover, Quality, check_state, expected_shapes, fuse
from adaflow.longv_eval.metrics.encoders import CLIP_PICTURES, DINO_PICTURES, SUBJECT_PICTURES, Dino
from adaflow.longv_eval.metrics.estimated import EstimatedMotion
from adaflow.longv_eval.metrics.flow import DisFlow, PairFlow
from adaflow.longv_eval.metrics.palette import Colours, Palette, distance, lab
from adaflow.longv_eval.metrics.paper import VideoQuality, in_frames, parts
from adaflow.longv_eval.metrics.views import (
    AESTHETIC,
    MEAN,
    SPREAD,
    TECHNICAL,
    View,
    Views,
    draw_frames,
    draw_offsets,
    mosaic,
    normalised,
    scaled,
)
from adaflow.longv_eval.metrics.weights import Weights
from adaflow.longv_eval.scoring import NAMES, score
from adaflow.longv_eval.verify import made_up_film, verify
from adaflow.video import ArraySource, VideoInfo, VideoSource, write_video

CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int = 64, width: int = 96) -> np.ndarray:
    """A picture with structure everywhere that can be followed."""
    coarse = torch.from_numpy(noise(1, 3, height // 8, width // 8, seed=3)).float()
    fine = interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return fine[0].permute(1, 2, 0).clamp(0, 255).byte().numpy()


# -- DOVER: entries ---------------------------------------------------------------------------------------------------


def published_shapes() -> dict[str, tuple[int, ...]]:
    """The checkpoint's entries as its description lists them, written out anew."""
    found: dict[str, tuple[int, ...]] = {}
    widths, heads = (96, 192, 384, 768), (3, 6, 12, 24)

    def pair(name: str, weight: tuple[int, ...], bias: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = weight, (bias,)

    t = "technical_backbone."
    pair(f"{t}patch_embed.proj", (96, 3, 2, 4, 4), 96)
    pair(f"{t}patch_embed.norm", (96,), 96)
    for i, (c, h, depth) in enumerate(zip(widths, heads, (2, 2, 6, 2), strict=True)):
        for j in range(depth):
            block = f"{t}layers.{i}.blocks.{j}."
            pair(f"{block}norm1", (c,), c)
            found[f"{block}attn.relative_position_bias_table"] = (2535, h)
            if i < 3:
                found[f"{block}attn.fragment_position_bias_table"] = (2535, h)
            found[f"{block}attn.relative_position_index"] = (392, 392)
            pair(f"{block}attn.qkv", (3 * c, c), 3 * c)
            pair(f"{block}attn.proj", (c, c), c)
            pair(f"{block}norm2", (c,), c)
            pair(f"{block}mlp.fc1", (4 * c, c), 4 * c)
            pair(f"{block}mlp.fc2", (c, 4 * c), c)
        if i < 3:
            found[f"{t}layers.{i}.downsample.reduction.weight"] = (2 * c, 4 * c)
            pair(f"{t}layers.{i}.downsample.norm", (4 * c,), 4 * c)
    pair(f"{t}norm", (768,), 768)
    a = "aesthetic_backbone."
    pair(f"{a}downsample_layers.0.0", (96, 3, 2, 4, 4), 96)
    pair(f"{a}downsample_layers.0.1", (96,), 96)
    for s in (1, 2, 3):
        pair(f"{a}downsample_layers.{s}.0", (widths[s - 1],), widths[s - 1])
        pair(f"{a}downsample_layers.{s}.1", (widths[s], widths[s - 1], 1, 2, 2), widths[s])
    for s, (c, depth) in enumerate(zip(widths, (3, 3, 9, 3), strict=True)):
        for b in range(depth):
            block = f"{a}stages.{s}.{b}."
            found[f"{block}gamma"] = (c,)
            pair(f"{block}dwconv", (c, 1, (1, 3, 1)[b % 3], 7, 7), c)
            pair(f"{block}norm", (c,), c)
            pair(f"{block}pwconv1", (4 * c, c), 4 * c)
            pair(f"{block}pwconv2", (c, 4 * c), c)
    pair(f"{a}norm", (768,), 768)
    for head in ("technical_head", "aesthetic_head"):
        pair(f"{head}.fc_hid", (64, 768, 1, 1, 1), 64)
        pair(f"{head}.fc_last", (1, 64, 1, 1, 1), 1)
    return found


def test_dover_has_the_381_published_entries() -> None:
    shapes = expected_shapes()
    assert shapes == published_shapes() and len(shapes) == 381
    branches = [sum(name.startswith(part) for name in shapes) for part in ("technical_backbone", "aesthetic_backbone")]
    assert branches == [193, 180]
    sizes = {part: 0 for part in ("technical_backbone", "aesthetic_backbone", "")}
    for name, shape in shapes.items():
        for part in sizes:
            if name.startswith(part) and not name.endswith("index"):
                sizes[part] += math.prod(shape)
    assert list(sizes.values()) == [28_078_620, 28_041_120, 56_218_302]


@pytest.fixture(scope="module")
def dover() -> Dover:
    torch.manual_seed(0)
    model = Dover().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith(("bias_table", "gamma")):
            torch.nn.init.normal_(parameter)
    return model


def test_a_state_that_is_not_dovers_is_refused_by_what_is_wrong(dover: Dover) -> None:
    state = dover.state_dict()
    check_state(state)
    name = "technical_backbone.layers.3.blocks.1.attn.relative_position_index"
    bias = "aesthetic_head.fc_last.bias"
    wrong = {
        r"1 missing \(aesthetic_head.fc_last.bias\)": {k: v for k, v in state.items() if k != bias},
        r"1 unknown \(x\)": state | {"x": state[bias]},
        r"fc_last.bias has the shape \[2\], and \[1\] is wanted": state | {bias: torch.zeros(2)},
        "counts places in another order": state | {name: state[name].T},
    }
    for words, changed in wrong.items():
        with pytest.raises(InputError, match=words):
            Dover.from_state(changed)


def test_places_of_a_pair_are_counted_time_first() -> None:
    index = swin3d.position_index()
    cells = [(d, h, w) for d in range(8) for h in range(7) for w in range(7)]
    for u, v in [(0, 0), (0, 391), (391, 0), (17, 230), (55, 54)]:
        d, h, w = (a - b for a, b in zip(cells[u], cells[v], strict=True))
        assert index[u, v] == ((d + 7) * 13 + (h + 6)) * 13 + (w + 6)
    assert index.min() == 0 and index.max() == 2534


# -- DOVER: what the networks compute ---------------------------------------------------------------------------------


def dense_attention(
    attn: swin3d.WindowAttention, x: torch.Tensor, window: Sequence[int], shift: Sequence[int]
) -> torch.Tensor:
    """The same attention without windows: all pairs of the padded map, with the bias written out for each, in float64.

    Cells attend within a window; those that the roll brought round the border are kept apart by -100.
    """
    size = x.shape[:3]
    full = [-(-a // b) * b for a, b in zip(size, window, strict=True)]
    padded = torch.zeros(*full, x.shape[3], dtype=torch.float64)
    padded[: size[0], : size[1], : size[2]] = x
    fragments = interpolate(torch.arange(7.0).view(1, 1, 7), full[1], mode="nearest")[0, 0].long()
    fragments_x = interpolate(torch.arange(7.0).view(1, 1, 7), full[2], mode="nearest")[0, 0].long()
    cells = torch.cartesian_prod(*(torch.arange(n) for n in full))  # where each cell lies in the unrolled map
    rolled = torch.stack([(cells[:, a] - shift[a]) % full[a] for a in range(3)], dim=1)
    wrapped = torch.stack([cells[:, a] < shift[a] for a in range(3)], dim=1)
    place = torch.stack([rolled[:, a] // window[a] for a in range(3)], dim=1)
    together = (place[:, None] == place[None]).all(-1)
    apart = (wrapped[:, None] != wrapped[None]).any(-1)
    offset = rolled[:, None] - rolled[None]
    index = ((offset[..., 0] + 7) * 13 + offset[..., 1] + 6) * 13 + offset[..., 2] + 6
    # the leading block of the index matrix of a full window is what a smaller one uses
    assert all(n == m for n, m in zip(window, (8, 7, 7), strict=True))
    r = attn.relative_position_bias_table.double()[index.clamp(0, 2534)]
    if attn.fragment_position_bias_table is not None:
        p = attn.fragment_position_bias_table.double()[index.clamp(0, 2534)]
        row, column = fragments[cells[:, 1]], fragments_x[cells[:, 2]]
        gap = ((row[:, None] - row[None]).abs() + (column[:, None] - column[None]).abs())[..., None]
        r = gap * r + (1 - gap) * p
    bias = (r - 100.0 * apart[..., None]).permute(2, 0, 1).masked_fill(~together, -math.inf)
    qkv = padded.flatten(0, 2) @ attn.qkv.weight.double().T + attn.qkv.bias.double()
    q, k, v = qkv.unflatten(-1, (3, attn.heads, -1)).permute(1, 2, 0, 3)
    seen = ((q * q.shape[-1] ** -0.5) @ k.transpose(1, 2) + bias).softmax(-1) @ v
    out = seen.transpose(0, 1).flatten(1) @ attn.proj.weight.double().T + attn.proj.bias.double()
    return out.unflatten(0, full)[: size[0], : size[1], : size[2]]


@pytest.mark.parametrize(
    ("stage", "block", "size", "shift"),
    [
        (0, 0, (8, 14, 7), (0, 0, 0)),
        (0, 1, (16, 14, 7), (4, 3, 0)),
        (1, 1, (9, 8, 7), (4, 3, 0)),  # padded
        (3, 1, (16, 7, 7), (4, 0, 0)),  # no fragments
    ],
)
def test_window_attention_is_dense_attention_with_that_bias(
    dover: Dover, stage: int, block: int, size: tuple[int, int, int], shift: tuple[int, int, int]
) -> None:
    layer = dover.technical_backbone.layers[stage].blocks[block]
    assert swin3d.fitted(size, layer.shifted) == ((8, 7, 7), shift)
    x = torch.randn(*size, swin3d.WIDTHS[stage], generator=torch.Generator().manual_seed(1))
    wanted = dense_attention(layer.attn, x.double(), (8, 7, 7), shift)
    torch.testing.assert_close(layer._attended(x).double(), wanted, rtol=1e-4, atol=1e-4)


def test_a_small_map_takes_the_leading_block_of_the_places() -> None:
    window, shift = swin3d.fitted((3, 7, 20), shifted=True)
    assert (window, shift) == ((3, 7, 7), (0, 0, 3))
    index = swin3d.position_index()[:147, :147]
    cells = [(d, h, w) for d in range(3) for h in range(7) for w in range(7)]
    (a, b, c), (d, e, f) = cells[140], cells[3]
    assert index[140, 3] == ((a - d + 7) * 13 + (b - e + 6)) * 13 + (c - f + 6)


@pytest.mark.parametrize(("side", "most"), [(56, 2), (28, 4), (14, 6)])
def test_fragments_apart_in_each_stage(side: int, most: int) -> None:
    cells = swin3d.split(swin3d.fragment_of_cell((8, side, side)), swin3d.WINDOW)
    assert set(swin3d.fragment_distance(cells).unique().tolist()) == set(range(most + 1))


def test_splitting_is_undone_and_windows_hold_neighbours() -> None:
    x = torch.arange(16 * 14 * 7).view(16, 14, 7, 1)
    windows = swin3d.split(x, (8, 7, 7))
    assert torch.equal(windows[1].view(8, 7, 7), x[:8, 7:, :, 0])
    assert torch.equal(swin3d.join(windows, (16, 14, 7), (8, 7, 7)), x)


def test_merging_orders_neighbours_by_column_last(dover: Dover) -> None:
    merging = dover.technical_backbone.layers[0].downsample
    x = torch.randn(1, 3, 4, 96)  # an odd side is completed
    four = torch.cat([x[:, 0, 0], x[:, 1, 0], x[:, 0, 1], x[:, 1, 1]], dim=-1)
    torch.testing.assert_close(merging(x)[:, 0, 0], merging.reduction(merging.norm(four)))
    assert merging(x).shape == (1, 2, 2, 192)


def test_a_block_of_the_aesthetic_branch_is_convnexts_on_a_still_clip() -> None:
    """As transformers' own flat layer: by a kernel of one frame, and by one of three where nothing moves."""
    flat = ConvNextLayer(ConvNextConfig(), dim=96).eval()
    torch.nn.init.normal_(flat.layer_scale_parameter)
    picture = torch.randn(1, 96, 9, 8)
    for kernel in (1, 3):
        block = ConvBlock(96, kernel)
        block.dwconv.weight.data = flat.dwconv.weight.data[:, :, None].expand(-1, -1, kernel, -1, -1) / kernel
        block.dwconv.bias, block.norm = flat.dwconv.bias, flat.layernorm
        block.pwconv1, block.pwconv2, block.gamma = flat.pwconv1, flat.pwconv2, flat.layer_scale_parameter
        made = block(picture[:, :, None].expand(-1, -1, 5, -1, -1))
        torch.testing.assert_close(made[:, :, 2], flat(picture), rtol=1e-4, atol=1e-5)


def test_both_branches_end_in_768_channels_and_keep_time(dover: Dover) -> None:
    with torch.inference_mode():
        assert dover.technical_backbone(torch.randn(3, 8, 32, 64)).shape == (768, 4, 1, 2)
        assert dover.aesthetic_backbone(torch.randn(2, 3, 8, 32, 64)).shape == (2, 768, 4, 1, 2)
    assert isinstance(dover.aesthetic_backbone, ConvNext3d)


def test_dovers_clips_do_not_see_each_other(dover: Dover) -> None:
    clips, whole = torch.randn(3, 3, 4, 32, 32), torch.randn(1, 3, 4, 32, 32)
    first, turned = dover(clips, whole), dover(clips.flip(0), whole)
    assert first.technical == pytest.approx(turned.technical, abs=1e-6) and first.aesthetic == turned.aesthetic
    alone = [dover(clip[None], whole).technical for clip in clips]
    assert first.technical == pytest.approx(sum(alone) / 3, abs=1e-6) and len(set(alone)) == 3
    still = clips[:1].expand(3, -1, -1, -1, -1)
    assert dover(still, whole).technical == pytest.approx(alone[0], abs=1e-6)


def test_fusion_by_hand() -> None:
    assert fuse(0.1107, -0.08285) == 0.5
    assert fuse(0.1107 + 0.07355, -0.08285) == pytest.approx(1 / (1 + math.exp(-0.6104)))
    assert fuse(0.1107, -0.08285 + 0.03774) == pytest.approx(1 / (1 + math.exp(-0.3896)))
    assert Quality(0.2, 0.1).fused == fuse(0.2, 0.1) != fuse(0.1, 0.2)
    assert (fuse(-1e9, -1e9), fuse(1e9, 1e9)) == (0.0, 1.0)


# -- DOVER: what it looks at ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 100), st.sampled_from([TECHNICAL, AESTHETIC]))
def test_frames_are_drawn_from_every_part(frames: int, seed: int, view: View) -> None:
    drawn = draw_frames(frames, view, torch.Generator().manual_seed(seed))
    assert len(drawn) == view.parts * view.run and all(0 <= number < frames for number in drawn)
    part, span = frames // view.parts, view.run * view.step
    for place in range(view.parts):
        run = drawn[place * view.run : (place + 1) * view.run]
        assert all((b - a) % frames == view.step % frames for a, b in pairwise(run))
        room = part - span
        assert part * place <= run[0] <= part * place + max(0, room - 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(224, 1100), st.integers(224, 1100), st.integers(0, 100))
def test_fragments_lie_in_their_cells(height: int, width: int, seed: int) -> None:
    corners = draw_offsets((height, width), torch.Generator().manual_seed(seed))
    for number, (y, x) in enumerate(corners):
        row, column = divmod(number, 7)
        assert height // 7 * row <= y <= max(height // 7 * row, height // 7 * (row + 1) - 33)
        assert width // 7 * column <= x <= max(width // 7 * column, width // 7 * (column + 1) - 33)


def test_a_mosaic_holds_raw_pixels() -> None:
    frame = noise(300, 400, 3)
    corners = draw_offsets((300, 400), torch.Generator().manual_seed(5))
    made = mosaic(frame, corners)
    for number, (y, x) in enumerate(corners):
        row, column = divmod(number, 7)
        block = made[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        assert np.array_equal(block, frame[y : y + 32, x : x + 32])


def test_a_mosaic_of_a_small_frame_is_taken_of_the_enlarged_one() -> None:
    corners = draw_offsets((128, 224), torch.Generator())
    assert max(y for y, _ in corners) == 96 and max(x for _, x in corners) == 192
    made = mosaic(np.full((128, 224, 3), 90, np.uint8), corners)
    assert made.shape == (224, 224, 3) and (made == 90).all()


def test_small_pictures_are_bilinear_without_antialiasing() -> None:
    frame = noise(448, 448, 3)
    made = scaled(frame, (224, 224)).astype(float)  # halving: the mean of the four in the middle of each cell
    wanted = frame.reshape(224, 2, 224, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(made - wanted).max() <= 0.5
    quarter = scaled(noise(896, 896, 3), (224, 224)).astype(float)
    kept = noise(896, 896, 3).reshape(224, 4, 224, 4, 3)[:, 1:3, :, 1:3].astype(float).mean(axis=(1, 3))
    assert np.abs(quarter - kept).max() <= 0.5  # and not of all sixteen


def test_clips_are_normalised_channel_by_channel() -> None:
    frames = noise(64, 4, 4, 3)
    clips = normalised(frames, 32)
    assert clips.shape == (2, 3, 32, 4, 4)
    wanted = (float(frames[33, 1, 2, 1]) - MEAN[1]) / SPREAD[1]
    assert float(clips[1, 1, 1, 1, 2]) == pytest.approx(wanted, rel=1e-5)


class Brightness:
    """Stands for DOVER: its scores are the mean levels of what it is shown, and it counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[torch.Size, torch.Size]] = []

    def __call__(self, technical: torch.Tensor, aesthetic: torch.Tensor) -> Quality:
        self.asked.append((technical.shape, aesthetic.shape))
        return Quality(float(technical.mean()), float(aesthetic.mean()))


def quality(frames: Sequence[np.ndarray], fps: float, seed: int, batch: int) -> tuple[dict, Brightness]:
    model = Brightness()
    metric = VideoQuality(model, len(frames), fps, seed, CPU)  # type: ignore[arg-type]
    for start in range(0, len(frames), batch):
        metric.add(frames[start : start + batch])
    return metric.numbers(), model


def test_video_quality_depends_on_the_seed_and_not_on_batches() -> None:
    frames = [noise(240, 300, 3, seed=s) // (1 + s % 5) for s in range(45)]
    once, model = quality(frames, 2, seed=4, batch=45)
    again, _ = quality(frames, 2, seed=4, batch=7)
    other, _ = quality(frames, 2, seed=5, batch=45)
    assert once == again != other
    assert model.asked == [((3, 3, 32, 224, 224), (1, 3, 32, 224, 224))] * 3  # two parts of ten seconds, and the whole
    assert once["vq"] == fuse(once["vq_technical"], once["vq_aesthetic"])


def test_a_video_of_one_part_is_judged_once() -> None:
    found, model = quality([noise(40, 60, 3)] * 9, 1, seed=0, batch=3)
    assert len(model.asked) == 1 and found["vq_dense"] == found["vq"]
    assert [parts(n, 25) for n in (1, 300, 500, 1500)] == [1, 1, 2, 6]
    assert parts(1, 0.001) == 1 and in_frames(1, 0.2) == 1 and in_frames(5, 29.97) == 150


def test_frames_that_no_view_wants_are_not_looked_at() -> None:
    views = Views(4000, 0)
    for _ in range(4000):
        views.add(noise(2, 2, 3))  # far too small for a fragment of a full frame: any that is wanted is enlarged
    assert views.judged(Brightness(), CPU).technical != 0  # type: ignore[arg-type]


# -- pickles ----------------------------------------------------------------------------------------------------------


def test_published_files_become_safetensors_once(
    dover: Dover, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(dover.state_dict(), tmp_path / "DOVER.pth")
    main(["eval", "convert", str(tmp_path / "DOVER.pth"), "--weights", str(tmp_path / "weights")])
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "weights" / "dover.safetensors") and "non-commercial" in said.err
    loaded = Weights(tmp_path / "weights", device=CPU).dover
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), dover.state_dict().values(), strict=True)
    )
    torch.save(AestheticHead().state_dict(), tmp_path / "head.pth")
    assert convert(tmp_path / "head.pth", tmp_path / "weights").name == "laion-aesthetic-v2.safetensors"
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text("{}")
    tied = torch.ones(2, 3)
    torch.save({"a": tied, "b": tied.T}, tmp_path / "vit" / "pytorch_model.bin")
    file = convert(tmp_path / "vit" / "pytorch_model.bin", tmp_path / "weights")
    assert file == tmp_path / "vit" / "model.safetensors" and load_file(file)["b"].shape == (3, 2)
    assert not list(tmp_path.rglob("*.part"))


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.place,))


@pytest.mark.parametrize("kind", ["trap", "plain trap", "nested", "other", "no pickle", "missing"])
def test_a_file_that_is_no_plain_weights_is_refused(kind: str, tmp_path: Path) -> None:
    file, place = tmp_path / "DOVER.pth", tmp_path / "sprung"
    if kind == "trap":
        torch.save({"a": Trap(place)}, file)
    elif kind == "plain trap":
        file.write_bytes(pickle.dumps({"a": Trap(place)}))
    elif kind == "nested":
        torch.save({"state_dict": {"a": torch.zeros(1)}}, file)
    elif kind == "other":
        torch.save({"a": torch.zeros(1)}, file)
    elif kind == "no pickle":
        file.write_bytes(b"not a pickle at all")
    with pytest.raises(InputError):
        convert(file, tmp_path / "weights")
    assert not place.exists() and not (tmp_path / "weights").exists()


# -- vectors ----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 99))
def test_consistency_by_its_definition(frames: int, batch: int, seed: int) -> None:
    vectors = torch.randn(frames, 4, generator=torch.Generator().manual_seed(seed))
    found = Consistency((2, 5))
    for part in vectors.split(batch):
        found.add(part)
    unit = vectors.double().numpy() / np.linalg.norm(vectors.double().numpy(), axis=1, keepdims=True)
    cosine = np.clip(unit @ unit.T, 0, 1)
    assert found.adjacent == pytest.approx(np.mean([cosine[i, i - 1] for i in range(1, frames)]))
    assert found.to_first == pytest.approx(cosine[0, 1:].mean())
    assert found.both == pytest.approx((found.adjacent + found.to_first) / 2)
    for lag in (2, 5):
        pairs = [cosine[i, i - lag] for i in range(lag, frames)]
        assert found.far(lag) == (pytest.approx(np.mean(pairs)) if pairs else None)


def test_a_still_video_has_consistency_one_and_a_single_frame_none() -> None:
    still = Consistency((3,))
    still.add(torch.tensor([[0.3, -2.0, 1.0]]).expand(6, -1))
    assert [still.adjacent, still.to_first, still.far(3)] == pytest.approx([1, 1, 1], abs=1e-12)
    one = Consistency()
    one.add(torch.ones(1, 3))
    assert one.adjacent is one.both is None


# -- networks, by small ones with random weights ----------------------------------------------------------------------


def tiny_clip(seed: int = 0) -> tuple[CLIPModel, CLIPTokenizer]:
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(embedded_folder() / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    text.update(
        {
            "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )
    vision = CLIPVisionConfig(
        hidden_size=48, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, image_size=224, patch_size=32
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=768)
    config.logit_scale_init_value = math.log(100)
    return CLIPModel(config).eval(), tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with everything but DOVER."""
    place = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("clip-vit-large-patch14", "clip-vit-base-patch32")):
        clip, tokenizer = tiny_clip(seed)
        clip.save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    size = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 224}
    Dinov2Model(Dinov2Config(**size, patch_size=14, mlp_ratio=2)).save_pretrained(place / "dinov2-base")
    vit = ViTModel(ViTConfig(**size, patch_size=16, intermediate_size=64), add_pooling_layer=False)
    vit.save_pretrained(place / "dino-vitb16")
    save_file(AestheticHead().state_dict(), place / "laion-aesthetic-v2.safetensors")
    return place


@pytest.fixture(scope="module")
def weights(folder: Path) -> Weights:
    return Weights(folder, device=CPU)


@pytest.mark.parametrize("size", [(240, 320), (333, 250), (128, 224), (224, 224), (301, 500)])
def test_pictures_are_prepared_as_the_models_own_processors_do(size: tuple[int, int]) -> None:
    frame = noise(*size, 3)
    ours = CLIP_PICTURES(frame)
    theirs = CLIPImageProcessorPil()(frame, return_tensors="pt").pixel_values[0]
    assert ours.shape == (3, 224, 224)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    bit = BitImageProcessorPil(size={"shortest_edge": 256}, crop_size=224, image_mean=mean, image_std=std)
    theirs = bit(frame, return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(DINO_PICTURES(frame), theirs, rtol=0, atol=1e-5)
    whole = SUBJECT_PICTURES(frame)
    assert min(whole.shape[1:]) == 224 and (whole.shape[1] <= whole.shape[2]) == (size[0] <= size[1])


def test_fq_sc_and_text_alignment_by_transformers_itself(weights: Weights) -> None:
    frames = [noise(60, 90, 3, seed=s) for s in range(7)]
    source = [smooth(60, 90)] * 7
    prompt, caption = "a red boat on the sea", "a green boat on the sea"
    found = score(
        ArraySource(frames, 2),
        weights,
        prompt=prompt,
        source=ArraySource(source, 2),
        source_prompt=caption,
        only=[n for n in NAMES if n.startswith(("fq", "sc", "text"))],
    )
    model, tokenizer = weights.clip_l14.model, CLIPTokenizer.from_pretrained(embedded_folder() / "tokenizer")
    with torch.inference_mode():
        pixels = [CLIPImageProcessorPil()(f, return_tensors="pt").pixel_values for f in (frames, source)]
        texts = tokenizer([prompt, caption], padding=True, return_tensors="pt")
        out, other = (model(pixel_values=p, **texts) for p in pixels)
        states = model.vision_model(pixel_values=pixels[0]).last_hidden_state
        pooled = normalize(model.vision_model.post_layernorm(states[:, 0]), dim=-1)
        marks = weights.aesthetic.layers(out.image_embeds)
    image, text = out.image_embeds, out.text_embeds
    wanted = {
        "fq": float(marks.mean()),
        "sc": float((pooled[1:] * pooled[:-1]).sum(-1).clamp(min=0).mean()),
        "sc_1s": float((pooled[2:] * pooled[:-2]).sum(-1).clamp(min=0).mean()),
        "sc_proj": float((image[1:] * image[:-1]).sum(-1).clamp(min=0).mean()),
        "text_alignment": float(out.logits_per_image[:, 0].mean()),
        "text_success": float((image @ text[0] >= image @ text[1]).float().mean()),
        "text_direction": float(cosine_similarity(image - other.image_embeds, (text[0] - text[1])[None]).mean()),
    }
    assert found.measures == pytest.approx(wanted, abs=1e-4) and not found.skipped
    assert found.source["sc"] == pytest.approx(1) and "text_direction" not in found.source
    assert found.differences()["sc"] == pytest.approx(found.measures["sc"] - 1)


def test_the_aesthetic_head_is_one_affine_map() -> None:
    head = AestheticHead().eval()
    wanted = torch.eye(768, dtype=torch.float64)
    bias = torch.zeros(768, dtype=torch.float64)
    for number in (0, 2, 4, 6, 7):
        layer = head.layers[number]
        wanted = layer.weight.double() @ wanted
        bias = layer.weight.double() @ (bias if number else bias[:768]) + layer.bias.double()
    x = torch.randn(5, 768)
    torch.testing.assert_close(
        head(3 * x).double(), normalize(x.double(), dim=-1) @ wanted[0] + bias, atol=1e-5, rtol=0
    )


def test_oc_and_the_consistencies_by_transformers_itself(weights: Weights) -> None:
    frames = [noise(60, 90, 3, seed=s) for s in range(4)]
    names = [n for n in NAMES if n.startswith(("oc", "subject", "background"))]
    found = score(ArraySource(frames, 1), weights, only=names).measures
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    bit = BitImageProcessorPil(size={"shortest_edge": 256}, crop_size=224, image_mean=mean, image_std=std)
    pixels = bit(frames, return_tensors="pt").pixel_values
    with torch.inference_mode():
        dino = normalize(weights.dinov2.model(pixels).pooler_output, dim=-1)
        vit = normalize(weights.dino.model(pixels).last_hidden_state[:, 0], dim=-1)
    neighbours = [float((f[1:] * f[:-1]).sum(-1).clamp(min=0).mean()) for f in (dino, vit)]
    assert [found["oc"], found["oc_dino"]] == pytest.approx(neighbours, abs=1e-5)
    assert found["oc_1s"] == found["oc"] and found["oc_5s"] is None
    for kind in ("subject", "background"):
        half = (found[f"{kind}_adjacent"] + found[f"{kind}_first"]) / 2  # type: ignore[operator]
        assert found[f"{kind}_consistency"] == pytest.approx(half) and 0 <= half <= 1


def test_dino_takes_pictures_of_any_shape(weights: Weights) -> None:
    wide = weights.dino.pictures([noise(60, 97, 3)], SUBJECT_PICTURES)
    assert wide.shape == (1, 48) and isinstance(weights.dino, Dino)


def test_networks_that_are_not_whole_are_not_filled_with_random_numbers(folder: Path, tmp_path: Path) -> None:
    whole = load_file(folder / "dinov2-base" / "model.safetensors")
    place = tmp_path / "dinov2-base"
    place.mkdir()
    (place / "config.json").write_bytes((folder / "dinov2-base" / "config.json").read_bytes())
    with pytest.raises(MissingError, match="hf download facebook/dinov2-base"):
        _ = Weights(tmp_path, device=CPU).dinov2  # no weights
    torch.save(whole, place / "pytorch_model.bin")
    with pytest.raises(MissingError, match="cannot be loaded"):
        _ = Weights(tmp_path, device=CPU).dinov2  # pickled ones only
    name = sorted(whole)[0]
    save_file({k: v for k, v in whole.items() if k != name}, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingError, match=f"not whole: it lacks {name}"):
        _ = Weights(tmp_path, device=CPU).dinov2
    clip = tmp_path / "clip-vit-large-patch14"
    clip.mkdir()
    for file in ("config.json", "model.safetensors"):
        (clip / file).write_bytes((folder / clip.name / file).read_bytes())
    with pytest.raises(MissingError, match="no tokenizer"):
        _ = Weights(tmp_path, device=CPU).clip_l14
    with pytest.raises(MissingError, match="facebook/dino-vitb16 is not here"):
        _ = Weights(tmp_path, fetch=True, device=CPU).dino  # the tests are offline
    (tmp_path / "dover.safetensors").write_bytes(b"?")
    with pytest.raises(MissingError, match="cannot be read"):
        _ = Weights(tmp_path, device=CPU).dover
    save_file({"a": torch.zeros(1)}, tmp_path / "dover.safetensors")
    with pytest.raises(InputError, match=r"dover.safetensors: these are not the weights of DOVER"):
        _ = Weights(tmp_path, device=CPU).dover
    with pytest.raises(InputError, match="no folder"):
        Weights(tmp_path / "nowhere")


# -- colours ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "wanted"),
    [
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0.0, 0.0)),
    ],
)
def test_lab_of_known_colours(level: tuple[int, int, int], wanted: tuple[float, float, float]) -> None:
    assert lab(np.array([[level]], np.uint8))[0, 0] == pytest.approx(wanted, abs=0.02)


def test_palettes_are_as_far_apart_as_they_are_shifted_or_spread() -> None:
    rng = np.random.default_rng(0)
    colours = rng.normal(size=(5000, 3)) * (3, 2, 1)

    def of(values: np.ndarray) -> Colours:
        made = Colours()
        for part in np.array_split(values, 7):
            made.add(part)
        return made

    here = of(colours)
    assert distance(here, of(colours)) == pytest.approx(0, abs=1e-5)
    assert distance(here, of(colours + np.array([3, 4, 12]))) == pytest.approx(13, abs=1e-3)
    spread = np.sqrt(np.trace(here.covariance))
    middle = colours.mean(axis=0)
    assert distance(here, of(middle + 2 * (colours - middle))) == pytest.approx(spread, rel=1e-3)


def test_a_palette_that_brightens_drifts_by_its_lightness() -> None:
    palette = Palette(30, 3)
    grey = [lab(np.full((1, 1, 3), level, np.uint8))[0, 0, 0] for level in (100, 120, 150)]
    for level in (100, 120, 150):
        for _ in range(10):
            palette.add(np.full((8, 8, 3), level, np.uint8))
    assert palette.drift() == pytest.approx((grey[1] - grey[0] + grey[2] - grey[0]) / 2, abs=1e-6)
    single = Palette(3, 1)
    single.add(noise(8, 8, 3))
    assert single.drift() is None


# -- motion -----------------------------------------------------------------------------------------------------------


def moving(step: int) -> object:
    """A flow that knows: everything goes ``step`` pixels to the right from a frame to the next, told by a mark."""

    def flow(here: np.ndarray, there: np.ndarray) -> np.ndarray:
        sign = np.sign(int(there[0, 0, 0]) - int(here[0, 0, 0]))
        field = np.zeros((*here.shape[:2], 2), np.float32)
        field[..., 0] = sign * step
        return field

    return flow


def marked(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Frames with their number in the corner, for `moving`."""
    made = [frame.copy() for frame in frames]
    for number, frame in enumerate(made):
        frame[0, 0, 0] = number
    return made


def test_warp_error_flicker_and_seam_by_hand() -> None:
    """A still scene whose brightness goes up and down by 8 levels, and once, at a border, by 20 more."""
    scene = np.full((40, 40, 3), 100, np.uint8)
    levels = [0, 8, 0, 8, 28, 20, 28, 20]
    edited, source = marked([scene + level for level in levels]), marked([scene] * 8)
    motion = EstimatedMotion(moving(0), borders=[4])  # type: ignore[arg-type]
    for ours, theirs in zip(edited, source, strict=True):
        motion.add(ours, theirs)
    found = motion.of_edited() | motion.against_source()
    steps = np.abs(np.diff(levels)).astype(float)
    assert found["warp_error"] == pytest.approx(1e3 * np.mean(steps**2) / 255**2, rel=2e-3)
    assert found["own_warp"] == found["warp_error"]
    least = 1e3 / 6 / 255**2  # what rounding makes
    assert found["warp_error_relative"] == pytest.approx(found["warp_error"] / least, rel=2e-2)  # type: ignore[operator]
    second = np.abs(np.diff(levels, 2))
    assert found["flow_flicker"] == pytest.approx(second.mean(), rel=2e-3)
    others = np.delete(steps, 3)
    assert found["flow_seam"] == pytest.approx((steps[3] + 1) / (others + 1).mean(), rel=1e-2)
    assert found["flow_ratio"] is None and found["motion_alignment"] == 0


def test_what_moves_along_has_no_warp_error() -> None:
    wide = smooth(40, 80)
    frames = marked([wide[:, 40 - 4 * k : 80 - 4 * k] for k in range(6)])
    motion = EstimatedMotion(moving(4), borders=None)  # type: ignore[arg-type]
    frozen = EstimatedMotion(moving(4), borders=None)  # type: ignore[arg-type]
    for number, frame in enumerate(frames):
        motion.add(frame, frame)
        held = frames[0].copy()
        held[0, 0, 0] = number
        frozen.add(held, frame)
    found = motion.against_source()
    assert found["warp_error"] == pytest.approx(0, abs=0.2) and found["warp_error_relative"] == pytest.approx(1)
    assert found["flow_flicker"] == pytest.approx(0) and found["flow_ratio"] == pytest.approx(1)
    assert found["flow_seam"] is None
    assert frozen.against_source()["warp_error"] > 2  # type: ignore[operator]


def test_pairs_that_cannot_be_followed_are_left_out() -> None:
    lost = EstimatedMotion(moving(39), borders=None)  # type: ignore[arg-type]
    for frame in marked([smooth(40, 40)] * 3):
        lost.add(frame, None)
    assert lost.of_edited()["own_warp"] is None and lost.of_edited()["flow"] == pytest.approx(39)


def test_dis_finds_a_shift_and_believes_only_what_returns() -> None:
    pytest.importorskip("cv2", reason="needs OpenCV: pip install 'adaflow[peers]'")
    wide = smooth(96, 160)
    first, second = wide[:, 24:152], wide[:, 20:148]  # four pixels to the right
    pair = PairFlow.between(DisFlow(), first, second)
    inner = pair.ahead[16:80, 16:100]
    assert np.median(inner[..., 0]) == pytest.approx(4, abs=0.3) and abs(np.median(inner[..., 1])) < 0.3
    assert pair.seen_ahead[16:80, 16:100].mean() > 0.9 and not pair.seen_ahead[:, -3:].any()
    other = PairFlow.between(DisFlow(), first, noise(96, 128, 3))
    assert other.seen_ahead.mean() < pair.seen_ahead.mean() / 2


# -- a whole video ----------------------------------------------------------------------------------------------------


class Passing(VideoSource):
    """Frames made one by one, with a count of how many are held at once."""

    def __init__(self, frames: int) -> None:
        self.count, self.held, self.most = frames, 0, 0
        self._shown = ArraySource([smooth(40, 48)] * frames, 5)

    @property
    def info(self) -> VideoInfo:
        return self._shown.info

    def _gone(self) -> None:
        self.held -= 1

    def frames(self, size: tuple[int, int] | None = None, start: int = 0) -> Iterator[np.ndarray]:
        for number in range(start, self.count):
            frame = noise(40, 48, 3, seed=number)
            self.held += 1
            self.most = max(self.most, self.held)
            weakref.finalize(frame, self._gone)
            yield frame

    def fingerprint(self) -> str:
        return "passing"


def test_frames_are_not_held(tmp_path: Path) -> None:
    """Memory does not grow with the length: no more than two batches of frames are alive at any time."""
    most = []
    for frames in (120, 240):
        gc.collect()
        video, source = Passing(frames), Passing(frames)
        found = score(video, Weights(tmp_path), source=source)
        assert found.facts["frames"] == frames and found.measures["palette_drift"] is not None
        most.append(max(video.most, source.most))
    assert most[0] == most[1] <= 2 * 32 + 3


def test_without_weights_only_what_needs_none_is_scored(tmp_path: Path) -> None:
    frames = ArraySource([smooth(40, 48)] * 5, 25)
    found = score(frames, Weights(tmp_path), prompt="a boat")
    assert set(found.measures) == {"temporal_flickering", "palette_drift", "own_warp", "own_flicker", "flow"}
    assert set(found.measures) | set(found.skipped) == set(NAMES)
    assert found.measures["temporal_flickering"] == 1 and found.measures["own_warp"] == 0
    assert "hf download openai/clip-vit-large-patch14" in found.skipped["fq"]
    assert "adaflow eval convert DOVER.pth" in found.skipped["vq"] and "--source" in found.skipped["warp_error"]
    assert all("\n" not in why for why in found.skipped.values())


def test_fq_alone_is_skipped_without_its_head(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clip-vit-large-patch14").symlink_to(folder / "clip-vit-large-patch14")
    found = score(ArraySource([smooth(40, 48)] * 3, 25), Weights(tmp_path, device=CPU), only=["fq", "sc"])
    assert set(found.measures) == {"sc"} and list(found.skipped) == ["fq"]
    assert found.measures["sc"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only": ["qv"]}, "no metric 'qv'; did you mean 'vq'"),
        ({"borders": [0]}, "cannot begin at frame 0"),
        ({"borders": [2, 5]}, "cannot begin at frame 5: borders lie from 1 to 4"),
    ],
)
def test_a_wrong_wish_is_refused(options: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        score(ArraySource([smooth(40, 48)] * 5, 25), Weights(tmp_path), **options)
    with pytest.raises(InputError, match="one frame"):
        score(ArraySource([smooth(40, 48)], 25), Weights(tmp_path))


def test_frames_too_small_for_motion_are_scored_otherwise(tmp_path: Path) -> None:
    found = score(ArraySource([noise(16, 16, 3)] * 3, 25), Weights(tmp_path))
    assert set(found.measures) == {"temporal_flickering", "palette_drift"} and "32 pixels" in found.skipped["flow"]


# -- verify -----------------------------------------------------------------------------------------------------------


def test_what_can_be_verified_without_weights_holds(tmp_path: Path) -> None:
    checks = {check.name: check for check in verify(Weights(tmp_path))}
    held = {name for name, check in checks.items() if check.verdict == "holds"}
    assert {"DOVER's entries", "DOVER's fusion", "DOVER's fragments", "consistency of vectors"} <= held
    assert not [check for check in checks.values() if check.verdict == "fails"]
    assert checks["dover.safetensors"].verdict == checks["vq of the made-up film"].verdict == "skipped"


def test_networks_of_other_sizes_fail_and_recorded_scores_are_compared(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in folder.iterdir():
        (tmp_path / place.name).symlink_to(place)
    Image.fromarray(smooth(80, 120)).save(tmp_path / "000000039769.png")
    monkeypatch.setattr("adaflow.longv_eval.verify.FRAMES", 3)
    checks = {check.name: check for check in verify(Weights(tmp_path, device=CPU), record=True)}
    assert (
        checks["clip-vit-large-patch14"].verdict == "fails" and "vectors of 48" in checks["clip-vit-large-patch14"].said
    )
    assert checks["dinov2-base"].verdict == checks["clip-vit-base-patch32"].verdict == "fails"  # of other pictures
    assert checks["laion-aesthetic-v2.safetensors"].verdict == "fails"  # of other weights
    assert checks["dino-vitb16"].verdict == "fails" and "vectors of 48" in checks["dino-vitb16"].said
    assert checks["oc of the made-up film"].verdict == "holds"
    kept = json.loads((tmp_path / "known-scores.json").read_text())
    kept["scores"]["oc"] += 0.01
    (tmp_path / "known-scores.json").write_text(json.dumps(kept))
    again = {check.name: check for check in verify(Weights(tmp_path, device=CPU))}
    assert again["oc of the made-up film"].verdict == "fails" and "recorded" in again["oc of the made-up film"].said
    assert again["sc of the made-up film"].verdict == "holds"


def test_the_made_up_film_is_the_same_for_good() -> None:
    film = made_up_film()
    assert film.shape == (24, 240, 320, 3) and film.dtype == np.uint8
    assert int(film.astype(np.int64).sum()) == FILM_SUM


FILM_SUM = 685188270


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setenv("ADAFLOW_CACHE", str(tmp_path / "cache"))
    frames = [np.roll(smooth(64, 96), 2 * k, axis=1) for k in range(6)]
    write_video(tmp_path / "in.mp4", iter(frames), fps=12)
    write_video(tmp_path / "out.mp4", iter(frames[:5]), fps=12)
    (tmp_path / "frames").mkdir()
    for number in (9, 10, 11):
        Image.fromarray(frames[number - 9]).save(tmp_path / "frames" / f"{number}.png")
    return SimpleNamespace(source=tmp_path / "in.mp4", edited=tmp_path / "out.mp4", frames=tmp_path / "frames")


def test_score_shows_numbers_and_what_is_skipped(films: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    main(["eval", "score", str(films.edited), "--source", str(films.source), "--borders", "3"])
    said = capsys.readouterr()
    rows = {line.split()[0]: line.split()[1:] for line in said.out.splitlines()}
    assert rows["measure"] == ["value", "source", "difference"] and len(rows["flow"]) == 3
    assert float(rows["flow_ratio"][0]) == pytest.approx(1, abs=0.2)
    assert "skipped: vq, vq_dense, vq_technical, vq_aesthetic: " in said.err
    assert "has 5 frames" in said.err and "the first 5 are scored" in said.err


def test_score_as_json_is_one_document(
    films: SimpleNamespace, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--weights", str(folder), "--prompt", "a boat", "--only", "fq,oc,vq", "--json"]
    main(["eval", "score", str(films.frames), "--fps", "5", *arguments])
    document = json.loads(capsys.readouterr().out)
    assert set(document["measures"]) == {"fq", "oc"} and set(document["skipped"]) == {"vq"}
    assert (document["frames"], document["fps"], document["height"]) == (3, 5.0, 64)
    assert {"pillow", "torch", "transformers"} <= document["versions"].keys()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["score", "nowhere.mp4"], 2, "nowhere.mp4"),
        (["score", "out.mp4", "--weights", "nowhere"], 2, "no folder nowhere"),
        (["score", "out.mp4", "--only", "qv"], 2, "did you mean 'vq'"),
        (["score", "out.mp4", "--borders", "a,2"], 2, "give frame numbers"),
        (["score", "out.mp4", "--only", "vq,fq"], 3, "none of the metrics asked for can be computed; fq: openai/"),
        (["score", "cache"], 2, "no lossless frames"),
        (["score"], 2, "adaflow eval score needs VIDEO"),
        (["score", "out.mp4", "--promt", "x"], 2, "did you mean '--prompt'"),
        (["verify", "--weights", "nowhere"], 2, "no folder nowhere"),
        (["convert", "DOVER.pth"], 2, "no file DOVER.pth"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    code: int,
    words: str,
    films: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(films.edited.parent)
    Path("cache").mkdir()
    with pytest.raises(SystemExit) as end:
        main(["eval", *arguments])
    said = capsys.readouterr()
    assert end.value.code == code and words in said.err and said.err.count("\n") == 1 and not said.out


def test_verify_ends_well_without_weights(films: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    main(["eval", "verify"])
    assert "381 entries" in capsys.readouterr().out
    main(["eval", "verify", "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert {check["verdict"] for check in checks} == {"holds", "skipped"}


def test_verify_ends_badly_where_something_is_wrong(
    films: SimpleNamespace, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["eval", "verify", "--weights", str(folder)])
    assert end.value.code == 2 and "fail: clip-vit-large-patch14" in capsys.readouterr().err
