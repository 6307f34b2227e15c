"""FRESCO: keyframes and batches, paths, its three attentions, the optimisation of features, and its sampling."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_pipeline
from peer_edits import PROMPT, SIZE, STEPS, Edits, asked, bench, controlnet, video
from torch import Tensor

from adaflow import AdaFlowPipeline
from adaflow.attention import KeyAttention, KeyPass
from adaflow.backbone import Backbone, Site
from adaflow.cards import ModelCard
from adaflow.config import PeerConfig
from adaflow.inversion import clean_and_noise
from adaflow.peers.flow import flow_by
from adaflow.peers.fresco import Batch, ancestral, noised
from adaflow.peers.fresco_attention import GuidedPass, across_frames, along_time, guided_in_space, guided_layer
from adaflow.peers.fresco_features import entering, like_before, likeness, optimised, optimised_within, temporal_loss
from adaflow.peers.fresco_keys import anchors, batches, changes, chosen
from adaflow.peers.fresco_motion import Motion, Paths, partners
from adaflow.peers.keyed import Keys


@pytest.fixture(scope="module")
def pipe() -> AdaFlowPipeline:
    torch.set_num_threads(1)
    return AdaFlowPipeline.from_pipe(tiny_pipeline())


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- keyframes and batches --------------------------------------------------------------------------------------------


def test_frames_change_where_they_change() -> None:
    still, other = video(1)[0], video(1, seed=1)[0]
    found = changes([still, still, other, other])
    assert found[0] == found[1] == found[3] == 0 < found[2]
    levels = [np.full((8, 12, 3), level, np.uint8) for level in (10, 13, 9)]
    np.testing.assert_allclose(changes(levels), [0, 9, 16])


def test_keyframes_of_equal_gaps_are_even() -> None:
    assert chosen([0.0] * 11, 5, 5) == [0, 5, 10]
    assert chosen([0.0] * 12, 5, 5) == [0, 5, 10, 11]
    assert chosen([0.0], 2, 2) == [0] == chosen([0.0], 10, 30)


def test_keyframes_are_where_the_video_changes_most() -> None:
    """By hand: 40 frames, gaps of 5 to 15; the frames near the ends and near another keyframe do not count."""
    differ = np.ones(40)
    differ[[20, 22, 2, 33, 12]] = 9, 8, 7, 6, 5
    assert chosen(differ, 5, 15) == [0, 12, 20, 33, 39]
    assert chosen(differ, 5, 20) == [0, 20, 39]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 25))
@settings(max_examples=80, deadline=None)
def test_keyframes_keep_their_distance(differ: list[float], least: int, most: int) -> None:
    keys, n = chosen(differ, least, most), len(differ)
    assert keys == sorted(set(keys)) and keys[0] == 0 and keys[-1] == n - 1
    if least < most:
        inner = keys[1:-1]
        assert all(b - a >= least for a, b in pairwise(inner))
        assert all(least <= key < n - least for key in inner)
        if max((b - a for a, b in pairwise(keys)), default=0) > most:  # then there was nothing left to choose from
            free = [i for i in range(least, n - least) if all(not k - least <= i < k + least for k in inner)]
            assert not free


@given(st.integers(1, 80), st.integers(5, 12))
def test_every_keyframe_is_new_in_one_batch(keys: int, size: int) -> None:
    found = batches(keys, size)
    assert [place for batch in found for place in batch] == list(range(keys))
    assert len(found[0]) <= size and all(1 <= len(batch) <= size - 2 for batch in found[1:])
    assert len(found) == 1 or len(found[-1]) >= 3
    assert anchors(found[0]) == []
    for former, batch in pairwise(found):
        assert anchors(batch) == [0, former[-1]] and len({*anchors(batch), *batch}) == len(batch) + 2


def test_batches_by_hand() -> None:
    assert [len(b) for b in batches(8, 8)] == [8] and [len(b) for b in batches(20, 8)] == [8, 6, 6]
    assert [len(b) for b in batches(15, 8)] == [8, 4, 3]  # one would be left: it takes two
    assert [len(b) for b in batches(9, 8)] == [6, 3]


# -- motion and paths -------------------------------------------------------------------------------------------------


def shifted(n: int, by: int) -> list[np.ndarray]:
    """Pictures of which each shows the former one, moved to the left."""
    rng = np.random.default_rng(0)
    strip = np.repeat(np.repeat(rng.integers(0, 256, (8, 20 + by * n, 3), dtype=np.uint8), 4, 0), 4, 1)
    return [strip[:, 4 * by * i : 4 * by * i + 48] for i in range(n)]


def exactly(by: float) -> Any:
    """A flow that knows: forward in time everything goes `by` pixels to the left."""
    places: list[np.ndarray] = []

    def flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        for picture in (a, b):
            if not any(picture is p for p in places):
                places.append(picture)
        one, other = (next(i for i, p in enumerate(places) if p is x) for x in (a, b))
        return np.broadcast_to(np.float32([-by * (other - one), 0]), (*a.shape[:2], 2)).copy()

    return flow


def test_motion_of_pictures_that_move() -> None:
    """What leaves at the left is lost, what enters at the right is new; the last picture is followed by the first."""
    motion = Motion.of(shifted(3, 1), exactly(4))
    assert motion.ahead.shape == (3, 32, 48, 2) and torch.equal(motion.ahead[0], -motion.back[0])
    assert motion.lost_ahead[0, :, :4].all() and not motion.lost_ahead[0, :, 6:].any()
    assert motion.lost_back[0, :, -4:].all() and not motion.lost_back[0, :, :-6].any()
    assert (motion.ahead[2, ..., 0] == 8).all()  # back over two
    small = motion.on_grid((8, 12))
    assert torch.allclose(small.ahead[0, ..., 0], torch.tensor(-1.0)) and small.lost_ahead[0, :, 0].all()
    new = motion.new_cells((8, 12)).view(3, 8, 12)
    assert new[0].all() and new[1, :, -1].all() and not new[1, :, :-1].any()


def test_another_colour_is_hidden_too() -> None:
    """Where the flow says that nothing moved, but the colour is another one."""
    a = np.full((16, 16, 3), 100, np.uint8)
    b = a.copy()
    b[4:8, 4:8] = 200
    motion = Motion.of([a, b], lambda x, y: np.zeros((16, 16, 2), np.float32))
    assert motion.lost_ahead[0].nonzero().tolist() == [[r, c] for r in range(4, 8) for c in range(4, 8)]


@st.composite
def moves(draw: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    h, w, seed = draw(st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(0, 99)))
    generator = torch.Generator().manual_seed(seed)
    back = 2 * torch.randn(h, w, 2, generator=generator)
    lost = torch.rand(h, w, generator=generator) < 0.2
    here, there = (torch.rand(3, h, w, generator=generator) for _ in range(2))
    return back, lost, here, there


@given(moves())
@settings(deadline=None)
def test_partners_are_one_to_one_and_tied_to_where_the_flow_leads(move: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    back, lost, here, there = move
    h, w = lost.shape
    partner, tied = partners(*move)
    assert sorted(partner.tolist()) == list(range(h * w))
    wanted: dict[int, int] = {}  # by cell of the frame before, the nearest in colour of those that come from it
    distance = {}
    for y in range(h):
        for x in range(w):
            u, v = x + round(float(back[y, x, 0])), y + round(float(back[y, x, 1]))
            if 0 <= u < w and 0 <= v < h and not lost[y, x]:
                off = float((there[:, y, x] - here[:, v, u]).abs().mean())
                if v * w + u not in wanted or off < distance[v * w + u]:
                    wanted[v * w + u], distance[v * w + u] = y * w + x, off
    assert {int(partner[cell]): cell for cell in range(h * w) if tied[cell]} == wanted


def test_paths_go_once_through_every_cell_and_follow_the_scene() -> None:
    pictures = shifted(4, 1)
    paths = Paths.along(Motion.of(pictures, exactly(4)), pictures, (8, 12))
    for row in paths.cells:
        assert sorted(row.tolist()) == list(range(96))
    columns = paths.cells % 12
    assert paths.together.diagonal(dim1=1, dim2=2).all() and torch.equal(paths.together, paths.together.transpose(1, 2))
    for path in range(96):
        for i, j in ((0, 1), (1, 2), (2, 3), (0, 3)):
            if paths.together[path, i, j]:
                assert int(columns[i, path] - columns[j, path]) == j - i  # one cell to the left a frame
    assert paths.together[:, 0, 1].sum() == 8 * 11 and paths.together[:, 0, 3].sum() == 8 * 9


def test_paths_of_a_still_picture_stay() -> None:
    pictures = [video(1)[0]] * 3
    paths = Paths.along(Motion.of(pictures, flow_by("dis")), pictures, (8, 12))
    assert torch.equal(paths.cells, torch.arange(96).expand(3, 96)) and paths.together.all()


# -- the three attentions ---------------------------------------------------------------------------------------------


def test_attention_in_space_gathers_queries_where_the_input_is_alike() -> None:
    q, of_q, of_k = (random(2, 3, 5, 4, seed=s) for s in range(3))
    wanted = (0.2 * (of_q.double() @ of_k.double().transpose(-1, -2)) / 2).softmax(-1) @ q.double()
    torch.testing.assert_close(guided_in_space(q, of_q, of_k).double(), wanted, rtol=1e-5, atol=1e-5)


def test_all_frames_attend_to_the_same_tokens() -> None:
    q, k, v = (random(3, 2, 5, 4, seed=s) for s in range(3))
    new = torch.zeros(3, 5, dtype=torch.bool)
    new[0], new[1, 2], new[2, [0, 4]] = True, True, True
    tokens = [(0, p) for p in range(5)] + [(1, 2), (2, 0), (2, 4)]
    found = across_frames(q, k, v, new)
    for head in range(2):
        keys = torch.stack([k[f, head, p] for f, p in tokens]).double()
        values = torch.stack([v[f, head, p] for f, p in tokens]).double()
        for frame in range(3):
            wanted = (q[frame, head].double() @ keys.T / 2).softmax(-1) @ values
            torch.testing.assert_close(found[frame, head].double(), wanted, rtol=1e-5, atol=1e-5)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_attention_along_time_is_that_of_each_path(frames: int, tokens: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = torch.from_numpy(np.stack([rng.permutation(tokens) for _ in range(frames)]))
    stretch = torch.from_numpy(rng.integers(0, 2, (tokens, frames)).cumsum(1))
    together = stretch[:, :, None] == stretch[:, None]
    q, k, y = (random(frames, 2, tokens, 4, seed=s) for s in range(3))
    found = along_time(q, k, y, Paths(cells, together))
    for path in range(tokens):
        for head in range(2):
            of_q, of_k, of_y = (
                torch.stack([x[f, head, cells[f, path]] for f in range(frames)]).double() for x in (q, k, y)
            )
            scores = (0.2 * of_q @ of_k.T / 2).masked_fill(~together[path], -torch.inf)
            for frame, value in enumerate(scores.softmax(-1) @ of_y):
                got = found[frame, head, cells[frame, path]].double()
                torch.testing.assert_close(got, value, rtol=1e-5, atol=1e-5)


def test_a_path_that_is_broken_everywhere_changes_nothing() -> None:
    q, k, y = (random(3, 2, 5, 4, seed=s) for s in range(3))
    cells = torch.stack([torch.randperm(5, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    alone = torch.eye(3, dtype=torch.bool).expand(5, 3, 3)
    torch.testing.assert_close(along_time(q, k, y, Paths(cells, alone)), y)


def test_the_guided_layers_are_the_last_two_decoder_blocks() -> None:
    backbone = Backbone(tiny_pipeline(levels=4, layers=2), ModelCard("tiny"))
    places = [(site.part, site.block) for site in backbone.attention_sites() if guided_layer(site)]
    assert places == [("up", 2)] * 3 + [("up", 3)] * 3


def test_one_frame_that_nothing_guides_has_plain_attention(pipe: AdaFlowPipeline) -> None:
    layer: Any = pipe.backbone.unet.up_blocks[2].attentions[0].transformer_blocks[0].attn1
    x, site = random(2, 96, layer.to_q.in_features), Site("", "up", 2, 0, 0)
    one = Paths(torch.arange(96)[None], torch.ones(96, 1, 1, dtype=torch.bool))
    guided = GuidedPass(("negative", "prompt"), 1, {0: torch.ones(1, 96, dtype=torch.bool)}, {0: one})
    plain = KeyAttention(site, KeyPass(("negative", "prompt"), 1, extended=False))
    torch.testing.assert_close(guided.processor(site)(layer, x), plain(layer, x))
    assert isinstance(guided.processor(Site("", "up", 1, 0, 2)), KeyAttention)
    assert isinstance(guided.processor(Site("", "down", 0, 0, 0)), KeyAttention)


# -- features ---------------------------------------------------------------------------------------------------------


def at_rest(frames: int, h: int, w: int) -> Motion:
    return Motion(*(torch.zeros(frames, h, w, 2) for _ in "ab"), *(torch.zeros(frames, h, w) for _ in "ab"))


def test_the_temporal_loss_by_hand() -> None:
    """Two frames of one row: everything moves one cell to the right; what is hidden does not count."""
    x = torch.tensor([[[[[1.0, 2.0, 3.0]]], [[[5.0, 1.0, 4.0]]]]])[0][None]  # (1, 2, 1, 1, 3)
    right, left = (torch.tensor([float(d), 0]).expand(1, 3, 2) for d in (1, -1))
    hidden_right, hidden_left = torch.tensor([[0.0, 0, 1]]), torch.tensor([[1.0, 0, 0]])
    motion = Motion(
        torch.stack([right, left]),
        torch.stack([left, right]),
        torch.stack([hidden_right, hidden_left]),
        torch.stack([hidden_left, hidden_right]),
    )
    # each pair: frame 1 from frame 0: [_, 1, 2] against [5, 1, 4]; frame 0 from frame 1: [1, 4, _] against [1, 2, 3]
    torch.testing.assert_close(temporal_loss(x, motion), torch.tensor((0 + 2 + 0 + 2) / 3))


@pytest.mark.parametrize("pairs", [1, 1 << 25])
def test_optimising_lowers_the_loss_and_keeps_means_and_deviations(pairs: int) -> None:
    frames, source, motion = 3, random(3, 6, 4, 5, seed=1), at_rest(3, 4, 5)
    x = random(2 * frames, 6, 4, 5)

    def loss(y: Tensor) -> float:
        off = torch.cat([likeness(y[:3]) - likeness(source), likeness(y[3:]) - likeness(source)]).abs().mean()
        return float(2 * temporal_loss(y.unflatten(0, (2, 3)), motion) + 100 * off)

    with torch.inference_mode():  # as within the model
        found = optimised(x, source, motion, 20, pairs)
    assert loss(found) < 0.8 * loss(x) and found.dtype == x.dtype and not found.requires_grad
    for of in (lambda y: y.mean((2, 3)), lambda y: y.std((2, 3), correction=0)):
        torch.testing.assert_close(of(found), of(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, optimised(x, source, motion, 20), rtol=1e-3, atol=1e-3)


def test_the_gradient_is_that_of_the_whole_loss() -> None:
    """One step of Adam goes by the sign of the gradient: of the loss written out, in float64."""
    source, motion, x = random(2, 5, 3, 4, seed=1), at_rest(2, 3, 4), random(4, 5, 3, 4)
    y = x.double().requires_grad_()
    halves = y.unflatten(0, (2, 2))
    loss = torch.zeros((), dtype=torch.float64)
    for half in halves:
        loss = loss + 2 * 2 * (half[1] - half[0]).abs().mean() / 2  # both pairs and both ways: the same difference
        for i in range(2):
            tokens, wanted = (F.normalize(z.flatten(1), dim=0) for z in (half[i], source[i].double()))
            loss = loss + 100 * (tokens.T @ tokens - wanted.T @ wanted).abs().mean() / 4
    (gradient,) = torch.autograd.grad(loss, y)
    moved = x - 0.2 * gradient.sign().float()
    torch.testing.assert_close(optimised(x, source, motion, 1), like_before(moved, x), rtol=1e-4, atol=1e-4)


def test_no_iterations_and_what_is_right_already_change_nothing() -> None:
    x = random(1, 6, 4, 5).repeat(3, 1, 1, 1)
    torch.testing.assert_close(optimised(x, x, at_rest(3, 4, 5), 0), x)


def test_blocks_get_what_was_optimised_and_are_given_back(pipe: AdaFlowPipeline) -> None:
    unet, z = pipe.backbone.unet, random(2, 4, 8, 12)
    text = pipe.backbone.conditioning("", "", PROMPT).rows(range(2), "prompt")
    plain = pipe.backbone.predict(z, 500, text)
    with entering(unet.up_blocks) as features:
        assert torch.equal(pipe.backbone.predict(z, 500, text), plain)
    assert sorted(features) == list(range(len(unet.up_blocks)))
    grids: list[tuple[int, int]] = []

    def motion(grid: tuple[int, int]) -> Motion:
        grids.append(grid)
        return at_rest(2, *grid)

    with optimised_within(unet.up_blocks, features, motion, 0):
        torch.testing.assert_close(pipe.backbone.predict(z, 500, text), plain, rtol=1e-3, atol=1e-4)
    assert grids == [tuple(features[b].shape[2:]) for b in sorted(features)]
    with optimised_within(unet.up_blocks, features, motion, 2):
        assert not torch.allclose(pipe.backbone.predict(z, 500, text), plain, atol=1e-3)
    assert torch.equal(pipe.backbone.predict(z, 500, text), plain)
    assert all(p.grad is None for p in unet.parameters())


# -- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_step_is_that_of_diffusers_ddpm(kind: str) -> None:
    ddpm: Any = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type=kind,
    )
    ddpm.set_timesteps(20)
    steps = ddpm.timesteps.tolist()
    x, output = random(2, 4, 3, 3), random(2, 4, 3, 3, seed=1)
    for t, after in ((steps[5], steps[6]), (steps[18], steps[19]), (steps[19], None)):
        wanted = ddpm.step(output, t, x, generator=torch.Generator().manual_seed(3)).prev_sample
        fresh = random(2, 4, 3, 3, seed=3)
        level = float(ddpm.alphas_cumprod[t])
        clean, noise = clean_and_noise(output, x, level, kind)
        found = ancestral(clean, noise, level, 1.0 if after is None else float(ddpm.alphas_cumprod[after]), fresh)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    noise = random(1, 4, 3, 3)
    torch.testing.assert_close(noised(x, noise, level), ddpm.add_noise(x, noise, torch.tensor(t)), rtol=1e-4, atol=1e-5)


def few(**given: Any) -> PeerConfig:
    """Every frame a keyframe, in batches of five."""
    return PeerConfig(**({"least_gap": 1, "most_gap": 1, "batch": 5, "optimise": 1} | given))


def test_anchors_are_what_they_were_in_their_own_batch(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    """At every step; the first keyframe through all batches, the other from the batch before."""
    with bench(pipe, tmp_path, asked("fresco-lite", peers=few())) as (peer, z):
        run = peer.bench.run
        keys = Keys(run, list(range(9)), z, run.stage("p", {}).array("p", (9, *SIZE, 3), torch.uint8))
        memory, told = run.stage("memory", {}), []
        assert [len(group) for group in peer.groups(9)] == [5, 1, 3]
        slots = []
        for number in range(3):
            assert len(list(peer.edit_group(number, keys, memory, told.append))) == len(peer.groups(9)[number])
            slots.append(memory.existing(("even", "odd")[number % 2]).read(0, STEPS))
    ran = [step.number for step in peer.steps]
    assert ran == [1, 2] and told[-1] == 1.0 and not slots[0][0].any()  # the first of three steps is skipped
    for former, later in pairwise(slots):
        assert torch.equal(former[ran, 0], later[ran, 0]) and not torch.equal(former[ran, 1], later[ran, 1])


def test_identical_frames_stay_identical(edit: Edits) -> None:
    """One noise for all frames, and nothing that tells them apart; optimising goes by the signs of nearly nothing."""
    still = np.repeat(video(1), 5, axis=0)
    found = edit(still, "fresco-lite", peers=few(optimise=0)).astype(int)
    assert np.abs(found - found[:1]).max() <= 1


def test_without_any_step_but_the_last_little_changes(edit: Edits) -> None:
    """The less of the schedule is run, the nearer the edit is to its source."""
    frames = video(4)
    weak, strong = (edit(frames, "fresco-lite", peers=few(strength=s)).astype(int) for s in (0.3, 1.0))
    through = edit(frames, "fresco-lite", peers=few(strength=0.3), guidance_scale=1.0)
    assert through.shape == frames.shape
    assert np.abs(weak - frames).mean() < np.abs(strong - frames).mean()


def test_its_settings_and_its_controlnet_matter(edit: Edits, pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    plain = edit(video(5), "fresco-lite", peers=few())
    net, nothing = (controlnet(pipe.backbone, tmp_path, scale=s) for s in (0.1, 0.0))
    assert np.array_equal(edit(video(5), "fresco-lite", peers=few(controlnet=nothing)), plain)
    for other in (few(controlnet=net), few(optimise=3), few(strength=1.0), few(most_gap=4)):
        assert not np.array_equal(edit(video(5), "fresco-lite", peers=other), plain)


def test_a_batch_keeps_to_the_grids_of_the_model(pipe: AdaFlowPipeline) -> None:
    pictures = list(video(3))
    batch = Batch(pipe.backbone, [0, 1, 2], random(3, 4, 8, 12), pictures, flow_by("dis"))
    assert {level: paths.cells.shape for level, paths in batch.paths.items()} == {0: (3, 96), 1: (3, 24)}
    assert batch.new(0).shape == (3, 96) and batch.new(1)[0].all()
    assert batch.motion_on((4, 6)) is batch.motion_on((4, 6))


@pytest.fixture
def edit(pipe: AdaFlowPipeline, tmp_path: Path) -> Edits:
    return Edits(pipe, tmp_path)
