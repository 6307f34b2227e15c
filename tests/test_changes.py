"""What the edit has changed in keyframes, carried to the frames' own sources: by hand, and by what must come of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from models import tiny_pipeline
from test_attention import layer_of
from test_deep import GRID, M, tokens
from test_pipeline import PROMPT, settings, video
from test_reuse import check_still, check_stopped, make, noise
from torch import Tensor

from adaflow import AdaFlowPipeline, EditConfig, InjectionConfig
from adaflow.attention import KeyAttention, KeyPass, MemoryRecord
from adaflow.backbone import Backbone
from adaflow.budget import recorded
from adaflow.config import PropagationConfig, RunConfig, SlimmingConfig, resolve
from adaflow.editing import edit_keyframes
from adaflow.editor import Editor
from adaflow.keypass import KeyChunks
from adaflow.needs import needs
from adaflow.propagation import Blend, OwnAttention, PropagatedAttention, PropagationPass
from adaflow.reuse import MemoryDeepFeatures
from adaflow.steps import EDITED, edit_steps

CPU = torch.device("cpu")
ALL = ("source", *EDITED)


@pytest.fixture(scope="module")
def pipe() -> AdaFlowPipeline:
    torch.set_num_threads(1)
    return AdaFlowPipeline.from_pipe(tiny_pipeline())


@pytest.fixture(scope="module")
def backbone(pipe: AdaFlowPipeline) -> Backbone:
    return pipe.backbone


def changing(backbone: Backbone, text: str = PROMPT, **given: Any) -> Editor:
    """An editor that carries changes in every step."""
    propagation = PropagationConfig(changes=1.0, **given.pop("propagation", {}))
    config = resolve(EditConfig(**{"steps": 4, "propagation": propagation, **given}))
    return Editor(backbone, config, backbone.conditioning("a photo", "bad" if text == PROMPT else text, text))


@given_settings(deadline=None)  # the first example pays for what is made once
@given(
    steps=st.integers(1, 30),
    changes=st.floats(0, 1),
    features=st.floats(0, 1),
    attention=st.floats(0, 1),
    guided=st.floats(0, 1),
)
def test_in_which_steps_changes_are_carried(
    steps: int, changes: float, features: float, attention: float, guided: float
) -> None:
    config = resolve(
        EditConfig(
            steps=steps,
            propagation=PropagationConfig(changes=changes),
            injection=InjectionConfig(features=features, attention=attention),
            guidance_end=guided,
        )
    )
    for step in edit_steps(config, range(steps)):
        assert step.changes == (step.number < int(changes * steps + 1e-9))
        needed = step.changes or step.features or step.attention
        assert step.branches == (("source",) if needed else ()) + step.edited
        assert step.recorded == (step.edited if step.changes else step.branches)


def test_the_record_holds_differences_and_frames_add_them_to_their_own(backbone: Backbone) -> None:
    """Token by token, in float64; the last frame follows a second keyframe by a third."""
    site, attn, n = layer_of(backbone)
    record, hidden = MemoryRecord(CPU), noise(6, n, attn.to_q.in_features)
    out = KeyAttention(site, KeyPass(ALL, 2, record=record, changes=True))(attn, hidden).unflatten(0, (3, 2)).double()
    frames = noise(4, n, attn.to_q.in_features, seed=5)
    own: dict[str, Tensor] = {}
    plain = OwnAttention(site, own)(attn, frames)
    assert torch.equal(plain, own[site.name])
    assert (plain - attn(frames)).abs().max() < 1e-6  # diffusers' own processor

    phi, other = (torch.randint(n, (4, n), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    blend = Blend(0, slice(3, 4), torch.tensor([1 / 3]), {site.level: other[3:]})
    this = PropagationPass(record, EDITED, EDITED, [1] * 4, {site.level: phi}, [blend], own)
    got = PropagatedAttention(site, this)(attn, frames.repeat(2, 1, 1)).unflatten(0, (2, 4))
    for b in range(2):
        for i in range(4):
            for p in range(n):
                change = out[1 + b, 1, phi[i, p]] - out[0, 1, phi[i, p]]
                if i == 3:
                    change = change * 2 / 3 + (out[1 + b, 0, other[i, p]] - out[0, 0, other[i, p]]) / 3
                assert (got[b, i, p] - (plain[i, p].double() + change)).abs().max() < 1e-5


@pytest.mark.parametrize("deep", [1.0, 0.0])
@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("injection", [(0.0, 0.0, "pnp"), (1.0, 1.0, "pnp"), (1.0, 0.0, "wide")])
@pytest.mark.parametrize("options", [{"levels": 2}, {"levels": 3, "layers": 2}])
def test_a_keyframe_carried_to_itself_is_itself(
    options: dict[str, Any], injection: tuple[float, float, Any], chunk: int, deep: float
) -> None:
    backbone, (features, attention, sites) = make(**options), injection
    given = InjectionConfig(features=features, attention=attention, sites=sites)
    made = changing(backbone, injection=given, propagation={"deep_from": deep})
    step, record = made.steps[0], MemoryRecord(CPU)
    z, source = noise(M, 4, *GRID), noise(M, 4, *GRID, seed=1)
    edited = made.edit_keys(step, z, source, [0, 4, 8], {}, record, chunks=KeyChunks(chunk)).view(2, M, 4, *GRID)
    for key in range(M):
        phi = {level: torch.arange(n)[None] for level, n in tokens(backbone).items()}
        frame = slice(key, key + 1)
        found = made.propagate(step, z[frame], source[frame], range(4 * key, 4 * key + 1), [key], phi, record)
        assert (found.view(2, 4, *GRID) - edited[:, key]).abs().max() < 5e-5 * edited.abs().max()


@pytest.mark.parametrize("deep", [1.0, 0.0])
@pytest.mark.parametrize("features", [0.0, 1.0])
def test_where_the_edit_changes_nothing_frames_are_their_own_source(features: float, deep: float) -> None:
    """The source's own prompt and latents, keyframes that do not see each other, and matches at random.

    What the keyframe's attention is then does not matter: the prediction is the UNet's own for the frame. Without
    `changes` it is far from that.
    """
    backbone, frames = make(levels=3), 5
    z, keys = noise(frames, 4, *GRID), [0, 3]
    expected = backbone.predict(z, 751, backbone.conditioning("a photo", "", "").rows(range(frames), "source"))
    phi = {
        lv: torch.randint(n, (frames, n), generator=torch.Generator().manual_seed(lv))
        for lv, n in tokens(backbone).items()
    }
    off = {}
    for changes in (1.0, 0.0):
        config = EditConfig(
            steps=4,
            slimming=SlimmingConfig(budget=0),
            injection=InjectionConfig(features=features, attention=0.5),
            propagation=PropagationConfig(changes=changes, deep_from=deep),
        )
        made = Editor(backbone, resolve(config), backbone.conditioning("a photo", "a photo", "a photo"))
        record, step = MemoryRecord(CPU), made.steps[0]
        assert step.timestep == 751
        made.edit_keys(step, z[keys], z[keys], keys, {}, record)
        found = made.propagate(step, z, z, range(frames), [0, 0, 0, 1, 1], phi, record).view(2, *z.shape)
        off[changes] = float((found - expected).abs().max() / expected.abs().max())
    assert off[1.0] < 2e-5 and off[0.0] > 1e-3, off


def test_reused_deep_features_and_changes_go_together() -> None:
    """In a step that is not whole, a keyframe carried to itself is still itself."""
    backbone = make(levels=3)
    made = changing(backbone, reuse=2, injection=InjectionConfig(features=1.0, attention=1.0, sites="wide"))
    z, source, keys = noise(M, 4, *GRID), noise(M, 4, *GRID, seed=1), [0, 4, 8]
    deep, record = MemoryDeepFeatures(), MemoryRecord(CPU)
    for step in made.steps[:2]:
        edited = made.edit_keys(step, z, source, keys, {}, record, deep).view(2, M, 4, *GRID)
        assert step.whole == (step.number == 0)
        for key in range(M):
            phi = {level: torch.arange(n)[None] for level, n in tokens(backbone).items()}
            one = slice(key, key + 1)
            frame = range(keys[key], keys[key] + 1)
            found = made.propagate(step, z[one], source[one], frame, [key], phi, record, (), deep)
            assert (found.view(2, 4, *GRID) - edited[:, key]).abs().max() < 5e-5 * edited.abs().max()


def test_rows_that_are_run(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keyframes have a source row where changes are carried, and none where they are edited for themselves."""
    made = changing(backbone, injection=InjectionConfig(features=0.0, attention=0.0), propagation={})
    z, rows = noise(2, 4, *GRID), []
    predict = backbone.predict
    monkeypatch.setattr(backbone, "predict", lambda x, *rest: (rows.append(len(x)), predict(x, *rest))[1])
    record = MemoryRecord(CPU)
    made.edit_keys(made.steps[0], z, z, [0, 3], {}, record)
    phi = {level: torch.arange(n).expand(3, -1) for level, n in tokens(backbone).items()}
    three = noise(3, 4, *GRID, seed=2)
    made.propagate(made.steps[0], three, three, range(3), [0, 0, 1], phi, record)
    assert rows == [3 * 2, 3, 2 * 3]
    rows.clear()
    trajectory = {step.timestep: z for step in made.steps}
    edit_keyframes(made, trajectory, [0, 3], lambda level: noise(2, tokens(backbone)[level], 8))
    assert rows == [2 * 2] * len(made.steps)


def test_the_record_takes_two_branches_memory(backbone: Backbone) -> None:
    found = needs(backbone, (64, 96))
    for changes, features, attention, share in ((1, 1, 1, 2), (0.5, 0.5, 0.2, 2), (0.5, 0.6, 0, 3), (0, 0, 0.1, 3)):
        config = EditConfig(
            steps=10,
            propagation=PropagationConfig(changes=changes),
            injection=InjectionConfig(features=features, attention=attention),
        )
        assert recorded(found, resolve(config)).record == found.record * share // 3
    made, record = changing(backbone), MemoryRecord(CPU)
    made.edit_keys(made.steps[0], noise(M, 4, 16, 24), noise(M, 4, 16, 24, seed=1), [0, 1, 2], {}, record)
    held = sum(
        record.get(site.name, clip, slice(0, 3)).nbytes for site in backbone.attention_sites() for clip in range(M)
    )
    assert held == M * recorded(found, resolve(made.config)).record


# -- whole edits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", [1, 2])
@pytest.mark.parametrize("deep", [1.0, 0.4])
def test_in_a_still_video_every_frame_is_its_keyframe(
    pipe: AdaFlowPipeline, deep: float, reuse: int, tmp_path: Path
) -> None:
    propagation = PropagationConfig(changes=0.6, deep_from=deep)
    injection = InjectionConfig(features=0.4, attention=0.8)
    check_still(pipe, tmp_path / "w", injection=injection, propagation=propagation, reuse=reuse)


@pytest.mark.parametrize("record", ["memory", "disk"])
def test_stopped_at_any_step_the_bytes_are_the_same(pipe: AdaFlowPipeline, record: Any, tmp_path: Path) -> None:
    config = settings(
        steps=4,
        propagation=PropagationConfig(changes=0.5, blend=2, deep_from=0.75),
        injection=InjectionConfig(features=0.75, attention=0.5),
        run=RunConfig(rows=4, record=record),
    )
    check_stopped(pipe, config, tmp_path)


def test_where_the_record_lies_changes_nothing(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    def edited(**run: Any) -> bytes:
        config = settings(steps=4, propagation=PropagationConfig(changes=0.5), run=RunConfig(**run))
        return np.asarray(pipe(video(), PROMPT, config=config, workspace=tmp_path / "w").frames).tobytes()

    assert edited(record="memory") == edited(record="disk")


def test_never_is_the_default(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    def edited(changes: float) -> bytes:
        config = settings(steps=4, propagation=PropagationConfig(changes=changes))
        return np.asarray(pipe(video(), PROMPT, config=config, workspace=tmp_path / "w").frames).tobytes()

    plain = np.asarray(pipe(video(), PROMPT, config=settings(steps=4), workspace=tmp_path / "w").frames).tobytes()
    assert edited(0.0) == plain and edited(1.0) != plain
    card = {"propagation.changes": 1.0, "propagation.blend": 4}
    for preset in ("paper", "released"):
        found = resolve(EditConfig(preset=preset), card).propagation  # type: ignore[arg-type]
        assert (found.changes, found.blend) == (0, 0)
