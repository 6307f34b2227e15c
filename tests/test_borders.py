"""Frames that follow two keyframes: which, how much, by which matches, and never over a cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_pipeline
from test_pipeline import PROMPT, N, settings, stage_folders, video
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from adaflow import AdaFlowPipeline, PropagationConfig, borders
from adaflow import editing as editing_module
from adaflow.attention import MemoryRecord
from adaflow.backbone import Branch
from adaflow.borders import Stretch, stretches
from adaflow.config import KeyframeConfig
from adaflow.errors import Cancelled
from adaflow.keyframes import Partition, is_cut, partition
from adaflow.progress import Progress
from adaflow.propagation import Blend, PropagatedAttention, PropagationPass
from adaflow.run import Run

STARTS = [0, 4, 8]  # of the clips of nine frames that `settings` makes


@pytest.fixture(scope="module")
def pipe() -> AdaFlowPipeline:
    torch.set_num_threads(1)
    return AdaFlowPipeline.from_pipe(tiny_pipeline())


def blended(blend: int = 2, **more: Any) -> Any:
    return settings(propagation=PropagationConfig(blend=blend), **more)


@pytest.fixture(scope="module")
def edited(pipe: AdaFlowPipeline, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("edited") / "w"
    return np.asarray(pipe(video(), PROMPT, config=blended(), workspace=folder).frames).tobytes()


# -- which frames, and how much --------------------------------------------------------------------------------------


def by_hand(lengths: list[int], blend: int, cuts: set[int]) -> dict[int, tuple[int, float]]:
    """Frame -> (other clip, its weight), from frames as points in the middle of cells of a line."""
    edges = np.cumsum([0, *lengths])
    found = {}
    for c, length in enumerate(lengths):
        width = min(blend, length / 2)
        for frame in range(edges[c], edges[c + 1]):
            for other, border in ((c - 1, edges[c]), (c + 1, edges[c + 1])):
                away = abs(frame + 0.5 - border)
                if 0 <= other < len(lengths) and border not in cuts and away < width:
                    assert frame not in found
                    found[frame] = other, 0.5 - 0.5 * away / width
    return found


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), blend=st.integers(0, 15), data=st.data())
def test_weights_are_linear_in_the_distance_to_the_border(lengths: list[int], blend: int, data: st.DataObject) -> None:
    starts = [int(s) for s in np.cumsum([0, *lengths])[:-1]]
    cuts = set(data.draw(st.lists(st.sampled_from(starts), max_size=3)))
    clips = Partition.from_starts(starts, sum(lengths))
    found: dict[int, tuple[int, float]] = {}
    for stretch in stretches(clips, blend, cuts):
        assert len(stretch.frames) == len(stretch.weights)
        for frame, weight in zip(stretch.frames, stretch.weights, strict=True):
            assert clips.clip_of(frame) == stretch.clip and frame not in found
            found[frame] = stretch.other, weight
    expected = by_hand(lengths, blend, cuts)
    assert found.keys() == expected.keys()
    for frame, (other, weight) in expected.items():
        assert found[frame][0] == other and found[frame][1] == pytest.approx(weight)
        assert 0 < weight < 0.5


def test_the_first_keyframe_fades_evenly_into_the_second() -> None:
    """Both weigh a half at the border, which lies between two frames."""
    left, right = stretches(Partition.from_starts([0, 10], 20), 4)
    assert left == Stretch(0, 1, range(6, 10), (0.0625, 0.1875, 0.3125, 0.4375))
    assert right == Stretch(1, 0, range(10, 14), (0.4375, 0.3125, 0.1875, 0.0625))
    second = [*left.weights, *(1 - w for w in right.weights)]
    assert np.allclose(np.diff(second), 0.125) and sum(second) == 4


# -- what a cut is ---------------------------------------------------------------------------------------------------


def test_a_border_reached_by_drift_or_by_length_is_no_cut() -> None:
    """Frames turn slowly away from the first, until a clip ends; then everything is something else."""
    angles = np.deg2rad([0, 20, 40, 60, 80])
    drift = [torch.tensor([np.cos(a), np.sin(a), 0]).expand(6, 6, 3) for a in angles]
    frames = [*drift, torch.tensor([0.0, 0.0, 1.0]).expand(6, 6, 3).double()]
    config = KeyframeConfig(mean_threshold=0.7, window_threshold=0.5)
    starts = partition(frames, config).starts
    assert starts == [0, 3, 5]
    assert [is_cut(frames[b - 1], frames[b], config) for b in starts[1:]] == [False, True]
    by_length = partition(frames[:2], KeyframeConfig(longest_clip=1))
    assert by_length.starts == [0, 1] and not is_cut(frames[0], frames[1])


def test_a_cut_may_be_in_a_window_or_in_one_direction() -> None:
    before = torch.eye(64).view(8, 8, 64)
    after = before.clone()
    after[:3, :3] = 0
    after[:3, :3, 0] = 1  # nine tokens are gone, and nothing new is there
    both = KeyframeConfig(mean_threshold=0.5, both_directions=True)
    assert is_cut(before, after) and not is_cut(before, after, KeyframeConfig(mean_threshold=0.5, window_threshold=0.1))
    assert not is_cut(after, before) and is_cut(after, before, both)


def test_only_cuts_are_not_blended_over(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    """Two scenes of four and five frames, clips of two: AKS's own thresholds tell the cut from the other borders."""
    scenes = np.concatenate([np.repeat(video(1), 4, axis=0), np.repeat(video(1, seed=5), 5, axis=0)])
    config = blended(keyframes=KeyframeConfig(longest_clip=2, mean_threshold=0.999, window_threshold=-1.0))
    result = pipe(scenes, PROMPT, config=config, workspace=tmp_path / "w")
    assert result.partition.starts == [0, 2, 4, 6, 8]
    (folder,) = (tmp_path / "w" / "stages").glob("borders-*")
    assert (folder / "cuts.json").read_text().split() == ["[", "4", "]"]


def test_over_cuts_nothing_is_mixed(pipe: AdaFlowPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = pipe(video(), PROMPT, config=settings(), workspace=tmp_path / "w")
    monkeypatch.setattr(borders, "is_cut", lambda *_: True)
    cut = pipe(video(), PROMPT, config=blended(), workspace=tmp_path / "w")
    assert np.asarray(cut.frames).tobytes() == np.asarray(plain.frames).tobytes()


# -- the mix ---------------------------------------------------------------------------------------------------------


def test_a_blend_is_a_convex_mix_of_two_gathers(pipe: AdaFlowPipeline) -> None:
    branches: tuple[Branch, ...] = ("source", "negative", "prompt")
    site = pipe.backbone.attention_sites()[0]
    attn = pipe.backbone.unet.get_submodule(site.name)
    generator = torch.Generator().manual_seed(0)
    tokens, channels = 6, attn.to_q.in_features
    record = MemoryRecord(torch.device("cpu"))
    outputs = torch.randn(3, 2, tokens, channels, generator=generator)
    record.put(site.name, outputs)
    own, other = (torch.randint(tokens, (k, tokens), generator=generator).to(torch.int16) for k in (5, 2))
    blend = Blend(1, slice(3, 5), torch.tensor([0.125, 0.4]), {site.level: other})
    for chosen in (branches, branches[:1], branches[1:], branches[2:]):
        this = PropagationPass(record, branches, chosen, [0] * 5, {site.level: own}, [blend])
        found = PropagatedAttention(site, this)(attn, torch.zeros(len(chosen) * 5, tokens, channels))
        found = found.unflatten(0, (len(chosen), 5)).double()
        for b, branch in enumerate(chosen):
            from_own, from_other = outputs[branches.index(branch)].double()
            for frame in range(5):
                for p in range(tokens):
                    expected = from_own[int(own[frame, p])]
                    if frame >= 3:
                        w = float(blend.weights[frame - 3])
                        expected = (1 - w) * expected + w * from_other[int(other[frame - 3, p])]
                    assert (found[b, frame, p] - expected).abs().max() < 1e-6
    assert torch.equal(record.get(site.name, 0, slice(0, 3)), outputs[:, 0])  # what is recorded is not written to


def test_each_run_is_given_its_blends(
    pipe: AdaFlowPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edited: bytes
) -> None:
    """What reaches the propagation, against weights by hand, and cosines in float64 of the features on disk."""
    given: list[tuple[Any, ...]] = []
    propagate = editing_module.Editor.propagate

    def noted(self: Any, *rest: Any) -> Tensor:
        given.append((rest[0], rest[3], rest[4], rest[7]))
        return propagate(self, *rest)

    monkeypatch.setattr(editing_module.Editor, "propagate", noted)
    result = pipe(video(), PROMPT, config=blended(), workspace=tmp_path / "w")
    assert np.asarray(result.frames).tobytes() == edited
    (folder,) = (tmp_path / "w" / "stages").glob("features-*")
    features = torch.from_numpy(np.fromfile(folder / "features.bin", np.float16)).view(N, 8, 12, -1).double()
    expected = by_hand([4, 4, 1], 2, set())
    assert set(expected) == {2, 3, 4, 5, 6, 7}
    seen = []
    for step, frames, clips, blends in given:
        for blend in blends:
            key = int(result.schedule[step.number, blend.clip])
            for frame, weight, row in zip(frames[blend.rows], blend.weights, range(N), strict=False):
                seen.append((step.number, frame))
                assert expected[frame] == (blend.clip, pytest.approx(float(weight)))
                assert blend.clip != clips[frame - frames.start]
                for level, phi in blend.matches.items():
                    resized = interpolate(
                        features[[frame, key]].permute(0, 3, 1, 2),
                        pipe.backbone.grid((8, 12), level),
                        mode="bilinear",
                    )
                    own, target = normalize(resized.flatten(2), dim=1)
                    cosine = own.T @ target
                    chosen = cosine.gather(1, phi[row].long()[:, None])[:, 0]
                    assert (chosen > cosine.amax(1) - 1e-5).all()
            assert len(blend.weights) == len(blend.matches[0])
    assert sorted(seen) == [(step, frame) for step in range(3) for frame in sorted(expected)]


def test_blending_changes_the_edit_and_nothing_before_it(pipe: AdaFlowPipeline, tmp_path: Path, edited: bytes) -> None:
    plain = pipe(video(), PROMPT, config=settings(), workspace=tmp_path / "w")
    before = stage_folders(tmp_path / "w")
    assert np.asarray(pipe(video(), PROMPT, config=blended(), workspace=tmp_path / "w").frames).tobytes() == edited
    after = stage_folders(tmp_path / "w")
    assert sorted(name.split("-")[0] for name in after.keys() - before.keys()) == ["borders", "decoded", "edit"]
    assert all(after[name] == content for name, content in before.items())
    assert np.asarray(plain.frames).tobytes() != edited
    wider = pipe(video(), PROMPT, config=blended(1), workspace=tmp_path / "w")
    assert np.asarray(wider.frames).tobytes() not in (edited, np.asarray(plain.frames).tobytes())


def test_a_video_of_one_clip_has_no_borders(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    found = [pipe(video(3), PROMPT, config=c, workspace=tmp_path / "w") for c in (blended(), settings())]
    assert np.array_equal(found[0].frames, found[1].frames)


# -- stopping, order, cost -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", ["at a border", "at a frame"])
def test_stopped_and_resumed_the_bytes_are_the_same(
    pipe: AdaFlowPipeline, stop: str, tmp_path: Path, edited: bytes
) -> None:
    def edit(at: int) -> Any:
        def on_progress(progress: Progress) -> None:
            if progress.stage == "edit" and progress.done == at:
                raise Cancelled("enough")

        return pipe(video(), PROMPT, config=blended(), workspace=tmp_path / "w", on_progress=on_progress)

    with pytest.raises(Cancelled):
        edit(0 if stop == "at a border" else N + 4)
    assert np.asarray(edit(-1).frames).tobytes() == edited


def test_the_order_of_runs_does_not_matter(
    pipe: AdaFlowPipeline, tmp_path: Path, edited: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = editing_module.propagation_runs
    monkeypatch.setattr(editing_module, "propagation_runs", lambda *a: runs(*a)[::-1])
    found = pipe(video(), PROMPT, config=blended(), workspace=tmp_path / "w")
    assert np.asarray(found.frames).tobytes() == edited


def test_the_estimate_has_room_for_the_matches(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    from adaflow.estimate import disk_bytes
    from adaflow.video import open_source

    sizes = []
    for config in (settings(), blended(), blended(100)):
        with pipe.opened(open_source(video()), pipe.resolve(config), tmp_path / "w") as run:
            assert isinstance(run, Run)
            sizes.append(disk_bytes(run, 3))
    assert sizes[0] < sizes[1] < sizes[2]
    pipe(video(), PROMPT, config=blended(), workspace=tmp_path / "w")
    arrays = [p for p in (tmp_path / "w" / "stages").glob("borders-*/*.bin")]
    assert 0 < sum(p.stat().st_size for p in arrays) <= 2 * 126 * 6 * 3  # 6 frames, at most 3 keyframes, 126 tokens
