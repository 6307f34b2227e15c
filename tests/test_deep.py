"""Keyframes' deep features carried to all other frames, against whole passes and gathers written out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_pipeline
from test_pipeline import PROMPT, N, settings, video
from test_reuse import HALF, check_still, check_stopped, make, noise
from torch import Tensor

from adaflow import AdaFlowPipeline, EditConfig, InjectionConfig, SlimmingConfig
from adaflow.attention import MemoryRecord
from adaflow.backbone import Backbone
from adaflow.config import PropagationConfig, RunConfig, resolve
from adaflow.editor import DEEP, Editor
from adaflow.errors import ConfigError
from adaflow.keypass import KeyChunks
from adaflow.propagation import Blend
from adaflow.record import DiskRecord
from adaflow.reuse import MemoryDeepFeatures
from adaflow.steps import EDITED, edit_steps

M, GRID = 3, (8, 12)
CARRIED = PropagationConfig(deep_from=0.0)


@pytest.fixture(scope="module")
def pipe() -> AdaFlowPipeline:
    torch.set_num_threads(1)
    return AdaFlowPipeline.from_pipe(tiny_pipeline())


def editor(backbone: Backbone, **given: Any) -> Editor:
    config = resolve(EditConfig(**{"steps": 4, "propagation": CARRIED, **given}))
    return Editor(backbone, config, backbone.conditioning("a photo", "bad", PROMPT))


def tokens(backbone: Backbone) -> dict[int, int]:
    """N by level of self-attention."""
    levels = {site.level for site in backbone.attention_sites()}
    return {level: int(np.prod(backbone.grid(GRID, level))) for level in levels}


@given(steps=st.integers(1, 30), reuse=st.integers(1, 8), start=st.floats(0, 1))
def test_from_which_step_on_deep_features_are_carried(steps: int, reuse: int, start: float) -> None:
    config = resolve(EditConfig(steps=steps, reuse=reuse, propagation=PropagationConfig(deep_from=start)))
    for step in edit_steps(config, range(steps)):
        assert step.deep == (step.whole and step.number >= int(start * steps + 1e-9))
    assert not any(step.deep for step in edit_steps(resolve(EditConfig(steps=steps)), range(steps)))


@pytest.mark.parametrize("sites", ["pnp", "wide"])
@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("options", [{"levels": 2}, {"levels": 3, "layers": 2}, {"levels": 4}])
def test_a_keyframe_carried_to_itself_is_itself(options: dict[str, Any], chunk: int, sites: Any) -> None:
    """Injection is in the keyframe's deep features already: no row of the source is run for it again."""
    backbone = make(**options)
    made = editor(backbone, injection=InjectionConfig(features=1.0, attention=1.0, sites=sites))
    step, record = made.steps[0], MemoryRecord(torch.device("cpu"))
    z, source = noise(M, 4, *GRID), noise(M, 4, *GRID, seed=1)
    edited = made.edit_keys(step, z, source, [0, 4, 8], {}, record, chunks=KeyChunks(chunk)).view(2, M, 4, *GRID)
    for key in range(M):
        phi = {level: torch.arange(n)[None] for level, n in tokens(backbone).items()}
        frame = slice(key, key + 1)
        found = made.propagate(step, z[frame], source[frame], range(4 * key, 4 * key + 1), [key], phi, record)
        assert (found.view(2, 4, *GRID) - edited[:, key]).abs().max() < 2e-5 * edited.abs().max()


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_deep_features_are_gathered_where_phi_finds_them(where: str, tmp_path: Path) -> None:
    """Three frames of the second clip, the last of them half the first clip's: by loops over tokens."""
    backbone = make()
    made, level = editor(backbone), min(tokens(backbone))
    record = MemoryRecord(torch.device("cpu")) if where == "memory" else DiskRecord(tmp_path)
    made.edit_keys(made.steps[0], noise(M, 4, *GRID), noise(M, 4, *GRID, seed=1), [0, 4, 8], {}, record)
    n, channels = tokens(backbone)[level], backbone.finest.channels
    key = [record.get(DEEP, clip, slice(0, 2)) for clip in range(M)]
    assert key[0].shape == (2, n, channels)
    phi, other = (torch.randint(n, (3, n), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    matches = {level: phi} | {
        lv: torch.zeros(3, k, dtype=torch.long) for lv, k in tokens(backbone).items() if lv > level
    }
    mixed = {lv: torch.zeros(1, k, dtype=torch.long) for lv, k in tokens(backbone).items()} | {level: other[2:]}
    blend = Blend(0, slice(2, 3), torch.tensor([0.5]), mixed)

    expected = torch.zeros(2, 3, channels, *GRID)
    for frame in range(3):
        for p in range(n):
            at = divmod(p, GRID[1])
            expected[:, frame, :, at[0], at[1]] = key[1][:, phi[frame, p]]
            if frame == 2:
                expected[:, frame, :, at[0], at[1]] = (key[1][:, phi[2, p]] + key[0][:, other[2, p]]) / 2
    kept = MemoryDeepFeatures()
    frames, z = range(4, 7), noise(3, 4, *GRID, seed=2)
    made.propagate(made.steps[0], z, z, frames, [1] * 3, matches, record, [blend], kept)
    assert (kept.get(frames, EDITED).view(2, 3, channels, *GRID) - expected).abs().max() < 1e-6


def test_only_what_is_read_is_recorded() -> None:
    backbone = make(levels=3)
    made, record = editor(backbone), MemoryRecord(torch.device("cpu"))
    made.edit_keys(made.steps[0], noise(M, 4, *GRID), noise(M, 4, *GRID, seed=1), [0, 4, 8], {}, record)
    for site in backbone.attention_sites():
        if backbone.in_finest_level(site):
            assert record.get(site.name, 2, slice(0, 3)).shape[0] == 3
        else:
            with pytest.raises(KeyError):
                record.get(site.name, 2, slice(0, 3))


# -- whole edits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sites", ["pnp", "wide"])
def test_in_a_still_video_every_frame_is_its_keyframe(pipe: AdaFlowPipeline, sites: Any, tmp_path: Path) -> None:
    """Then carrying changes nothing: all frames are what the keyframes are by whole passes."""
    injection = InjectionConfig(features=0.5, attention=0.75, sites=sites)
    check_still(pipe, tmp_path / "w", injection=injection, propagation=CARRIED)


@pytest.mark.parametrize("sites", ["pnp", "wide"])
def test_frames_run_the_finest_level_alone(
    pipe: AdaFlowPipeline, sites: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of whole passes and of the finest level, step by step, for clips of 4, 4 and 1 frames."""
    injection = InjectionConfig(features=1.0, attention=0.0, sites=sites)
    config = settings(steps=4, injection=injection, propagation=PropagationConfig(deep_from=0.5))
    calls: list[tuple[str, int, int]] = []

    def counted(kind: str, call: Any) -> Any:
        def called(z: Tensor, t: int, *rest: Any) -> Tensor:
            calls.append((kind, t, len(z)))
            found: Tensor = call(z, t, *rest)
            return found

        return called

    pipe.inspect(video(), config=config, workspace=tmp_path / "w")
    pipe(video(), "something else", config=config, workspace=tmp_path / "w")
    for name in ("predict", "predict_finest"):
        monkeypatch.setattr(pipe.backbone, name, counted(name, getattr(pipe.backbone, name)))
    pipe(video(), PROMPT, config=config, workspace=tmp_path / "w")

    def rows(kind: str, t: int) -> int:
        return sum(n for k, at, n in calls if (k, at) == (kind, t))

    for t in (751, 501):
        assert (rows("predict", t), rows("predict_finest", t)) == (3 * 3 + N * 3, 0)
    source = N if sites == "wide" else 0  # what is injected in the last block is the source's own, exactly
    for t in (251, 1):
        assert (rows("predict", t), rows("predict_finest", t)) == (3 * 3 + source, N * 2)


def test_never_is_the_default(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    plain = np.asarray(pipe(video(), PROMPT, config=settings(), workspace=tmp_path / "w").frames)
    never = settings(propagation=PropagationConfig(deep_from=1.0))
    found = np.asarray(pipe(video(), PROMPT, config=never, workspace=tmp_path / "w").frames)
    assert found.tobytes() == plain.tobytes()
    carried = pipe(video(), PROMPT, config=settings(propagation=CARRIED), workspace=tmp_path / "w")
    assert carried.frames.shape == plain.shape and not np.array_equal(np.asarray(carried.frames), plain)
    seconds = pipe.inspect(video(), config=settings(propagation=CARRIED), workspace=tmp_path / "new").estimate.seconds
    assert seconds["edit"] > 0


@pytest.mark.parametrize("reuse", [1, 2])
@pytest.mark.parametrize("record", ["memory", "disk"])
def test_stopped_at_any_step_the_bytes_are_the_same(
    pipe: AdaFlowPipeline, record: Any, reuse: int, tmp_path: Path
) -> None:
    config = settings(
        steps=4,
        reuse=reuse,
        injection=HALF,
        slimming=SlimmingConfig(budget=1),
        propagation=PropagationConfig(deep_from=0.25, blend=2),
        run=RunConfig(rows=4, record=record),
    )
    check_stopped(pipe, config, tmp_path)


def test_models_with_parts_that_are_not_known_are_refused() -> None:
    pipe = AdaFlowPipeline.from_pipe(tiny_pipeline())
    assert pipe.resolve(EditConfig(propagation=CARRIED)).propagation.deep_from == 0
    pipe.backbone.unet.register_to_config(class_embed_type="timestep")
    with pytest.raises(ConfigError, match=r"deep_from 0\.0 is not known for this model \(class_embed_type\); use"):
        pipe.resolve(EditConfig(propagation=CARRIED))


def test_a_finest_level_without_attention_is_refused() -> None:
    """There is no φ at its tokens then."""
    made = tiny_pipeline(levels=3)
    down, up = list(made.unet.config.down_block_types), list(made.unet.config.up_block_types)
    down[0], up[-1] = "DownBlock2D", "UpBlock2D"
    fields = dict(made.unet.config) | {"down_block_types": down, "up_block_types": up}
    made.unet = type(made.unet).from_config(fields)
    with pytest.raises(ConfigError, match="no self-attention in the finest level"):
        AdaFlowPipeline.from_pipe(made).resolve(EditConfig(propagation=CARRIED))
