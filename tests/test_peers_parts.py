"""The compared systems' parts by definition, and what each system comes down to."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_pipeline
from peer_edits import KEYED, PROMPT, SIZE, STEPS, STEPWISE, Edits, N, asked, bench, gathered, video
from PIL import Image
from torch import Tensor, nn

from adaflow import AdaFlowPipeline
from adaflow.backbone import Backbone, Conditioning
from adaflow.cards import ModelCard
from adaflow.config import InjectionConfig, KeyframeConfig, PeerConfig, RunConfig, SlimmingConfig
from adaflow.errors import Cancelled, MissingError
from adaflow.peers import PEERS
from adaflow.peers.flatten import (
    along_paths,
    feature_sites,
    joint_norms,
    paths,
    query_sites,
    successor,
)
from adaflow.peers.flow import flow_by, resized
from adaflow.peers.keyed import Keys
from adaflow.peers.propagate import between, cosines, from_gradients, without_holes
from adaflow.peers.rave import cut_up, filled, laid_out
from adaflow.peers.rerender import Fusion, Memory, RerenderLite, Sampling, Ties
from adaflow.peers.tokenflow import carried, two_keys
from adaflow.peers.vidtome import best_merge, windows
from adaflow.peers.warp import composed, inside, occluded, on_latents, softened, warped
from adaflow.progress import Progress
from adaflow.run import spans


@pytest.fixture(scope="module")
def pipe() -> AdaFlowPipeline:
    torch.set_num_threads(1)
    return AdaFlowPipeline.from_pipe(tiny_pipeline())


@pytest.fixture
def edit(pipe: AdaFlowPipeline, tmp_path: Path) -> Edits:
    return Edits(pipe, tmp_path)


# -- TokenFlow --------------------------------------------------------------------------------------------------------


def test_the_two_keyframes_of_a_frame_as_published() -> None:
    """Own and previous clip, by the distances to the clips' middles: between 0.62 and 0.73 with clips of eight."""
    clips, keys = list(spans(0, 24, 8)), [3, 8, 20]
    first = two_keys(clips, keys, 0, clips[0])
    assert first.first.tolist() == first.second.tolist() == [0] * 8 and first.weight.tolist() == [1.0] * 8
    two = two_keys(clips, keys, 1, clips[1])
    assert two.first.tolist() == [1] * 8 and two.second.tolist() == [0] * 8
    wanted = [1 / (1 + np.exp(-(f - 4) / ((f - 4) + abs(f - 12)))) for f in clips[1]]
    np.testing.assert_allclose(two.weight.numpy(), wanted, rtol=1e-6)
    assert float(two.weight.min()) > 0.62 and float(two.weight.max()) < 0.7311


def test_the_two_keyframes_on_either_side_of_a_frame() -> None:
    clips, keys = list(spans(0, 24, 8)), [3, 8, 20]
    two = two_keys(clips, keys, 1, range(8, 16), "adjacent")
    assert two.first.tolist() == [1] + [2] * 7 and two.second.tolist() == [0] + [1] * 7
    assert float(two.weight[2]) == pytest.approx(1 / (1 + np.exp(-2 / 12)))  # frame 10: 2 from key 8, 10 from key 20
    last = two_keys(clips, keys, 2, range(21, 24), "adjacent")
    assert last.first.tolist() == [2] * 3 and last.weight.tolist() == [1.0] * 3
    before = two_keys(clips, keys, 0, range(0, 3), "adjacent")
    assert before.first.tolist() == [0] * 3 and before.weight.tolist() == [1.0] * 3


def test_features_are_carried_from_the_most_similar_token() -> None:
    generator = torch.Generator().manual_seed(0)
    source, tokens = (torch.randn(n, 6, 5, generator=generator) for n in (4, 3))
    outputs = torch.randn(2, 3, 6, 5, generator=generator)
    keys = torch.tensor([2, 0, 2, 1])
    found = carried(source, tokens, outputs, keys)
    for f, key in enumerate(keys.tolist()):
        for p in range(6):
            likeness = [F.cosine_similarity(source[f, p].double(), tokens[key, q].double(), dim=0) for q in range(6)]
            best = int(torch.stack(likeness).argmax())
            assert torch.equal(found[:, f, p], outputs[:, key, best])


# -- VidToMe ----------------------------------------------------------------------------------------------------------

shapes = st.tuples(st.integers(1, 3), st.integers(0, 9), st.integers(1, 7), st.integers(0, 5))


@given(shapes, st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_what_is_merged_is_most_like_a_destination(shape: tuple[int, int, int, int], share: float) -> None:
    branches, s, d, seed = shape
    generator = torch.Generator().manual_seed(seed)
    sources, destinations = (torch.randn(branches, n, 4, generator=generator) for n in (s, d))
    merge = best_merge(sources, destinations, share, chunk=3)
    likeness = torch.stack(
        [
            torch.stack([F.cosine_similarity(a.double(), b.double(), dim=0) for a in one for b in other]).view(s, d)
            for one, other in zip(sources, destinations, strict=True)
            if s
        ]
        or [torch.zeros(s, d, dtype=torch.float64)]
    ).amax(0)
    best = likeness.amax(1) if s else likeness.new_zeros(0)
    assert len(merge.merged) == int(s * share + 1e-9)
    assert sorted([*merge.merged.tolist(), *merge.kept.tolist()]) == list(range(s))
    assert merge.kept.tolist() == sorted(merge.kept.tolist())
    if len(merge.merged) and len(merge.kept):
        assert float(best[merge.merged].min()) >= float(best[merge.kept].max()) - 1e-6
    torch.testing.assert_close(likeness[merge.merged, merge.into], best[merge.merged], rtol=0, atol=1e-6)


@given(shapes)
@settings(max_examples=40, deadline=None)
def test_with_nothing_to_merge_merging_is_the_identity(shape: tuple[int, int, int, int]) -> None:
    branches, s, d, seed = shape
    generator = torch.Generator().manual_seed(seed)
    sources, destinations = (torch.randn(branches, n, 4, generator=generator) for n in (s, d))
    merge = best_merge(sources, destinations, 0.0)
    merged = merge.merge(sources, destinations)
    assert torch.equal(merged, torch.cat([sources, destinations], dim=1))
    back, there = merge.unmerge(merged)
    assert torch.equal(back, sources) and torch.equal(there, destinations)


@pytest.mark.parametrize("share", [0.3, 0.9, 1.0])
def test_identical_frames_are_restored(share: float) -> None:
    frame = torch.randn(3, 10, 6, generator=torch.Generator().manual_seed(0))
    sources = frame.repeat(1, 3, 1)
    merge = best_merge(sources, frame, share)
    merged = merge.merge(sources, frame)
    assert merged.shape[1] == 10 + 30 - int(30 * share)
    back, there = merge.unmerge(merged)
    assert torch.equal(back, sources) and torch.equal(there, frame)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 9), st.integers(0, 50))
def test_windows_hold_every_frame_once(n: int, size: int, start: int, seed: int) -> None:
    chunk = range(start, start + n)
    found = windows(chunk, size, np.random.default_rng(seed))
    assert sorted(frame for window in found for frame in window) == list(chunk)
    assert all(1 <= len(window) <= size for window in found)
    in_order = sorted(found, key=lambda window: window.start)
    assert all(len(window) == size for window in in_order[1:-1])
    drawn = len(found) // 4
    rest = [in_order.index(window) for window in found[drawn:]]
    assert rest in (sorted(rest), sorted(rest, reverse=True))


def test_the_first_window_has_any_length() -> None:
    lengths = {len(min(windows(range(20), 4, np.random.default_rng(s)), key=lambda w: w.start)) for s in range(40)}
    assert lengths == {1, 2, 3, 4}


# -- RAVE -------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_frames_laid_out_and_cut_up_again(side: int, pictures: int, h: int, w: int) -> None:
    frames = torch.arange(pictures * side * side * 2 * h * w).float().view(-1, 2, h, w)
    whole = laid_out(frames, side)
    assert whole.shape == (pictures, 2, side * h, side * w)
    assert torch.equal(cut_up(whole, side), frames)
    for k in range(len(frames)):
        picture, place = divmod(k, side * side)
        row, column = divmod(place, side)
        part = whole[picture, :, row * h : (row + 1) * h, column * w : (column + 1) * w]
        assert torch.equal(part, frames[k])


def test_slots_that_are_left_over_repeat_the_last_frames() -> None:
    assert [filled(range(10, 15), slot) for slot in range(8)] == [10, 11, 12, 13, 14, 14, 13, 12]
    assert [filled(range(3, 4), slot) for slot in range(4)] == [3, 3, 3, 3]


def test_other_frames_share_a_picture_at_every_step(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    with bench(pipe, tmp_path, asked("rave-pnp", run=RunConfig(rows=1))) as (peer, z):
        dealt = [[tuple(f) for f, _ in peer.predict(step, range(8), z, z)] for step in peer.bench.steps]
    assert all(len(pictures) == 2 and all(len(p) == 4 for p in pictures) for pictures in dealt)
    assert len({tuple(pictures) for pictures in dealt}) == STEPS


# -- FLATTEN ----------------------------------------------------------------------------------------------------------


@st.composite
def flows(draw: Any) -> tuple[list[Tensor], tuple[int, int]]:
    h, w, frames, seed = draw(st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99)))
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(2 * h, 2 * w, 2, generator=generator) for _ in range(frames - 1)], (h, w)


@given(flows())
@settings(deadline=None)
def test_every_token_lies_on_exactly_one_path(case: tuple[list[Tensor], tuple[int, int]]) -> None:
    flow, grid = case
    tokens = grid[0] * grid[1]
    rows = [successor(f, grid, np.random.default_rng(i)) for i, f in enumerate(flow)]
    after = torch.stack(rows).long() if rows else torch.zeros(0, tokens, dtype=torch.int64)
    for row in after:
        reached = row[row >= 0].tolist()
        assert len(set(reached)) == len(reached)
    table = paths(after)
    assert table.shape[1] == len(flow) + 1
    for frame in range(table.shape[1]):
        assert sorted(table[table[:, frame] >= 0, frame].tolist()) == list(range(tokens))
    for path in table.tolist():
        there = [t for t, cell in enumerate(path) if cell >= 0]
        assert there == list(range(there[0], there[-1] + 1))
        for t in there[:-1]:
            assert int(after[t, path[t]]) == path[t + 1]
        if there[-1] < len(flow):
            assert int(after[there[-1], path[there[-1]]]) == -1  # no path ends where it could go on


def test_the_successor_of_a_cell_by_hand() -> None:
    """Pixels twice as fine as cells; two cells to the right, and one down where it stays inside."""
    flow = torch.tensor([4.0, 2.0]).expand(6, 8, 2)
    found = successor(flow, (3, 4), np.random.default_rng(0)).view(3, 4)
    assert found.tolist() == [[6, 7, -1, -1], [10, 11, -1, -1], [-1, -1, -1, -1]]
    towards = torch.zeros(1, 3, 2)
    towards[0, 0, 0], towards[0, 2, 0] = 1.0, -1.0  # all three to the middle
    kept = {int((successor(towards, (1, 3), np.random.default_rng(s)) >= 0).nonzero()) for s in range(30)}
    assert kept == {0, 1, 2}


@given(flows(), st.integers(1, 3))
@settings(deadline=None, max_examples=40)
def test_attention_along_paths_is_attention_along_paths(case: tuple[list[Tensor], tuple[int, int]], heads: int) -> None:
    flow, grid = case
    tokens = grid[0] * grid[1]
    rows = [successor(f, grid, np.random.default_rng(i)) for i, f in enumerate(flow)]
    table = paths(torch.stack(rows).long() if rows else torch.zeros(0, tokens, dtype=torch.int64))
    x = torch.randn(table.shape[1], heads, tokens, 4, generator=torch.Generator().manual_seed(0))
    found = along_paths(x, table, chunk=3)
    for path in table.tolist():
        cells = [(t, cell) for t, cell in enumerate(path) if cell >= 0]
        for head in range(heads):
            own = torch.stack([x[t, head, cell] for t, cell in cells]).double()
            wanted = (own @ own.T / 2.0).softmax(-1) @ own
            for (t, cell), value in zip(cells, wanted, strict=True):
                torch.testing.assert_close(found[t, head, cell].double(), value, rtol=1e-5, atol=1e-5)


def test_norms_are_joint_over_the_frames_of_a_branch_and_given_back() -> None:
    unet: Any = tiny_pipeline().unet
    norm: nn.GroupNorm = unet.down_blocks[0].resnets[0].norm1
    x = torch.randn(6, norm.num_channels, 5, 4)
    plain = norm(x)
    with joint_norms(unet, 2):
        found = norm(x)
        entry = unet.down_blocks[0].attentions[0].norm
        y = torch.randn(6, entry.num_channels, 5, 4)
        assert torch.equal(entry(y), F.group_norm(y, entry.num_groups, entry.weight, entry.bias, entry.eps))
    for branch in range(2):
        video_of = x[3 * branch : 3 * branch + 3].transpose(0, 1)[None]
        wanted = F.group_norm(video_of, norm.num_groups, norm.weight, norm.bias, norm.eps)[0].transpose(0, 1)
        torch.testing.assert_close(found[3 * branch : 3 * branch + 3], wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(norm(x), plain)
    with joint_norms(unet, 6):  # one frame a branch: nothing is joint
        torch.testing.assert_close(norm(x), plain, rtol=1e-5, atol=1e-5)


def test_where_flatten_injects() -> None:
    """SD's: features at up[1].res[0], res[1] and up[2].res[0]; queries at all but the first and up[3]'s last two."""
    backbone = Backbone(tiny_pipeline(levels=4, layers=2), ModelCard("tiny"))
    names = [site.name for site in feature_sites(backbone.injection_feature_sites("wide"))]
    assert names == [f"up_blocks.{b}.resnets.{r}.conv2" for b, r in ((1, 0), (1, 1), (2, 0))]
    places = [(site.block, site.layer) for site in query_sites(backbone.injection_attention_sites())]
    assert places == [(1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0)]


@pytest.mark.parametrize("provider", ["dis", "farneback"])
def test_flow_of_a_shifted_picture(provider: Any) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    big = np.asarray(Image.fromarray(coarse).resize((140, 100), Image.Resampling.BICUBIC))
    a, b = big[4:84, 6:126], big[2:82, 3:123]  # what is at p in a is at p + (3, 2) in b
    found = flow_by(provider)(a, b)
    assert found.shape == (80, 120, 2) and found.dtype == np.float32
    np.testing.assert_allclose(np.median(found[20:-20, 20:-20], axis=(0, 1)), (3, 2), atol=0.3)


def test_a_flow_on_another_grid_is_in_its_cells() -> None:
    flow = torch.tensor([8.0, 6.0]).expand(12, 16, 2)
    for mode in ("nearest", "bilinear"):
        assert torch.allclose(resized(flow, (6, 4), mode), torch.tensor([2.0, 3.0]).expand(6, 4, 2))


def test_without_opencv_flatten_says_what_to_install_before_any_work(
    pipe: AdaFlowPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingError, match=r"OpenCV; install it with: pip install 'adaflow\[peers\]'"):
        pipe(video(), PROMPT, config=asked("flatten"), workspace=tmp_path / "w")
    assert not list((tmp_path / "w" / "stages").glob("latents-*"))
    pipe(video(2), PROMPT, config=asked("tokenflow"), workspace=tmp_path / "other")


# -- pictures along flow ----------------------------------------------------------------------------------------------


def shift(x: float, y: float, size: tuple[int, int] = (10, 12)) -> Tensor:
    return torch.tensor([float(x), float(y)]).expand(*size, 2).contiguous()


def test_a_picture_along_a_flow() -> None:
    picture = torch.randn(2, 10, 12, generator=torch.Generator().manual_seed(0))
    found = warped(picture, shift(2, -1))
    torch.testing.assert_close(found[:, 1:, :10], picture[:, :-1, 2:])
    assert found[:, 0].abs().max() < 1e-5 and found[:, :, 10:].abs().max() < 1e-5
    half = warped(picture, shift(0.5, 0))
    torch.testing.assert_close(half[:, :, :-1], (picture[:, :, 1:] + picture[:, :, :-1]) / 2)
    assert torch.equal(warped(picture, shift(0.4, 0), "nearest"), picture)
    assert inside(shift(2, -1))[1:, :10].all() and inside(shift(2, -1)).sum() == 9 * 10
    torch.testing.assert_close(composed(shift(1, 2), shift(3, -1))[:-2, :-1], shift(4, 1)[:-2, :-1])


def test_what_does_not_come_home_is_occluded() -> None:
    lost = occluded(shift(2, 0), shift(-2, 0))
    assert lost[:, -3:].all() and not lost[:, :-3].any()  # what leaves at the right, and one pixel more
    astray = shift(0, 0).clone()
    astray[4, 6] = torch.tensor([3.0, 0.0])
    assert occluded(astray, shift(0, 0)).nonzero().tolist() == [[r, c] for r in (3, 4, 5) for c in (5, 6, 7)]


def test_masks() -> None:
    mask = torch.zeros(16, 24)
    mask[5:7, 8:9] = 1
    soft = softened(mask)
    assert soft.max() == 1 and (soft[mask == 1] == 1).all() and 0 < soft[4, 2] < 1 and soft[:, -1].max() == 0
    assert on_latents(mask, 4).nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize("size", [(4, 6), (5, 5), (1, 7)])
@pytest.mark.parametrize("weight", [0.0, 0.5, 2.5])
def test_the_picture_of_given_gradients_is_the_least_squares_solution(size: tuple[int, int], weight: float) -> None:
    h, w = size
    generator = torch.Generator().manual_seed(0)
    target, across, down = (torch.randn(*s, generator=generator).double() for s in (size, (h, w - 1), (h - 1, w)))
    rows, wanted = [np.eye(h * w)], [target.flatten().numpy()]
    cells = np.arange(h * w).reshape(h, w)
    for one, other, gradient in ((cells[:, :-1], cells[:, 1:], across), (cells[:-1], cells[1:], down)):
        for a, b, g in zip(one.ravel(), other.ravel(), gradient.flatten().tolist(), strict=True):
            row = np.zeros(h * w)
            row[a], row[b] = -weight, weight
            rows.append(row[None])
            wanted.append(np.array([weight * g]))
    solution = np.linalg.lstsq(np.concatenate(rows), np.concatenate(wanted), rcond=None)[0].reshape(size)
    np.testing.assert_allclose(from_gradients(target, across, down, weight).numpy(), solution, atol=1e-9)
    basis = cosines(w)
    torch.testing.assert_close(basis @ basis.T, torch.eye(w, dtype=torch.float64))


def test_frames_between_are_carried_from_both_sides() -> None:
    """A film whose edit is the film itself, and one whose edit is another colour."""
    frames = list(video(6))
    for edit_of in (lambda x: x, lambda x: 255 - x):
        found = list(between(frames, edit_of(frames[0]), edit_of(frames[-1]), flow_by("dis")))
        assert len(found) == 4 and all(f.dtype == np.uint8 and f.shape == frames[0].shape for f in found)
        for frame, wanted in zip(found, frames[1:-1], strict=True):
            error = np.abs(frame.astype(float) - edit_of(wanted))[:, 6:-6]
            assert np.median(error) < 5
    still = [frames[0]] * 4
    for frame in between(still, frames[3], frames[3], flow_by("dis")):
        assert np.abs(frame.astype(int) - frames[3]).max() <= 2  # Lab and back
    assert list(between(frames[:2], frames[0], frames[1], flow_by("dis"))) == []


def test_holes_of_one_side_are_filled_from_the_other() -> None:
    a, b = torch.full((3, 8, 8), 40.0), torch.full((3, 8, 8), 80.0)
    lost_a, lost_b = torch.zeros(2, 8, 8, dtype=torch.bool)
    lost_a[2:4, 2:6], lost_b[3:5, 2:6] = True, True
    one, other = without_holes(a, b, lost_a, lost_b)
    assert (one[:, 2, 2:6] == 80).all() and (other[:, 4, 2:6] == 40).all() and (one[:, 6:] == 40).all()
    assert (one[:, 3, 2:6] > 39).all() and (other[:, 3, 2:6] < 81).all()


# -- Plug-and-Play, and what comes down to it -------------------------------------------------------------------------


def test_plug_and_play_is_adaflow_where_every_frame_is_a_keyframe_without_a_budget(edit: Edits) -> None:
    config: dict[str, Any] = {"injection": InjectionConfig(features=0.7, attention=0.4), "guidance_scale": 3.0}
    alone = {"keyframes": KeyframeConfig(longest_clip=1), "slimming": SlimmingConfig(budget=0)}
    found, wanted = (edit.latents(video(4), method, **config, **alone) for method in ("pnp", None))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("keys", ["clips", "adjacent"])
def test_tokenflow_with_one_frame_is_plug_and_play(edit: Edits, keys: Any) -> None:
    found = edit.latents(video(1), "tokenflow", peers=PeerConfig(keys=keys))
    torch.testing.assert_close(found, edit.latents(video(1), "pnp"), rtol=1e-3, atol=1e-4)


def test_flatten_with_one_frame_is_plug_and_play(edit: Edits) -> None:
    """Apart from where it injects."""
    none = InjectionConfig(features=0.0, attention=0.0)
    found, wanted = (
        edit.latents(video(1), method, injection=none, guidance_scale=3.0) for method in ("flatten", "pnp")
    )
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_vidtome_with_one_frame_is_plug_and_play(edit: Edits) -> None:
    found = edit.latents(video(1), "vidtome")
    torch.testing.assert_close(found, edit.latents(video(1), "pnp"), rtol=1e-3, atol=1e-4)


def test_vidtome_keeps_identical_frames_of_a_window_identical(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    """With the published shares: their tokens see the same, merged or not. From window to window they differ."""
    still = np.repeat(video(1), 8, axis=0)
    with bench(pipe, tmp_path, asked("vidtome"), still) as (peer, z):
        for frames, noise in peer.predict(peer.bench.steps[0], range(8), z, z):
            for branch in noise.unflatten(0, (2, len(frames))):
                torch.testing.assert_close(branch, branch[:1].expand_as(branch), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", STEPWISE)
def test_the_order_of_the_edits_branches_does_not_matter(pipe: AdaFlowPipeline, method: str, tmp_path: Path) -> None:
    """With the texts of the negative and the prompt branch exchanged, the predictions are."""
    with bench(pipe, tmp_path, asked(method)) as (peer, z):
        text, step = dict(peer.bench.conditioning.embeddings), peer.bench.steps[0]
        plain = gathered(peer.predict(step, range(4), z, z))
        text["negative"], text["prompt"] = text["prompt"], text["negative"]
        peer.bench.conditioning = Conditioning(text)
        exchanged = gathered(peer.predict(step, range(4), z, z))
    torch.testing.assert_close(exchanged.flip(0), plain, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(exchanged, plain, atol=1e-3)


def test_vidtome_with_identical_frames_wholly_merged_is_plug_and_play(edit: Edits) -> None:
    still = np.repeat(video(1), 6, axis=0)
    found = edit.latents(still, "vidtome", peers=PeerConfig(local_merge=1.0, global_merge=1.0))
    wanted = edit.latents(video(1), "pnp")
    torch.testing.assert_close(found, wanted.expand_as(found), rtol=1e-3, atol=1e-3)


def test_vidtome_in_windows_of_one_frame_without_merging_across_is_extended_by_former_windows_only(
    pipe: AdaFlowPipeline, tmp_path: Path
) -> None:
    """The first window of a step has nothing before it: of one frame, it is Plug-and-Play."""
    with bench(pipe, tmp_path, asked("vidtome", peers=PeerConfig(window=1))) as (peer, z):
        step = peer.bench.steps[0]
        frames, noise = next(iter(peer.predict(step, range(N), z, z)))
        plain = PEERS["pnp"](peer.bench)
        wanted = next(iter(plain.predict(step, range(frames[0], frames[0] + 1), z, z)))[1]
        torch.testing.assert_close(noise, wanted, rtol=1e-4, atol=1e-5)


def test_rave_with_a_grid_of_one_is_plug_and_play(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    """In what it predicts; its guidance begins one step late, as published."""
    with bench(pipe, tmp_path, asked("rave-pnp", peers=PeerConfig(grid=1))) as (peer, z):
        plain = PEERS["pnp"](peer.bench)
        for step in peer.bench.steps:
            found, wanted = (gathered(p.predict(step, range(N), z, z)) for p in (peer, plain))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
            assert peer.guidance(step) == (7.5 if step.number else 0.0)


# -- Rerender-A-Video -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", KEYED)
def test_an_edit_of_keyframes(edit: Edits, method: str) -> None:
    seen: list[Progress] = []
    peers = PeerConfig(interval=4, least_gap=4, most_gap=4, batch=5, optimise=1)
    result = edit.result(video(), method, peers=peers, on_progress=seen.append)
    frames = np.asarray(result.frames)
    assert frames.shape == (N, *SIZE, 3) and not np.array_equal(frames, video()) and len(result.partition) == 1
    stages = ["encode", "partition" if method == "fresco-lite" else "invert", "edit", "decode"]
    assert list(dict.fromkeys(p.stage for p in seen)) == stages
    for stage in stages:
        done = [p.done for p in seen if p.stage == stage]
        assert done == sorted(done) and done[-1] == next(p.total for p in seen if p.stage == stage)
    assert frames.tobytes() == edit(video(), method, peers=peers).tobytes()
    assert not np.array_equal(frames, edit(video(), method, peers=PeerConfig(interval=3, least_gap=3, most_gap=3)))
    assert not list(edit.root.glob("*/stages/memory-*"))


@pytest.mark.parametrize("method", KEYED)
def test_keyframes_stopped_and_resumed_are_the_same(edit: Edits, method: str, tmp_path: Path) -> None:
    few = PeerConfig(interval=3, least_gap=1, most_gap=1, batch=5, optimise=1)
    given: dict[str, Any] = {"peers": few, "run": RunConfig(rows=2)}
    undisturbed = edit(video(), method, **given)
    total = N * STEPS  # three keyframes, a third each; or six in two batches
    before = [("invert", 2)] if method == "rerender-lite" else []
    moments = [("encode", 3), *before, *(("edit", int(share * total)) for share in (0.1, 0.3, 0.6, 0.7))]
    for stage, least in (*moments, ("decode", 1), ("decode", 4)):

        def stop(progress: Progress, stage: str = stage, least: int = least) -> None:
            if progress.stage == stage and least <= progress.done < progress.total:
                raise Cancelled("stopped")

        with pytest.raises(Cancelled):
            edit.result(video(), method, workspace=tmp_path / "resumed", on_progress=stop, **given)
    assert np.array_equal(edit(video(), method, workspace=tmp_path / "resumed", **given), undisturbed)


def test_keyframes_of_rerender() -> None:
    class Some(RerenderLite):
        def __init__(self) -> None:
            self.config = SimpleNamespace(peers=PeerConfig(interval=10))  # type: ignore[assignment]

    for frames, wanted in ((1, [0]), (10, [0, 9]), (21, [0, 10, 20]), (25, [0, 10, 20, 24])):
        assert Some().keys(SimpleNamespace(frames=frames)) == wanted  # type: ignore[arg-type]


def test_rerender_of_one_frame_is_plug_and_play(edit: Edits) -> None:
    found, wanted = (edit(video(1), method, guidance_scale=3.0).astype(int) for method in ("rerender-lite", "pnp"))
    assert np.abs(found - wanted).max() <= 1


def test_a_keyframe_like_the_first_one_comes_out_like_it(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    """Keys and values of the first and the former one, which are its own twice, and a shape that is its own."""
    with bench(pipe, tmp_path, asked("rerender-lite")) as (peer, z):
        run = peer.bench.run
        memory = Memory(peer, run.stage("memory", {}))
        trajectory = run.stage("still", {}).array("z", (STEPS, 2, *z.shape[1:]), torch.float32)
        for step in range(STEPS):
            trajectory.sub(step).write(0, z.read(0, 1).expand(2, -1, -1, -1) * (STEPS - step))
        keys = Keys(run, [0, 1], trajectory, z)
        first = peer._sample(Sampling(0, keys, memory, leaves=("first", "even")), lambda share: None)
        ties = Ties(torch.zeros(*SIZE, 2), torch.zeros(SIZE))
        second = Sampling(1, keys, memory, context=("first", "even"), first=ties)
        torch.testing.assert_close(peer._sample(second, lambda share: None), first, rtol=1e-3, atol=1e-4)
        trajectory.sub(0).write(1, z.read(5, 6))
        assert not torch.allclose(peer._sample(second, lambda share: None), first, atol=1e-3)


def test_a_run_is_drawn_only_where_it_shall_be() -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise, fresh, wanted = (torch.randn(1, 2, 9, 9, generator=generator) for _ in range(4))
    torch.testing.assert_close(Fusion(wanted, torch.zeros(9, 9)).draw(x, noise, fresh, 0.6), x)
    drawn = Fusion(wanted, torch.ones(9, 9)).draw(x, noise, fresh, 0.6)
    old = 0.4**0.5 * noise
    by_hand = 0.5 * (0.6**0.5 * wanted + 0.4**0.5 * fresh) + 0.5 * (x - old) + 0.9 * 0.75**0.5 * old
    torch.testing.assert_close(drawn, by_hand)
    edge = torch.zeros(9, 9)
    edge[:, 5:] = 1.0
    found = Fusion(wanted, edge).draw(x, noise, fresh, 0.6)
    torch.testing.assert_close(found[..., :5], x[..., :5])
    torch.testing.assert_close(found[..., 6:], drawn[..., 6:])
    plain = 0.5 * (0.6**0.5 * wanted + 0.4**0.5 * fresh) + 0.5 * (x - old) + 0.5 * old
    torch.testing.assert_close(found[..., 5], plain[..., 5])
