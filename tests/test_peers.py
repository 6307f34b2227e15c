"""The compared systems: that they run as AdaFlow does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import tiny_pipeline
from peer_edits import SIZE, STEPS, STEPWISE, Edits, N, asked, bench, video

from adaflow import AdaFlowPipeline
from adaflow.config import InjectionConfig, KeyframeConfig, PeerConfig, RunConfig
from adaflow.errors import Cancelled
from adaflow.peers import PEERS
from adaflow.progress import Progress

PREPARED = {"flatten", "rave"}  # systems that look at all frames before the edit: flow, edges
FREE_OF_CHUNKS = {"pnp", "vidtome"}


@pytest.fixture(scope="module")
def pipe() -> AdaFlowPipeline:
    torch.set_num_threads(1)
    return AdaFlowPipeline.from_pipe(tiny_pipeline())


@pytest.fixture
def edit(pipe: AdaFlowPipeline, tmp_path: Path) -> Edits:
    return Edits(pipe, tmp_path)


# -- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", STEPWISE)
def test_an_edit_by_a_compared_system(edit: Edits, method: str) -> None:
    """The whole video, in order, the same twice; its chunks are the partition, and every stage tells how far it is."""
    seen: list[Progress] = []
    peers = PeerConfig(chunk=4)
    result = edit.result(video(), method, peers=peers, on_progress=seen.append)
    frames = np.asarray(result.frames)
    assert frames.shape == (N, *SIZE, 3) and not np.array_equal(frames, video())
    assert [(c.start, c.stop) for c in result.partition.clips] == [(0, 4), (4, 6)]
    assert result.record["settings"]["method"] == method and result.record["settings"]["peers.chunk"] == 4
    stages = list(dict.fromkeys(p.stage for p in seen))
    assert stages == ["encode", *(["match"] if method in PREPARED else []), "invert", "edit", "decode"]
    for stage in stages:
        done = [p.done for p in seen if p.stage == stage]
        assert done == sorted(done) and done[-1] == next(p.total for p in seen if p.stage == stage)
    assert frames.tobytes() == edit(video(), method, peers=peers).tobytes()
    other = edit(video(), method, peers=peers, seed=1)
    assert np.array_equal(other, frames) == (method == "pnp")  # else keyframes, windows, grids, collisions are drawn


@pytest.mark.parametrize("method", PEERS)
@pytest.mark.parametrize(("n", "levels", "kind"), [(1, 2, "epsilon"), (2, 4, "v_prediction")])
def test_the_shortest_videos_and_every_depth_and_prediction(
    method: str, n: int, levels: int, kind: str, tmp_path: Path
) -> None:
    pipe = AdaFlowPipeline.from_pipe(tiny_pipeline(levels=levels, prediction_type=kind, layers=n))
    edits = Edits(pipe, tmp_path)
    assert edits(video(n), method).shape == (n, *SIZE, 3)
    if method in STEPWISE:
        assert edits.latents(video(n), method).isfinite().all()


@pytest.mark.parametrize("method", STEPWISE)
def test_a_chunk_that_holds_the_video_is_no_chunk(edit: Edits, method: str) -> None:
    whole = edit(video(5), method, peers=PeerConfig(chunk=0))
    assert np.array_equal(whole, edit(video(5), method, peers=PeerConfig(chunk=5)))


@pytest.mark.parametrize("method", STEPWISE)
def test_chunks_know_nothing_of_each_other(edit: Edits, method: str) -> None:
    """A chunk is edited as it would be as a video of its own, with the same seed."""
    frames, peers, run = video(8), PeerConfig(chunk=4), RunConfig(rows=12, threads=1)
    whole = edit.latents(frames, method, peers=peers, run=run)
    for start in (0, 4) if method != "flatten" else (0,):  # which cell keeps a successor is drawn for each frame
        alone = edit.latents(frames[start : start + 4], method, peers=peers, run=run)
        torch.testing.assert_close(whole[start : start + 4], alone, rtol=1e-3, atol=1e-4)
    if method not in FREE_OF_CHUNKS:
        assert not torch.allclose(whole, edit.latents(frames, method, peers=PeerConfig(chunk=0)), atol=1e-4)


def test_plug_and_play_does_not_depend_on_chunks(edit: Edits) -> None:
    wanted = edit.latents(video(), "pnp")
    torch.testing.assert_close(edit.latents(video(), "pnp", peers=PeerConfig(chunk=2)), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["pnp", "tokenflow", "flatten"])
def test_identical_frames_stay_identical(edit: Edits, method: str) -> None:
    still = np.repeat(video(1), 5, axis=0)
    found = edit.latents(still, method, peers=PeerConfig(clip=2))
    torch.testing.assert_close(found, found[:1].expand_as(found), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", STEPWISE)
def test_every_frame_is_predicted_once_a_step(pipe: AdaFlowPipeline, method: str, tmp_path: Path) -> None:
    with bench(pipe, tmp_path, asked(method)) as made:
        peer, trajectory = made
        for step in peer.bench.steps:
            for chunk in (range(0, 4), range(4, N)):
                counted: Counter[int] = Counter()
                for frames, noise in peer.predict(step, chunk, trajectory, trajectory):
                    assert len(noise) == 2 * len(frames)
                    counted.update(frames)
                assert counted == Counter(chunk)


@pytest.mark.parametrize("method", STEPWISE)
def test_stopped_and_resumed_the_output_is_the_same(edit: Edits, method: str, tmp_path: Path) -> None:
    peers = PeerConfig(chunk=4)
    undisturbed = edit(video(), method, peers=peers)
    moments = [("encode", 3), ("invert", N + 1), ("edit", 2), ("edit", N + 5), ("edit", STEPS * N - 2)]
    if method in PREPARED:
        moments.insert(1, ("match", 4))
    moments.append(("decode", 3))

    def stopping(moment: tuple[str, int]) -> Any:
        def on_progress(progress: Progress) -> None:
            if progress.stage == moment[0] and moment[1] <= progress.done < progress.total:
                raise Cancelled("stopped")

        return on_progress

    place = tmp_path / "resumed"
    for moment in moments:
        with pytest.raises(Cancelled):
            edit.result(video(), method, peers=peers, workspace=place, on_progress=stopping(moment))
    assert np.array_equal(edit(video(), method, peers=peers, workspace=place), undisturbed)


@pytest.mark.parametrize("method", PEERS)
def test_guidance_in_an_interval_and_no_injection(edit: Edits, method: str) -> None:
    """Steps without guidance have one branch less, and without injection some systems have no source branch."""
    none = InjectionConfig(features=0.0, attention=0.0)
    plain = edit(video(4), method, injection=none)
    part = edit(video(4), method, injection=none, guidance_start=0.4, guidance_end=0.7)
    assert plain.shape == part.shape and not np.array_equal(plain, part)


def test_each_system_has_settings_of_its_own_in_its_key(edit: Edits, tmp_path: Path) -> None:
    """Another setting makes another edit in the same workspace, which shares encoding and inversion."""
    place = tmp_path / "one"
    for clip in (2, 3):
        edit(video(), "tokenflow", peers=PeerConfig(clip=clip), workspace=place)
    edit(video(), "pnp", workspace=place)
    edit(video(), "flatten", workspace=place)
    edit(video(), None, workspace=place, keyframes=KeyframeConfig(longest_clip=4))
    found = Counter(path.name.rpartition("-")[0] for path in (place / "stages").iterdir())
    assert found["edit"] == found["decoded"] == 5 and found["latents"] == 1
    assert found["trajectory"] == 2  # FLATTEN's own, and everyone else's
